use std::os::unix::net::UnixDatagram;

use thimble_spec::vmm as spec;

use crate::virtio::net::Net;
use crate::virtio::net::config::*;
use crate::virtio::testing::{DATA, Driver, WRITE, wires};

/// The control queue of a device with one pair.
const CONTROL: usize = 2;
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHERS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const EVERYTHING: u64 = F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_CTRL_VLAN | F_CTRL_MAC_ADDR | F_CTRL_GUEST_OFFLOADS;

fn started(pairs: usize, features: u64) -> (Driver, Vec<UnixDatagram>) {
    let (ours, theirs) = wires(pairs);
    let description = spec::Net::new("none", "02:00:00:00:00:01".parse().unwrap());
    let driver = Driver::new(Net::on(ours, &description).unwrap());
    driver.start(features);
    (driver, theirs)
}

/// Sends a command; says the answer.
fn command(driver: &mut Driver, queue: usize, bytes: &[u8]) -> u8 {
    driver.put(DATA, bytes);
    driver.put(DATA + 0x2000, &[0xee]);
    driver.submit(queue, &[(DATA, bytes.len() as u32, 0), (DATA + 0x2000, 1, WRITE)]);
    driver.kick(queue);
    assert_eq!(driver.used(queue).len(), 1);
    driver.bytes(DATA + 0x2000, 1)[0]
}

/// Whether a frame to `to` reaches the driver.
fn arrives(driver: &mut Driver, wire: &UnixDatagram, to: [u8; 6]) -> bool {
    wire.send(&[&[0; 12], &to[..], &[0; 54]].concat()).unwrap();
    let buffer = driver.submit(0, &[(DATA + 0x3000, 1526, WRITE)]);
    driver.kick(0);
    let used = driver.used(0);
    if used.is_empty() {
        // The buffer is still there: another packet takes it, so that the next question begins afresh.
        wire.send(&[&[0; 12], &OURS[..], &[0; 54]].concat()).unwrap();
        driver.rouse(0);
        assert_eq!(driver.used(0), [(buffer.into(), 72)]);
        return false;
    }
    true
}

#[test]
fn receive_modes_and_lists_decide_what_takes_a_buffer() {
    let (mut driver, wires) = started(1, EVERYTHING);
    assert!(!arrives(&mut driver, &wires[0], OTHERS));
    assert_eq!(command(&mut driver, CONTROL, &[0, 0, 1]), 0, "promiscuous");
    assert!(arrives(&mut driver, &wires[0], OTHERS));
    assert_eq!(command(&mut driver, CONTROL, &[0, 0, 0]), 0);
    let table = [&[1, 0, 1, 0, 0, 0][..], &OTHERS, &[0, 0, 0, 0]].concat();
    assert_eq!(command(&mut driver, CONTROL, &table), 0);
    assert!(arrives(&mut driver, &wires[0], OTHERS) && !arrives(&mut driver, &wires[0], [1; 6]));
    driver.start(EVERYTHING);
}

#[test]
fn the_drivers_address_is_read_back_until_the_reset() {
    let (mut driver, _wires) = started(1, EVERYTHING);
    assert_eq!(command(&mut driver, CONTROL, &[&[1, 1][..], &OTHERS].concat()), 0);
    let mac = |driver: &Driver| {
        let mut mac = [0; 6];
        driver.device.read(0x100, &mut mac);
        mac
    };
    assert_eq!(mac(&driver), OTHERS);
    assert_eq!(command(&mut driver, CONTROL, &[1, 1, 3, 0, 0, 0, 0, 1]), 1, "a group's address");
    driver.write(crate::virtio::registers::offset::STATUS, 0);
    assert_eq!(mac(&driver), OURS);
}

