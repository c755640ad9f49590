//! Guests for tests, by the way that all guests come: a definition.

pub mod tls;

use thimble_spec::appliance::{Appliance, Guest};
use thimble_spec::definition;

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
