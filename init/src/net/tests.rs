//! Against the kernel, in a network namespace of the test's own.

use super::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

/// Runs `test` on a thread with its own network and its own /sys that shows it. Without the right to that, nothing is
/// tested, which is said.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
            eprintln!("skipped: no network namespace of its own: {errno}");
            return;
        }
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        if let Err(errno) = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>) {
            eprintln!("skipped: no /sys of its own: {errno}");
            return;
        }
        test();
    });
    thread.join().unwrap();
}

/// What the kernel knows of links, IPv4 addresses and routes, as `ip` prints it; nothing without `ip`.
fn state() -> String {
    ["link", "address", "route"]
        .map(|what| {
            let output = Command::new("ip").args(["-4", what, "show"]).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        })
        .concat()
}

#[test]
fn addresses_and_routes_are_applied_once() {
    in_namespace(|| {
        let mut network = Network::open().unwrap();
        loopback(&mut network).unwrap();
        let address = "10.1.1.11/24".parse().unwrap();
        let apply = |network: &mut Network| fixed(network, "lo", Some(address), Some(Ipv4Addr::new(10, 1, 1, 1)));
        // The gateway is this machine itself, which the kernel refuses as such: address and link count here.
        let _ = apply(&mut network);
        let trie = fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap();
        assert!(trie.contains("10.1.1.11") && trie.contains("127.0.0.1"), "{trie}");
        let before = state();
        let _ = apply(&mut network);
        assert_eq!(state(), before);
    });
}

#[test]
fn what_is_not_there_is_named() {
    in_namespace(|| {
        let mut network = Network::open().unwrap();
        let error = network.up("eth7").unwrap_err().sentence();
        assert!(error.contains("is there an interface eth7?"), "{error}");
        assert_eq!(first_interface(), None);
    });
}

#[test]
fn resolv_conf_is_replaced_as_a_whole() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("etc")).unwrap();
    for servers in [vec![Ipv4Addr::new(10, 1, 1, 3), Ipv4Addr::new(10, 1, 1, 4)], vec![]] as [Vec<Ipv4Addr>; 2] {
        write_resolv_conf(place.path(), &servers).unwrap();
        assert_eq!(fs::read_to_string(place.path().join("etc/resolv.conf")).unwrap(), resolv_conf(&servers));
    }
    assert_eq!(resolv_conf(&[Ipv4Addr::new(10, 1, 1, 3)]), "nameserver 10.1.1.3\n");
}
