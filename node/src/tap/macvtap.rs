//! A guest's own door to a link of the host's (drivers/net/macvtap.c): frames pass beside the host.

use std::path::Path;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::MacVtapMode;
use rtnetlink::{Handle, LinkMacVtap};
use thimble_spec::appliance::GuestNetwork;
use thimble_spec::names::macvtap_device;

use super::index;

/// Makes the interface anew, with the guest's address: what is for others does not come in, but what is for several does.
///
/// # Errors
/// The link is missing or something else has it, the driver is missing, or an interface of another kind has the name.
pub async fn plug(handle: &Handle, name: &str, link: &str, network: &GuestNetwork) -> Result<()> {
    let parent = index(link)?;
    super::unplug(handle, name).await?;
    let mut made = LinkMacVtap::new(name, parent, MacVtapMode::Bridge).address(network.mac.0.to_vec());
    if let Some(mtu) = network.mtu {
        made = made.mtu(mtu.into());
    }
    handle
        .link()
        .add(made.allmulticast(true).up().build())
        .execute()
        .await
        .with_context(|| format!("making the macvtap {name} of {link}"))
}

/// Takes the interface away, if it is a macvtap.
///
/// # Errors
/// The kernel refuses.
pub async fn unplug(handle: &Handle, name: &str) -> Result<()> {
    let Ok(index) = if_nametoindex(name) else { return Ok(()) };
    if !Path::new(&macvtap_device(index)).exists() {
        return Ok(());
    }
    handle.link().del(index).execute().await.with_context(|| format!("removing the macvtap {name}"))
}
