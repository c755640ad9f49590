//! A guest's end of a bridge: a tap interface, made before its VMM starts and taken away after it ended.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{BridgeVlanInfoFlags, LinkMessage};
use rtnetlink::{Handle, LinkBridgeVlan, LinkDelRequest, LinkUnspec};
use thimble_spec::appliance::{Bridge, GuestNetwork};

/// VLAN that a bridge gives to ports of which nothing else is said (Linux: `default_pvid`).
const DEFAULT_VLAN: u16 = 1;

mod ioctl {
    //! The requests of the tun driver (linux/if_tun.h).
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(set_persistent, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
}

/// Makes the tap `name`, if it isn't there, and plugs it into the guest's bridge, up, in its VLAN.
///
/// # Errors
/// The tun driver or the bridge is missing.
pub async fn plug(handle: &Handle, name: &str, network: &GuestNetwork, bridge: &Bridge) -> Result<()> {
    let bridge_index = index(&network.bridge)?;
    set_persistent(name, true).with_context(|| format!("making the tap {name}"))?;
    let tap_index = index(name)?;
    let set = LinkUnspec::new_with_index(tap_index).controller(bridge_index).up().build();
    let plugged = handle.link().set(set).execute().await;
    plugged.with_context(|| format!("plugging {name} into {}", network.bridge))?;
    if let Some(vlan) = network.vlan {
        access_port(handle, tap_index, vlan).await.with_context(|| format!("putting {name} into VLAN {vlan}"))?;
        for port in &bridge.ports {
            let trunk = LinkBridgeVlan::new(index(port)?).vlan(vlan, BridgeVlanInfoFlags::empty()).build();
            let added = handle.link().set(trunk).execute().await;
            added.with_context(|| format!("letting VLAN {vlan} out through {port}"))?;
        }
    }
    Ok(())
}

/// Takes the tap away; one that isn't there is no error.
///
/// # Errors
/// The tun driver refuses.
pub fn unplug(name: &str) -> Result<()> {
    if if_nametoindex(name).is_ok() {
        set_persistent(name, false).with_context(|| format!("removing the tap {name}"))?;
    }
    Ok(())
}

/// Frames of `vlan` leave this port without a tag and get it when they come in; the port is in no other VLAN.
async fn access_port(handle: &Handle, port: u32, vlan: u16) -> Result<(), rtnetlink::Error> {
    let flags = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
    handle.link().set(LinkBridgeVlan::new(port).vlan(vlan, flags).build()).execute().await?;
    if vlan != DEFAULT_VLAN {
        let default: LinkMessage = LinkBridgeVlan::new(port).vlan(DEFAULT_VLAN, BridgeVlanInfoFlags::empty()).build();
        LinkDelRequest::new_with_message(handle.clone(), default).execute().await?;
    }
    Ok(())
}

fn index(interface: &str) -> Result<u32> {
    if_nametoindex(interface).with_context(|| format!("there is no interface {interface}"))
}

/// Opens the tap, which makes it when it isn't there, and says whether it stays when nobody has it open.
fn set_persistent(name: &str, stays: bool) -> std::io::Result<()> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid `ifreq`: an empty name and a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: names are checked to be shorter.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    // As many queues as the guest has pairs; the VMM opens it with the same flags.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open, and the request points to an initialized `ifreq` that outlives the call.
    unsafe { ioctl::set_interface(tun.as_raw_fd(), &raw const request) }?;
    // SAFETY: the descriptor is open; the argument is an integer.
    unsafe { ioctl::set_persistent(tun.as_raw_fd(), i32::from(stays)) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use rtnetlink::LinkBridge;
    use thimble_spec::appliance::Address;
    use thimble_spec::names::Mac;

    /// Runs `test` in a network namespace of its own; the thread ends with it.
    fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce(Handle) -> F + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("SKIPPED: a network namespace needs root: {errno}");
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (connection, handle, _) = rtnetlink::new_connection().unwrap();
                tokio::spawn(connection);
                test(handle).await;
            });
        });
        thread.join().unwrap();
    }

    fn network(vlan: Option<u16>) -> GuestNetwork {
        GuestNetwork {
            bridge: "br0".to_owned(),
            address: None,
            gateway: None,
            dns: Vec::new(),
            vlan,
            mac: Mac::derived("a", "b"),
        }
    }

    #[test]
    fn a_tap_is_plugged_again_without_harm_and_goes_away() {
        in_a_namespace(async |handle| {
            handle.link().add(LinkBridge::new("br0").up().build()).execute().await.unwrap();
            let bridge = Bridge { ports: Vec::new(), address: Address::None, gateway: None, dns: Vec::new() };
            for _ in 0..2 {
                plug(&handle, "tap-web1", &network(None), &bridge).await.unwrap();
            }
            // /sys shows the namespace of whoever mounted it; the interface list of the process is asked instead.
            assert!(if_nametoindex("tap-web1").is_ok());
            unplug("tap-web1").unwrap();
            assert!(if_nametoindex("tap-web1").is_err());
            unplug("tap-web1").unwrap();
        });
    }

    #[test]
    fn a_port_gets_its_vlan() {
        in_a_namespace(async |handle| {
            let made = handle.link().add(LinkBridge::new("br0").vlan_filtering(true).up().build()).execute().await;
            if let Err(rtnetlink::Error::NetlinkError(refused)) = &made
                && refused.raw_code() == -libc::EOPNOTSUPP
            {
                eprintln!("SKIPPED: this machine's kernel has bridges without VLAN filtering");
                return;
            }
            made.unwrap();
            let bridge = Bridge { ports: Vec::new(), address: Address::None, gateway: None, dns: Vec::new() };
            for _ in 0..2 {
                plug(&handle, "tap-web1", &network(Some(10)), &bridge).await.unwrap();
            }
        });
    }

    #[test]
    fn a_missing_bridge_is_named() {
        in_a_namespace(async |handle| {
            let bridge = Bridge { ports: Vec::new(), address: Address::None, gateway: None, dns: Vec::new() };
            let error = plug(&handle, "tap-web1", &network(None), &bridge).await.unwrap_err();
            assert!(format!("{error:#}").contains("there is no interface br0"), "{error:#}");
        });
    }
}
