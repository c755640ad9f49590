//! Plans against the model, and against the kernel in network namespaces of their own.
//!
//! A kernel that lacks bonds, VLANs or dummies skips their tests, and says so; with `THIMBLE_WHOLE_KERNEL` in the
//! environment that is a failure. The whole-system tests run these on the kernel of an appliance, which has all.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use proptest::prelude::*;
use thimble_spec::appliance::{BondMode, HashPolicy, Ipv6, LacpRate};
use thimble_spec::ip::IpNet;

use super::plan::Plan;
use super::*;
use crate::net::tests::in_namespace;
use crate::net::{self, Network};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn bond(mode: BondMode) -> Kind {
    Kind::Bond(BondOptions { mode, miimon_ms: 100, ..BondOptions::default() })
}

/// A state to be, put together link by link.
#[derive(Clone, Default)]
struct Sketch(Wanted);

impl Sketch {
    fn link(mut self, name: &str, kind: Kind, more: impl FnOnce(&mut WantedLink)) -> Self {
        let mut link = WantedLink::new(kind);
        more(&mut link);
        for port in &link.ports {
            let mine = self.0.links.entry(port.clone()).or_insert_with(|| WantedLink::new(Kind::Card));
            mine.master = Some(name.to_owned());
        }
        self.0.links.insert(name.to_owned(), link);
        self
    }

