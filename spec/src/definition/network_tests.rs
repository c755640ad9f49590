//! Links and addresses: what is filled in, and every mistake told with its line and key.

use super::*;
use crate::appliance::{Bond, BondMode, HashPolicy, Ipv6, LacpRate, Plug, PortVlans, Route};
use crate::ip::IpNet;
use proptest::prelude::*;

const REST: &str = "[appliance]\nname = \"demo\"\n[kernel.host]\npackage = \"linux-image-amd64\"\nhardware = []\n\
    [kernel.guest]\nsource = \"linux-source-6.12\"\nfragments = []\n";

const GOOD: &str = r#"[network.cards.lan0]
match = { mac = "52:54:00:00:00:01" }
[network.cards.lan1]
match = { path = "03:00.1", driver = "igb" }
[network.interfaces.eth4]
address = "10.4.0.2/24"
addresses = ["10.4.0.3/24", "2001:db8::2/64"]
gateway = "10.4.0.1"
gateway-ipv6 = "fe80::1"
dns = ["10.4.0.1", "2001:db8::1"]
routes = [{ to = "10.9.0.0/16", via = "10.4.0.9", metric = 50 }, { to = "10.8.0.0/16" }]
[network.bonds.bond0]
mode = "802.3ad"
ports = ["lan0", "lan1"]
miimon-ms = 100
updelay-ms = 200
downdelay-ms = 100
lacp-rate = "fast"
xmit-hash-policy = "layer3+4"
mtu = 9000
[network.bridges.br0]
ports = ["bond0"]
stp = true
address = "dhcp"
ipv6 = "slaac"
mac = "02:00:00:00:00:77"
[network.bridges.br1]
ports = ["eth2", "eth3"]
[network.bridges.br1.vlans]
eth2 = { tagged = [10, 20] }
eth3 = { untagged = 10 }
[network.vlans.mgmt]
parent = "bond0"
id = 7
address = "10.7.0.2/24"
mtu = 9000
[network.vlans.inner]
parent = "br1"
id = 30
[network.dummies.any0]
address = "10.255.0.1/32"
"#;

fn read(network: &str) -> Result<Definition, Mistakes> {
    parse("a.toml", &format!("{network}{REST}"))
}

/// What is told of the good network with one thing replaced.
fn told(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    read(&GOOD.replacen(from, to, 1)).expect_err(to).to_string()
}

#[test]
fn every_key_arrives() {
    let network = read(GOOD).unwrap().appliance.network;
    assert_eq!(network.cards["lan1"].path.unwrap().to_string(), "0000:03:00.1");
    let eth4 = network.link("eth4").unwrap();
    assert_eq!((eth4.addresses.len(), eth4.gateways.len(), eth4.dns.len()), (3, 2, 2));
    assert_eq!(eth4.ipv6, Ipv6::Static);
    let to: IpNet = "10.8.0.0/16".parse().unwrap();
    assert_eq!(eth4.routes[1], Route { to, via: None, metric: 0 });
    let Bond { mode, updelay_ms, downdelay_ms, lacp_rate, xmit_hash_policy, .. } = network.bonds["bond0"];
    assert_eq!((mode, updelay_ms, downdelay_ms), (BondMode::Lacp, 200, 100));
    assert_eq!((lacp_rate, xmit_hash_policy), (LacpRate::Fast, HashPolicy::Layer34));
    let br0 = &network.bridges["br0"];
    assert!(br0.stp && br0.link.dhcp && !br0.vlan_filtering && br0.vlans.is_empty());
    assert_eq!(br0.link.ipv6, Ipv6::Slaac);
    assert_eq!(network.card_names().into_iter().collect::<Vec<_>>(), ["eth2", "eth3", "eth4", "lan0", "lan1"]);
    assert_eq!((network.master("lan0"), network.master("mgmt")), (Some("bond0"), None));
}

