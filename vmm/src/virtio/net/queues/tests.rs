use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use thimble_spec::vmm::{self as spec, Limits, Rate};

use super::{RECEIVE_TIMER, RX, TRANSMIT_TIMER, TX};
use crate::virtio::net::config::{F_GUEST_CSUM, F_MRG_RXBUF, F_MTU};
use crate::virtio::net::{Handle, Net};
use crate::virtio::testing::{DATA, Driver, WRITE, net, wires};

fn started(features: u64) -> (Driver, UnixDatagram) {
    let (device, wire) = net();
    let driver = Driver::new(device);
    driver.start(features);
    (driver, wire)
}

/// A device with one wire, as described.
fn described(describe: impl FnOnce(&mut spec::Net)) -> (Driver, UnixDatagram, Handle) {
    let (ours, mut theirs) = wires(1);
    let mut description = spec::Net::new("none", "02:00:00:00:00:01".parse().unwrap());
    describe(&mut description);
    let device = Net::on(ours, &description).unwrap();
    let handle = device.handle();
    (Driver::new(device), theirs.remove(0), handle)
}

/// One packet at once, then one each 20 ms.
fn one_at_a_time() -> Limits {
    Limits { operations: Some(Rate { per_second: 50, burst: Some(1) }), bandwidth: None }
}

/// Lets the lane look at a timer until `done`.
fn rouse_until(driver: &mut Driver, timer: usize, mut done: impl FnMut(&mut Driver) -> bool) -> Duration {
    let started = Instant::now();
    while !done(driver) {
        assert!(started.elapsed() < Duration::from_secs(20), "the packet still waits");
        std::thread::sleep(Duration::from_millis(2));
        driver.rouse(timer);
    }
    started.elapsed()
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
fn what_the_host_says_of_checksums_reaches_a_driver_that_asked() {
    for (features, flags) in [(0, 0), (F_GUEST_CSUM, 2)] {
        let (mut driver, wire) = started(features);
        wire.send(&[&[2; 1][..], &packet(60)[1..]].concat()).unwrap();
        driver.submit(RX, &[(DATA, 1526, WRITE)]);
        driver.kick(RX);
        assert_eq!(driver.used(RX).len(), 1);
        assert_eq!(driver.bytes(DATA, 1), [flags]);
    }
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

#[test]
fn what_is_sent_beyond_the_limit_stays_in_the_ring_until_it_may_go() {
    let (mut driver, wire, handle) = described(|net| net.transmit = one_at_a_time());
    driver.start(0);
    driver.put(DATA, &packet(60));
    for _ in 0..3 {
        driver.submit(TX, &[(DATA, 72, 0)]);
    }
    driver.kick(TX);
    assert_eq!(driver.used(TX).len(), 1);
    // Notified again it waits all the same.
    driver.kick(TX);
    assert!(driver.used(TX).is_empty());
    let mut sent = 0;
    let took = rouse_until(&mut driver, TRANSMIT_TIMER, |driver| {
        sent += driver.used(TX).len();
        sent == 2
    });
    assert!(took >= Duration::from_millis(30), "two waits of 20 ms took {took:?}");
    let stats = handle.stats();
    assert_eq!((stats.sent, stats.sent_bytes, stats.dropped), (3, 180, 0));
    assert!(stats.throttled >= 2);
    assert_eq!(std::iter::from_fn(|| wire.recv(&mut [0; 100]).ok()).count(), 3);
}

#[test]
fn what_is_received_beyond_the_limit_waits_and_can_be_let_go_by_new_limits() {
    let (mut driver, wire, handle) = described(|net| net.receive = one_at_a_time());
    driver.start(0);
    for _ in 0..10 {
        wire.send(&packet(60)).unwrap();
        driver.submit(RX, &[(DATA, 100, WRITE)]);
    }
    driver.kick(RX);
    driver.rouse(0);
    assert_eq!(driver.used(RX).len(), 1);
    rouse_until(&mut driver, RECEIVE_TIMER, |driver| !driver.used(RX).is_empty());
    handle.limit(Limits::default(), Limits::default()).unwrap();
    rouse_until(&mut driver, RECEIVE_TIMER, |driver| driver.used(RX).len() == 8);
    let stats = handle.stats();
    assert_eq!((stats.received, stats.received_bytes, stats.dropped), (10, 600, 0));
}

#[test]
fn a_reset_forgets_what_waits() {
    let (mut driver, wire, _) = described(|net| net.receive = one_at_a_time());
    driver.start(0);
    for length in [60, 61] {
        wire.send(&packet(length)).unwrap();
        driver.submit(RX, &[(DATA, 100, WRITE)]);
    }
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 72)]);
    let mut driver = driver.restarted(0);
    wire.send(&packet(62)).unwrap();
    driver.submit(RX, &[(DATA, 100, WRITE)]);
    driver.kick(RX);
    rouse_until(&mut driver, RECEIVE_TIMER, |driver| match driver.used(RX)[..] {
        [] => false,
        [(_, length)] => length == 74 || panic!("{length}"),
        _ => panic!(),
    });
}

#[test]
fn packets_beyond_the_mtu_are_dropped_if_it_was_agreed_on() {
    let arrives = |features, header: u8| {
        let (mut driver, wire, handle) = described(|net| net.mtu = Some(1000));
        driver.start(features);
        wire.send(&[&[0, header, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[2, 0, 0, 0, 0, 1], &[0; 1400]].concat()).unwrap();
        driver.submit(RX, &[(DATA, 1526, WRITE)]);
        driver.kick(RX);
        let arrived = driver.used(RX).len() == 1;
        assert_eq!(handle.stats().dropped, u64::from(!arrived));
        arrived
    };
    assert!(arrives(0, 0));
    assert!(!arrives(F_MTU, 0));
    assert!(!arrives(F_MTU, 0x80));
    // A segment larger than the wire's is cut by the driver.
    assert!(arrives(F_MTU, 1));
}

#[test]
fn what_cannot_be_a_packet_is_dropped_and_given_back() {
    let (mut driver, wire, handle) = described(|_| {});
    driver.start(0);
    // Longer than any packet.
    driver.submit(TX, &[(DATA, 0x8000, 0), (DATA, 0x8000, 0), (DATA, 0x8000, 0)]);
    driver.kick(TX);
    assert_eq!(driver.used(TX).len(), 1);
    assert_eq!(handle.stats().dropped, 1);
    assert!(wire.recv(&mut [0; 100]).is_err() && !driver.needs_reset());
}
