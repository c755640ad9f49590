//! Addresses and names for guests in networks of the host's own: dnsmasq's configuration (dnsmasq(8)).

use std::fs;

use thimble_spec::appliance::{Appliance, Bridge, BridgeMode};
use thimble_spec::names::Ipv4Net;

use crate::error::{Doing, Result};

/// Where the configuration is, as dnsmasq takes it.
pub const CONFIG_WORD: &str = "--conf-file=/run/thimble/dnsmasq.conf";
const CONFIG: &str = "/run/thimble/dnsmasq.conf";
/// How long an address is granted.
const LEASE: &str = "1h";

/// Writes it.
pub fn prepare(appliance: &Appliance) -> Result<()> {
    fs::write(CONFIG, config(appliance)).doing(|| format!("write {CONFIG}"))
}

fn config(appliance: &Appliance) -> String {
    // It listens at the bridges alone, be they there already or not; answers for names that are not the site's; and
    // knows the guests by nothing but the definition.
    let mut lines: Vec<String> = [
        "log-facility=-",
        "pid-file=/run/thimble/dnsmasq.pid",
        "user=dnsmasq",
        "bind-dynamic",
        "except-interface=lo",
        "no-hosts",
        "resolv-file=/etc/resolv.conf",
        "domain-needed",
        "bogus-priv",
        "dhcp-authoritative",
        "dhcp-leasefile=/run/thimble/dnsmasq.leases",
    ]
    .map(str::to_owned)
    .into();
    for (name, bridge, net) in appliance.network.served() {
        lines.extend(of_bridge(name, bridge, net));
        let guests = appliance.guests.iter().filter_map(|guest| Some((&guest.name, guest.network.as_ref()?)));
        for (guest, network) in guests.filter(|(_, network)| network.bridge() == Some(name) && network.vlan.is_none()) {
            if let Some(address) = network.address.map(|net| net.address) {
                lines.push(format!("dhcp-host={},{address},{guest}", network.mac));
                lines.push(format!("host-record={guest},{address}"));
            }
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// All of the network may be given out: what is the host's or a guest's by the definition is left out by itself.
fn of_bridge(name: &str, bridge: &Bridge, net: Ipv4Net) -> Vec<String> {
    let first = net.network().to_bits().saturating_add(1);
    let last = net.broadcast().to_bits().saturating_sub(1);
    let [first, last] = [first, last].map(std::net::Ipv4Addr::from_bits);
    let mut lines =
        vec![format!("interface={name}"), format!("dhcp-range=set:{name},{first},{last},{},{LEASE}", net.netmask())];
    if bridge.mode == BridgeMode::Isolated {
        // No router: the option is said, and empty.
        lines.push(format!("dhcp-option=tag:{name},3"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_have_their_addresses_and_names() {
        let text = "[appliance]\nname = \"demo\"\n[kernel.host]\npackage = \"linux-image-amd64\"\nhardware = []\n\
            [kernel.guest]\nsource = \"linux-source-6.12\"\nfragments = []\n\
            [network.bridges.nat0]\nmode = \"nat\"\naddress = \"192.168.77.1/24\"\n\
            [network.bridges.lab]\nmode = \"isolated\"\naddress = \"10.77.0.1/16\"\n\
            [[guest]]\nname = \"web1\"\nimage = \"web\"\nmemory = \"64MiB\"\n\
            network = { bridge = \"nat0\", address = \"192.168.77.11/24\", mac = \"02:00:00:00:00:0b\" }\n";
        let appliance = thimble_spec::definition::parse("a.toml", text).unwrap().appliance;
        let config = config(&appliance);
        for line in [
            "interface=nat0",
            "dhcp-range=set:nat0,192.168.77.1,192.168.77.254,255.255.255.0,1h",
            "dhcp-host=02:00:00:00:00:0b,192.168.77.11,web1",
            "host-record=web1,192.168.77.11",
            "dhcp-range=set:lab,10.77.0.1,10.77.255.254,255.255.0.0,1h",
            "dhcp-option=tag:lab,3",
        ] {
            assert!(config.lines().any(|found| found == line), "{line}: {config}");
        }
    }
}