#[test]
fn vlans_of_ports_follow_from_guests_and_links() {
    // What is said stays; the host's end gets the VLAN of the link on it.
    let bridges = read(GOOD).unwrap().appliance.network.bridges;
    let vlans = |tagged: &[u16], untagged| PortVlans { tagged: tagged.iter().copied().collect(), untagged };
    assert!(bridges["br1"].vlan_filtering);
    assert_eq!(bridges["br1"].vlans["eth2"], vlans(&[10, 20], None));
    assert_eq!(bridges["br1"].vlans["eth3"], vlans(&[], Some(10)));
    assert_eq!(bridges["br1"].vlans["br1"], vlans(&[30], Some(1)));
    // A guest in a VLAN makes the uplink carry it, and the host's end not.
    let guest = "[[guest]]\nname = \"web1\"\nimage = \"web\"\nmemory = \"64MiB\"\n\
        network = { bridge = \"br0\", vlan = 10, vlans = [20, 30] }\n";
    let definition = parse("a.toml", &format!("[network.bridges.br0]\nports = [\"eth0\"]\n{REST}{guest}")).unwrap();
    let br0 = &definition.appliance.network.bridges["br0"];
    assert!(br0.vlan_filtering);
    assert_eq!(br0.vlans["eth0"], vlans(&[10, 20, 30], Some(1)));
    assert_eq!(br0.vlans["br0"], vlans(&[], Some(1)));
}

