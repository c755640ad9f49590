//! Who may reach the host: what is filled in, and every mistake told with its line and key.

use super::*;
use crate::appliance::{Opening, Protocol};
use crate::feature;

const GOOD: &str = r#"[appliance]
name = "demo"
[kernel.host]
package = "linux-image-amd64"
hardware = []
[kernel.guest]
source = "linux-source-6.12"
fragments = []
[network.bridges.br0]
ports = ["eth0"]
address = "10.1.1.2/24"
[access.ssh]
keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILMHiFjnL8jdLeCFaAck3fLLgOoRDMDPTnlNMhPyMt8C me"]
port = 2222
[firewall]
ssh-from = ["10.1.1.0/24"]
open = [{ port = 9100, from = ["10.1.0.0/16"] }, { port = 514, protocol = "udp" }]
[[guest]]
name = "web1"
image = "web"
memory = "64MiB"
network = { bridge = "br0", address = "10.1.1.11/24", allowed-addresses = ["10.1.1.99/32"] }
"#;

#[test]
fn ssh_is_among_the_open_ports() {
    let appliance = parse("a.toml", GOOD).unwrap().appliance;
    let firewall = appliance.firewall.as_ref().unwrap();
    let from = vec!["10.1.1.0/24".parse().unwrap()];
    assert_eq!(firewall.open[2], Opening { protocol: Protocol::Tcp, port: 2222, from });
    assert!(firewall.ping && feature::wanted(&appliance).any(|name| name == "firewall"));
    let network = appliance.guests[0].network.as_ref().unwrap();
    assert!(network.anti_spoofing && network.allowed_addresses.len() == 1);
}

#[test]
fn what_cannot_work_is_told() {
    for (from, to, mistake) in [
        ("port = 9100", "port = 0", "firewall.open[0].port: use 1 to 65535"),
        ("port = 514, protocol = \"udp\"", "port = 9100", "firewall.open[1].port: tcp port 9100 is opened twice"),
        ("port = 9100", "port = 2222", "firewall.open[0].port: [access.ssh] opens its port itself"),
        ("10.1.0.0/16", "10.1.1.2/16", "firewall.open[0].from[0]: 10.1.1.2/16 is an address, not a network"),
        ("[\"10.1.1.0/24\"]", "[]", "firewall.ssh-from: name a network"),
        (
            "[\"10.1.1.99/32\"]",
            "[\"10.1.1.99/24\"]",
            "guest[0].network.allowed-addresses[0]: 10.1.1.99/24 is an address",
        ),
        ("allowed-addresses", "anti-spoofing = false, allowed-addresses", "without anti-spoofing the guest sends"),
        ("protocol = \"udp\"", "protocol = \"icmp\"", "unknown variant `icmp`"),
        ("[firewall]\nssh-from = [\"10.1.1.0/24\"]\nopen", "[sysctl]\n[[service]]\nopen", "unknown field `open`"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let text = parse("a.toml", &GOOD.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(text.contains(mistake), "{from} -> {to}: {text}");
    }
    let without = GOOD.split("[firewall]").next().unwrap().to_owned() + &GOOD[GOOD.find("[[guest]]").unwrap()..];
    let text = parse("a.toml", &without).unwrap_err().to_string();
    assert!(text.contains("guest[0].network.allowed-addresses: goes with [firewall]"), "{text}");
    let text =
        parse("a.toml", &GOOD.replacen("[access.ssh]\nkeys = ", "[sysctl]\n#", 1).replacen("port = 2222\n", "", 1));
    let text = text.unwrap_err().to_string();
    assert!(text.contains("firewall.ssh-from: nobody logs in by ssh without [access.ssh]"), "{text}");
}

const BEHIND: &str = r#"[appliance]
name = "demo"
[kernel.host]
package = "linux-image-amd64"
hardware = []
[kernel.guest]
source = "linux-source-6.12"
fragments = []
[network.bridges.br0]
ports = ["eth0"]
address = "dhcp"
[network.bridges.nat0]
mode = "nat"
address = "192.168.77.1/24"
[network.bridges.lab]
mode = "isolated"
address = "10.77.0.1/16"
[[network.forward]]
port = 8080
to = "web1:80"
[[network.forward]]
port = 8080
protocol = "udp"
to = "web1:53"
[[guest]]
name = "web1"
image = "web"
memory = "64MiB"
network = { bridge = "nat0", address = "192.168.77.11/24" }
[[guest]]
name = "cell"
image = "web"
memory = "64MiB"
network = { bridge = "lab", address = "10.77.0.11/16" }
"#;

#[test]
fn guests_behind_the_host_have_it_as_their_gateway_and_server_of_names() {
    let appliance = parse("a.toml", BEHIND).unwrap().appliance;
    let told = |guest: usize| appliance.guests[guest].network.clone().map(|network| (network.gateway, network.dns));
    let host = "192.168.77.1".parse().unwrap();
    assert_eq!(told(0), Some((Some(host), vec![host])));
    assert_eq!(told(1), Some((None, vec!["10.77.0.1".parse().unwrap()])));
    let forward = &appliance.network.forwards[0];
    assert_eq!((forward.port, forward.address.to_string().as_str(), forward.to_port), (8080, "192.168.77.11", 80));
    let features: Vec<&str> = feature::wanted(&appliance).collect();
    assert_eq!(features, ["firewall", "nat", "netserve"]);
}

#[test]
fn networks_of_the_hosts_own_that_cannot_work_are_told() {
    for (from, to, mistake) in [
        ("to = \"web1:80\"", "to = \"web1\"", "network.forward[0].to: `web1` is no guest and port: write \"web1:80\""),
        ("to = \"web1:80\"", "to = \"web9:80\"", "network.forward[0].to: there is no guest `web9`"),
        ("to = \"web1:80\"", "to = \"cell:80\"", "network.forward[0].to: guest cell is not behind the host"),
        ("protocol = \"udp\"", "protocol = \"tcp\"", "network.forward[1].port: tcp port 8080 leads to a guest already"),
        ("port = 8080", "port = 0", "network.forward[0].port: use 1 to 65535"),
        ("[[guest]]", "[firewall]\nopen = [{ port = 8080 }]\n[[guest]]", "tcp port 8080 is the host's own"),
        ("mode = \"nat\"", "mode = \"nat\"\nports = [\"eth1\"]", "network.bridges.nat0.ports[0]: its guests reach"),
        (
            "mode = \"nat\"\naddress = \"192.168.77.1/24\"",
            "mode = \"nat\"",
            "network.bridges.nat0.mode: the host is its",
        ),
        ("ports = [\"eth0\"]", "ports = [\"eth0\"]\ndhcp-dns = true", "network.bridges.br0.dhcp-dns: goes with mode"),
        ("mode = \"nat\"", "mode = \"open\"", "unknown variant `open`"),
    ] {
        assert!(BEHIND.contains(from), "{from}");
        let text = parse("a.toml", &BEHIND.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(text.contains(mistake), "{from} -> {to}: {text}");
    }
}
