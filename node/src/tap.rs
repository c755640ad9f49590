//! A guest's end of a bridge, a tap, or its own door to a link of the host's, a macvtap: made before its VMM starts and taken
//! away after it ended.

mod macvtap;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{BridgeVlanInfoFlags, LinkMessage};
use rtnetlink::{Handle, LinkBridgeVlan, LinkDelRequest, LinkUnspec};
use thimble_spec::appliance::{GuestNetwork, Plug};

use crate::say;

/// VLAN that a bridge gives to ports of which nothing else is said (Linux: `default_pvid`).
const DEFAULT_VLAN: u16 = 1;

/// MTU of a tap of which nothing is said, as of any Ethernet interface.
const DEFAULT_MTU: u16 = 1500;

/// How a tap is made for its VMM, which opens it with the same flags.
const ONE_QUEUE: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// The same with as many queues as the guest has pairs. Whatever their number, the host's kernel makes 256 of them, which take
/// 6 MiB (drivers/net/tun.c `MAX_TAP_QUEUES`; each has a queue discipline with three rings of 8 KiB).
const SEVERAL_QUEUES: libc::c_int = ONE_QUEUE | libc::IFF_MULTI_QUEUE;

mod ioctl {
    //! The requests of the tun driver (linux/if_tun.h).
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(set_persistent, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
}

/// Makes the interface `name`, if it isn't there, and plugs it into what the guest's network says, up, with its MTU; on a
/// bridge in its VLAN.
///
/// # Errors
/// The driver or the link is missing; the interface is another kind of thing, or somebody else uses it.
pub async fn plug(handle: &Handle, name: &str, network: &GuestNetwork) -> Result<()> {
    match &network.plug {
        Plug::Bridge(bridge) => plug_tap(handle, name, bridge, network).await,
        Plug::Macvtap(link) => macvtap::plug(handle, name, link, network).await,
    }
}

async fn plug_tap(handle: &Handle, name: &str, bridge: &str, network: &GuestNetwork) -> Result<()> {
    let bridge_index = index(bridge)?;
    macvtap::unplug(handle, name).await?;
    make(name, network.queues).with_context(|| format!("making the tap {name}"))?;
    let tap_index = index(name)?;
    // Said in any case: a tap that was left behind has the one that it had.
    let mtu = network.mtu.unwrap_or(DEFAULT_MTU);
    let set = LinkUnspec::new_with_index(tap_index).mtu(mtu.into()).controller(bridge_index).up().build();
    let plugged = handle.link().set(set).execute().await;
    plugged.with_context(|| format!("plugging {name} into {bridge}"))?;
    // The bridge's other ports are PID 1's: it has read the same definition.
    if network.vlan.is_some() || !network.vlans.is_empty() {
        port(handle, tap_index, network).await.with_context(|| format!("putting {name} into its VLANs"))?;
    }
    Ok(())
}

/// Takes the interface away; one that isn't there is no error.
///
/// # Errors
/// The driver refuses.
pub async fn unplug(handle: &Handle, name: &str) -> Result<()> {
    macvtap::unplug(handle, name).await?;
    if if_nametoindex(name).is_ok() {
        let removed = match set_persistent(name, SEVERAL_QUEUES, false) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_persistent(name, ONE_QUEUE, false),
            other => other,
        };
        removed.with_context(|| format!("removing the tap {name}"))?;
    }
    Ok(())
}

/// Makes the tap for so many pairs of queues, or sees that the one that is there will do. One of the other kind, that was made
/// by hand or for what the guest had before, is made anew.
fn make(name: &str, pairs: u8) -> Result<()> {
    let (wanted, other) = if pairs > 1 { (SEVERAL_QUEUES, ONE_QUEUE) } else { (ONE_QUEUE, SEVERAL_QUEUES) };
    match set_persistent(name, wanted, true) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        outcome => return outcome.map_err(refused),
    }
    set_persistent(name, other, false).map_err(refused)?;
    say::note(&format!("the tap {name} was there for another number of queues: it is made anew"));
    set_persistent(name, wanted, true).map_err(refused)
}

