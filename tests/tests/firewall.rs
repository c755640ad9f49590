//! Who may reach the host and under which names guests send; networks on trial; guests behind the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::{BOOT_LIMIT, Boot, Definition, Machine, free_port, get, ssh};

const LIMIT: Duration = Duration::from_secs(120);

/// Builds a definition of `tests/library` with these texts replaced.
fn build(directory: &Path, name: &str, changes: &[(&str, &str)]) -> PathBuf {
    let definition = Definition::read(&format!("tests/library/{name}")).library("tests/library");
    definition.with(changes).build(directory, ["--format", "netboot"])
}

/// What a guest said of its attempts, on its console: `[GUEST] ATTEMPT: OUTCOME`.
#[derive(Debug)]
struct Said(Vec<String>);

impl Said {
    fn by(machine: &Machine, guest: &str) -> Self {
        let lines = machine.seen().iter();
        Self(lines.filter_map(|line| line.strip_prefix(&format!("[{guest}] ")).map(str::to_owned)).collect())
    }

    fn of(&self, attempt: &str) -> &str {
        let found = self.0.iter().find_map(|line| line.strip_prefix(attempt)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("{attempt}: {self:?}"))
    }
}

/// Packets of a counter.
fn packets(counters: &Value, name: &str) -> u64 {
    let all = counters["firewall"].as_array().expect("a list");
    let counter = all.iter().find(|counter| counter["name"] == name).unwrap_or_else(|| panic!("{name}: {counters}"));
    counter["packets"].as_u64().expect("a number")
}

