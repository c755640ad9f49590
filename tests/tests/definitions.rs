//! Guests that are defined on a node: by who may, from a workstation; kept over the death of the daemon and the end of the host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use thimble_spec::api::identity::PORT;
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, repository, ssh, thimble};

const LIMIT: Duration = Duration::from_secs(120);

/// Builds the demonstration on a host of virtual machines alone, with one guest, an API and a key for its root.
fn build(directory: &Path, public: &str) -> PathBuf {
    let changes = [
        ("\"virtio\", \"raid\", \"nic-server\", \"usb\"", "\"virtio\""),
        ("address = \"dhcp\"", "address = \"10.1.1.2/24\"\ngateway = \"10.1.1.1\""),
        ("memory = \"96MiB\"", "memory = \"64MiB\""),
    ];
    let definition = Definition::read("configs/demo.toml").up_to("[[guest]]\nname = \"web2\"").with(&changes);
    let more = format!("[access.ssh]\nkeys = [\"{public}\"]\n[api]\nnames = [\"127.0.0.1\"]\n");
    definition.and(&more).named("kept").build(directory, ["--format", "flash,netboot"])
}

/// The workstation's `thimblectl`, with somebody's certificate.
struct Somebody {
    port: u16,
    keys: PathBuf,
}

impl Somebody {
    /// The administrator of the build, or somebody with another role.
    fn of(config: &Path, port: u16, role: &str) -> Self {
        if role != "admin" {
            let made = thimble().arg("client-cert").arg(config).args([role, "--role", role, "--library", "."]).output();
            let made = made.expect("thimble starts");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        Self { port, keys: config.with_extension("tls").join("clients").join(role) }
    }

    fn words(&self) -> Vec<String> {
        let program = repository().join("target/x86_64-unknown-linux-gnu/appliance/thimblectl");
        let host = format!("127.0.0.1:{}", self.port);
        [&program.display().to_string(), "--host", &host, "--keys", &self.keys.display().to_string()]
            .map(str::to_owned)
            .to_vec()
    }

    fn runs(&self, words: &str, editor: &Path) -> Output {
        let own = self.words();
        let mut command = Command::new(&own[0]);
        command.args(&own[1..]).args(words.split(' ')).env("EDITOR", editor).env_remove("VISUAL");
        command.stdin(Stdio::null()).output().expect("thimblectl is there: make programs")
    }

    fn says(&self, words: &str) -> String {
        let output = self.runs(words, Path::new("false"));
        let (text, more) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words}: {}: {text}{more}", output.status);
        text.into_owned()
    }

    /// It is not done: why.
    fn is_refused(&self, words: &str) -> String {
        self.is_refused_by(words, Path::new("false"))
    }

    fn is_refused_by(&self, words: &str, editor: &Path) -> String {
        let output = self.runs(words, editor);
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}: {why}");
        why
    }

    /// What the next start of a guest goes by.
    fn definition(&self, guest: &str) -> Value {
        serde_json::from_str(&self.says(&format!("dumpconfig {guest} --inactive"))).expect("JSON")
    }

    /// A guest, as a list has it.
    fn shows(&self, guest: &str) -> Value {
        let list: Value = serde_json::from_str(&self.says("list --all --json")).expect("JSON");
        let found = list["guests"].as_array().expect("a list").iter().find(|other| other["name"] == guest);
        found.cloned().unwrap_or_default()
    }

    /// A daemon that has just started answers soon.
    fn waits(&self) {
        let began = Instant::now();
        while !self.runs("list", Path::new("false")).status.success() {
            assert!(began.elapsed() < LIMIT, "the node daemon does not answer");
            sleep(Duration::from_secs(1));
        }
    }
}

/// An editor that runs these commands; `$1` is the text.
fn editor(directory: &Path, name: &str, commands: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\nset -e\n{commands}\n")).expect("it can be written");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    path
}

/// The text that was not taken.
fn left(why: &str) -> PathBuf {
    PathBuf::from(why.trim_end().rsplit("your text is in ").next().expect("there is a last piece"))
}