fn refused(error: std::io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EBUSY) => anyhow!("another process uses it: end that, or remove the tap"),
        Some(libc::EINVAL) => anyhow!("there is an interface of this name that is no tap: remove it"),
        _ => anyhow!(error),
    }
}

/// Frames of the guest's VLAN leave this port without a tag and get it when they come in, those of its trunk have theirs;
/// the port is in no other VLAN.
async fn port(handle: &Handle, port: u32, network: &GuestNetwork) -> Result<(), rtnetlink::Error> {
    let flags = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
    let untagged = network.vlan.map(|vlan| (vlan, flags));
    let tagged = network.vlans.iter().map(|vlan| (*vlan, BridgeVlanInfoFlags::empty()));
    for (vlan, flags) in untagged.into_iter().chain(tagged) {
        handle.link().set(LinkBridgeVlan::new(port).vlan(vlan, flags).build()).execute().await?;
    }
    if network.vlan != Some(DEFAULT_VLAN) && !network.vlans.contains(&DEFAULT_VLAN) {
        let default: LinkMessage = LinkBridgeVlan::new(port).vlan(DEFAULT_VLAN, BridgeVlanInfoFlags::empty()).build();
        LinkDelRequest::new_with_message(handle.clone(), default).execute().await?;
    }
    Ok(())
}

fn index(interface: &str) -> Result<u32> {
    if_nametoindex(interface).with_context(|| format!("there is no interface {interface}"))
}

/// Opens the tap, which makes it when it isn't there, and says whether it stays when nobody has it open. A tap that is
/// there wants the flags that it was made with (`EINVAL`), and one with one queue that nobody has it open (`EBUSY`).
fn set_persistent(name: &str, flags: libc::c_int, stays: bool) -> std::io::Result<()> {
    let tun = attach(name, flags)?;
    // SAFETY: the descriptor is open; the argument is an integer.
    unsafe { ioctl::set_persistent(tun.as_raw_fd(), i32::from(stays)) }?;
    Ok(())
}

/// Becomes a user of the tap, which makes it when it isn't there.
fn attach(name: &str, flags: libc::c_int) -> std::io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open, and the request points to an initialized `ifreq` that outlives the call.
    unsafe { ioctl::set_interface(tun.as_raw_fd(), &raw const request) }?;
    Ok(tun)
}

