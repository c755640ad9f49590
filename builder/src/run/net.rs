//! The machine's network: QEMU's user network, shaped so that the appliance's own addresses are right in it.
//!
//! QEMU plays gateway, name server and DHCP server, each on an address that no guest has.

use std::net::{Ipv4Addr, TcpListener};

use thimble_spec::appliance::{Appliance, BridgeMode, Guest, Link};
use thimble_spec::names::Ipv4Net;

use super::forward::Forward;

/// Addresses that QEMU's DHCP server gives out (`NB_BOOTP_CLIENTS` in libslirp's `src/bootp.h`).
const POOL: u32 = 16;
/// QEMU's own choice, for an appliance without addresses.
const DEFAULT: Ipv4Net = Ipv4Net { address: Ipv4Addr::new(10, 0, 2, 0), prefix: 24 };
/// Networks larger than this are taken as this: an address is looked for one by one.
const PREFIX_MIN: u8 = 16;

/// A user network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNet {
    /// The network: its own address and prefix.
    pub net: Ipv4Net,
    /// QEMU's address, the gateway.
    pub gateway: Ipv4Addr,
    /// QEMU's name server.
    pub dns: Ipv4Addr,
    /// First address that its DHCP server gives out: the host's, for it is the only one that asks.
    pub dhcp: Ipv4Addr,
}

impl UserNet {
    /// The network of the appliance: that of its first guest with an address, else that of the host.
    ///
    /// # Errors
    /// There are too few free addresses in it: a sentence.
    pub fn plan(appliance: &Appliance) -> Result<Self, String> {
        // Networks of the host's own are behind it.
        let own =
            |name: &str| appliance.network.bridges.get(name).is_some_and(|bridge| bridge.mode != BridgeMode::Bridged);
        let guests = || {
            appliance.guests.iter().filter_map(|guest| guest.network.as_ref()).filter(|guest| !own(guest.plug.link()))
        };
        let links = || appliance.network.links().filter(|(name, _)| !own(name)).map(|(_, link)| link);
        let of_guest = guests().find_map(|network| network.address);
        let net = of_guest.or_else(|| links().find_map(|link| link.ipv4().next())).unwrap_or(DEFAULT);
        let net = Ipv4Net { address: net.network(), prefix: net.prefix };

        let used: Vec<Ipv4Addr> = guests()
            .filter_map(|network| network.address)
            .chain(links().flat_map(Link::ipv4))
            .map(|net| net.address)
            .collect();
        let wanted = guests().filter_map(|network| network.gateway).chain(links().filter_map(Link::gateway_v4));
        let usable = |address: &Ipv4Addr| {
            net.contains(*address) && Ipv4Net { address: *address, ..net }.is_host() && !used.contains(address)
        };
        Self::place(net, wanted.into_iter().find(usable), usable)
            .ok_or_else(|| format!("the network {net} has no three free addresses, which QEMU's user network needs"))
    }

    fn place(net: Ipv4Net, gateway: Option<Ipv4Addr>, usable: impl Fn(&Ipv4Addr) -> bool) -> Option<Self> {
        let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
        let last = last.min(first | (u32::MAX >> PREFIX_MIN));
        let free = |taken: &[Ipv4Addr]| {
            (first..=last).map(Ipv4Addr::from_bits).find(|address| usable(address) && !taken.contains(address))
        };
        let gateway = gateway.or_else(|| free(&[]))?;
        let dns = free(&[gateway])?;
        let taken = [gateway, dns];
        let in_pool = |address: u32| {
            let address = Ipv4Addr::from_bits(address);
            usable(&address) && !taken.contains(&address)
        };
        // Nobody else asks, so that a short pool does in a small network.
        let dhcp = [POOL, 4, 1].into_iter().find_map(|length| {
            (first..=last).find(|start| (*start..start.saturating_add(length)).all(in_pool)).map(Ipv4Addr::from_bits)
        })?;
        Some(Self { net, gateway, dns, dhcp })
    }

    /// The address that a forwarded connection goes to.
    ///
    /// # Errors
    /// The guest is unknown, or cannot be reached: a sentence.
    pub fn target(&self, appliance: &Appliance, name: &str) -> Result<Ipv4Addr, String> {
        if name == super::forward::HOST {
            return self.host(appliance);
        }
        let Some(guest) = appliance.guests.iter().find(|guest| guest.name == name) else {
            let names: Vec<&str> = appliance.guests.iter().map(|guest| guest.name.as_str()).collect();
            return Err(format!("{name} is no guest of {}: it has {}, and host", appliance.name, names.join(", ")));
        };
        self.reach(guest)
    }

    /// The address of a guest.
    fn reach(&self, guest: &Guest) -> Result<Ipv4Addr, String> {
        let name = &guest.name;
        let network = guest.network.as_ref().ok_or_else(|| format!("guest {name} has no network interface"))?;
        let address = network.address.ok_or_else(|| format!("guest {name} has no address that is known here"))?.address;
        if let Some(vlan) = network.vlan {
            return Err(format!("guest {name} is in VLAN {vlan}, and QEMU's user network carries no VLANs"));
        }
        if !self.net.contains(address) {
            return Err(format!("guest {name} has {address}, and QEMU's user network is {}", self.net));
        }
        Ok(address)
    }

