//! Host features: concerns that a host has only if its definition asks for them.
//!
//! Each is a file `configs/host/NAME.toml` with the modules and the programs of packages that it takes. An appliance
//! that does not ask for one carries none of its bytes.

use std::collections::BTreeSet;

use crate::appliance::{Appliance, FilesystemKind, Plug, VolumeKind};

/// A concern of the host.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// The name of its file.
    pub name: &'static str,
    /// Whether an appliance asks for it.
    pub wanted: fn(&Appliance) -> bool,
}

/// All of them, by name.
pub const FEATURES: &[Feature] = &[
    Feature { name: "bond", wanted: |appliance| !appliance.network.bonds.is_empty() },
    Feature { name: "dummy", wanted: |appliance| !appliance.network.dummies.is_empty() },
    Feature { name: "ext4", wanted: |appliance| makes(appliance, FilesystemKind::Ext4) },
    Feature { name: "firewall", wanted: has_rules },
    Feature { name: "iscsi", wanted: |appliance| !appliance.storage.iscsi.is_empty() },
    Feature { name: "luks", wanted: |appliance| !appliance.storage.luks.is_empty() },
    Feature { name: "lvm", wanted: |appliance| !appliance.storage.groups.is_empty() },
    Feature { name: "lvm-thin", wanted: has_thin_pools },
    Feature { name: "macvtap", wanted: has_macvtaps },
    Feature { name: "md", wanted: |appliance| !appliance.storage.raids.is_empty() },
    Feature { name: "nat", wanted: |appliance| appliance.network.translates() },
    Feature { name: "netserve", wanted: |appliance| appliance.network.served().next().is_some() },
    Feature { name: "nfs-mounts", wanted: |appliance| !appliance.storage.nfs.is_empty() },
    Feature { name: "ntp", wanted: |appliance| !appliance.host.time_servers.is_empty() },
    Feature { name: "shell", wanted: |appliance| appliance.host.shell || appliance.host.ssh.is_some() },
    Feature { name: "ssh", wanted: |appliance| appliance.host.ssh.is_some() },
    Feature {
        name: "swap",
        wanted: |appliance| !appliance.storage.swaps.is_empty() || appliance.storage.zram.is_some(),
    },
    Feature { name: "terminal", wanted: |appliance| appliance.host.api.is_some() },
    Feature { name: "vlan", wanted: has_vlans },
    Feature { name: "watchdog", wanted: |appliance| appliance.host.watchdog.is_some() },
    Feature { name: "xfs", wanted: |appliance| makes(appliance, FilesystemKind::Xfs) },
    Feature { name: "zram", wanted: |appliance| appliance.storage.zram.is_some() },
];

/// The names of those that an appliance asks for, each once: by what it wants of its host, and by the services that it
/// brings.
pub fn wanted(appliance: &Appliance) -> impl Iterator<Item = &str> {
    let known = FEATURES.iter().filter(|feature| (feature.wanted)(appliance)).map(|feature| feature.name);
    let named = appliance.host.services.iter().filter_map(|service| service.feature.as_deref());
    known.chain(named).collect::<BTreeSet<&str>>().into_iter()
}

/// Networks of the host's own are kept apart by rules, too.
fn has_rules(appliance: &Appliance) -> bool {
    appliance.firewall.is_some() || appliance.network.has_own_networks()
}

/// The module is for the host's own VLANs; a bridge that filters wants it, too, where tags are the card's business.
fn has_vlans(appliance: &Appliance) -> bool {
    let network = &appliance.network;
    !network.vlans.is_empty() || network.bridges.values().any(|bridge| bridge.vlan_filtering)
}

fn has_macvtaps(appliance: &Appliance) -> bool {
    let mut networks = appliance.guests.iter().filter_map(|guest| guest.network.as_ref());
    networks.any(|network| matches!(network.plug, Plug::Macvtap(_)))
}

fn makes(appliance: &Appliance, kind: FilesystemKind) -> bool {
    appliance.storage.filesystems.iter().any(|filesystem| filesystem.kind == kind)
}

fn has_thin_pools(appliance: &Appliance) -> bool {
    let mut volumes = appliance.storage.groups.iter().flat_map(|group| &group.volumes);
    volumes.any(|volume| matches!(volume.kind, VolumeKind::ThinPool(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_used_once() {
        assert!(FEATURES.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