#[test]
fn what_cannot_work_is_told() {
    for (from, to, mistake) in [
        (
            "[network.bridges.br1.vlans]\neth2 = { tagged = [10, 20] }\neth3 = { untagged = 10 }",
            "vlan-filtering = false",
            "network.bridges.br1.vlan-filtering: guests or VLANs of the host are in VLANs",
        ),
        (
            "ports = [\"bond0\"]",
            "ports = [\"bond0\", \"eth2\"]",
            "interface eth2 is used twice: network.bridges.br0.ports[1]",
        ),
        ("ports = [\"bond0\"]", "ports = [\"br1\"]", "network.bridges.br0.ports[0]: br1: a bridge cannot be a port"),
        (
            "ports = [\"lan0\", \"lan1\"]",
            "ports = [\"any0\"]",
            "network.bonds.bond0.ports[0]: any0: only a network card",
        ),
        ("ports = [\"bond0\"]", "ports = [\"mgmt\", \"lo\"]", "lo: the loopback interface leads nowhere"),
        ("parent = \"bond0\"", "parent = \"lan0\"", "network.vlans.mgmt.parent: lan0: it is a port of a bond"),
        ("parent = \"bond0\"", "parent = \"mgmt\"", "mgmt is made of mgmt"),
        ("ports = [\"eth2\", \"eth3\"]", "ports = [\"inner\"]", "inner is made of br1, and br1 would be made of inner"),
        ("id = 7", "id = 4095", "network.vlans.mgmt.id: use 1 to 4094"),
        ("parent = \"br1\"\nid = 30", "parent = \"bond0\"\nid = 7", "network.vlans.inner has VLAN 7 of bond0 already"),
        ("tagged = [10, 20]", "tagged = [10, 0]", "network.bridges.br1.vlans.eth2.tagged[1]: use 1 to 4094"),
        ("{ untagged = 10 }", "{ untagged = 10, tagged = [10] }", "with a tag or without, not both"),
        ("eth3 = {", "eth9 = {", "network.bridges.br1.vlans.eth9: eth9 is no port of br1"),
        (
            "[network.bridges.br1.vlans]",
            "vlan-filtering = false\n[network.bridges.br1.vlans]",
            "vlan-filtering is false",
        ),
        (
            "mtu = 9000\n[network.vlans.inner]",
            "mtu = 9001\n[network.vlans.inner]",
            "network.vlans.mgmt.mtu: 9001 is more than the 9000 bytes of bond0",
        ),
        ("stp = true", "mtu = 9002", "network.bridges.br0.mtu: 9002 is more than the 9000 bytes of bond0"),
        ("mtu = 9000", "mtu = 67", "network.bonds.bond0.mtu: use 68 to 65535 bytes"),
        ("addresses = [\"10", "mtu = 1279\naddresses = [\"10", "speaks IPv6, which needs 1280"),
        ("mtu = 9000", "mac = \"02:00:00:00:00:77\"", "MAC address 02:00:00:00:00:77 is used twice"),
        (
            "address = \"10.7.0.2/24\"",
            "address = \"10.4.0.2/24\"",
            "address 10.4.0.2 is used twice: network.vlans.mgmt.address",
        ),
        ("address = \"10.7.0.2/24\"", "address = \"10.4.0.99/16\"", "two links cannot lead to one network"),
        ("[\"10.4.0.3/24\"", "[\"10.4.0.2/24\"", "address 10.4.0.2 is used twice: network.interfaces.eth4.address"),
        ("\"10.255.0.1/32\"", "\"239.0.0.1/32\"", "239.0.0.1 is not the address of one machine"),
        ("gateway = \"10.4.0.1\"", "gateway = \"10.5.0.1\"", "gateway: 10.5.0.1 lies outside the network 10.4.0.0/24"),
        ("gateway = \"10.4.0.1\"", "gateway = \"10.4.0.3\"", "a machine cannot be its own gateway"),
        ("\"10.7.0.2/24\"", "\"10.7.0.2/24\"\ngateway = \"10.7.0.1\"", "the route by default is used twice"),
        ("\"10.255.0.1/32\"", "\"10.255.0.1/32\"\ngateway-ipv6 = \"fe80::2\"", "the link does not speak IPv6"),
        ("gateway-ipv6 = \"fe80::1\"", "ipv6 = \"off\"", "network.interfaces.eth4.ipv6: the link has an IPv6 address"),
        ("\"10.9.0.0/16\"", "\"10.9.0.1/16\"", "10.9.0.1/16 is an address, not a network: write 10.9.0.0/16"),
        ("via = \"10.4.0.9\"", "via = \"10.5.0.9\"", "routes[0].via: 10.5.0.9 lies outside the network 10.4.0.0/24"),
        ("via = \"10.4.0.9\"", "via = \"fe80::9\"", "are of different families"),
        ("{ to = \"10.8.0.0/16\" }", "{ to = \"10.9.0.0/16\", metric = 50 }", "the route to 10.9.0.0/16 is used twice"),
        ("updelay-ms = 200", "updelay-ms = 150", "network.bonds.bond0.updelay-ms: use a multiple of miimon-ms, 100"),
        ("lacp-rate = \"fast\"", "primary = \"lan0\"", "bond0.primary: goes with mode active-backup, balance-tlb"),
        ("\"802.3ad\"", "\"active-backup\"", "network.bonds.bond0.lacp-rate: goes with mode 802.3ad only"),
        (
            "\"802.3ad\"",
            "\"active-backup\"",
            "xmit-hash-policy: goes with mode balance-xor, 802.3ad or balance-tlb only",
        ),
        ("{ mac = \"52:54:00:00:00:01\" }", "{}", "network.cards.lan0.match: say which card is meant"),
        ("path = \"03:00.1\"", "path = \"3\"", "`3` is no place on the PCI bus"),
        (
            "{ mac = \"52:54:00:00:00:01\" }",
            "{ path = \"03:00.1\", driver = \"igb\" }",
            "network.cards.lan0 means the same card already",
        ),
        ("[network.dummies.any0]", "[network.dummies.eth4]", "interface eth4 is used twice"),
        ("[network.dummies.any0]", "[network.dummies.lo]", "`lo` is the loopback interface"),
        ("[network.dummies.any0]", "[network.dummies.eth2]", "network.dummies.eth2: it is a port of br1"),
        (
            "[network.interfaces.eth4]\n",
            "[network.interfaces.lan0]\nmtu = 1400\n[network.interfaces.eth4]\n",
            "which gives its ports its own MTU and MAC",
        ),
        ("stp = true", "stpp = true", "network.bridges.br0.stpp: unknown field `stpp`"),
    ] {
        let text = told(from, to);
        assert!(text.contains(mistake), "{from} -> {to}: {text}");
        assert!(text.starts_with("a.toml:"), "{text}");
    }
}

