//! `[network]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::appliance::{BondMode, BridgeMode, HashPolicy, Ipv6, LacpRate, PciPath, Protocol};
use crate::ip::IpNet;
use crate::names::Mac;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Network {
    #[serde(default)]
    pub cards: BTreeMap<String, Spanned<Card>>,
    #[serde(default)]
    pub interfaces: BTreeMap<String, Spanned<Interface>>,
    #[serde(default)]
    pub bonds: BTreeMap<String, Spanned<Bond>>,
    #[serde(default)]
    pub bridges: BTreeMap<String, Spanned<Bridge>>,
    #[serde(default)]
    pub vlans: BTreeMap<String, Spanned<Vlan>>,
    #[serde(default)]
    pub dummies: BTreeMap<String, Spanned<Dummy>>,
    #[serde(default)]
    pub forward: Vec<Forward>,
}

/// Tables of links: their own keys, and those of every link. (serde has no unknown keys where tables are flattened.)
macro_rules! links {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Deserialize)]
            #[serde(deny_unknown_fields, rename_all = "kebab-case")]
            pub(in crate::definition) struct $name {
                $($(#[$attribute])* pub $field: $type,)*
                #[serde(default)]
                pub mtu: Option<Spanned<u32>>,
                #[serde(default)]
                pub mac: Option<Spanned<Mac>>,
                #[serde(default)]
                pub address: Option<Spanned<Address>>,
                #[serde(default)]
                pub addresses: Vec<Spanned<IpNet>>,
                #[serde(default)]
                pub gateway: Option<Spanned<Ipv4Addr>>,
                #[serde(default)]
                pub gateway_ipv6: Option<Spanned<Ipv6Addr>>,
                #[serde(default)]
                pub ipv6: Option<Spanned<Ipv6>>,
                #[serde(default)]
                pub routes: Vec<Spanned<Route>>,
                #[serde(default)]
                pub dns: Vec<Spanned<IpAddr>>,
            }

            impl $name {
                /// What it says as every link does; the rest is left.
                pub fn take_link(&mut self) -> Link {
                    Link {
                        mtu: self.mtu.take(),
                        mac: self.mac.take(),
                        address: self.address.take(),
                        addresses: std::mem::take(&mut self.addresses),
                        gateway: self.gateway.take(),
                        gateway_ipv6: self.gateway_ipv6.take(),
                        ipv6: self.ipv6.take(),
                        routes: std::mem::take(&mut self.routes),
                        dns: std::mem::take(&mut self.dns),
                    }
                }
            }
        )*
    };
}

links! {
    struct Interface {}

    struct Bond {
        #[serde(default)]
        mode: Option<Spanned<BondMode>>,
        ports: Vec<Spanned<String>>,
        #[serde(default)]
        miimon_ms: Option<Spanned<u32>>,
        #[serde(default)]
        updelay_ms: Option<Spanned<u32>>,
        #[serde(default)]
        downdelay_ms: Option<Spanned<u32>>,
        #[serde(default)]
        primary: Option<Spanned<String>>,
        #[serde(default)]
        lacp_rate: Option<Spanned<LacpRate>>,
        #[serde(default)]
        xmit_hash_policy: Option<Spanned<HashPolicy>>,
    }

    struct Bridge {
        #[serde(default)]
        ports: Vec<Spanned<String>>,
        #[serde(default)]
        mode: Option<Spanned<BridgeMode>>,
        #[serde(default)]
        dhcp_dns: Option<Spanned<bool>>,
        #[serde(default)]
        stp: bool,
        #[serde(default)]
        vlan_filtering: Option<Spanned<bool>>,
        #[serde(default)]
        vlans: BTreeMap<String, Spanned<PortVlans>>,
    }

    struct Vlan {
        parent: Spanned<String>,
        id: Spanned<u16>,
    }

    struct Dummy {}
}

/// What every link says.
#[derive(Debug)]
pub(in crate::definition) struct Link {
    pub mtu: Option<Spanned<u32>>,
    pub mac: Option<Spanned<Mac>>,
    pub address: Option<Spanned<Address>>,
    pub addresses: Vec<Spanned<IpNet>>,
    pub gateway: Option<Spanned<Ipv4Addr>>,
    pub gateway_ipv6: Option<Spanned<Ipv6Addr>>,
    pub ipv6: Option<Spanned<Ipv6>>,
    pub routes: Vec<Spanned<Route>>,
    pub dns: Vec<Spanned<IpAddr>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Card {
    #[serde(rename = "match")]
    pub matches: Spanned<Match>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Match {
    #[serde(default)]
    pub mac: Option<Mac>,
    #[serde(default)]
    pub path: Option<PciPath>,
    #[serde(default)]
    pub driver: Option<String>,
    #[serde(default)]
    pub name: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct PortVlans {
    #[serde(default)]
    pub tagged: Vec<Spanned<u16>>,
    #[serde(default)]
    pub untagged: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Route {
    pub to: Spanned<IpNet>,
    #[serde(default)]
    pub via: Option<Spanned<IpAddr>>,
    #[serde(default)]
    pub metric: Option<Spanned<u32>>,
}

/// A port of the host that leads to a guest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Forward {
    pub port: Spanned<u16>,
    #[serde(default)]
    pub protocol: Protocol,
    pub to: Spanned<String>,
}

/// `"dhcp"`, `"none"` or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::definition) enum Address {
    None,
    Dhcp,
    Static(IpNet),
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "dhcp" => Ok(Self::Dhcp),
            "none" => Ok(Self::None),
            address => address
                .parse::<IpNet>()
                .map(Self::Static)
                .map_err(|error| serde::de::Error::custom(format!("{error}, or \"dhcp\", or \"none\""))),
        }
    }
}
