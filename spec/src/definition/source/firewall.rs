//! `[firewall]`.

use serde::Deserialize;
use toml::Spanned;

use crate::appliance::Protocol;
use crate::ip::IpNet;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::definition) struct Firewall {
    #[serde(default = "yes")]
    pub ping: bool,
    #[serde(default)]
    pub ssh_from: Option<Spanned<Vec<Spanned<IpNet>>>>,
    #[serde(default)]
    pub api_from: Option<Spanned<Vec<Spanned<IpNet>>>>,
    #[serde(default)]
    pub open: Vec<Opening>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::definition) struct Opening {
    pub port: Spanned<u16>,
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default)]
    pub from: Vec<Spanned<IpNet>>,
}

fn yes() -> bool {
    true
}