    fn route(mut self, to: &str, link: &str, via: &str, metric: u32) -> Self {
        let route = Route { to: net(to), metric, link: link.to_owned(), via: Some(via.parse().unwrap()) };
        self.0.routes.insert(route);
        self
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn vlans(tagged: &[u16], untagged: &[u16]) -> Option<BTreeMap<u16, PortVlan>> {
    let tagged = tagged.iter().map(|id| (*id, PortVlan::TAGGED));
    Some(tagged.chain(untagged.iter().map(|id| (*id, PortVlan::UNTAGGED))).collect())
}

/// Runs `ip` with these words.
fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("ip(8) is there");
    assert!(status.success(), "ip {words}");
}

/// What is changed on the way to this, until nothing is to be changed any more: twice at most.
fn settle(kernel: &mut Network, wanted: &Wanted) -> Vec<Change> {
    let mut all = Vec::new();
    for _ in 0..2 {
        let seen = kernel.observe().unwrap();
        let Plan { changes, problems } = plan(wanted, &seen);
        assert_eq!(problems, Vec::<String>::new());
        for change in &changes {
            if let Err(error) = kernel.change(change) {
                panic!("{}; of {changes:#?}", error.sentence());
            }
        }
        all.extend(changes);
    }
    let seen = kernel.observe().unwrap();
    assert_eq!(plan(wanted, &seen).changes, [], "of {seen:#?}");
    all
}

/// Whether the kernel knows a kind of links.
fn knows(kernel: &mut Network, kind: Kind) -> bool {
    match kernel.change(&Change::Make("try0".to_owned(), kind.clone())) {
        Ok(()) => {
            kernel.change(&Change::Remove("try0".to_owned())).unwrap();
            true
        }
        Err(error) => {
            let why = format!("no {kind:?} on this kernel: {}", error.sentence());
            assert!(std::env::var_os("THIMBLE_WHOLE_KERNEL").is_none(), "{why}");
            eprintln!("skipped: {why}");
            false
        }
    }
}

/// A namespace with four cards, `eth0` to `eth3`, the other ends of which are up, and those kinds of links.
fn on_a_kernel(kinds: Vec<Kind>, test: impl FnOnce(&mut Network) + Send + 'static) {
    in_namespace(move || {
        let mut kernel = Network::open().unwrap();
        net::loopback(&mut kernel).unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/all/promote_secondaries", "1").unwrap();
        for card in 0..4 {
            ip(&format!("link add eth{card} type veth peer name peer{card}"));
            ip(&format!("link set peer{card} up"));
        }
        if kinds.into_iter().all(|kind| knows(&mut kernel, kind)) {
            test(&mut kernel);
        }
    });
}

/// Applies one after the other, each of which is then as it shall be; at last nothing, and nothing of ours is left.
fn story(kernel: &mut Network, chapters: &[Sketch]) {
    for Sketch(wanted) in chapters {
        settle(kernel, wanted);
    }
    settle(kernel, &Wanted::default());
    let seen = kernel.observe().unwrap();
    assert!(seen.links.values().all(|link| !link.ours && link.kind == Kind::Card), "{seen:#?}");
    assert_eq!(seen.routes, BTreeSet::new());
}

#[test]
fn a_bridge_is_applied_changed_and_removed() {
    on_a_kernel(vec![Kind::Bridge(BridgeOptions::default())], |kernel| {
        let bridge = |stp, ports: &[&str], address: &str| {
            Sketch::default().link("br0", Kind::Bridge(BridgeOptions { stp, vlan_filtering: false }), |link| {
                link.ports = names(ports);
                link.addresses.insert(net(address));
            })
        };
        let first = bridge(true, &["eth0", "eth1"], "10.1.1.2/24").route("0.0.0.0/0", "br0", "10.1.1.1", 0);
        settle(kernel, &first.0);
        let seen = kernel.observe().unwrap();
        assert_eq!(seen.links["br0"].mac, seen.links["eth0"].mac);
        // One port more, another address, no route: what stays is not touched.
        let second = bridge(true, &["eth0", "eth1", "eth2"], "10.1.1.3/24");
        let changes = settle(kernel, &second.0);
        assert!(!changes.iter().any(|change| matches!(change, Change::Make(..) | Change::Remove(_))), "{changes:?}");
        assert!(!changes.contains(&Change::Master("eth0".to_owned(), None)));
        // A port that somebody took away comes back.
        ip("link set eth1 nomaster");
        let back = Change::Master("eth1".to_owned(), Some("br0".to_owned()));
        assert!(settle(kernel, &second.0).contains(&back));
        ip("link set br0 down");
        assert_eq!(settle(kernel, &second.0), [Change::Up("br0".to_owned(), true)]);
        story(kernel, &[first, second, bridge(false, &["eth3"], "10.9.9.9/16")]);
    });
}

#[test]
fn what_is_nobodys_is_left_alone() {
    on_a_kernel(vec![Kind::Bridge(BridgeOptions::default())], |kernel| {
        let bridge = Sketch::default().link("br0", Kind::Bridge(BridgeOptions::default()), |link| {
            link.ports = names(&["eth0"]);
        });
        settle(kernel, &bridge.0);
        // A guest's interface in our bridge, somebody's bridge with a card and an address.
        ip("tuntap add tap-web1 mode tap");
        ip("link set tap-web1 master br0 up");
        ip("link add theirs type bridge");
        ip("link set eth3 master theirs up");
        ip("address add 10.5.0.1/24 dev theirs");
        assert_eq!(settle(kernel, &bridge.0), []);
        // A link of that name that is no bridge is told, and not replaced.
        let plan =
            plan(&Sketch::default().link("theirs", bond(BondMode::ActiveBackup), |_| ()).0, &kernel.observe().unwrap());
        assert!(plan.problems[0].starts_with("interface theirs is there and is something else"), "{plan:?}");
        settle(kernel, &Wanted::default());
        let seen = kernel.observe().unwrap();
        assert!(!seen.links.contains_key("br0") && seen.links.contains_key("tap-web1"));
        assert_eq!(seen.links["theirs"].addresses, BTreeSet::from([net("10.5.0.1/24")]));
        assert_eq!(seen.links["eth3"].master.as_deref(), Some("theirs"));
    });
}

#[test]
fn a_card_has_addresses_of_both_families() {
    on_a_kernel(vec![], |kernel| {
        let card = |addresses: &[&str], ipv6, mtu| {
            Sketch::default().link("eth0", Kind::Card, |link| {
                link.addresses = addresses.iter().map(|address| net(address)).collect();
                (link.ipv6, link.mtu) = (ipv6, mtu);
                link.mac = "02:00:00:00:00:77".parse().ok();
            })
        };
        let both = card(&["10.1.1.2/24", "10.1.1.3/24", "2001:db8::2/64"], Ipv6::Static, Some(1400))
            .route("0.0.0.0/0", "eth0", "10.1.1.1", 0)
            .route("::/0", "eth0", "2001:db8::1", 1024)
            .route("10.9.0.0/16", "eth0", "10.1.1.9", 50);
        settle(kernel, &both.0);
        // The first address goes, the second one of the network stays.
        let v4 = card(&["10.1.1.3/24"], Ipv6::Off, None);
        settle(kernel, &v4.0);
        let slaac = card(&["10.1.1.3/24"], Ipv6::Slaac, None);
        assert!(settle(kernel, &slaac.0).contains(&Change::Ipv6("eth0".to_owned(), Ipv6::Slaac)));
        let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/eth0/{name}")).unwrap();
        assert_eq!((setting("accept_ra").trim(), setting("disable_ipv6").trim()), ("2", "0"));
        story(kernel, &[both.clone(), slaac, v4, both]);
    });
}

#[test]
fn a_dummy_is_applied_changed_and_removed() {
    on_a_kernel(vec![Kind::Dummy], |kernel| {
        let dummy = |address: &str, mtu| {
            Sketch::default().link("any0", Kind::Dummy, |link| {
                link.addresses.insert(net(address));
                link.mtu = mtu;
                link.mac = "02:00:00:00:00:88".parse().ok();
            })
        };
        story(
            kernel,
            &[dummy("10.255.0.1/32", None), dummy("10.255.0.2/32", Some(9000)), dummy("10.255.0.2/32", None)],
        );
    });
}

#[test]
fn ports_are_in_their_vlans() {
    let filtering = Kind::Bridge(BridgeOptions { stp: false, vlan_filtering: true });
    on_a_kernel(vec![filtering.clone()], move |kernel| {
        let bridge = |trunk: &[u16], access: u16, own: &[u16]| {
            let sketch = Sketch::default().link("eth0", Kind::Card, |link| link.vlans = vlans(trunk, &[])).link(
                "eth1",
                Kind::Card,
                |link| link.vlans = vlans(&[], &[access]),
            );
            sketch.link("br0", filtering.clone(), |link| {
                link.ports = names(&["eth0", "eth1"]);
                link.vlans = vlans(own, &[1]);
            })
        };
        let plain = Sketch::default().link("br0", Kind::Bridge(BridgeOptions::default()), |link| {
            link.ports = names(&["eth0", "eth1"]);
        });
        let first = bridge(&[10, 20], 10, &[]);
        settle(kernel, &first.0);
        // A guest's port is not ours: its VLAN stays.
        ip("tuntap add tap-web1 mode tap");
        ip("link set tap-web1 master br0");
        let how = PortVlan::UNTAGGED;
        kernel.change(&Change::Vlan("tap-web1".to_owned(), state::Side::Port, 10, how)).unwrap();
        assert_eq!(settle(kernel, &first.0), []);
        settle(kernel, &bridge(&[20, 30], 20, &[30]).0);
        assert_eq!(kernel.observe().unwrap().links["tap-web1"].vlans[&10], how);
        story(kernel, &[plain.clone(), bridge(&[4094], 2, &[]), plain]);
    });
}

#[test]
fn a_bond_is_applied_changed_and_removed() {
    on_a_kernel(vec![bond(BondMode::ActiveBackup)], |kernel| {
        let made = |options: BondOptions, ports: &[&str], primary: Option<&str>| {
            Sketch::default().link("bond7", Kind::Bond(options), |link| {
                link.ports = names(ports);
                link.primary = primary.map(str::to_owned);
                link.addresses.insert(net("10.1.1.2/24"));
                link.mtu = Some(1450);
            })
        };
        let backup = BondOptions { mode: BondMode::ActiveBackup, miimon_ms: 100, ..BondOptions::default() };
        let first = made(backup, &["eth0", "eth1"], Some("eth1"));
        settle(kernel, &first.0);
        let read = |file: &str| std::fs::read_to_string(format!("/sys/class/net/bond7/bonding/{file}")).unwrap();
        assert_eq!((read("slaves").trim(), read("primary").trim()), ("eth0 eth1", "eth1"));
        let delayed = BondOptions { miimon_ms: 50, updelay_ms: 100, downdelay_ms: 150, ..backup };
        let second = made(delayed, &["eth0", "eth1", "eth2"], Some("eth0"));
        let changes = settle(kernel, &second.0);
        assert!(!changes.iter().any(|change| matches!(change, Change::Master(_, None))), "{changes:?}");
        // A member that is lost and comes back is taken in again.
        ip("link set eth1 nomaster");
        settle(kernel, &second.0);
        assert!(read("slaves").contains("eth1"));
        let lacp = BondOptions {
            mode: BondMode::Lacp,
            miimon_ms: 100,
            lacp_rate: LacpRate::Fast,
            xmit_hash_policy: HashPolicy::Layer34,
            ..BondOptions::default()
        };
        let slow = BondOptions { lacp_rate: LacpRate::Slow, ..lacp };
        let chapters = [lacp, slow, backup].map(|options| made(options, &["eth0", "eth1"], None));
        let modes = [
            BondMode::BalanceRr,
            BondMode::BalanceXor,
            BondMode::Broadcast,
            BondMode::BalanceTlb,
            BondMode::BalanceAlb,
        ];
        let modes = modes.map(|mode| made(BondOptions { mode, ..backup }, &["eth2", "eth3"], None));
        story(kernel, &[&chapters[..], &modes, &[first]].concat());
    });
}

#[test]
fn a_vlan_follows_what_it_is_in() {
    let some = Kind::Vlan(VlanOptions { parent: "eth0".to_owned(), id: 5 });
    on_a_kernel(vec![some, bond(BondMode::ActiveBackup)], |kernel| {
        let vlan = |parent: &str, id, mtu, mode| {
            let kind = Kind::Vlan(VlanOptions { parent: parent.to_owned(), id });
            let sketch = Sketch::default().link("bond0", bond(mode), |link| {
                link.ports = names(&["eth0", "eth1"]);
                link.mtu = mtu;
            });
            let sketch = sketch.link("mgmt", kind, |link| _ = link.addresses.insert(net("10.7.0.2/24")));
            sketch.link("eth2", Kind::Card, |_| ()).route("0.0.0.0/0", "mgmt", "10.7.0.1", 0)
        };
        let first = vlan("bond0", 7, Some(1400), BondMode::ActiveBackup);
        settle(kernel, &first.0);
        assert_eq!(kernel.observe().unwrap().links["mgmt"].mtu, 1400);
        // The bond is switched off for its mode, and its VLAN with it; all is as declared in the end.
        story(
            kernel,
            &[
                first,
                vlan("bond0", 7, None, BondMode::BalanceXor),
                vlan("bond0", 8, None, BondMode::BalanceXor),
                vlan("eth2", 8, None, BondMode::ActiveBackup),
            ],
        );
    });
}

/// Any network, from choices.
fn some_wanted(choices: &[u8]) -> Wanted {
    let mut choices = choices.iter().copied().chain(std::iter::repeat(0));
    let mut choose = move |among: u8| choices.next().unwrap_or(0) % among;
    let mut sketch = Sketch::default();
    let mut ports: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut parents = Vec::new();
    for card in ["eth0", "eth1", "eth2", "eth3"] {
        match choose(6) {
            0 => {}
            1 => {
                let address = net(&format!("10.{}.0.{}/24", choose(3), parents.len() + 2));
                let ipv6 = [Ipv6::Off, Ipv6::Static][usize::from(choose(2))];
                sketch = sketch.link(card, Kind::Card, |link| {
                    link.addresses.insert(address);
                    link.ipv6 = ipv6;
                });
                parents.push(card);
            }
            master => ports
                .entry(["bond0", "bond1", "br0", "br1"][usize::from(master - 2)])
                .or_default()
                .push(card.to_owned()),
        }
    }
    for name in ["bond0", "bond1"] {
        let Some(mine) = ports.remove(name) else { continue };
        let mode = [BondMode::ActiveBackup, BondMode::BalanceXor, BondMode::Lacp, BondMode::BalanceRr];
        let mode = mode[usize::from(choose(4))];
        let lacp_rate = if mode == BondMode::Lacp && choose(2) == 1 { LacpRate::Fast } else { LacpRate::Slow };
        let options = BondOptions { mode, miimon_ms: 100, lacp_rate, ..BondOptions::default() };
        let primary = (mode == BondMode::ActiveBackup && choose(2) == 1).then(|| mine[mine.len() - 1].clone());
        let mtu = [None, Some(1400), Some(1300)][usize::from(choose(3))];
        sketch =
            sketch.link(name, Kind::Bond(options), |link| (link.ports, link.primary, link.mtu) = (mine, primary, mtu));
        match choose(3) {
            0 => parents.push(name),
            1 => ports.entry("br0").or_default().push(name.to_owned()),
            _ => ports.entry("br1").or_default().push(name.to_owned()),
        }
    }
    if choose(2) == 1 {
        sketch = sketch.link("any0", Kind::Dummy, |_| ());
        parents.push("any0");
    }
    for name in ["mgmt", "data"] {
        if choose(2) == 1 && !parents.is_empty() {
            let parent = parents[usize::from(choose(parents.len() as u8))].to_owned();
            let kind = Kind::Vlan(VlanOptions { parent, id: if name == "mgmt" { 5 } else { 6 } });
            match choose(2) {
                0 => {
                    let address = net(&format!("10.{}.0.9/24", if name == "mgmt" { 20 } else { 21 }));
                    sketch = sketch.link(name, kind, |link| _ = link.addresses.insert(address));
                    if choose(2) == 1 {
                        let network = if name == "mgmt" { "10.20.0.1" } else { "10.21.0.1" };
                        sketch = sketch.route("0.0.0.0/0", name, network, if name == "mgmt" { 0 } else { 7 });
                    }
                }
                _ => {
                    sketch = sketch.link(name, kind, |_| ());
                    ports.entry("br0").or_default().push(name.to_owned());
                }
            }
        }
    }
    for name in ["br0", "br1"] {
        let mine = ports.remove(name).unwrap_or_default();
        let options = BridgeOptions { stp: choose(2) == 1, vlan_filtering: choose(2) == 1 };
        if mine.is_empty() && choose(2) == 1 {
            continue;
        }
        let tagged: Vec<u16> = (0..choose(3)).map(|id| u16::from(id) + 10).collect();
        if options.vlan_filtering {
            for port in &mine {
                let how = vlans(&tagged, if choose(2) == 1 { &[30] } else { &[] });
                sketch.0.links.entry(port.clone()).or_insert_with(|| WantedLink::new(Kind::Card)).vlans = how;
            }
        }
        sketch = sketch.link(name, Kind::Bridge(options), |link| {
            link.ports = mine;
            link.vlans = options.vlan_filtering.then(|| vlans(&tagged, &[1])).flatten();
        });
    }
    sketch.0
}

/// A machine with four cards, a guest's interface and a bridge of somebody's.
fn machine() -> State {
    let mut state = State::default();
    for (number, name) in ["eth0", "eth1", "eth2", "eth3", "tap-web1"].into_iter().enumerate() {
        state.take(&Change::Make(name.to_owned(), Kind::Card));
        let mac = format!("02:00:00:00:00:0{number}").parse().ok();
        let link = state.links.get_mut(name).unwrap();
        (link.ours, link.mac, link.own_mac) = (false, mac, mac);
    }
    state.take(&Change::Make("theirs".to_owned(), Kind::Bridge(BridgeOptions::default())));
    state.take(&Change::Own("theirs".to_owned(), false));
    state.take(&Change::Address("theirs".to_owned(), net("10.77.0.1/24")));
    state
}

fn applied(mut state: State, wanted: &Wanted) -> State {
    for change in plan(wanted, &state).changes {
        state.take(&change);
    }
    state
}

proptest! {
    /// Whatever was there and whatever is wanted: the plan leads there, and then there is nothing to do.
    #[test]
    fn plans_lead_where_they_shall(first in any::<[u8; 40]>(), second in any::<[u8; 40]>(), lost in 0usize..4) {
        let (first, second) = (some_wanted(&first), some_wanted(&second));
        let state = applied(machine(), &first);
        prop_assert_eq!(plan(&first, &state).changes, []);
        let state = applied(state, &second);
        prop_assert_eq!(plan(&second, &state), Plan::default());
        // A card is pulled, and comes back as a stranger.
        let name = format!("eth{lost}");
        let mut without = state.clone();
        without.take(&Change::Remove(name.clone()));
        without = applied(without, &second);
        prop_assert_eq!(plan(&second, &without).changes, []);
        without.links.insert(name.clone(), machine().links[&name].clone());
        let again = applied(without, &second);
        prop_assert_eq!(plan(&second, &again).changes, []);
        // Nobody's is as it was, all the time; and in the end nothing else is left.
        prop_assert_eq!(&again.links["tap-web1"], &machine().links["tap-web1"]);
        prop_assert_eq!(&again.links["theirs"], &machine().links["theirs"]);
        let end = applied(again, &Wanted::default());
        prop_assert!(end.links.values().all(|link| !link.ours), "{:#?}", end);
        prop_assert_eq!(end.routes.len(), 0);
    }
}

/// The same on the kernel, which is where the model is proved.
#[test]
fn the_kernel_does_as_the_model() {
    let kinds = vec![
        Kind::Dummy,
        bond(BondMode::ActiveBackup),
        Kind::Bridge(BridgeOptions { stp: false, vlan_filtering: true }),
        Kind::Vlan(VlanOptions { parent: "eth0".to_owned(), id: 5 }),
    ];
    on_a_kernel(kinds, |kernel| {
        // Numerical Recipes' generator: the same networks at every run.
        let mut number = 1u32;
        for _ in 0..40 {
            let choices: Vec<u8> = (0..40)
                .map(|_| {
                    number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (number >> 24) as u8
                })
                .collect();
            settle(kernel, &some_wanted(&choices));
        }
        settle(kernel, &Wanted::default());
    });
}
