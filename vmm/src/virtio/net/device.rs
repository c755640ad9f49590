//! The front: what is offered to the driver, who moves the packets, and the handle for the control socket.

use std::fs::File;
use std::io;
use std::sync::Arc;

use thimble_spec::vmm::{self as spec, Limits, NetBackend, NetStats};

use super::config;
use super::port::Port;
use super::queues::{Pair, Place};
use super::tap::Tap;
use super::vhost::{self, KernelPair};
use crate::error::{Error, Result};
use crate::virtio::limit::{Limiter, SharedLimits};
use crate::virtio::{Lane, VirtioDevice, read_space};

/// Device type (virtio 1.2, section 5).
const TYPE: u32 = 1;

/// A network device.
pub struct Net {
    port: Arc<Port>,
    features: u64,
    pairs: u8,
    mtu: Option<u16>,
    limits: Option<SharedBoth>,
    lanes: Vec<Box<dyn Lane>>,
}

/// Limits of both directions.
#[derive(Clone, Debug)]
struct SharedBoth {
    receive: SharedLimits,
    transmit: SharedLimits,
}

impl Net {
    /// The network interface `description`, at `position` among those of its guest.
    ///
    /// # Errors
    /// The tap cannot be used as described, or the description makes no sense.
    pub fn open(description: &spec::Net, position: usize) -> Result<Self> {
        Self::check(description)?;
        let pairs = description.queue_pairs.unwrap_or(1);
        let vhost = open_vhost(description, pairs)?;
        Self::new(Tap::open(&description.tap, pairs)?, vhost, description, position)
    }

    /// A device on descriptors that keep messages apart, such as datagram sockets, one for each pair of queues, instead
    /// of the description's tap. Each message is a packet behind its virtio header.
    ///
    /// # Errors
    /// The description makes no sense; the host gives no timers.
    #[cfg(any(test, feature = "testing"))]
    pub fn on(wires: Vec<File>, description: &spec::Net) -> Result<Self> {
        Self::check(description)?;
        Self::new(Tap::on(wires), None, description, 0)
    }

    /// Looks at `description` alone, and at nothing of the host.
    ///
    /// # Errors
    /// It asks for what there is not, or contradicts itself.
    pub fn check(description: &spec::Net) -> Result<()> {
        let pairs = description.queue_pairs.unwrap_or(1);
        let reason = if !(1..=config::PAIRS_MAX).contains(&pairs) {
            format!("{pairs} queue pairs: give it 1 to {}", config::PAIRS_MAX)
        } else if let Some(mtu) = description.mtu.filter(|mtu| !config::MTU.contains(mtu)) {
            let (least, most) = config::MTU.into_inner();
            format!("an MTU of {mtu}: give it {least} to {most}")
        } else if description.mac.is_multicast() {
            format!("the address {}, which is a group's: clear the first octet's lowest bit", description.mac)
        } else if is_limited(description) && description.backend == NetBackend::Vhost {
            "limits and the backend vhost, whose packets the host's kernel moves: give up one of them".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Config(format!("the interface on {} cannot have {reason}", description.tap)))
    }

    /// A device whose packets move between `tap` and the queues by `vhost`, a device for each pair, or else by us.
    fn new(tap: Tap, vhost: Option<Vec<File>>, description: &spec::Net, position: usize) -> Result<Self> {
        let pairs = tap.most_pairs();
        let mut features = config::FEATURES | tap.features();
        for (feature, offered) in [
            (config::F_MTU, description.mtu.is_some()),
            (config::F_MQ, pairs > 1),
            // The tap's filter knows addresses only.
            (config::F_CTRL_VLAN, vhost.is_none()),
        ] {
            features |= if offered { feature } else { 0 };
        }
        let port = Arc::new(Port::new(tap, description.mac, description.mtu));
        let place = |pair| Place { device: position, pair, pairs };
        let (limits, lanes) = match vhost {
            Some(devices) => (None, kernel_lanes(devices, &port, place)),
            None => {
                let limits = SharedBoth {
                    receive: SharedLimits::new(description.receive),
                    transmit: SharedLimits::new(description.transmit),
                };
                (Some(limits.clone()), lanes(pairs, &limits, &port, place))
            }
        };
        let lanes = lanes.map_err(Error::host("make a network interface's timers and events"))?;
        Ok(Self { port, features, pairs: pairs as u8, mtu: description.mtu, limits, lanes })
    }

    /// What remains of the device for the control socket when the guest has it.
    pub fn handle(&self) -> Handle {
        Handle { port: self.port.clone(), limits: self.limits.clone() }
    }
}

type Lanes = io::Result<Vec<Box<dyn Lane>>>;

fn lanes(pairs: usize, limits: &SharedBoth, port: &Arc<Port>, place: impl Fn(usize) -> Place) -> Lanes {
    let lane = |pair| -> io::Result<Box<dyn Lane>> {
        let [receive, transmit] = [&limits.receive, &limits.transmit].map(|shared| Limiter::new(shared.clone()));
        Ok(Box::new(Pair::new(place(pair), port.clone(), receive?, transmit?)))
    };
    (0..pairs).map(lane).collect()
}

fn kernel_lanes(devices: Vec<File>, port: &Arc<Port>, place: impl Fn(usize) -> Place) -> Lanes {
    let lane = |(pair, device)| -> io::Result<Box<dyn Lane>> {
        Ok(Box::new(KernelPair::new(place(pair), port.clone(), device)?))
    };
    devices.into_iter().enumerate().map(lane).collect()
}

/// Opens vhost-net for `pairs` of queues, if the host's kernel is to move the packets.
fn open_vhost(description: &spec::Net, pairs: u8) -> Result<Option<Vec<File>>> {
    let tap = &description.tap;
    match description.backend {
        NetBackend::User => Ok(None),
        NetBackend::Auto if is_limited(description) => Ok(None),
        NetBackend::Auto => Ok(vhost::open(pairs).ok()),
        NetBackend::Vhost => vhost::open(pairs).map(Some).map_err(|error| {
            Error::Config(format!(
                "the interface on {tap} cannot have the backend vhost: {} cannot be used ({error}): load the module \
                 vhost_net, see that this user may open the device, or choose another backend",
                vhost::PATH
            ))
        }),
    }
}

fn is_limited(description: &spec::Net) -> bool {
    [description.receive, description.transmit] != [Limits::default(); 2]
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![config::QUEUE_SIZE; 2 * usize::from(self.pairs)];
        sizes.push(config::CONTROL_QUEUE_SIZE);
        sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_space(&config::space(self.port.mac(), self.pairs, self.mtu), offset, data);
    }

    fn take_lanes(&mut self) -> Vec<Box<dyn Lane>> {
        std::mem::take(&mut self.lanes)
    }
}

/// A network device as the control socket sees it.
#[derive(Clone, Debug)]
pub struct Handle {
    port: Arc<Port>,
    /// None where the host's kernel moves the packets.
    limits: Option<SharedBoth>,
}

impl Handle {
    /// What it did so far.
    pub fn stats(&self) -> NetStats {
        self.port.counters.stats(self.limits.is_none())
    }

    /// Replaces its limits.
    ///
    /// # Errors
    /// The host's kernel moves the packets: one sentence.
    pub fn limit(&self, receive: Limits, transmit: Limits) -> std::result::Result<(), String> {
        let Some(limits) = &self.limits else {
            return Err(
                "the host's kernel moves this interface's packets: start the guest with the backend `user`, or \
                        with limits, to have some"
                    .to_owned(),
            );
        };
        limits.receive.set(receive);
        limits.transmit.set(transmit);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
