//! What the lanes of a network device share: the host's interface, what the driver wants from it, and counters.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use thimble_spec::names::Mac;

use super::config::{F_MTU, GUEST_OFFLOADS};
use super::filter::Filter;
use super::metrics::Counters;
use super::tap::{HEADER_BYTES, Tap};
use crate::sync::lock;

/// Bytes that an Ethernet frame has before its payload, a VLAN tag included.
const ETHERNET_BYTES: usize = 18;
/// Where `gso_type` stands in the header (virtio 1.2, section 5.1.6).
const GSO_TYPE: usize = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`: the packet is one that a wire could carry (section 5.1.6).
const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_ECN`, a flag beside the type (section 5.1.6).
const GSO_ECN: u8 = 0x80;

/// One end of a wire: the host's is the tap.
#[derive(Debug)]
pub struct Port {
    tap: Tap,
    mac: Mac,
    mtu: Option<u16>,
    state: Mutex<State>,
    /// What the lanes count.
    pub counters: Counters,
}

/// What the driver has chosen.
#[derive(Debug)]
struct State {
    features: u64,
    filter: Filter,
}

impl Port {
    /// A port that no driver uses yet.
    pub fn new(tap: Tap, mac: Mac, mtu: Option<u16>) -> Self {
        let state = Mutex::new(State { features: 0, filter: Filter::new(mac, 0) });
        Self { tap, mac, mtu, state, counters: Counters::default() }
    }

    /// The host's interface.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The queue of the host's interface that belongs to `pair`.
    pub fn wire(&self, pair: usize) -> BorrowedFd<'_> {
        self.tap.queue(pair)
    }

    /// The device's address, as the driver may have changed it.
    pub fn mac(&self) -> Mac {
        lock(&self.state).filter.mac()
    }

    /// The driver is ready and took `features`. It has said nothing of filters yet, and uses the first pair.
    ///
    /// # Errors
    /// The host cannot provide the offloads.
    pub fn start(&self, features: u64) -> io::Result<()> {
        let filter = Filter::new(self.mac, features);
        self.tap.set_offloads(features & GUEST_OFFLOADS)?;
        self.tap.set_filter(filter.addresses().as_deref());
        *lock(&self.state) = State { features, filter };
        self.tap.use_pairs(1)
    }

    /// The driver is gone. What the host refuses now it is asked again at the next start.
    pub fn stop(&self) {
        *lock(&self.state) = State { features: 0, filter: Filter::new(self.mac, 0) };
        let _ = self.tap.use_pairs(1);
    }

    /// The features that the driver took.
    pub fn features(&self) -> u64 {
        lock(&self.state).features
    }

    /// Changes what the driver wants, as `change` says; gives its result.
    pub fn filter<T>(&self, change: impl FnOnce(&mut Filter) -> T) -> T {
        let mut state = lock(&self.state);
        let result = change(&mut state.filter);
        self.tap.set_filter(state.filter.addresses().as_deref());
        result
    }

    /// Whether a message of the tap, header and frame, is for the driver: not another's, and no larger than was agreed
    /// (section 5.1.4.1).
    pub fn admits(&self, message: &[u8]) -> bool {
        let state = lock(&self.state);
        let frame = message.get(HEADER_BYTES..).unwrap_or_default();
        if let Some(mtu) = self.mtu
            && state.features & F_MTU != 0
            && message.get(GSO_TYPE).is_some_and(|kind| kind & !GSO_ECN == GSO_NONE)
            && frame.len() > usize::from(mtu) + ETHERNET_BYTES
        {
            return false;
        }
        state.filter.wants(frame)
    }
}