#[test]
fn who_lies_gets_nothing_through_and_what_is_not_open_is_closed() {
    // Given a host behind a firewall, with an honest guest and one that lies,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "right");
    let out = build(directory.path(), "firewall.toml", &[("KEY", &public)]);
    let (login, page) = (free_port(), free_port());
    let forward = [(login, "host:22"), (page, "honest:80")];
    let mut machine = Machine::boot(&Boot { forward: &forward, ..Boot::new(&out, "direct") });
    machine.wait_all(&["^thimble: host fort up", r"^\[liar\] end of attempts"], BOOT_LIMIT);
    let liar = Said::by(&machine, "liar");
    // then it is answered under its own name, before and after,
    assert_eq!((liar.of("own name"), liar.of("own name again")), ("passed", "passed"));
    // and under no other;
    for what in ["other address", "other address by arp", "other mac"] {
        assert_ne!(liar.of(what), "passed", "{liar:?}");
    }
    // what is open answers, be it that nobody listens there; what is not open, or not for it, is silent.
    assert!(liar.of("open port").contains("refused"), "{liar:?}");
    for what in ["closed port", "ssh"] {
        assert!(liar.of(what).contains("timed out"), "{liar:?}");
    }
    // Who may log in does, and sees what was counted,
    ssh::wait(login);
    let counters =
        || -> Value { serde_json::from_str(&ssh::said(login, &key, "thimble-node firewall --json")).expect("JSON") };
    let counted = counters();
    println!("{counted}");
    for name in ["denied", "liar ip", "liar arp", "liar mac"] {
        assert!(packets(&counted, name) > 0, "{name}: {counted}");
    }
    for name in ["honest ip", "honest arp", "honest mac"] {
        assert_eq!(packets(&counted, name), 0, "{name}: {counted}");
    }
    // and the honest guest's page is there for all.
    assert!(get(page, "/", LIMIT).expect("the page").contains("an honest page"));

    // When another network is given that nobody can reach, and nobody confirms it,
    let changed = |changes: &[(&str, &str)]| {
        let place = TempDir::new().expect("a temporary directory");
        let out = build(place.path(), "firewall.toml", &[&[("KEY", public.as_str())], changes].concat());
        fs::read_to_string(out.join("appliance.json")).expect("it was built")
    };
    let apply = |changes: &[(&str, &str)], words: &str| {
        let text = changed(changes);
        // Detached: the connection may not outlive it.
        let apply = format!("thimble-node network apply /run/new.json {words} >/run/said 2>&1 </dev/null &");
        ssh::said(
            login,
            &key,
            &format!("cat >/run/new.json <<'END'\n{text}\nEND\n(sleep 1; {apply}) >/dev/null 2>&1 &"),
        );
    };
    let show = || -> Value {
        ssh::wait(login);
        serde_json::from_str(&ssh::said(login, &key, "thimble-node network --json")).expect("JSON")
    };
    let addresses = |shown: &Value| -> Vec<String> {
        let links = shown["network"]["links"].as_array().expect("a list").iter();
        let addresses = links.flat_map(|link| link["addresses"].as_array().expect("a list"));
        addresses.filter_map(|address| Some(address.as_str()?.to_owned())).collect()
    };
    apply(&[("address = \"10.1.1.2/24\"", "address = \"10.1.1.3/24\"")], "--confirm-within=10");
    // then the one before comes back by itself,
    machine.wait("^thimble: error the network on trial is rolled back: nobody confirmed it in time", LIMIT);
    let shown = show();
    assert_eq!(addresses(&shown), ["10.1.1.2/24"], "{shown}");
    assert_eq!(shown["network"]["last"], "rolled back: nobody confirmed it in time");
    // and so it does when a machine that it must reach falls silent: here with the card out of the bridge.
    apply(&[("ports = [\"eth0\"]", "ports = []")], "--confirm-within=300 --reach=10.1.1.1");
    machine.wait("^thimble: error the network on trial is rolled back: 10.1.1.1 does not answer for 15 s", LIMIT);
    // One that is confirmed stays, beyond its limit;
    let more = "address = \"10.1.1.2/24\"\naddresses = [\"10.1.1.4/24\"]";
    apply(
        &[("address = \"10.1.1.2/24\"", more), ("port = 7 ", "port = 9101 ")],
        "--confirm-within=20 --reach=10.1.1.1",
    );
    let began = Instant::now();
    while !ssh::run(login, Some(&key), "thimble-node network confirm").status.success() {
        assert!(began.elapsed() < LIMIT, "{}", ssh::said(login, &key, "cat /run/said"));
    }
    std::thread::sleep(Duration::from_secs(22));
    let shown = show();
    assert_eq!(addresses(&shown), ["10.1.1.2/24", "10.1.1.4/24"], "{shown}");
    assert_eq!((&shown["network"]["trial_s"], &shown["network"]["last"]), (&Value::Null, &Value::from("confirmed")));
    // its rules, too, and what was counted before was not forgotten;
    let after = counters();
    assert!(packets(&after, "liar mac") >= packets(&counted, "liar mac"), "{counted} {after}");
    // and what is none, or takes more than this, is refused.
    let refused = |text: &str| {
        let command = format!("thimble-node network apply - <<'END'\n{text}\nEND\n");
        let output = ssh::run(login, Some(&key), &command);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = refused("[network]");
    assert!(told.contains("- is no checked definition: give the appliance.json"), "{told}");
    let told = refused(&changed(&[("10.1.1.12/24", "10.1.1.13/24")]));
    assert!(told.contains("guest liar differs"), "{told}");
}

#[test]
fn guests_behind_the_host_reach_out_and_are_reached_by_a_forwarded_port() {
    // Given a host with a NAT network, an isolated one and a port that leads to a guest,
    let directory = TempDir::new().expect("a temporary directory");
    let (key, public) = ssh::key(directory.path(), "right");
    let out = build(directory.path(), "nat.toml", &[("KEY", &public)]);
    let (login, page) = (free_port(), free_port());
    let forward = [(login, "host:22"), (page, "host:8080")];
    let mut machine = Machine::boot(&Boot { forward: &forward, ..Boot::new(&out, "direct") });
    let ends = ["asker", "cell", "straight", "outside"].map(|guest| format!(r"^\[{guest}\] end of attempts"));
    machine.wait("^thimble: host gate up", BOOT_LIMIT);
    machine.wait_all(&ends.each_ref().map(String::as_str), BOOT_LIMIT);
    let asker = Said::by(&machine, "asker");
    // then a guest that asks gets an address, a gateway and a server of names, and knows its neighbour by name;
    let offered = asker.of("offered");
    assert!(
        offered.starts_with("192.168.77.") && offered.ends_with("by 192.168.77.1, names by 192.168.77.1"),
        "{offered}"
    );
    assert_eq!(asker.of("neighbour by name"), "passed", "{asker:?}");
    // it reaches the world under the host's address,
    assert_eq!(asker.of("world"), "passed", "{asker:?}");
    // while nobody leaves the isolated network;
    let cell = Said::by(&machine, "cell");
    assert_eq!(cell.of("host"), "passed", "{cell:?}");
    for what in ["other network", "routed network", "world"] {
        assert_ne!(cell.of(what), "passed", "{cell:?}");
    }
    // of the routed one and who knows the way to it each reaches the other under its own address, and neither who is behind the
    // host's;
    for (guest, other) in [("straight", "10.1.1.12"), ("outside", "192.168.88.11")] {
        let said = Said::by(&machine, guest);
        assert_eq!(said.of("the other"), "passed", "{said:?}");
        assert_ne!(said.of("inner"), "passed", "{said:?}");
        assert!(said.0.iter().any(|line| line.starts_with(other) && line.ends_with("response:200")), "{said:?}");
    }
    // the world reaches the guest by the forwarded port,
    assert!(get(page, "/", LIMIT).expect("the page").contains("a page behind the host"));
    // and the host counts it.
    ssh::wait(login);
    let counted: Value = serde_json::from_str(&ssh::said(login, &key, "thimble-node firewall --json")).expect("JSON");
    println!("{counted}");
    assert!(packets(&counted, "forward tcp 8080") > 0 && packets(&counted, "forward denied") > 0, "{counted}");

    // When another definition with one more network of the host's own is on trial, addresses and names are given out there, too;
    let given = || ssh::said(login, &key, "cat /run/thimble/dnsmasq.conf; busybox netstat -lun");
    let before = given();
    let text = fs::read_to_string(out.join("appliance.json")).expect("it can be read");
    let mut other: Value = serde_json::from_str(&text).expect("JSON");
    let mut more = other["network"]["bridges"]["nat0"].clone();
    more["link"]["addresses"] = serde_json::json!(["192.168.78.1/24"]);
    other["network"]["bridges"]["nat1"] = more;
    ssh::said(login, &key, &format!("cat >/run/new.json <<'END'\n{other}\nEND\n"));
    ssh::said(login, &key, "thimble-node network apply /run/new.json --confirm-within=60");
    let until = |is: &dyn Fn(&str) -> bool| {
        let began = Instant::now();
        while !is(&given()) {
            assert!(began.elapsed() < LIMIT, "{}", given());
            std::thread::sleep(Duration::from_secs(1));
        }
    };
    until(&|given| given.contains("interface=nat1") && given.contains(" 192.168.78.1:53 "));
    // when it was rolled back, they are not.
    ssh::said(login, &key, "thimble-node network rollback");
    until(&|given| !given.contains("interface=nat1") && !given.contains(" 192.168.78.1:53 "));
    assert!(before.contains(" 192.168.77.1:53 ") && given().contains(" 192.168.77.1:53 "), "{before} {}", given());
}
