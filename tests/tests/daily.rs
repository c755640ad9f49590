//! A day of an administrator's: guests are looked at, stopped, started and typed to with `thimblectl`, and the node daemon
//! dies in between.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, get, ssh};

const LIMIT: Duration = Duration::from_secs(90);
/// The daemon's program, which is `thimblectl` too.
const PROGRAM_MAX: u64 = 6_000_000;

/// The demonstration on a host of virtual machines alone, with a key for its root.
fn build(directory: &Path, public: &str) -> PathBuf {
    let changes = [
        ("\"virtio\", \"raid\", \"nic-server\", \"usb\"", "\"virtio\""),
        ("address = \"dhcp\"", "address = \"10.1.1.2/24\"\ngateway = \"10.1.1.1\""),
        ("memory = \"96MiB\"", "memory = \"64MiB\""),
    ];
    let definition = Definition::read("configs/demo.toml").named("daily").with(&changes);
    definition.and(&format!("[access.ssh]\nkeys = [\"{public}\"]\n")).build(directory, ["--format", "netboot"])
}

/// Root's shell on the host.
struct Root {
    port: u16,
    key: PathBuf,
}

impl Root {
    fn says(&self, commands: &str) -> String {
        let output = ssh::run(self.port, Some(&self.key), commands);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let more = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}: {}: {text}{more}", output.status);
        text
    }

    fn guests(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.says("thimblectl list --all --json")).expect("JSON");
        list["guests"].as_array().expect("a list").clone()
    }
}

