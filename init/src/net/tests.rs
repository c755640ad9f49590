//! Against the kernel, in a network namespace of the test's own.

use super::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

/// Runs `test` on a thread with its own network and its own /sys that shows it. Without the right to that, nothing is
/// tested, which is said.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
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
    for servers in [vec![Ipv4Addr::new(10, 1, 1, 3), Ipv4Addr::new(10, 1, 1, 4)], vec![]] {
        write_resolv_conf(place.path(), &servers).unwrap();
        assert_eq!(fs::read_to_string(place.path().join("etc/resolv.conf")).unwrap(), resolv_conf(&servers));
    }
    assert_eq!(resolv_conf(&[Ipv4Addr::new(10, 1, 1, 3)]), "nameserver 10.1.1.3\n");
}

#[cfg(feature = "host")]
mod devices {
    use super::*;
    use thimble_spec::appliance::{Bond, BondMode};

    /// A pair of Ethernet interfaces that are wired to each other.
    fn cards() -> bool {
        let made = Command::new("ip").args("link add eth0 type veth peer name eth1".split(' ')).status();
        let made = made.is_ok_and(|status| status.success());
        if !made {
            eprintln!("skipped: no ip(8) or no veth here");
        }
        made
    }

    #[test]
    fn a_bridge_is_made_once() {
        in_namespace(|| {
            if !cards() {
                return;
            }
            let mut network = Network::open().unwrap();
            let options = BridgeOptions { vlan_filtering: fs::exists("/proc/net/vlan").unwrap_or(false) };
            let address = "10.1.1.2/24".parse().unwrap();
            let apply = |network: &mut Network| {
                let created = network.bridge("br0", options)?;
                if created == Created::New {
                    network.copy_mac("br0", "eth0")?;
                }
                network.enslave("eth0", "br0")?;
                for name in ["eth0", "eth1", "br0"] {
                    network.up(name)?;
                }
                network.add_address("br0", address)?;
                network.default_route("br0", Ipv4Addr::new(10, 1, 1, 1))?;
                Ok::<_, crate::error::Error>(created)
            };
            match apply(&mut network) {
                Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
                    eprintln!("skipped: no bridges here");
                    return;
                }
                created => assert_eq!(created.unwrap(), Created::New),
            }
            assert_eq!(mac_of("br0").unwrap(), mac_of("eth0").unwrap());
            // The kernel looks at carriers a moment later.
            let carrier = || fs::read_to_string("/sys/class/net/br0/operstate").is_ok_and(|state| state == "up\n");
            crate::clock::wait_until(std::time::Duration::from_secs(5), carrier);
            let before = state();
            assert!(before.contains("default via 10.1.1.1 dev br0"), "{before}");
            assert_eq!(apply(&mut network).unwrap(), Created::Existed);
            assert_eq!(state(), before);
            // And what was given can be taken, even twice.
            for _ in 0..2 {
                network.remove_default_route("br0").unwrap();
                network.remove_address("br0", address).unwrap();
            }
            assert!(!state().contains("10.1.1."));
        });
    }

    #[test]
    fn a_bond_is_made_once_and_changed() {
        in_namespace(|| {
            if !cards() {
                return;
            }
            let mut network = Network::open().unwrap();
            let bond = |mode| Bond { mode, ports: vec!["eth0".to_owned()], miimon_ms: 80 };
            let first = bond(BondMode::ActiveBackup);
            match network.bond("bond7", &first) {
                Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
                    eprintln!("skipped: no bonds here");
                    return;
                }
                created => assert_eq!(created.unwrap(), Created::New),
            }
            for _ in 0..2 {
                network.enslave("eth0", "bond7").unwrap();
                network.up("eth0").unwrap();
                network.up("bond7").unwrap();
            }
            assert_eq!(network.bond("bond7", &first).unwrap(), Created::Existed);
            let read = |file: &str| fs::read_to_string(format!("/sys/class/net/bond7/bonding/{file}")).unwrap();
            assert_eq!((read("mode").trim(), read("miimon").trim()), ("active-backup 1", "80"));
            assert_eq!(read("slaves").trim(), "eth0");
            network.bond("bond7", &bond(BondMode::BalanceXor)).unwrap();
            assert_eq!(read("mode").trim(), "balance-xor 2");
        });
    }
}
