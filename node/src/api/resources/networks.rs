//! The host's networks: the bridges that the image declares, and other links that guests are plugged into.

use std::collections::BTreeMap;

use anyhow::bail;
use hyper::{Method, Response, StatusCode};
use thimble_spec::api::network::{LinkState, Mode, Network, Networks};
use thimble_spec::appliance;
use thimble_spec::host::{Answer, LinkStatus, NetworkVerb, Verb};

use super::host;
use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::life::Entry;

/// Their routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/v1/node/networks",
    role: Role::Read,
    summary: "The host's networks that guests are, or can be, plugged into",
    query: &[],
    gives: Gives::Json("Networks"),
    serve: |call| Box::pin(get(call)),
}];

async fn get(call: Call) -> Result<Response<Content>, Refusal> {
    let status = host::ask("its links", |pid1| match pid1.ask(&Verb::Network(NetworkVerb::Show))? {
        Answer::Network(status) => Ok(status),
        _ => bail!("it does not answer with its links"),
    });
    let links = status.await?.links;
    answer::json(StatusCode::OK, &networks(&call.api.book.appliance.network, &call.api.guests(), &links))
}

/// What the image declares and guests are plugged into, with what the kernel says of it.
fn networks(declared: &appliance::Network, guests: &[Entry], links: &[LinkStatus]) -> Networks {
    let bridges = declared.bridges.iter().map(|(name, bridge)| (name.clone(), (Mode::from(bridge.mode), 0)));
    let mut networks: BTreeMap<String, (Mode, u32)> = bridges.collect();
    for guest in guests {
        if let Some(network) = &guest.guest().network {
            networks.entry(network.plug.link().to_owned()).or_insert((Mode::Direct, 0)).1 += 1;
        }
    }
    let shown = networks.into_iter().map(|(name, (mode, guests))| {
        let link = links.iter().find(|link| link.name == name);
        let state = link.map_or(LinkState::Missing, |link| LinkState::of(link.up, link.carrier));
        let addresses = link.iter().flat_map(|link| &link.addresses).map(ToString::to_string).collect();
        Network { name, state, mode, addresses, guests }
    });
    Networks { networks: shown.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Epoch, Events};
    use crate::life;
    use crate::testing;

    #[test]
    fn a_network_is_declared_or_has_a_guest() {
        // Given a bridge with two guests, and a card with one beside the host, which is not there,
        let bridged = "memory = \"64MiB\"\nnetwork = { bridge = \"br0\" }";
        let beside = "memory = \"64MiB\"\nnetwork = { macvtap = \"eth1\" }";
        let mut appliance = testing::appliance(&[bridged, bridged, beside, "memory = \"64MiB\""]);
        appliance.network.bridges.insert("br1".to_owned(), Default::default());
        let events = Events::new(Epoch::now());
        let entries: Vec<_> = testing::defined(&appliance).into_iter().map(|it| life::pair(it, &events).1).collect();
        let link = |name: &str, carrier| LinkStatus {
            name: name.to_owned(),
            up: carrier,
            carrier,
            master: None,
            addresses: vec!["10.1.1.2/24".parse().unwrap()],
        };
        // then each is told, the bridge without guests and the link that is gone too, and no other link.
        let shown =
            networks(&appliance.network, &entries, &[link("br0", true), link("br1", false), link("eth7", true)]);
        let shown: Vec<_> =
            shown.networks.into_iter().map(|it| (it.name, it.state, it.mode, it.addresses.len(), it.guests)).collect();
        let wanted = [
            ("br0".to_owned(), LinkState::Up, Mode::Bridged, 1, 2),
            ("br1".to_owned(), LinkState::Off, Mode::Bridged, 1, 0),
            ("eth1".to_owned(), LinkState::Missing, Mode::Direct, 0, 1),
        ];
        assert_eq!(shown, wanted);
    }
}
