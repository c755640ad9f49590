//! The definition as rules: what the host passes on between its networks, and under which address.

use thimble_spec::appliance::{BridgeMode, Forward, Network};
use thimble_spec::names::Ipv4Net;

use super::firewall::{ESTABLISHED_OR_RELATED, INVALID, IPV4_SOURCE, accept, chain, drop_counted, protocol, to_port};
use crate::net::nft::{Chain, Hook, Match, Rule, Then};

/// Counter of what would be passed on and is not allowed.
const DENIED: &str = "forward denied";

// `NF_INET_PRE_ROUTING`, `NF_INET_FORWARD`, `NF_INET_POST_ROUTING`.
const PRE_ROUTING: u32 = 0;
const FORWARD: u32 = 2;
const POST_ROUTING: u32 = 4;
/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`.
const NAT_TO: i32 = -100;
const NAT_FROM: i32 = 100;

/// The chains; none if the host passes nothing on.
pub fn chains(network: &Network) -> Vec<Chain> {
    if !network.has_own_networks() {
        return Vec::new();
    }
    let mut chains = vec![forward(network)];
    if network.translates() {
        chains.extend([to_guests(network), to_the_world(network)]);
    }
    chains
}

fn bridges(network: &Network, mode: BridgeMode) -> impl Iterator<Item = (&str, Ipv4Net)> {
    let of_mode = network.bridges.iter().filter(move |(_, bridge)| bridge.mode == mode);
    of_mode.filter_map(|(name, bridge)| Some((name.as_str(), bridge.link.ipv4().next()?)))
}

/// From NAT networks to the world, and to and from routed ones; never into an isolated one or out of it.
fn forward(network: &Network) -> Chain {
    let mut rules = vec![
        accept(vec![Match::connection_in(ESTABLISHED_OR_RELATED)]),
        drop_counted(vec![Match::connection_in(INVALID)], DENIED),
        accept(vec![Match::translated()]),
    ];
    for (name, _) in bridges(network, BridgeMode::Isolated) {
        rules.push(drop_counted(vec![Match::from_interface(name)], DENIED));
        rules.push(drop_counted(vec![Match::to_interface(name)], DENIED));
    }
    for (name, _) in bridges(network, BridgeMode::Nat) {
        rules.push(drop_counted(vec![Match::to_interface(name)], DENIED));
    }
    for (name, _) in bridges(network, BridgeMode::Nat) {
        rules.push(accept(vec![Match::from_interface(name)]));
    }
    for (name, _) in bridges(network, BridgeMode::Routed) {
        rules.push(accept(vec![Match::from_interface(name)]));
        rules.push(accept(vec![Match::to_interface(name)]));
    }
    rules.push(drop_counted(Vec::new(), DENIED));
    chain("forward", Some(Hook { kind: "filter", number: FORWARD, priority: 0, drops: true }), rules)
}

/// Ports of the host that lead to guests. What a guest of a NAT network sends is not for them.
fn to_guests(network: &Network) -> Chain {
    let rule = |forward: &Forward| {
        let inside = bridges(network, BridgeMode::Nat).map(|(name, _)| Match::from_interface(name).not());
        let matches = inside.chain([Match::family(false), Match::to_the_host()]);
        let matches = matches.chain(to_port(protocol(forward.protocol), forward.port)).collect();
        let counter = Some(format!("forward {} {}", forward.protocol.name(), forward.port));
        Rule { matches, counter, then: Then::SendTo(forward.address, forward.to_port) }
    };
    let rules = network.forwards.iter().map(rule).collect();
    chain("to guests", Some(Hook { kind: "nat", number: PRE_ROUTING, priority: NAT_TO, drops: false }), rules)
}

/// What leaves a NAT network leaves under the host's address.
fn to_the_world(network: &Network) -> Chain {
    let rule = |(name, net): (&str, Ipv4Net)| {
        let from = Match::address_in(IPV4_SOURCE, net.into());
        let matches = vec![Match::family(false), from, Match::to_interface(name).not()];
        Rule { matches, counter: None, then: Then::Masquerade }
    };
    let rules = bridges(network, BridgeMode::Nat).map(rule).collect();
    chain("to the world", Some(Hook { kind: "nat", number: POST_ROUTING, priority: NAT_FROM, drops: false }), rules)
}
