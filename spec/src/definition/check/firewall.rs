//! `[firewall]`, and what goes with it.

use toml::Spanned;

use super::super::source;
use super::{Checker, inner};
use crate::appliance::{Firewall, HostSettings, Opening, Protocol};
use crate::ip::IpNet;
use crate::rules;

/// A port that another table of the definition opens.
struct Own {
    port: Option<u16>,
    table: &'static str,
    from: Option<Spanned<Vec<Spanned<IpNet>>>>,
    key: &'static str,
    nobody: &'static str,
}

impl Checker<'_> {
    /// With ssh and the node's API among the open ports.
    pub(super) fn firewall(&mut self, source: source::Firewall, host: &HostSettings) -> Firewall {
        let own = [
            Own {
                port: host.ssh.as_ref().map(|ssh| ssh.port),
                table: "[access.ssh]",
                from: source.ssh_from,
                key: "firewall.ssh-from",
                nobody: "nobody logs in by ssh without [access.ssh]",
            },
            Own {
                port: host.api.map(|api| api.port),
                table: "[api]",
                from: source.api_from,
                key: "firewall.api-from",
                nobody: "nobody asks the node daemon over the network without [api]",
            },
        ];
        let mut open = Vec::<Opening>::new();
        for (index, opening) in source.open.into_iter().enumerate() {
            let key = format!("firewall.open[{index}]");
            let (port, protocol) = (*opening.port.get_ref(), opening.protocol);
            let same = |other: &Opening| (other.protocol, other.port) == (protocol, port);
            if port == 0 {
                self.wrong(opening.port.span(), format!("{key}.port"), "use 1 to 65535");
            } else if open.iter().any(same) {
                let message =
                    format!("{} port {port} is opened twice: name all networks in one `from`", protocol.name());
                self.wrong(opening.port.span(), format!("{key}.port"), message);
            } else if let Some(own) = own.iter().find(|own| protocol == Protocol::Tcp && own.port == Some(port)) {
                let message = format!("{} opens its port itself: {} says from where", own.table, own.key);
                self.wrong(opening.port.span(), format!("{key}.port"), message);
            }
            self.networks(&opening.from, &format!("{key}.from"));
            open.push(Opening { protocol, port, from: inner(opening.from) });
        }
        for own in own {
            let from = own.from.map(|from| {
                if own.port.is_none() {
                    self.wrong(from.span(), own.key, own.nobody);
                } else if from.get_ref().is_empty() {
                    self.wrong(from.span(), own.key, "name a network, or leave it out for all of them");
                }
                self.networks(from.get_ref(), own.key);
                inner(from.into_inner())
            });
            if let Some(port) = own.port {
                open.push(Opening { protocol: Protocol::Tcp, port, from: from.unwrap_or_default() });
            }
        }
        Firewall { ping: source.ping, open }
    }

    /// Networks, each written as one.
    pub(super) fn networks(&mut self, nets: &[Spanned<IpNet>], key: &str) {
        for (index, net) in nets.iter().enumerate() {
            self.expect(rules::network(*net.get_ref()), net.span(), &format!("{key}[{index}]"));
        }
    }

    /// Whether a guest may send under any name, and its addresses beside its own.
    pub(super) fn spoofing(
        &mut self,
        anti_spoofing: Option<Spanned<bool>>,
        allowed: Vec<Spanned<IpNet>>,
        key: &str,
    ) -> (bool, Vec<IpNet>) {
        let said = [
            ("anti-spoofing", anti_spoofing.as_ref().map(Spanned::span)),
            ("allowed-addresses", allowed.first().map(Spanned::span)),
        ];
        for (name, span) in said {
            if let Some(span) = span {
                self.expect(rules::behind_firewall(self.behind_firewall), span, &format!("{key}.{name}"));
            }
        }
        let on = anti_spoofing.is_none_or(Spanned::into_inner);
        if let Some(first) = allowed.first() {
            self.expect(rules::allowed_addresses(on), first.span(), &format!("{key}.allowed-addresses"));
        }
        self.networks(&allowed, &format!("{key}.allowed-addresses"));
        (on, inner(allowed))
    }
}