#[test]
fn what_is_malformed_or_was_not_negotiated_fails() {
    let (mut driver, _wires) = started(1, EVERYTHING);
    let long_list = [&[1, 0, 255, 255, 255, 255][..], &[2; 60]].concat();
    for bytes in [
        &[][..],
        &[0],
        &[0, 0],
        &[0, 0, 2],
        &[0, 0, 1, 1],
        &[0, 6, 1],
        &[1, 0],
        &[1, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &long_list,
        &[1, 1, 2, 0, 0],
        &[1, 2],
        &[2, 0, 1],
        &[2, 0, 0, 16],
        &[3, 0],
        &[4, 0, 1, 0],
        &[5, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        &[255, 255],
    ] {
        // An empty first buffer is none: the driver still gives its command one byte.
        assert_eq!(command(&mut driver, CONTROL, bytes), 1, "{bytes:?}");
    }
    assert_eq!(command(&mut driver, CONTROL, &[2, 0, 255, 15]), 0, "VLAN 4095");
    assert!(!driver.needs_reset());
    let (mut driver, _wires) = started(1, F_CTRL_VQ);
    for bytes in [&[0, 0, 1][..], &[0, 2, 1], &[1, 1, 2, 0, 0, 0, 0, 2], &[2, 0, 1, 0], &[4, 0, 1, 0]] {
        assert_eq!(command(&mut driver, CONTROL, bytes), 1, "{bytes:?}");
    }
}

#[test]
fn a_command_without_room_for_an_answer_is_the_drivers_fault() {
    let (mut driver, _wires) = started(1, EVERYTHING);
    driver.submit(CONTROL, &[(DATA, 3, 0)]);
    driver.kick(CONTROL);
    assert!(driver.needs_reset());
}

#[test]
fn the_control_queue_is_where_the_negotiation_puts_it() {
    // With F_MQ behind all pairs.
    let (mut driver, _wires) = started(2, EVERYTHING | F_MQ);
    assert_eq!(command(&mut driver, 4, &[4, 0, 2, 0]), 0);
    assert_eq!(command(&mut driver, 4, &[4, 0, 3, 0]), 1, "no such pair");
    assert_eq!(command(&mut driver, 4, &[4, 0, 0, 0]), 1, "none at all");
    // Without it there is one pair, and the control queue is the third.
    let (mut driver, _wires) = started(2, EVERYTHING);
    assert_eq!(command(&mut driver, 2, &[0, 0, 1]), 0);
    assert_eq!(command(&mut driver, 2, &[4, 0, 2, 0]), 1);
}

#[test]
fn pairs_move_packets_when_the_driver_has_asked_for_them() {
    let (mut driver, wires) = started(2, EVERYTHING | F_MQ);
    let packet = [&[0; 12], &OURS[..], &[0; 54]].concat();
    wires[1].send(&packet).unwrap();
    driver.submit(2, &[(DATA, 1526, WRITE)]);
    driver.kick(2);
    assert!(driver.used(2).is_empty(), "one pair is in use");
    assert_eq!(command(&mut driver, 4, &[4, 0, 2, 0]), 0);
    driver.rouse(0);
    assert_eq!(driver.used(2).len(), 1);
    driver.submit(3, &[(DATA, 72, 0)]);
    driver.kick(3);
    assert_eq!(wires[1].recv(&mut [0; 200]).unwrap(), 72);
    assert_eq!(command(&mut driver, 4, &[4, 0, 1, 0]), 0);
    wires[1].send(&packet).unwrap();
    driver.submit(2, &[(DATA, 1526, WRITE)]);
    driver.rouse(0);
    assert!(driver.used(2).is_empty());
    // A reset takes the pairs back too.
    assert_eq!(command(&mut driver, 4, &[4, 0, 2, 0]), 0);
    driver.start(EVERYTHING | F_MQ);
}

#[test]
fn offloads_can_be_given_up_and_taken_again_but_no_others() {
    let (mut driver, _wires) = started(1, EVERYTHING | F_GUEST_CSUM | F_GUEST_TSO4);
    let set = |offloads: u64| [&[5, 0][..], &offloads.to_le_bytes()].concat();
    assert_eq!(command(&mut driver, CONTROL, &set(0)), 0);
    assert_eq!(command(&mut driver, CONTROL, &set(F_GUEST_CSUM | F_GUEST_TSO4)), 0);
    assert_eq!(command(&mut driver, CONTROL, &set(F_GUEST_TSO6)), 1);
    assert_eq!(command(&mut driver, CONTROL, &set(F_MAC)), 1);
}
