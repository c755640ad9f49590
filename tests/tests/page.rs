//! The status page in a browser: what it shows with scripts and without, on a desk and on a phone; a guest that a click starts,
//! and a console that is typed into. Pictures of it are in target/page.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use thimble_spec::api::identity::PORT;
use thimble_tests::browser::{Browser, Gate};
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, repository, thimble};

const LIMIT: Duration = Duration::from_secs(90);
/// A phone, in CSS pixels.
const PHONE: (u32, u32) = (390, 844);
const DESK: (u32, u32) = (1100, 1200);
/// What stands in the terminal, as it gives it to whoever cannot see.
const SCREEN: &str = "document.querySelector('.xterm-accessibility-tree').innerText.replace(/\\u00a0/g, ' ')";

/// The demonstration with a guest that has a shell on its console and is off, beside one that serves; gives its output.
fn build(directory: &Path) -> PathBuf {
    let changes = [
        ("\"virtio\", \"raid\", \"nic-server\", \"usb\"", "\"virtio\", \"raid\""),
        ("memory = \"96MiB\"", "memory = \"64MiB\""),
    ];
    let definition = Definition::read("configs/demo.toml").up_to("[[guest]]\nname = \"web2\"").with(&changes);
    let more = "[[guest]]\nname = \"shell1\"\nimage = \"minimal\"\nmemory = \"64MiB\"\nautostart = false\n\
                network = { bridge = \"br0\", address = \"10.1.1.12/24\" }\ndisk = { size = \"16MiB\" }\n\
                [api]\nnames = [\"127.0.0.1\"]\n";
    definition.and(more).named("page").build(directory, ["--format", "netboot"])
}

