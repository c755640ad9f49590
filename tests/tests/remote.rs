//! A host that is asked over the network: with certificates of its authority, whose roles say what may be done, and with none.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use thimble_spec::api::identity::{NODE_NAME, PORT};
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, repository, thimble};

const LIMIT: Duration = Duration::from_secs(90);

/// Builds the demonstration on a host of virtual machines alone, with one guest and an API; gives its output.
fn build(directory: &Path) -> PathBuf {
    fs::create_dir_all(directory).expect("a directory can be made");
    let changes = [
        ("\"virtio\", \"raid\", \"nic-server\", \"usb\"", "\"virtio\", \"raid\""),
        ("memory = \"96MiB\"", "memory = \"64MiB\""),
    ];
    let definition = Definition::read("configs/demo.toml").up_to("[[guest]]\nname = \"web2\"").with(&changes);
    definition.and("[api]\nnames = [\"127.0.0.1\"]\n").named("remote").build(directory, ["--format", "netboot"])
}

fn client(config: &Path, name: &str, role: &str) -> PathBuf {
    let made = thimble().arg("client-cert").arg(config).args([name, "--role", role, "--library", "."]).output();
    let made = made.expect("thimble starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    config.with_extension("tls").join("clients").join(name)
}

/// The workstation's `thimblectl`, with somebody's certificate.
struct Somebody {
    port: u16,
    keys: PathBuf,
}

impl Somebody {
    fn thimblectl(&self) -> Command {
        let mut command = Command::new(repository().join("target/x86_64-unknown-linux-gnu/appliance/thimblectl"));
        command.args(["--host", &format!("127.0.0.1:{}", self.port), "--keys"]).arg(&self.keys);
        command
    }

    fn runs(&self, words: &str) -> Output {
        self.thimblectl().args(words.split(' ')).output().expect("thimblectl is there: make programs")
    }

    fn says(&self, words: &str) -> String {
        let output = self.runs(words);
        let (text, more) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words}: {}: {text}{more}", output.status);
        text.into_owned()
    }

    /// Types a line on a guest's console.
    fn types(&self, guest: &str, line: &str) {
        let mut command = self.thimblectl();
        command.args(["console", guest, "--timeout", "5"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut console = command.spawn().expect("thimblectl is there: make programs");
        let mut keys = console.stdin.take().expect("it is a pipe");
        keys.write_all(line.as_bytes()).expect("it reads");
        assert!(console.wait().expect("it ends").success());
    }

    /// The exit code, and why.
    fn is_told(&self, words: &str) -> (Option<i32>, String) {
        let output = self.runs(words);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What any program has that speaks HTTP: exit code of curl, and what it printed.
    fn curls(&self, path: &str, with_certificate: bool) -> (Option<i32>, String) {
        let url = format!("https://{NODE_NAME}:{}{path}", self.port);
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--resolve", &format!("{NODE_NAME}:{}:127.0.0.1", self.port)]);
        command.arg("--cacert").arg(self.keys.join("ca.pem"));
        if with_certificate {
            command.arg("--cert").arg(self.keys.join("cert.pem")).arg("--key").arg(self.keys.join("key.pem"));
        }
        let output = command.arg(url).output().expect("curl starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[test]
fn a_host_is_asked_over_the_network_by_those_who_may() {
    // Given a host whose definition has [api], built twice, and clients of each role,
    let directory = TempDir::new().expect("a temporary directory");
    let config = directory.path().join("remote.toml");
    let out = build(directory.path());
    let keys = config.with_extension("tls");
    let secret = fs::read_to_string(keys.join("server.key")).expect("the node has a key");
    let manifest = fs::read_to_string(out.join("manifest.json")).expect("there is a manifest");
    build(directory.path());
    assert_eq!(fs::read_to_string(out.join("manifest.json")).expect("there is a manifest"), manifest);
    for name in ["manifest.json", "sbom.spdx.json", "appliance.json"] {
        let text = fs::read_to_string(out.join(name)).expect(name);
        let hidden = secret.lines().nth(1).expect("a key has more than one line");
        assert!(!text.contains(hidden) && !text.contains("server.key"), "{name}");
    }
    let port = free_port();
    let somebody = |keys: PathBuf| Somebody { port, keys };
    let admin = somebody(keys.join("clients/admin"));
    let read = somebody(client(&config, "rita", "read"));
    let operate = somebody(client(&config, "olga", "operate"));
    // and somebody whose certificate another authority has signed,
    let other = directory.path().join("other.toml");
    fs::copy(&config, &other).expect("it can be copied");
    let mallory = somebody(client(&other, "mallory", "admin"));
    fs::copy(keys.join("ca.pem"), mallory.keys.join("ca.pem")).expect("it can be copied");

    let mut machine = Machine::boot(&Boot {
        forward: &[(port, &format!("host:{PORT}"))],
        append: "thimble.console-commands",
        // An NVMe disk of QEMU's has 323 K.
        more: &[
            "--",
            "-blockdev",
            "driver=null-co,node-name=warm,size=1048576",
            "-device",
            "nvme,drive=warm,serial=WARM",
        ],
        ..Boot::new(&out, "direct")
    });
    machine.wait("^thimble: guest web1 ready", BOOT_LIMIT);

    // then who may only look sees all and changes nothing;
    let list: Value = serde_json::from_str(&read.says("list --all --json")).expect("JSON");
    assert_eq!((&list["guests"][0]["name"], &list["guests"][0]["state"]), (&"web1".into(), &"running".into()));
    for verb in ["suspend", "shutdown", "destroy", "start"] {
        let (code, why) = read.is_told(&format!("{verb} web1"));
        assert!(code == Some(1) && why.contains("it takes the role operate"), "{verb}: {why}");
    }
    let shown = read.says("nodeinfo");
    assert!(shown.contains("demo") && shown.contains("nvme Composite 49.9 °C"), "{shown}");
    assert!(read.says("log web1").contains("thimble-guest: web1 ready"));
    assert!(read.says("log").contains(" kernel: Linux version "));
    // for programs both are an object a line, as on the host;
    for (words, source) in [("log --json", "kernel"), ("log web1 --json", "web1")] {
        let text = read.says(words);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(lines.iter().all(|line| line["source"].is_string() && line["text"].is_string()), "{text}");
        assert!(lines.iter().any(|line| line["source"] == source), "{text}");
    }
    // the host's hardware is what `thimble hardware` reads, and a report has all but secrets;
    let list = directory.path().join("pci");
    fs::write(&list, read.says("hardware")).expect("it can be written");
    let sets = thimble().args(["hardware", "--library", "."]).arg(&list).output().expect("thimble starts");
    let shown = String::from_utf8_lossy(&sets.stdout);
    assert!(sets.status.success() && shown.contains("virtio"), "{shown}{}", String::from_utf8_lossy(&sets.stderr));
    let report = directory.path().join("report.json");
    let words = format!("report --output {}", report.display());
    read.says(&words);
    let report: Value = serde_json::from_slice(&fs::read(report).expect("it is there")).expect("JSON");
    assert_eq!(report["guests"]["web1"]["detail"]["state"], "running", "{report}");
    assert_eq!(
        (&report["sysinfo"]["vendor"], &report["networks"]["networks"][0]["name"]),
        (&"QEMU".into(), &"br0".into())
    );
    assert!(report["hardware"]["pci"].as_array().is_some_and(|devices| devices.len() > 3), "{report}");
    let has = |key: &str, wanted: &str| {
        let lines = report[key].as_array().unwrap_or_else(|| panic!("{key}: {report}"));
        lines.iter().any(|line| line.as_str().is_some_and(|line| line.contains(wanted)))
    };
    assert!(has("log", "Linux version") && has("metrics", "thimble_guest_state"), "{report}");
    let (code, why) = read.is_told(&words);
    assert!(code == Some(1) && why.contains("File exists"), "{why}");
    // who may operate does;
    let said = operate.says("suspend web1") + &operate.says("domstate --reason web1") + &operate.says("resume web1");
    assert!(said.contains("paused (suspended)") && said.contains("resume: "), "{said}");
    // it is remembered who did;
    let audit = admin.says("audit");
    assert!(audit.contains("thimble:operate:olga from ") && audit.contains("POST /v1/guests/web1/suspend"), "{audit}");
    assert!(!audit.contains("rita"), "{audit}");
    println!("{audit}");
    // any program is a client;
    let (code, text) = read.curls("/v1/node", true);
    assert!(code == Some(0) && text.contains("\"name\":\"demo\""), "{code:?}: {text}");

    // Prometheus is one,
    let (_, text) = read.curls("/metrics", true);
    for wanted in [
        "# TYPE thimble_guest_cpu_seconds_total counter",
        "thimble_guest_state{guest=\"web1\",state=\"running\"} 1",
        "thimble_host_temperature_celsius{chip=\"nvme\",sensor=\"Composite\"} 49.85",
        "thimble_guest_network_receive_packets_total{guest=\"web1\",interface=\"tap-web1\"} ",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // a browser is another, which shows what a guest wrote as text, and buttons to who may press them;
    operate.types("web1", "<b>from-outside</b>\n");
    let (_, page) = read.curls("/", true);
    for wanted in ["<article id=\"guest-web1\"", "&lt;b&gt;from-outside", "link br0: up"] {
        assert!(page.contains(wanted), "{wanted}: {page}");
    }
    assert!(!page.contains("<b>") && !page.contains("<form"), "{page}");
    assert!(operate.curls("/", true).1.contains("action=\"/v1/guests/web1/shutdown\""));

    // and nobody else comes as far as a request: without a certificate, with another authority's, without TLS.
    let (code, text) = read.curls("/v1/node", false);
    assert!(code != Some(0) && text.is_empty(), "{code:?}: {text}");
    let (code, why) = mallory.is_told("list");
    assert!(code == Some(1) && why.contains("refuses this certificate"), "{code:?}: {why}");
    let plain =
        Command::new("curl").args(["--silent", "--max-time", "20", &format!("http://127.0.0.1:{port}/")]).output();
    assert!(!plain.expect("curl starts").status.success());

    // When the daemon is killed, then the next one answers.
    machine.type_line("kill-node");
    machine.wait("^node: guest web1 adopted", LIMIT);
    let mut answered = read.is_told("list");
    for _ in 0..30 {
        if answered.0 == Some(0) {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
        answered = read.is_told("list");
    }
    assert_eq!(answered.0, Some(0), "{}", answered.1);
    machine.type_line("poweroff");
    machine.wait("^thimble: guest web1 exited power-off", LIMIT);
    assert!(machine.end(LIMIT).success());
}
