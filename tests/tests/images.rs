//! The recipes of images/: one host with a guest of each, as an administrator would look at them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regex::Regex;
use tempfile::TempDir;
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, get, repository, ssh};

const READY: [&str; 5] = [
    r"^thimble: guest web ready [0-9.]+$",
    r"^thimble: guest php ready [0-9.]+$",
    r"^thimble: guest db ready [0-9.]+$",
    r"^thimble: guest ssh ready [0-9.]+$",
    r"^thimble: guest minimal ready [0-9.]+$",
];
const LIMIT: Duration = Duration::from_secs(90);
/// What the packed image of the whole web server may have.
const WEB_BYTES: u64 = 12 << 20;
/// PHP is linked with libxml2, which is a stub: who asks it for errors gets none, and is told that it is not there.
const XML: &str = "<?php libxml_use_internal_errors(true); libxml_set_external_entity_loader(null); \
                   echo count(libxml_get_errors()), ' ', var_export(libxml_get_last_error(), true), ' ', \
                   LIBXML_LOADED_VERSION, ' ', function_exists('simplexml_load_string') ? 'xml' : 'no xml';";

/// What the packed image of busybox and bash may have: 2007's 800 KB.
const MINIMAL_BYTES: u64 = 800_000;
/// Says `tools: WORD: WHAT CAME OUT` of bash, and of what an administrator types first.
const TOOLS: &str = r#"#!/usr/bin/bash
say() { echo "tools: $1:" $2; }
words=(a b c); say bash "${words[-1]^^} $((2 ** 40)) $(wc -l < <(printf '1\n2\n')) $([[ v12 =~ ^v([0-9]+)$ ]] && echo "${BASH_REMATCH[1]}")"
say utf8 "$(LC_ALL=C.UTF-8; x=häß; echo ${#x})"
say readline "$(set -o emacs; bind -l | grep -c -x -e reverse-search-history -e complete)"
say ls "$(ls -d /usr/bin/busybox) $(readlink /usr/bin/ls)"
say text "$(printf 'b 2\na 1\n' | sort | sed s/a/z/ | awk '{ print $1 $2 }' | grep z) $(find /etc -name termcap | xargs basename)"
say tar "$(cd /tmp && echo x >t && tar -cf - t | gzip | gunzip | tar -tvf - | awk '{ print $6 }')"
say ip "$(ip -4 -o addr show lo | awk '{ print $4 }') $(ping -c 1 -q 127.0.0.1 | grep -c ', 0% packet loss')"
say wget "$(mkfifo /tmp/f; nc -l -p 8080 </tmp/f >/dev/null & printf 'HTTP/1.0 200 OK\r\n\r\nhello' >/tmp/f; sleep 1; wget -q -O - http://127.0.0.1:8080/)"
say mount "$(mkdir /tmp/m && mount -t tmpfs -o size=1m some /tmp/m && df -k /tmp/m | awk 'END { print $1, $2 }'; umount /tmp/m)"
say kernel "$(dmesg | grep -c 'Linux version') $(ps -o pid,comm | awk '$1 == 1 { print $2 }') $(free | grep -c Mem) $(top -b -n 1 | grep -c '^Mem')"
say vi "$(echo one >/tmp/v; printf 'x:wq\n' | vi /tmp/v >/dev/null 2>&1; cat /tmp/v)"
say applets "$(busybox --list | wc -l)"
"#;

/// What the guests' kernel and initramfs may have together as the flash holds them.
const GUEST_BYTES: u64 = 2 << 20;

/// Builds `tests/library/images.toml` from a library of its own, in which `site` is `web` with a key, and `tools` is `minimal`
/// with a script that tries what is in it.
fn build(directory: &Path, public: &str) -> PathBuf {
    let library = directory.join("library");
    let site = library.join("images/site");
    fs::create_dir_all(site.join("files/root/.ssh")).expect("a directory");
    fs::write(site.join("recipe.toml"), "summary = \"web, for who has the key\"\ninclude = [\"web\"]\n")
        .expect("a file");
    fs::write(site.join("files/root/.ssh/authorized_keys"), format!("{public}\n")).expect("a file");
    fs::create_dir_all(site.join("files/srv/www")).expect("a directory");
    fs::write(site.join("files/srv/www/xml.php"), XML).expect("a file");
    let tools = library.join("images/tools");
    fs::create_dir_all(tools.join("files/usr/lib/tools")).expect("a directory");
    let service = "[[service]]\nname = \"tools\"\nkind = \"once\"\nexec = [\"/usr/lib/tools/say\"]\n";
    fs::write(tools.join("recipe.toml"), format!("summary = \"minimal, tried\"\ninclude = [\"minimal\"]\n{service}"))
        .expect("a file");
    let script = tools.join("files/usr/lib/tools/say");
    fs::write(&script, TOOLS).expect("a file");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("ours");
    symlink(repository().join("configs"), library.join("configs")).expect("a link");
    for image in fs::read_dir(repository().join("images")).expect("the recipes are there") {
        let image = image.expect("a recipe");
        symlink(image.path(), library.join("images").join(image.file_name())).expect("a link");
    }
    Definition::read("tests/library/images.toml").library(library).build(directory, ["--format", "flash,netboot"])
}