#[test]
fn a_primary_is_a_port() {
    let bond = |primary: &str| {
        read(&format!("[network.bonds.bond0]\nports = [\"eth0\", \"eth1\"]\nprimary = \"{primary}\"\n"))
    };
    assert_eq!(bond("eth1").unwrap().appliance.network.bonds["bond0"].primary.as_deref(), Some("eth1"));
    assert!(bond("eth2").unwrap_err().to_string().contains("bond0.primary: eth2 is none of the ports"));
}

proptest! {
    /// Whatever links name each other, the check ends, and says something if there is a circle.
    #[test]
    fn circles_are_found(parents in proptest::collection::vec(0usize..6, 6)) {
        let text: String = parents
            .iter()
            .enumerate()
            .map(|(link, parent)| format!("[network.vlans.v{link}]\nparent = \"v{parent}\"\nid = {}\n", link + 2))
            .collect();
        // Six links, each in one of the six: somewhere there is a circle.
        prop_assert!(read(&text).unwrap_err().to_string().contains("would be made of"));
    }
}

#[test]
fn a_guest_may_have_its_own_door_to_a_link() {
    let guest = |network: &str, more: &str| {
        let guest = format!("[[guest]]\nname = \"a\"\nimage = \"a\"\nmemory = \"64MiB\"\nnetwork = {{ {network} }}\n");
        read(&format!("{GOOD}{guest}{more}"))
    };
    let appliance = guest("macvtap = \"eth4\", address = \"10.1.1.2/24\"", "").unwrap().appliance;
    let network = appliance.guests[0].network.clone().unwrap();
    assert_eq!((&network.plug, network.bridge()), (&Plug::Macvtap("eth4".to_owned()), None));
    assert!(crate::feature::wanted(&appliance).any(|feature| feature == "macvtap"));
    let json = serde_json::to_value(&network).unwrap();
    assert_eq!(json["macvtap"], "eth4");
    assert_eq!(serde_json::from_value::<crate::appliance::GuestNetwork>(json).unwrap(), network);
    for (words, more, wanted) in [
        ("", "", "guest[0].network: say one of `bridge` and `macvtap`"),
        ("bridge = \"br0\", macvtap = \"eth4\"", "", "guest[0].network: say one of"),
        ("macvtap = \"br0\"", "", "guest[0].network.macvtap: `br0` is a bridge: say bridge = \"br0\""),
        ("macvtap = \"eth9\"", "", "there is no link `eth9`: declare [network.interfaces.eth9]"),
        ("macvtap = \"eth2\"", "", "there is no link `eth2`"),
        ("macvtap = \"eth4\", vlan = 7", "", "only a bridge keeps VLANs apart"),
        ("macvtap = \"eth4\"", "[firewall]\n", "the firewall sees nothing of its frames: say anti-spoofing = false"),
    ] {
        let told = guest(words, more).expect_err(words).to_string();
        assert!(told.contains(wanted), "{words}: {told}");
    }
    let port = "[network.interfaces.eth3]\n[[guest]]\nname = \"a\"\nimage = \"a\"\nmemory = \"64MiB\"\n\
                network = { macvtap = \"eth3\" }\n";
    let told = read(&format!("{GOOD}{port}")).expect_err("a port").to_string();
    assert!(told.contains("`eth3` is a port of br1: its frames go there"), "{told}");
    assert!(guest("macvtap = \"eth4\", anti-spoofing = false", "[firewall]\n").is_ok());
}
