//! The host's networks: links that guests are plugged into.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::appliance::BridgeMode;

/// All networks, by name: the bridges that the image declares, and what else a guest is plugged into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Networks {
    /// Them.
    pub networks: Vec<Network>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Network {
    /// The host's link.
    pub name: String,
    /// How it is, as the host's kernel says.
    pub state: LinkState,
    /// How its guests reach others, as the image says.
    pub mode: Mode,
    /// The host's addresses on it, as its kernel says.
    pub addresses: Vec<String>,
    /// Guests that are plugged into it, those that are off too.
    pub guests: u32,
}

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// It is switched on, and something is at its other end.
    Up,
    /// It is switched on, and nothing is there: a bridge has no port that is up.
    NoCarrier,
    /// It is switched off.
    Off,
    /// There is no such link.
    Missing,
}

impl LinkState {
    /// Of a link that is there.
    #[must_use]
    pub fn of(up: bool, carrier: bool) -> Self {
        match (up, carrier) {
            (false, _) => Self::Off,
            (true, false) => Self::NoCarrier,
            (true, true) => Self::Up,
        }
    }

    /// Whether it is switched on.
    #[must_use]
    pub fn is_on(self) -> bool {
        matches!(self, Self::Up | Self::NoCarrier)
    }
}

/// For people.
impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::NoCarrier => "no carrier",
            Self::Off => "off",
            Self::Missing => "missing",
        })
    }
}

/// How guests reach others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "NetworkMode"))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// By the bridge's ports, as their neighbours.
    Bridged,
    /// By the host, under its address.
    Nat,
    /// By the host, under their own addresses.
    Routed,
    /// Not at all, but for each other and the host.
    Isolated,
    /// By a link that is no bridge, beside the host (macvtap).
    Direct,
}

impl From<BridgeMode> for Mode {
    fn from(mode: BridgeMode) -> Self {
        match mode {
            BridgeMode::Bridged => Self::Bridged,
            BridgeMode::Nat => Self::Nat,
            BridgeMode::Routed => Self::Routed,
            BridgeMode::Isolated => Self::Isolated,
        }
    }
}

/// As in a definition.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridged => "bridged",
            Self::Nat => "nat",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
            Self::Direct => "direct",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_on_or_not() {
        let of = |up, carrier| LinkState::of(up, carrier).to_string();
        assert_eq!([of(true, true), of(true, false), of(false, true)], ["up", "no carrier", "off"]);
        assert!(LinkState::NoCarrier.is_on() && !LinkState::Missing.is_on());
    }

    #[test]
    fn a_mode_has_the_same_name_for_people_and_in_json() {
        for mode in [BridgeMode::Bridged, BridgeMode::Nat, BridgeMode::Routed, BridgeMode::Isolated] {
            let shown = Mode::from(mode);
            assert_eq!(serde_json::to_value(shown).unwrap(), shown.to_string());
            assert_eq!(serde_json::to_value(mode).unwrap(), shown.to_string(), "as in a definition");
        }
    }
}