/// A request of the kernel's about the interface.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid `ifreq`: an empty name and a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: names are checked to be shorter.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use rtnetlink::LinkBridge;

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

    fn network(words: &str) -> GuestNetwork {
        let guest = crate::testing::guest(&format!("memory = \"64MiB\"\nnetwork = {{ bridge = \"br0\"{words} }}"));
        guest.network.unwrap()
    }

    #[test]
    fn a_tap_is_plugged_again_without_harm_and_goes_away() {
        in_a_namespace(async |handle| {
            handle.link().add(LinkBridge::new("br0").up().build()).execute().await.unwrap();
            for _ in 0..2 {
                plug(&handle, "tap-web1", &network("")).await.unwrap();
            }
            // /sys shows the namespace of whoever mounted it; the interface list of the process is asked instead.
            assert!(if_nametoindex("tap-web1").is_ok());
            unplug(&handle, "tap-web1").await.unwrap();
            assert!(if_nametoindex("tap-web1").is_err());
            unplug(&handle, "tap-web1").await.unwrap();
        });
    }

    #[test]
    fn a_macvtap_is_made_of_a_link_and_takes_the_place_of_a_tap_and_back() {
        in_a_namespace(async |handle| {
            handle.link().add(LinkBridge::new("br0").up().build()).execute().await.unwrap();
            let guest = crate::testing::guest("memory = \"64MiB\"\nnetwork = { macvtap = \"eth1\", mtu = 1400 }");
            let beside = guest.network.unwrap();
            let error = plug(&handle, "tap-web1", &beside).await.unwrap_err();
            assert!(format!("{error:#}").contains("there is no interface eth1"), "{error:#}");
            set_persistent("eth1", ONE_QUEUE, true).unwrap();
            for network in [&beside, &beside, &network(""), &beside] {
                match plug(&handle, "tap-web1", network).await {
                    Err(error) if format!("{error:?}").contains("Not supported") => {
                        eprintln!("SKIPPED: this machine's kernel has no macvtap");
                        return;
                    }
                    plugged => plugged.unwrap(),
                }
                assert_eq!(mtu("tap-web1"), i32::from(network.mtu.unwrap_or(DEFAULT_MTU)));
            }
            unplug(&handle, "tap-web1").await.unwrap();
            assert!(if_nametoindex("tap-web1").is_err());
        });
    }

    fn mtu(name: &str) -> i32 {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut request = request(name);
        // SAFETY: the request is an initialized `ifreq` that outlives the call, whose union is read as it was written.
        unsafe {
            assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request), 0);
            request.ifr_ifru.ifru_mtu
        }
    }

    #[test]
    fn a_tap_has_its_guests_mtu() {
        in_a_namespace(async |handle| {
            handle.link().add(LinkBridge::new("br0").up().build()).execute().await.unwrap();
            for (words, expected) in
                [(", mtu = 1400", 1400), ("", 1500), (", mtu = 576", 576), (", mtu = 65521", 65521)]
            {
                plug(&handle, "tap-web1", &network(words)).await.unwrap();
                assert_eq!(mtu("tap-web1"), expected);
            }
        });
    }

    #[test]
    fn a_tap_of_the_other_kind_is_made_anew_unless_it_is_used() {
        in_a_namespace(async |handle| {
            handle.link().add(LinkBridge::new("br0").up().build()).execute().await.unwrap();
            // Given a tap that was left behind with one queue,
            set_persistent("tap-web1", ONE_QUEUE, true).unwrap();
            let left = index("tap-web1").unwrap();
            // when a guest is plugged in, then it is another one, which takes several users.
            plug(&handle, "tap-web1", &network(", queues = 2")).await.unwrap();
            assert_ne!(index("tap-web1").unwrap(), left);
            let users = [(); 2].map(|()| attach("tap-web1", SEVERAL_QUEUES).unwrap());
            // When the guest has one pair of queues again, so has its tap, and one user.
            drop(users);
            plug(&handle, "tap-web1", &network("")).await.unwrap();
            let _user = attach("tap-web1", ONE_QUEUE).unwrap();
            assert_eq!(attach("tap-web1", ONE_QUEUE).unwrap_err().raw_os_error(), Some(libc::EBUSY));
            // One that is used is not taken away,
            set_persistent("tap-web2", ONE_QUEUE, true).unwrap();
            let user = attach("tap-web2", ONE_QUEUE).unwrap();
            for words in ["", ", queues = 2"] {
                let error = plug(&handle, "tap-web2", &network(words)).await.unwrap_err();
                assert!(format!("{error:#}").contains("another process uses it"), "{error:#}");
            }
            drop(user);
            // but is when its guest is gone;
            unplug(&handle, "tap-web2").await.unwrap();
            assert!(if_nametoindex("tap-web2").is_err());
            // and what is no tap is not touched.
            handle.link().add(LinkBridge::new("tap-web2").build()).execute().await.unwrap();
            let error = plug(&handle, "tap-web2", &network("")).await.unwrap_err();
            assert!(format!("{error:#}").contains("an interface of this name that is no tap"), "{error:#}");
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
            for _ in 0..2 {
                plug(&handle, "tap-web1", &network(", vlan = 10, vlans = [20, 30]")).await.unwrap();
            }
        });
    }

    #[test]
    fn a_missing_bridge_is_named() {
        in_a_namespace(async |handle| {
            let error = plug(&handle, "tap-web1", &network("")).await.unwrap_err();
            assert!(format!("{error:#}").contains("there is no interface br0"), "{error:#}");
        });
    }
}