#[test]
fn guests_are_looked_at_stopped_started_and_typed_to() {
    // Given a host with two guests that are ready,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "root");
    let out = build(directory.path(), &public);
    let (port, web1) = (free_port(), free_port());
    let mut machine = Machine::boot(&Boot {
        forward: &[(port, "host:22"), (web1, "web1:80")],
        append: "thimble.console-commands",
        ..Boot::new(&out, "direct")
    });
    machine.wait_all(&["^thimble: guest web1 ready", "^thimble: guest web2 ready"], BOOT_LIMIT);
    ssh::wait(port);
    let root = Root { port, key };

    let bytes: u64 = root.says("stat -L -c %s /usr/bin/thimblectl").trim().parse().expect("a number");
    println!("thimble-node and thimblectl: {bytes} bytes");
    assert!(bytes <= PROGRAM_MAX, "{bytes}");

    // then a list shows both, as do the words that say more of one;
    let guests = root.guests();
    assert!(guests.iter().all(|guest| guest["state"] == "running" && guest["ready_s"].is_f64()), "{guests:?}");
    let shown = root.says(
        "thimblectl list; thimblectl dominfo web1; thimblectl domblklist web1; thimblectl domiflist web1; \
         thimblectl vcpuinfo web1; thimblectl nodeinfo; thimblectl domstats web1; thimblectl dumpconfig web1; \
         thimblectl domifaddr web1; thimblectl dommemstat web1; thimblectl net-list; thimblectl sysinfo",
    );
    for wanted in [
        "web2   running",
        "State:       running (booted)",
        "vdb      /data/guests/web1/disk.raw   read-write",
        "tap-web1    bridge   br0      virtio",
        "all",
        "Guests:           2, 2 run",
        "block.1.wr.reqs=",
        "net.0.tx.pkts=",
        "cpu.time_us=",
        "\"image\": \"page\"",
        "ipv4       10.1.1.11/24",
        "actual 65536\n",
        // What supervision counts, for 64 MiB.
        "cgroup.limit 131584\n",
        "br0    up      bridged   10.1.1.2/24",
        "Vendor:           QEMU\n",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    println!("{shown}");

    // so do programs have it: what a guest takes of the host, the networks, the machine, and lines of both kinds of logs;
    let lines = root.says(
        "thimblectl dommemstat web1 --json && thimblectl net-list --all --json && thimblectl sysinfo --json && \
         thimblectl log --json | tail -n 1 && thimblectl log web1 --json | tail -n 1",
    );
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [memory, networks, sysinfo, of_host, of_guest] = &lines[..] else { panic!("{lines:?}") };
    let bytes = |key: &str| memory[key].as_u64().unwrap_or_else(|| panic!("{key}: {memory}"));
    // Its init and its kernel are there, whatever it does; and no more than it has, but for tables and what the VMM itself is.
    assert!(bytes("rss_bytes") > 4 << 20 && bytes("rss_bytes") < 128 << 20, "{memory}");
    assert!(bytes("memory_bytes") > 0 && bytes("memory_bytes") <= bytes("memory_limit_bytes"), "{memory}");
    let bridge = &networks["networks"][0];
    assert_eq!((&bridge["name"], &bridge["guests"], &bridge["mode"]), (&"br0".into(), &2.into(), &"bridged".into()));
    assert!(sysinfo["product"].as_str().is_some_and(|name| name.starts_with("Standard PC (Q35")), "{sysinfo}");
    for line in [of_host, of_guest] {
        assert!(line["source"].is_string() && line["text"].is_string(), "{line}");
    }
    assert_eq!((&of_guest["source"], of_host["level"].is_string()), (&"web1".into(), true));

    // a guest that is suspended says so, hears nothing, and goes on;
    let said = root.says(
        "thimblectl suspend web1 && thimblectl domstate --reason web1; thimblectl shutdown web1 2>&1; echo code $?; \
         thimblectl resume web1 && thimblectl domstate --reason web1",
    );
    assert!(said.contains("paused (suspended)") && said.contains("running (resumed)"), "{said}");
    assert!(said.contains("is suspended and hears nothing") && said.contains("code 1"), "{said}");
    assert!(get(web1, "/", LIMIT).expect("web1 answers").contains("<h1>web1</h1>"));

    // what is typed on its console is there, for whoever looks on too, and a second one may not type;
    let said = root.says(
        "(sleep 1; echo from-outside; sleep 6) | thimblectl console web1 --timeout 8 >/tmp/typed & \
         sleep 3; thimblectl console web1 --timeout 1 2>&1 </dev/null; echo code $?; \
         thimblectl console web1 --read-only --timeout 3 </dev/null >/tmp/seen; wait; \
         grep -c from-outside /tmp/typed; grep -c from-outside /tmp/seen; thimblectl log web1 | grep -c from-outside",
    );
    assert!(
        said.contains("somebody types on the console of web1 already") && said.contains("code 1\n1\n1\n1\n"),
        "{said}"
    );

    // it powers off, is started, and another one's power is cut, each waited for;
    let said = root.says(
        "thimblectl shutdown web1 --wait && thimblectl domstate web1 --reason && thimblectl list; \
         thimblectl start web1 --wait && thimblectl domstate web1 --reason; \
         thimblectl destroy web2 --wait && thimblectl domstate web2 --reason; \
         thimblectl start web1 2>&1; echo code $?; thimblectl start web9 2>&1; echo code $?",
    );
    for wanted in [
        "shut off (power-off)\n",
        "running (booted)\n",
        "shut off (killed)\n",
        "thimblectl: guest web1 runs already\ncode 1",
        "there is no guest of that name on this node",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    println!("{said}");

    // and events are told from any of them on.
    let all = root.says("thimblectl event --after begin --json --timeout 2");
    let events: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ready = events.iter().position(|event| event["kind"] == "ready").expect("a guest was ready");
    let id = |event: &Value| event["id"].as_str().expect("an id").to_owned();
    let rest = root.says(&format!("thimblectl event --after {} --json --count 3", id(&events[ready])));
    let rest: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rest, events[ready + 1..ready + 4]);

    // When the daemon is killed, then the next one knows what is true: who runs, and who was to stay off;
    let before = root.guests();
    machine.type_line("kill-node");
    machine.wait("^node: guest web1 adopted", LIMIT);
    let after = root.guests();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before["state"], &before["pid"]), (&after["state"], &after["pid"]), "{after}");
    }
    assert_eq!(after[1]["state"], "off", "{after:?}");
    // whoever goes on with its events is told that some may be missing;
    let rest = root.says(&format!("thimblectl event --after {} --json --count 1", id(&events[ready])));
    assert_eq!(serde_json::from_str::<Value>(&rest).expect("JSON")["kind"], "lost");
    // and it still obeys. (There is always one guest that runs: the host's kernel changes its own code as the first comes
    // and the last goes, in which the emulator may hang, see `stall`.)
    let mut said = String::new();
    for commands in [
        "thimblectl start web2 --wait && thimblectl reboot web1 --wait && thimblectl domstate web1 --reason",
        "thimblectl reset web1 --wait && thimblectl list",
        "thimblectl audit | tail -n 1; thimblectl completion bash | grep -c 'complete '",
        // This host has no data partition.
        "thimblectl setmem web2 80MiB --config; thimblectl dumpconfig web2 --inactive | thimblectl define -",
    ] {
        said += &root.says(commands);
    }
    for wanted in [
        "guest web1: reboot: running",
        "running (booted)",
        "web2   running",
        "POST /v1/guests/web1/reset",
        "guest web2 is defined on this node, until the host ends; it runs",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    machine.type_line("poweroff");
    machine.wait_all(&["^thimble: guest web1 exited power-off", "^thimble: guest web2 exited power-off"], LIMIT);
    assert!(machine.end(LIMIT).success());
}