#[test]
fn a_guest_is_defined_edited_and_kept() {
    // Given a host with one guest, and somebody of each role,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "root");
    let out = build(directory.path(), &public);
    let (port, shell) = (free_port(), free_port());
    let somebody = |role: &str| Somebody::of(&directory.path().join("kept.toml"), port, role);
    let (admin, operate, read) = (somebody("admin"), somebody("operate"), somebody("read"));
    let disk = directory.path().join("disk.img");
    let forward = [(port, &*format!("host:{PORT}")), (shell, "host:22")];
    let boot = || {
        let more = ["--disk", disk.to_str().expect("a path of text")];
        let append = "thimble.console-commands";
        Machine::boot(&Boot { forward: &forward, append, more: &more, ..Boot::new(&out, "direct") })
    };
    let mut machine = boot();
    machine.wait("^thimble: guest web1 ready", BOOT_LIMIT);
    let says = |commands: &str| ssh::said(shell, &key, commands);

    // when a second one is defined by who may,
    let mut web3: Value = serde_json::from_str(&admin.says("dumpconfig web1")).expect("JSON");
    web3["name"] = json!("web3");
    web3["network"]["address"] = json!("10.1.1.13/24");
    web3["network"].as_object_mut().expect("it has a network").remove("mac");
    let file = directory.path().join("web3.json");
    fs::write(&file, web3.to_string()).expect("it can be written");
    let define = format!("define {}", file.display());
    for other in [&read, &operate] {
        for words in [&define, "undefine web1", "autostart web1 --disable", "setmem web1 96MiB --config"] {
            let why = other.is_refused(words);
            assert!(why.contains("it takes the role admin"), "{words}: {why}");
        }
    }
    assert_eq!(admin.shows("web3"), Value::Null);
    assert_eq!(admin.says(&define), "guest web3 is defined on this node\n");
    // then it is off, starts, and answers as the other one does.
    assert_eq!(admin.shows("web3")["state"], "off");
    operate.says("start web3 --wait");
    machine.wait("^thimble: guest web3 ready", LIMIT);
    ssh::wait(shell);
    let page = says("wget -q -O - http://10.1.1.13/");
    assert!(page.contains("<h1>web3</h1>"), "{page}");

    // What may not be is refused, is not lost, and changes nothing;
    let before = admin.definition("web3");
    for (name, change, wanted) in [
        ("small", "sed -i 's/\"memory\": \"[^\"]*\"/\"memory\": \"1MiB\"/' \"$1\"", "memory: use 32MiB or more"),
        ("torn", "sed -i '$d' \"$1\"", "this is no definition of a guest"),
        ("taken", "sed -i 's/10.1.1.13/10.1.1.11/' \"$1\"", "network.address: guest web1 has 10.1.1.11 already"),
        (
            "path",
            "sed -i 's|\"size\": \"[^\"]*\"|\"file\": \"/data/../etc/shadow\"|' \"$1\"",
            "disk.source.file: `/data/../etc/shadow` lies on none of the file systems",
        ),
        ("option", "sed -i 's/\"web3\"/\"web3 init=\\/bin\\/sh\"/' \"$1\"", "name: this is the definition of"),
        ("image", "sed -i 's/\"page\"/\"..\\/..\\/etc\\/shadow\"/' \"$1\"", "is not a name"),
    ] {
        let why = admin.is_refused_by("edit web3", &editor(directory.path(), name, change));
        assert!(why.contains(wanted), "{name}: {why}");
        fs::remove_file(left(&why)).expect("the text is there");
    }
    assert_eq!(admin.definition("web3"), before);
    // of two who edit at once, the second is told, and has both changes before them.
    let faster = format!("{} autostart web3 --disable", admin.words().join(" "));
    let slower = format!("{faster} >&2\nsed -i 's/\"vcpus\": 1/\"vcpus\": 2/' \"$1\"");
    let why = admin.is_refused_by("edit web3", &editor(directory.path(), "slower", &slower));
    assert!(why.contains("somebody else has changed the definition of guest web3 meanwhile"), "{why}");
    let now = admin.definition("web3");
    assert_eq!((&now["autostart"], &now["vcpus"]), (&json!(false), &json!(1)));
    let both = left(&why);
    let text: Value = serde_json::from_slice(&fs::read(&both).expect("the text is there")).expect("JSON");
    assert_eq!((&text["autostart"], &text["vcpus"]), (&json!(false), &json!(2)));
    // What runs goes on as it is, and it is told that a definition waits.
    let told = admin.says(&format!("define {}", both.display()));
    assert_eq!(told, "guest web3 is defined on this node; it runs, and its next start goes by this\n");
    fs::remove_file(both).expect("the text is there");
    // A disk grows while its guest runs: nothing waits.
    assert_eq!(admin.says("blockresize web1 24MiB"), "guest web1 is defined on this node\n");
    let stats: Value = serde_json::from_str(&read.says("domstats web1 --json")).expect("JSON");
    assert_eq!(stats["disks"][1]["bytes"], 24 << 20, "{stats}");
    assert!(admin.is_refused("blockresize web1 8MiB").contains("a disk does not shrink: it has 24MiB"));
    admin.says("setmem web1 80MiB --config");
    let told = admin.says("list") + &admin.says("dominfo web3");
    for wanted in
        ["running *", "* it was defined anew", "Pending:", "Defined:     on this node", "Autostart:   disable"]
    {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    println!("{told}");

    // When the daemon is killed, then the next one knows it all;
    let guests = [admin.shows("web1"), admin.shows("web3")];
    machine.type_line("kill-node");
    machine.wait_all(&["^node: guest web1 adopted", "^node: guest web3 adopted"], LIMIT);
    admin.waits();
    for before in &guests {
        let after = admin.shows(before["name"].as_str().expect("a name"));
        for key in ["state", "pid", "vcpus", "memory_mib", "autostart", "defined", "waits"] {
            assert_eq!(before[key], after[key], "{key}: {after}");
        }
    }
    assert_eq!((&guests[1]["vcpus"], &guests[1]["waits"]), (&json!(1), &json!(true)));
    // who did it is known.
    let audit = admin.says("audit");
    for wanted in [
        "thimble:admin:admin from ",
        "PUT /v1/guests/web3/definition",
        "guest web3: defined, new",
        "guest web3: defined, autostart: true -> false",
        "guest web1: defined, memory: \"64MiB\" -> \"80MiB\"",
    ] {
        assert!(audit.contains(wanted), "{wanted}: {audit}");
    }

    // When the host starts again, beside a definition that is damaged,
    says("echo '{' > /data/definitions/broken.json && sync");
    machine.type_line("poweroff");
    assert!(machine.end(LIMIT).success());
    let mut machine = boot();
    // then that is told once and keeps nobody, and all is as it was defined:
    machine.wait_all(
        &["^thimble: error /data/definitions/broken.json is no definition of a guest", "^thimble: guest web1 ready"],
        BOOT_LIMIT,
    );
    admin.waits();
    assert_eq!(admin.shows("web1")["memory_mib"], 80);
    let web3 = admin.shows("web3");
    assert_eq!((&web3["state"], &web3["autostart"], &web3["vcpus"]), (&json!("off"), &json!(false), &json!(2)));
    operate.says("start web3 --wait");
    machine.wait("^thimble: guest web3 ready", LIMIT);
    assert_eq!(admin.shows("web3")["waits"], false);
    // One that runs is not taken away; one that is off is, and a guest of the image is the image's again.
    assert!(admin.is_refused("undefine web3").contains("thimblectl destroy web3 --wait first"));
    // One that is off is copied with its disk, as another guest that goes on from there; one that runs is not.
    let why = admin.is_refused("clone web1 web4 --address 10.1.1.14/24");
    assert!(why.contains("thimblectl shutdown web1 --wait first"), "{why}");
    admin.says("shutdown web3 --wait");
    assert_eq!(admin.says("clone web3 web4 --address 10.1.1.14/24"), "guest web4 is a copy of web3\n");
    assert_eq!(operate.shows("web4")["state"], "off");
    operate.says("start web4 --wait");
    machine.wait("^thimble: guest web4 ready", LIMIT);
    ssh::wait(shell);
    let page = says("wget -q -O - http://10.1.1.14/");
    assert!(page.contains("<h1>web4</h1>") && page.contains("<strong>3</strong> times"), "{page}");
    // Its disk stays when it goes, until somebody takes it away; what a guest has is not taken.
    admin.says("destroy web4 --wait");
    admin.says("undefine web4");
    let list: Value = serde_json::from_str(&read.says("vol-list --json")).expect("JSON");
    let used = |name: &str| list["volumes"].as_array()?.iter().find(|it| it["name"] == name)?["used"].as_bool();
    assert_eq!(["web1", "web3", "web4"].map(used), [Some(true), Some(true), Some(false)], "{list}");
    assert!(operate.is_refused("vol-delete web4").contains("it takes the role admin"));
    assert!(admin.is_refused("vol-delete web3").contains("guest web3 has this disk"));
    // A guest without its disk has the page alone; it has its disk again as it was.
    assert!(admin.is_refused("attach-disk web3 32MiB --config").contains("detach-disk first"));
    admin.says("detach-disk web3 --config");
    assert_eq!(admin.definition("web3")["disk"], Value::Null);
    operate.says("start web3 --wait");
    machine.wait("^thimble: guest web3 ready", LIMIT);
    assert_eq!(read.says("domblklist web3").lines().filter(|line| line.contains("/disk.raw")).count(), 0);
    admin.says("destroy web3 --wait");
    let why = admin.is_refused("attach-disk web3 /data/../etc/shadow --config");
    assert!(why.contains("lies on none of the file systems"), "{why}");
    admin.says("attach-disk web3 16MiB --config");
    operate.says("start web3 --wait");
    machine.wait("^thimble: guest web3 ready", LIMIT);
    ssh::wait(shell);
    let page = says("wget -q -O - http://10.1.1.13/");
    assert!(page.contains("<strong>3</strong> times"), "{page}");
    admin.says("destroy web3 --wait");
    assert_eq!(admin.says("vol-delete web4"), "/data/guests/web4/disk.raw is deleted\n");
    assert!(says("ls /data/guests").split_whitespace().eq(["web1", "web3"]));
    assert!(admin.says("undefine web3").starts_with("guest web3 is no more"));
    assert_eq!(admin.shows("web3"), Value::Null);
    assert!(admin.says("undefine web1").starts_with("guest web1 is what the image says; it runs"));
    assert_eq!(admin.definition("web1")["memory"], "64MiB");
    assert!(admin.is_refused("undefine web1").contains("autostart --disable web1 keeps it off"));
    ssh::wait(shell);
    assert_eq!(ssh::said(shell, &key, "ls /data/definitions"), "broken.json.damaged\n");
    machine.type_line("poweroff");
    machine.wait("^thimble: guest web1 exited power-off", LIMIT);
    assert!(machine.end(LIMIT).success());
}
