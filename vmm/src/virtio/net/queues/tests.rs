use std::os::unix::net::UnixDatagram;

use crate::virtio::net::config::F_MRG_RXBUF;
use crate::virtio::testing::{DATA, Driver, WRITE, net};

const RX: usize = 0;
const TX: usize = 1;

fn started(features: u64) -> (Driver, UnixDatagram) {
    let (device, wire) = net();
    let driver = Driver::new(device);
    driver.start(features);
    (driver, wire)
}

fn packet(length: usize) -> Vec<u8> {
    [vec![0; 12], (0..length).map(|n| n as u8).collect()].concat()
}

#[test]
fn a_packet_goes_out_as_one() {
    let (mut driver, wire) = started(0);
    driver.put(DATA, &packet(60));
    driver.submit(TX, &[(DATA, 12, 0), (DATA + 12, 20, 0), (DATA + 32, 40, 0)]);
    driver.kick(TX);
    let mut bytes = [0; 200];
    assert_eq!(wire.recv(&mut bytes).unwrap(), 72);
    assert_eq!(bytes[..72], packet(60));
    assert_eq!(driver.used(TX).len(), 1);
}

#[test]
fn a_packet_comes_in_with_its_buffers_counted() {
    let (mut driver, wire) = started(0);
    wire.send(&packet(60)).unwrap();
    driver.submit(RX, &[(DATA, 1526, WRITE)]);
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 72)]);
    assert_eq!(driver.bytes(DATA, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(driver.bytes(DATA + 12, 60), packet(60)[12..]);
}

#[test]
fn a_large_packet_fills_several_buffers_or_none() {
    let (mut driver, wire) = started(F_MRG_RXBUF);
    wire.send(&packet(200)).unwrap();
    driver.submit(RX, &[(DATA, 100, WRITE)]);
    driver.submit(RX, &[(DATA + 100, 100, WRITE)]);
    driver.rouse(0);
    assert!(driver.used(RX).is_empty(), "two buffers are not enough, and stay unused");
    driver.submit(RX, &[(DATA + 200, 100, WRITE)]);
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 100), (1, 100), (2, 12)]);
    assert_eq!(driver.bytes(DATA + 10, 2), [3, 0]);
    assert_eq!(driver.bytes(DATA + 12, 200), packet(200)[12..]);
}

#[test]
fn without_merging_a_packet_that_does_not_fit_is_dropped_and_its_buffer_kept() {
    let (mut driver, wire) = started(0);
    wire.send(&packet(200)).unwrap();
    wire.send(&packet(10)).unwrap();
    driver.submit(RX, &[(DATA, 100, WRITE)]);
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 22)]);
}

#[test]
fn packets_wait_while_the_driver_has_no_buffers() {
    let (mut driver, wire) = started(0);
    for _ in 0..3 {
        wire.send(&packet(10)).unwrap();
    }
    driver.rouse(0);
    assert!(driver.used(RX).is_empty());
    for _ in 0..3 {
        driver.submit(RX, &[(DATA, 100, WRITE)]);
    }
    driver.kick(RX);
    assert_eq!(driver.used(RX).len(), 3);
}

#[test]
fn a_buffer_without_room_for_a_header_is_the_drivers_fault() {
    let (mut driver, wire) = started(0);
    wire.send(&packet(10)).unwrap();
    driver.submit(RX, &[(DATA, 11, WRITE)]);
    driver.kick(RX);
    assert!(driver.needs_reset());
}

#[test]
fn a_message_without_a_packet_is_passed_over() {
    let (mut driver, wire) = started(0);
    wire.send(&[0; 12]).unwrap();
    wire.send(&packet(10)).unwrap();
    driver.submit(RX, &[(DATA, 100, WRITE)]);
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 22)]);
}