    /// The node's own address.
    fn host(&self, appliance: &Appliance) -> Result<Ipv4Addr, String> {
        let mut dhcp = false;
        for (_, link) in appliance.network.links() {
            if let Some(net) = link.ipv4().find(|net| self.net.contains(net.address)) {
                return Ok(net.address);
            }
            dhcp |= link.dhcp;
        }
        if dhcp { Ok(self.dhcp) } else { Err(format!("the host has no address in the network {}", self.net)) }
    }

    /// For each guest that can be reached a free port of 127.0.0.1, from `first` on.
    pub fn default_forwards(&self, appliance: &Appliance, first: u16, guest_port: u16) -> Vec<Forward> {
        let mut ports = (first..=u16::MAX).filter(|port| is_free(*port));
        let reachable = appliance.guests.iter().filter(|guest| self.reach(guest).is_ok());
        reachable
            .filter_map(|guest| Some(Forward { port: ports.next()?, name: guest.name.clone(), guest_port }))
            .collect()
    }
}

/// Whether nobody listens on a port of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thimble_spec::definition;

    fn appliance(bridge: &str, addresses: &[&str]) -> Appliance {
        let mut text = format!(
            "[appliance]\nname = \"demo\"\n\
             [kernel.host]\npackage = \"linux-image-amd64\"\nhardware = []\n\
             [kernel.guest]\nsource = \"linux-source-6.12\"\nfragments = []\n\
             [network.bridges.br0]\nports = [\"eth0\"]\naddress = \"{bridge}\"\n"
        );
        for (index, address) in addresses.iter().enumerate() {
            text.push_str(&format!(
                "[[guest]]\nname = \"web{index}\"\nimage = \"web\"\nmemory = \"96MiB\"\n\
                 network = {{ bridge = \"br0\", {address} }}\n"
            ));
        }
        definition::parse("demo.toml", &text).unwrap().appliance
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn qemu_is_the_gateway_of_the_guests() {
        let demo =
            appliance("dhcp", &["address = \"10.1.1.11/24\", gateway = \"10.1.1.1\"", "address = \"10.1.1.4/24\""]);
        let net = UserNet::plan(&demo).unwrap();
        assert_eq!(net.net.to_string(), "10.1.1.0/24");
        assert_eq!((net.gateway, net.dns, net.dhcp), (ip("10.1.1.1"), ip("10.1.1.2"), ip("10.1.1.12")));
        assert_eq!(net.target(&demo, "web0"), Ok(ip("10.1.1.11")));
        assert_eq!(net.target(&demo, "host"), Ok(ip("10.1.1.12")));
        let error = net.target(&demo, "web7").unwrap_err();
        assert_eq!(error, "web7 is no guest of demo: it has web0, web1, and host");
    }

    #[test]
    fn a_gateway_that_is_the_host_itself_stays_the_hosts() {
        let demo = appliance("10.1.1.1/24", &["address = \"10.1.1.11/24\", gateway = \"10.1.1.1\""]);
        let net = UserNet::plan(&demo).unwrap();
        assert_eq!(net.gateway, ip("10.1.1.2"));
        assert_eq!(net.target(&demo, "host"), Ok(ip("10.1.1.1")));
    }

    #[test]
    fn without_addresses_it_is_the_network_that_qemu_would_take() {
        let demo = appliance("none", &["vlan = 10"]);
        let net = UserNet::plan(&demo).unwrap();
        assert_eq!(net.net, DEFAULT);
        assert!(net.target(&demo, "web0").unwrap_err().contains("no address"));
        assert!(net.target(&demo, "host").unwrap_err().contains("no address"));
        assert_eq!(net.default_forwards(&demo, 18_081, 80), []);
    }

    #[test]
    fn a_small_network_gets_a_short_pool() {
        let demo = appliance("none", &["address = \"10.1.1.1/29\""]);
        let net = UserNet::plan(&demo).unwrap();
        assert_eq!((net.gateway, net.dns, net.dhcp), (ip("10.1.1.2"), ip("10.1.1.3"), ip("10.1.1.4")));
        let full = appliance("none", &["address = \"10.1.1.1/30\""]);
        assert!(UserNet::plan(&full).unwrap_err().contains("free addresses"));
    }

    proptest! {
        #[test]
        fn nobody_gets_an_address_of_another(hosts in proptest::collection::btree_set(1u8..255, 1..40)) {
            let addresses: Vec<String> = hosts.iter().map(|host| format!("address = \"10.1.1.{host}/24\"")).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let net = UserNet::plan(&appliance("none", &addresses)).unwrap();
            let all = [net.gateway, net.dns, net.dhcp];
            for address in all {
                prop_assert!(net.net.contains(address) && !hosts.contains(&address.octets()[3]));
            }
            prop_assert!(net.gateway != net.dns && net.dns != net.dhcp && net.gateway != net.dhcp);
        }
    }
}
