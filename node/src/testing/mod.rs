//! Guests for tests, by the way that all guests come: a definition.

use std::sync::Arc;

use thimble_spec::api::guest::Origin;
use thimble_spec::appliance::{Appliance, Guest};
use thimble_spec::definition;

use crate::definitions::Defined;

pub mod tls;

/// A definition with the guests `web1`, `web2`, ..., of which these are the keys.
pub fn definition(guests: &[&str]) -> String {
    let mut text = r#"
appliance = { name = "demo" }
kernel.host = { package = "linux-image-amd64", hardware = [] }
kernel.guest = { source = "linux-source-6.12", fragments = [] }
network = { bridges.br0 = {}, interfaces.eth1 = {} }
"#
    .to_owned();
    for (index, keys) in (1..).zip(guests) {
        text.push_str(&format!("[[guest]]\nname = \"web{index}\"\nimage = \"web\"\n{keys}\n"));
    }
    text
}

/// Those guests, checked.
pub fn appliance(guests: &[&str]) -> Appliance {
    definition::parse("test.toml", &definition(guests)).unwrap_or_else(|mistakes| panic!("{mistakes}")).appliance
}

/// The guest `web1` with these keys.
pub fn guest(keys: &str) -> Guest {
    appliance(&[keys]).guests.remove(0)
}

/// The image's guests.
pub fn defined(appliance: &Appliance) -> Vec<Defined> {
    let guests = (0..).zip(&appliance.guests);
    let guest = |guest: &Guest| Arc::new(guest.clone());
    guests.map(|(index, it)| Defined { guest: guest(it), origin: Origin::Image, index, fault: None }).collect()
}
