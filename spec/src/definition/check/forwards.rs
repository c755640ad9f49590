//! `[[network.forward]]`: ports of the host that lead to guests.

use std::net::Ipv4Addr;

use super::super::source;
use super::Checker;
use crate::appliance::{BridgeMode, Firewall, Forward, Guest, Network, Protocol};

impl Checker<'_> {
    /// Each leads to a guest behind the host, and is no port of the host's own.
    pub(super) fn forwards(
        &mut self,
        sources: Vec<source::Forward>,
        network: &Network,
        guests: &[Guest],
        firewall: Option<&Firewall>,
    ) -> Vec<Forward> {
        let mut forwards = Vec::<Forward>::new();
        for (index, source) in sources.into_iter().enumerate() {
            let key = format!("network.forward[{index}]");
            let (port, protocol) = (*source.port.get_ref(), source.protocol);
            let same = |other: &(Protocol, u16)| *other == (protocol, port);
            let own = firewall.iter().flat_map(|firewall| &firewall.open).map(|open| (open.protocol, open.port));
            if port == 0 {
                self.wrong(source.port.span(), format!("{key}.port"), "use 1 to 65535");
            } else if forwards.iter().map(|other| (other.protocol, other.port)).any(|other| same(&other)) {
                let message = format!("{} port {port} leads to a guest already", protocol.name());
                self.wrong(source.port.span(), format!("{key}.port"), message);
            } else if own.into_iter().any(|other| same(&other)) {
                let message = format!("{} port {port} is the host's own by [firewall] or ssh", protocol.name());
                self.wrong(source.port.span(), format!("{key}.port"), message);
            }
            match target(source.to.get_ref(), network, guests) {
                Ok((address, to_port)) => forwards.push(Forward { protocol, port, address, to_port }),
                Err(message) => self.wrong(source.to.span(), format!("{key}.to"), message),
            }
        }
        forwards
    }
}

fn target(text: &str, network: &Network, guests: &[Guest]) -> Result<(Ipv4Addr, u16), String> {
    let (name, port) = text.split_once(':').unwrap_or((text, ""));
    let port = port.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("`{text}` is no guest and port: write \"web1:80\""))?;
    let guest = guests.iter().find(|guest| guest.name == name);
    let guest = guest.ok_or_else(|| format!("there is no guest `{name}`"))?;
    let own = guest.network.as_ref().and_then(|own| Some((network.bridges.get(own.bridge()?)?, own.address?.address)));
    let (bridge, address) = own.ok_or_else(|| format!("guest {name} has no address that is known here"))?;
    if !matches!(bridge.mode, BridgeMode::Nat | BridgeMode::Routed) {
        return Err(format!(
            "guest {name} is not behind the host: its bridge has neither mode = \"nat\" nor \"routed\""
        ));
    }
    Ok((address, port))
}