/// What the flash holds of the objects whose names end so, from the manifest.
fn packed(out: &Path, endings: &[&str]) -> u64 {
    let text = fs::read_to_string(out.join("manifest.json")).expect("there is a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let objects = manifest["objects"].as_array().expect("a list");
    let of = |ending: &str| {
        let object = objects.iter().find(|object| object["name"].as_str().is_some_and(|name| name.ends_with(ending)));
        object.expect("it is an object")["packed"].as_u64().expect("a size")
    };
    endings.iter().map(|ending| of(ending)).sum()
}

/// How often the page says that it was read, and since when.
fn visits(port: u16) -> (u32, String) {
    let page = get(port, "/", LIMIT).expect("the page comes");
    let count = page.split("<strong>").nth(1).and_then(|rest| rest.split('<').next()?.parse().ok());
    let since = page.split("since ").nth(1).and_then(|rest| rest.get(..19));
    (count.unwrap_or_else(|| panic!("{page}")), since.unwrap_or_else(|| panic!("{page}")).to_owned())
}

/// The files of /etc that the README of images/web lists, as `| /etc/...` lines of its table.
fn documented() -> BTreeSet<String> {
    let readme = fs::read_to_string(repository().join("images/web/README.md")).expect("images/web has a README");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `/etc/")?.split('`').next());
    rows.map(|path| format!("/etc/{path}")).collect()
}

/// The TCP and UDP ports at which somebody listens for other machines (Documentation/networking/proc_net_tcp.rst: the
/// state 0A is LISTEN).
fn listening(port: u16, key: &Path) -> Vec<String> {
    let awk = r#"{ split($2, a, ":"); if (FILENAME != "/proc/net/tcp" || $4 == "0A") if (a[1] != "0100007F") print FILENAME, a[2] }"#;
    let said =
        ssh::said(port, key, &format!("cd /; awk 'FNR > 1 {awk}' /proc/net/tcp /proc/net/udp /proc/net/raw | sort -u"));
    said.lines().map(str::to_owned).collect()
}

#[test]
fn a_guest_of_each_recipe_does_what_its_recipe_says() {
    // Given a host with a guest of each recipe, the whole web server in 96 MiB,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "right");
    let (other, _) = ssh::key(directory.path(), "wrong");
    let out = build(directory.path(), &public);
    let size = packed(&out, &["/site.erofs"]);
    assert!(size <= WEB_BYTES, "the web image has {size} bytes, {WEB_BYTES} are wanted");
    let size = packed(&out, &["/tools.erofs"]);
    assert!(size <= MINIMAL_BYTES, "the minimal image has {size} bytes, {MINIMAL_BYTES} are wanted");
    let size = packed(&out, &["guest/vmlinux", "guest/initrd"]);
    assert!(size <= GUEST_BYTES, "the guests' kernel and initramfs have {size} bytes, {GUEST_BYTES} are wanted");
    let (web, login, database, php, closed) = (free_port(), free_port(), free_port(), free_port(), free_port());
    let forward = [(web, "web:80"), (login, "web:22"), (database, "web:3306"), (php, "php:80"), (closed, "ssh:22")];
    let mut machine = Machine::boot(&Boot { forward: &forward, ..Boot::new(&out, "direct") });
    machine.wait_all(&READY, BOOT_LIMIT);

    // then what an administrator types is there, in bash and busybox alone,
    let said = [
        "bash: C 1099511627776 2 12",
        "utf8: 3",
        "readline: 2",
        "ls: /usr/bin/busybox /usr/bin/busybox",
        "text: z1 termcap",
        "tar: t",
        r"ip: 127\.0\.0\.1/8 1",
        "wget: hello",
        "mount: some 1024",
        "kernel: 1 init 1 1",
        "vi: one",
        "applets: 1[5-9][0-9]",
    ];
    for words in said {
        let line = Regex::new(&format!(r"^\[minimal\].*tools: {words}\r?$")).expect("a pattern");
        let tools: Vec<&String> = machine.seen().iter().filter(|line| line.contains("tools: ")).collect();
        assert!(tools.iter().any(|said| line.is_match(said)), "{words}: {tools:#?}");
    }
    // PHP renders a row of MariaDB's,
    let (first, since) = visits(web);
    assert_eq!(visits(web), (first + 1, since.clone()));
    assert_eq!(get(web, "/xml.php", LIMIT).expect("the page comes"), "0 false none no xml");
    assert!(get(php, "/", LIMIT).expect("the page comes").starts_with("php: PHP 8."));
    // MariaDB greets from port 3306, as the recipe says, and knows nobody from there,
    let mut said = Vec::new();
    let greeting =
        TcpStream::connect(("127.0.0.1", database)).and_then(|stream| stream.take(64).read_to_end(&mut said));
    let greeting = greeting.map(|_| String::from_utf8_lossy(&said).into_owned());
    assert!(greeting.as_ref().is_ok_and(|text| text.contains("is not allowed to connect")), "{greeting:?}");
    // root logs in with the key, and in no other way, or not at all where there is none,
    ssh::wait(login);
    assert_eq!(ssh::said(login, &key, "id -u; hostname"), "0\nweb\n");
    for (port, key) in [(login, Some(other.as_path())), (login, None), (closed, Some(key.as_path()))] {
        let refused = ssh::run(port, key, "id");
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains("Permission denied (publickey)"), "{text}");
    }
    // and these ports are open, and no others.
    assert_eq!(listening(login, &key), ["/proc/net/tcp 0016", "/proc/net/tcp 0050", "/proc/net/tcp 0CEA"]);

    // Services have users of their own, and nobody writes to the root, root included,
    let users =
        ssh::said(login, &key, "ps -o user,comm | awk '/nginx|php-fpm|mariadbd|busybox/ { print $1, $2 }' | sort -u");
    for (program, user) in [("nginx", "www-data"), ("php-fpm8.2", "php"), ("mariadbd", "mysql"), ("busybox", "syslog")]
    {
        assert!(users.lines().any(|line| line == format!("{user} {program}")), "{program}: {users}");
    }
    assert!(!users.contains("root"), "{users}");
    let refused = ssh::run(login, Some(&key), "touch /etc/x /usr/bin/x /var/lib/x /x");
    let refused = String::from_utf8_lossy(&refused.stderr).matches("Read-only file system").count();
    assert_eq!(refused, 4);
    // /etc holds what is documented,
    let etc: BTreeSet<String> = ssh::said(login, &key, "find /etc/ ! -type d").lines().map(str::to_owned).collect();
    assert_eq!(etc, documented());
    // and what speaks syslog is heard on the host.
    ssh::said(login, &key, "logger -t test a word of a guest");
    machine.wait(r"^\[web\].* test: a word of a guest$", LIMIT);
    println!("{}", ssh::said(login, &key, "free -k; df -k /var/lib/mysql; cat /proc/uptime"));

    // When the host starts again,
    let host_key = ssh::said(login, &key, "cd /var/lib/dropbear && sha256sum *");
    assert!(host_key.contains("dropbear_ed25519_host_key"), "{host_key}");
    machine.press_ctrl_alt_del();
    machine.wait(r"^thimble: guest web exited power-off$", LIMIT);
    let began = Instant::now();
    machine.wait_all(&READY, BOOT_LIMIT);
    println!("again ready after {:?}", began.elapsed());
    // then the row is still there, and the guest's own key.
    assert_eq!(visits(web), (first + 2, since));
    ssh::wait(login);
    assert_eq!(ssh::said(login, &key, "cd /var/lib/dropbear && sha256sum *"), host_key);
    machine.press_power_button();
    assert!(machine.end(LIMIT).success());
    // What only took its time on a busy machine is none: the database's first start, and its end.
    let late = ["still waiting for it", "services did not stop in"];
    let is_error = |line: &&String| line.contains("thimble: error") && !late.iter().any(|late| line.contains(late));
    let errors: Vec<&String> = machine.seen().iter().filter(is_error).collect();
    assert!(errors.is_empty(), "{errors:?}");
}
