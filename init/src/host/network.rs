//! Bonds, bridges and fixed addresses as the appliance declares them.

use std::net::Ipv4Addr;

use thimble_spec::appliance::{Address, Appliance};

use super::modules::Modules;
use crate::error::Result;
use crate::net::{self, BridgeOptions, Created, Network};

/// Interfaces that the appliance names as ports and that are no bonds of its own: network cards.
pub fn cards(appliance: &Appliance) -> Vec<&str> {
    let bonded = appliance.bonds.values().flat_map(|bond| &bond.ports);
    let bridged = appliance.bridges.values().flat_map(|bridge| &bridge.ports);
    let mut names: Vec<&str> =
        bonded.chain(bridged).map(String::as_str).filter(|name| !appliance.bonds.contains_key(*name)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Those of them that are not there.
pub fn missing(appliance: &Appliance) -> Vec<&str> {
    cards(appliance).into_iter().filter(|name| !net::exists(name)).collect()
}

/// Options of a bridge: guests in VLANs need a bridge that knows them; the daemon puts each guest's port into its own.
pub fn bridge_options(appliance: &Appliance, name: &str) -> BridgeOptions {
    let in_vlan = |guest: &thimble_spec::appliance::Guest| {
        guest.network.as_ref().is_some_and(|network| network.bridge == name && network.vlan.is_some())
    };
    BridgeOptions { vlan_filtering: appliance.guests.iter().any(in_vlan) }
}

/// Loads the modules that the declared devices need: the kernel would call modprobe, which is not here.
pub fn load_modules(appliance: &Appliance, modules: &mut Modules) {
    if !appliance.bonds.is_empty() {
        modules.load_for("rtnl-link-bond");
    }
    if !appliance.bridges.is_empty() {
        modules.load_for("rtnl-link-bridge");
    }
}

/// Makes everything as declared, and leaves alone what is so already. Ports that are missing are left out; called again
/// when one appears. One error does not keep the rest from being made.
pub fn apply(network: &mut Network, appliance: &Appliance) -> Vec<crate::error::Error> {
    let mut errors = Vec::new();
    for (name, bond) in &appliance.bonds {
        let made =
            network.bond(name, bond).and_then(|_| ports(network, name, &bond.ports)).and_then(|()| network.up(name));
        errors.extend(made.err());
    }
    for (name, bridge) in &appliance.bridges {
        errors.extend(apply_bridge(network, appliance, name, bridge).err());
    }
    errors
}

fn apply_bridge(
    network: &mut Network,
    appliance: &Appliance,
    name: &str,
    bridge: &thimble_spec::appliance::Bridge,
) -> Result<()> {
    let created = network.bridge(name, bridge_options(appliance, name))?;
    let first = bridge.ports.iter().find(|port| net::exists(port));
    if let (Created::New, Some(port)) = (created, first) {
        network.copy_mac(name, port)?;
    }
    ports(network, name, &bridge.ports)?;
    network.up(name)?;
    if let Address::Static(address) = bridge.address {
        network.add_address(name, address)?;
        if let Some(gateway) = bridge.gateway {
            network.default_route(name, gateway)?;
        }
    }
    Ok(())
}

fn ports(network: &mut Network, master: &str, ports: &[String]) -> Result<()> {
    for port in ports.iter().filter(|port| net::exists(port)) {
        network.enslave(port, master)?;
        network.up(port)?;
    }
    Ok(())
}

/// Name servers that the appliance itself names, in the order of its bridges.
pub fn fixed_dns(appliance: &Appliance) -> Vec<Ipv4Addr> {
    appliance.bridges.values().flat_map(|bridge| bridge.dns.iter().copied()).collect()
}
