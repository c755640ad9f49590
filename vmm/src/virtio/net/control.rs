//! The control queue (virtio 1.2, section 5.1.6.5).

use vm_memory::GuestMemoryMmap;

use thimble_spec::names::Mac;

use super::config::{
    F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN, F_MQ, GUEST_OFFLOADS,
};
use super::filter::{Mode, Table};
use super::port::Port;
use crate::virtio::Service;
use crate::virtio::ring::{Chain, Ring, RingError};

/// Most bytes of a command: two lists of some thousand addresses. A longer one fails.
const COMMAND_MOST: usize = 64 * 1024;

/// Answers (section 5.1.6.5).
const OK: u8 = 0;
/// The command is unknown, malformed, or not done.
const ERR: u8 = 1;

/// Classes of commands (section 5.1.6.5).
mod class {
    pub const RX: u8 = 0;
    pub const MAC: u8 = 1;
    pub const VLAN: u8 = 2;
    pub const MQ: u8 = 4;
    pub const GUEST_OFFLOADS: u8 = 5;
}

/// `VIRTIO_NET_CTRL_MAC_TABLE_SET` (section 5.1.6.5.2).
const MAC_TABLE_SET: u8 = 0;
/// `VIRTIO_NET_CTRL_MAC_ADDR_SET` (section 5.1.6.5.2).
const MAC_ADDR_SET: u8 = 1;
/// `VIRTIO_NET_CTRL_VLAN_ADD` (section 5.1.6.5.3).
const VLAN_ADD: u8 = 0;
/// `VIRTIO_NET_CTRL_VLAN_DEL` (section 5.1.6.5.3).
const VLAN_DEL: u8 = 1;
/// `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET` (section 5.1.6.5.5).
const VQ_PAIRS_SET: u8 = 0;
/// `VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET` (section 5.1.6.5.6).
const GUEST_OFFLOADS_SET: u8 = 0;

/// Serves the control queue of the device behind `port`.
///
/// # Errors
/// The driver broke the rules of the ring; a command that makes no sense is answered with an error instead.
pub fn serve(port: &Port, ring: &mut Ring, memory: &GuestMemoryMmap) -> Service {
    ring.serve(memory, |chain| answer(port, chain))
}

fn answer(port: &Port, chain: &Chain<'_>) -> Result<u32, RingError> {
    if chain.writable.is_empty() {
        return Err(RingError::Shape(chain.head));
    }
    let done = chain.readable.len() <= COMMAND_MOST && carry_out(port, &chain.readable.copy());
    chain.writable.fill(&[if done { OK } else { ERR }]);
    Ok(1)
}

/// Does what the command says; false if it cannot be done. A driver may ask only for what it has negotiated.
fn carry_out(port: &Port, command: &[u8]) -> bool {
    let &[class, command, ref data @ ..] = command else { return false };
    let features = port.features();
    let took = |feature| features & feature != 0;
    match (class, command) {
        (class::RX, number) => {
            let Some(mode) = Mode::ALL.get(usize::from(number)) else { return false };
            let &[on @ (0 | 1)] = data else { return false };
            let basic = matches!(mode, Mode::Promiscuous | Mode::AllMulticast);
            took(if basic { F_CTRL_RX } else { F_CTRL_RX_EXTRA }) && {
                port.filter(|filter| filter.set_mode(*mode, on == 1));
                true
            }
        }
        (class::MAC, MAC_TABLE_SET) if took(F_CTRL_RX) => {
            let Some((unicast, data)) = take_table(data) else { return false };
            let Some((multicast, [])) = take_table(data) else { return false };
            port.filter(|filter| filter.set_tables(unicast, multicast));
            true
        }
        (class::MAC, MAC_ADDR_SET) if took(F_CTRL_MAC_ADDR) => {
            let Ok(mac) = data.try_into().map(Mac) else { return false };
            !mac.is_multicast() && {
                port.filter(|filter| filter.set_mac(mac));
                true
            }
        }
        (class::VLAN, VLAN_ADD | VLAN_DEL) if took(F_CTRL_VLAN) => {
            let Ok(vlan) = data.try_into().map(u16::from_le_bytes) else { return false };
            port.filter(|filter| filter.set_vlan(vlan, command == VLAN_ADD))
        }
        (class::MQ, VQ_PAIRS_SET) if took(F_MQ) => {
            let Ok(pairs) = data.try_into().map(u16::from_le_bytes) else { return false };
            port.tap().use_pairs(pairs.into()).is_ok()
        }
        (class::GUEST_OFFLOADS, GUEST_OFFLOADS_SET) if took(F_CTRL_GUEST_OFFLOADS) => {
            let Ok(offloads) = data.try_into().map(u64::from_le_bytes) else { return false };
            offloads & !(features & GUEST_OFFLOADS) == 0 && port.tap().set_offloads(offloads).is_ok()
        }
        _ => false,
    }
}

/// Takes a list of addresses (section 5.1.6.5.2) from the beginning of `data`; none if it is longer than that.
fn take_table(data: &[u8]) -> Option<(Table, &[u8])> {
    let (entries, data) = data.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*entries)).ok()?.checked_mul(6)?;
    let (list, rest) = data.split_at_checked(length)?;
    let (macs, _) = list.as_chunks::<6>();
    Some((Table::new(macs), rest))
}

#[cfg(test)]
mod tests;
