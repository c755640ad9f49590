//! The network by route netlink, synchronously: a request, its acknowledgement, the next request.
//!
//! Packets are made by the crates that rtnetlink itself is made of (`netlink-packet-*`, `netlink-sys`). rtnetlink on top
//! of them is asynchronous, and an async runtime does not belong in PID 1: every request here is answered by the
//! kernel before `send` returns, so there is nothing to wait for.
//!
//! What a guest needs to know it reads from `/sys/class/net`: that needs no parser of what the kernel says, which keeps
//! its binary small; and of addresses, which are not there, it reads no more than it tells ([`address`]). The host, which keeps its network as it is declared, asks for all of it ([`reconcile`]).

pub mod address;
#[cfg(feature = "host")]
pub mod nft;
#[cfg(feature = "host")]
pub mod reconcile;
mod request;
mod socket;
#[cfg(test)]
pub mod tests;

use std::fmt::Display;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::unistd::sethostname;
use thimble_spec::names::Ipv4Net;

pub use request::Network;

use crate::error::{Doing, Result};

/// The kernel's directory of interfaces.
pub const INTERFACES: &str = "/sys/class/net";

/// The directory of an interface in sysfs.
fn interface(name: &str) -> PathBuf {
    Path::new(INTERFACES).join(name)
}

/// Whether an interface exists.
#[cfg(feature = "host")]
pub fn exists(name: &str) -> bool {
    interface(name).join("ifindex").exists()
}

/// The number of an interface.
#[cfg(feature = "host")]
pub fn index_of(name: &str) -> Result<u32> {
    request::index(name)
}

/// The Ethernet address of an interface.
#[cfg(feature = "host")]
pub fn mac_of(name: &str) -> Result<[u8; 6]> {
    let path = interface(name).join("address");
    let text = fs::read_to_string(&path).doing(|| format!("read {}: is there an interface {name}?", path.display()))?;
    let mac = text.trim().parse::<thimble_spec::names::Mac>();
    mac.map(|mac| mac.0).map_err(|error| crate::error::Error::Said(error.to_string()))
}

/// The first interface that is not the loopback, in the order of their names.
pub fn first_interface() -> Option<String> {
    let entries = fs::read_dir(INTERFACES).ok()?;
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name != "lo").min()
}

/// Sets the host name.
pub fn set_host_name(name: &str) -> Result<()> {
    sethostname(name).doing(|| format!("set the host name {name}"))
}

/// The text of resolv.conf(5).
pub fn resolv_conf(servers: &[impl Display]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

/// Writes `/etc/resolv.conf` below `root`; readers see the old or the new one, never half of it.
pub fn write_resolv_conf(root: &Path, servers: &[impl Display]) -> Result<()> {
    let path = root.join("etc/resolv.conf");
    let new = root.join("etc/resolv.conf.new");
    fs::write(&new, resolv_conf(servers))
        .and_then(|()| fs::rename(&new, &path))
        .doing(|| format!("write {}", path.display()))
}

/// Loopback up.
pub fn loopback(network: &mut Network) -> Result<()> {
    network.up("lo")
}

/// One interface up, with a fixed address and the default route.
pub fn fixed(network: &mut Network, name: &str, address: Option<Ipv4Net>, gateway: Option<Ipv4Addr>) -> Result<()> {
    network.up(name)?;
    if let Some(address) = address {
        network.add_address(name, address)?;
    }
    if let Some(gateway) = gateway {
        network.default_route(name, gateway)?;
    }
    Ok(())
}
