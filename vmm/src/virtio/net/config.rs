//! What a network device tells its driver about itself (virtio 1.2, sections 5.1.3 and 5.1.4).

use thimble_spec::names::Mac;

/// The driver may leave a packet's checksum to the device (section 5.1.3).
pub const F_CSUM: u64 = 1 << 0;
/// The driver takes packets with partial checksums: what guests on the same host send each other.
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// The driver may change which offloads it takes while it runs.
pub const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// The device says how large packets may be.
pub const F_MTU: u64 = 1 << 3;
/// The device has an address.
pub const F_MAC: u64 = 1 << 5;
/// The driver takes segments of TCP over IPv4 larger than the wire's.
pub const F_GUEST_TSO4: u64 = 1 << 7;
/// The same over IPv6.
pub const F_GUEST_TSO6: u64 = 1 << 8;
/// The same with explicit congestion notification.
pub const F_GUEST_ECN: u64 = 1 << 9;
/// The driver takes UDP packets larger than the wire's, to be cut into fragments.
pub const F_GUEST_UFO: u64 = 1 << 10;
/// The driver may send segments of TCP over IPv4 larger than the wire's.
pub const F_HOST_TSO4: u64 = 1 << 11;
/// The same over IPv6.
pub const F_HOST_TSO6: u64 = 1 << 12;
/// The same with explicit congestion notification.
pub const F_HOST_ECN: u64 = 1 << 13;
/// The driver may send UDP packets larger than the wire's, to be cut into fragments.
pub const F_HOST_UFO: u64 = 1 << 14;
/// A received packet may fill several buffers, so that large ones do not make all of them large.
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// The configuration space has a link status.
pub const F_STATUS: u64 = 1 << 16;
/// There is a control queue.
pub const F_CTRL_VQ: u64 = 1 << 17;
/// It takes receive modes and addresses.
pub const F_CTRL_RX: u64 = 1 << 18;
/// It takes VLANs.
pub const F_CTRL_VLAN: u64 = 1 << 19;
/// It takes more receive modes.
pub const F_CTRL_RX_EXTRA: u64 = 1 << 20;
/// There are several pairs of queues.
pub const F_MQ: u64 = 1 << 22;
/// The driver may change the device's address.
pub const F_CTRL_MAC_ADDR: u64 = 1 << 23;
/// The driver takes several UDP packets over IPv4 in one.
pub const F_GUEST_USO4: u64 = 1 << 54;
/// The same over IPv6.
pub const F_GUEST_USO6: u64 = 1 << 55;
/// The driver may send several UDP packets in one.
pub const F_HOST_USO: u64 = 1 << 56;

/// What every device offers.
pub const FEATURES: u64 = F_CSUM
    | F_GUEST_CSUM
    | F_CTRL_GUEST_OFFLOADS
    | F_MAC
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_HOST_TSO4
    | F_HOST_TSO6
    | F_HOST_ECN
    | F_MRG_RXBUF
    | F_STATUS
    | F_CTRL_VQ
    | F_CTRL_RX
    | F_CTRL_RX_EXTRA
    | F_CTRL_MAC_ADDR;

/// What a driver takes, as far as it can be changed while it runs (section 5.1.6.5.6).
pub const GUEST_OFFLOADS: u64 =
    F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6;

/// Descriptors of each receive and transmit queue.
pub const QUEUE_SIZE: u16 = 256;
/// Descriptors of the control queue.
pub const CONTROL_QUEUE_SIZE: u16 = 64;

/// Most pairs of queues: a thread and a queue of the tap each. Linux's drivers use one pair a processor.
pub const PAIRS_MAX: u8 = 16;
/// The least and the most that `mtu` may say (section 5.1.4.1).
pub const MTU: std::ops::RangeInclusive<u16> = 68..=65535;

/// `status`: the link is up (section 5.1.4).
const S_LINK_UP: u16 = 1;

/// `struct virtio_net_config` up to `mtu` (section 5.1.4).
pub fn space(mac: Mac, pairs: u8, mtu: Option<u16>) -> [u8; 12] {
    let mut space = [0; 12];
    space[..6].copy_from_slice(&mac.0);
    space[6..8].copy_from_slice(&S_LINK_UP.to_le_bytes());
    space[8..10].copy_from_slice(&u16::from(pairs).to_le_bytes());
    space[10..].copy_from_slice(&mtu.unwrap_or(0).to_le_bytes());
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_is_laid_out_as_the_specification_says() {
        let space = space(Mac([2, 0, 0, 0, 0, 9]), 4, Some(1400));
        assert_eq!(space, [2, 0, 0, 0, 0, 9, 1, 0, 4, 0, 0x78, 0x05]);
    }
}