fn client(config: &Path, name: &str, role: &str) -> PathBuf {
    let made = thimble().arg("client-cert").arg(config).args([name, "--role", role, "--library", "."]).output();
    let made = made.expect("thimble starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    config.with_extension("tls").join("clients").join(name)
}

/// Nothing stands beside the screen.
fn fits(browser: &Browser, what: &str) {
    let sizes = browser.says("return [document.documentElement.scrollWidth, innerWidth];");
    assert!(sizes[0].as_u64() <= sizes[1].as_u64(), "{what} is wider than its screen: {sizes}");
}

#[test]
fn a_browser_shows_the_host_starts_a_guest_and_is_its_console() {
    let directory = TempDir::new().expect("a temporary directory");
    let pictures = repository().join("target/page");
    let config = directory.path().join("page.toml");
    let out = build(directory.path());
    let node = free_port();
    let gate = |name, role| Gate::to(node, &client(&config, name, role));
    let (operator, reader) = (gate("olga", "operate"), gate("rita", "read"));
    let url = |gate: &Gate, path: &str| format!("http://127.0.0.1:{}{path}", gate.port);

    // Given a host with a guest that runs and one that is off,
    let mut machine = Machine::boot(&Boot {
        forward: &[(node, &format!("host:{PORT}"))],
        append: "thimble.console-commands thimble.guest-consoles",
        ..Boot::new(&out, "direct")
    });
    machine.wait("^thimble: guest web1 ready", BOOT_LIMIT);

    // when somebody who may operate looks at it, then all of it is there,
    let browser = Browser::start(&pictures, true);
    browser.looks(DESK.0, DESK.1, false);
    browser.go(&url(&operator, "/"));
    let text = browser.says("return document.body.innerText;").as_str().unwrap_or_default().to_owned();
    for wanted in ["demo", "10.1.1.", "MiB used", "link br0: up", "web1", "shell1", "not started", "ready after"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // a click starts the guest, and the page follows without being loaded again;
    browser.says("window.here = true;");
    browser.click("#guest-shell1 form[action$='/start'] button");
    browser.wait("document.querySelector('#guest-shell1 .running')", LIMIT);
    assert_eq!(browser.says("return window.here;"), true);
    machine.wait("^thimble: guest shell1 ready", LIMIT);
    // what the guests do is drawn.
    browser.wait("document.querySelectorAll('#guest-web1 svg polyline').length === 4", LIMIT);
    browser.wait("document.querySelectorAll('#guest-shell1 svg polyline').length === 4", LIMIT);
    browser.picture("desk");
    fits(&browser, "the page on a desk");
    browser.looks(DESK.0, DESK.1, true);
    browser.picture("desk-dark");
    browser.looks(PHONE.0, PHONE.1, false);
    browser.picture("phone");
    fits(&browser, "the page on a phone");

    // Its console is a terminal: what is typed there is typed in the guest, which answers there and on its own console.
    browser.looks(DESK.0, DESK.1, false);
    browser.go(&url(&operator, "/?guest=shell1"));
    browser.wait("document.getElementById('seat').innerText === 'You type here.'", LIMIT);
    browser.types("echo answer-$((6*7))\u{e006}");
    browser.wait(&format!("{SCREEN}.includes('\\nanswer-42')"), LIMIT);
    machine.wait("^\\[shell1\\] .*answer-42", LIMIT);
    // Nothing of that was in the way of the page's own policy.
    browser.wait("getComputedStyle(document.querySelector('.xterm-viewport')).position === 'absolute'", LIMIT);
    browser.picture("console");
    browser.looks(PHONE.0, PHONE.1, true);
    browser.wait("document.querySelector('.xterm-screen').clientWidth < innerWidth", LIMIT);
    browser.picture("console-phone-dark");
    fits(&browser, "the console on a phone");
    browser.looks(DESK.0, DESK.1, false);

    // Who comes second is told, and takes over if they say so: then the first one is told, and looks on.
    let second = Browser::start(&pictures, true);
    second.looks(DESK.0, DESK.1, false);
    second.go(&url(&operator, "/?guest=shell1"));
    second.wait("document.getElementById('seat').innerText.includes('types on the console of shell1 already')", LIMIT);
    second.picture("console-taken");
    second
        .says("[...document.querySelectorAll('#console button')].find((it) => it.innerText === 'Take over').click();");
    browser.wait("document.getElementById('seat').innerText.startsWith('Somebody else types here now')", LIMIT);
    second.wait("document.getElementById('seat').innerText === 'You type here.'", LIMIT);
    second.types("echo second-$((7*7))\u{e006}");
    browser.wait(&format!("{SCREEN}.includes('\\nsecond-49')"), LIMIT);
    browser.types("echo never-$((8*8))\u{e006}");

    // Who may only read sees the same, without a button, and cannot type.
    second.go(&url(&reader, "/"));
    second.wait("document.querySelector('#guest-shell1 .running')", LIMIT);
    assert_eq!(second.says("return document.querySelectorAll('form, button').length;"), 0);
    second.go(&url(&reader, "/?guest=shell1"));
    second.wait(&format!("document.querySelector('.xterm') && {SCREEN}.includes('second-49')"), LIMIT);
    assert_eq!(second.says("return document.getElementById('seat').innerText;"), "You look on.");
    second.click("#terminal");
    second.types("echo never-$((8*8))\u{e006}");
    assert_eq!(second.says("return document.querySelectorAll('form, button').length;"), 0);
    second.picture("reader");
    // Nor does a connection of their own let them.
    let opened = "return new Promise((done) => {
        const socket = new WebSocket(location.origin.replace('http', 'ws') + '/v1/guests/shell1/console?write=true');
        socket.onopen = () => done('opened');
        socket.onerror = () => done('refused');
    });";
    assert_eq!(second.says(opened), "refused");

    // A page of another site gets no console in the name of who looks at it, not even to read.
    let elsewhere = url(&operator, "/v1/node").replace("127.0.0.1", "localhost");
    second.go(&elsewhere);
    let port = operator.port;
    assert_eq!(second.says(&opened.replace("location.origin", &format!("'http://127.0.0.1:{port}'"))), "refused");
    let looking = opened.replace("location.origin", &format!("'http://127.0.0.1:{port}'")).replace("?write=true", "");
    assert_eq!(second.says(&looking), "refused");
    drop(second);

    // When the guest is shut down, then the console says that it has ended; and when it runs again, it is there again.
    browser.click("#guest-shell1 form[action$='/shutdown'] button");
    browser.wait("document.getElementById('seat').innerText.startsWith('The console has ended')", LIMIT);
    machine.wait("^thimble: guest shell1 exited power-off", LIMIT);
    browser.wait("document.querySelector('#guest-shell1 .off')", LIMIT);
    browser.click("#guest-shell1 form[action$='/start'] button");
    browser.wait("document.getElementById('seat').innerText === 'You type here.'", LIMIT);
    machine.wait("^thimble: guest shell1 ready", LIMIT);
    assert!(!machine.seen().iter().any(|line| line.contains("never-64")), "who may not type has typed");
    drop(browser);

    // Without scripts it shows the same.
    let plain = Browser::start(&pictures, false);
    plain.looks(PHONE.0, PHONE.1, false);
    plain.go(&url(&operator, "/?guest=shell1"));
    let source = plain.source();
    for wanted in ["guest-shell1", "running", "thimble-guest: shell1 ready", "/v1/guests/shell1/shutdown"] {
        assert!(source.contains(wanted), "{wanted}: {source}");
    }
    assert!(!source.contains("class=\"open\""), "a script ran: {source}");
    plain.picture("console-phone-no-script");
    plain.looks(DESK.0, DESK.1, false);
    plain.go(&url(&operator, "/"));
    let source = plain.source();
    assert!(source.contains("<article id=\"guest-web1\"") && source.contains("<polyline"), "{source}");
    plain.picture("desk-no-script");
    drop(plain);

    machine.type_line("poweroff");
    assert!(machine.end(LIMIT).success());
}
