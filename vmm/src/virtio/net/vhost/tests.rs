use std::time::{Duration, Instant};

use thimble_spec::vmm as spec;

use super::*;
use crate::virtio::net::Net;
use crate::virtio::net::config::{F_CTRL_RX, F_CTRL_VQ, F_MQ};
use crate::virtio::net::tap::tests::{OURS, in_a_namespace, make, send};
use crate::virtio::registers::offset;
use crate::virtio::testing::{DATA, Driver, MEMORY, WRITE};

/// Two regions that touch in the guest.
fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000), (GuestAddress(0x1_0000), 0x1_0000)]).unwrap()
}

fn queue(descriptors: u64, available: u64, used: u64) -> Queue {
    let mut queue = Queue::new(256).unwrap();
    queue.set_size(16);
    queue.set_desc_table_address(Some(descriptors as u32), None);
    queue.set_avail_ring_address(Some(available as u32), None);
    queue.set_used_ring_address(Some(used as u32), None);
    queue
}

#[test]
fn a_ring_lies_in_one_region() {
    let memory = memory();
    let inside = place(&queue(0x1000, 0x2000, 0x1_3000), &memory).unwrap();
    assert_eq!((inside.queue_size, inside.desc_table_addr, inside.used_ring_addr), (16, 0x1000, 0x1_3000));
    // Each part up to the end of a region, and a step beyond it.
    assert!(place(&queue(0x1_0000 - 256, 0x1_0000 - 40, 0x2_0000 - 136), &memory).is_ok());
    for (descriptors, available, used) in [
        (0x1_0000 - 240, 0, 0x1_0000),
        (0, 0x1_0000 - 36, 0x1_0000),
        (0, 0x1000, 0x1_0000 - 132),
        (0, 0x1000, 0x2_0000 - 132),
        (0x3_0000, 0, 0),
    ] {
        assert!(place(&queue(descriptors, available, used), &memory).is_err());
    }
}

#[test]
fn a_host_without_vhost_says_so() {
    if let Err(error) = open(1) {
        assert!(error.raw_os_error().is_some(), "{error}");
    }
}

/// Runs `test` on a device with two pairs that the kernel serves, and the name of its tap, where there is a vhost.
fn with_vhost(test: impl FnOnce(Driver, &str) + Send + 'static) {
    if let Err(error) = open(1) {
        eprintln!("SKIPPED: {PATH} cannot be opened: {error}");
        return;
    }
    in_a_namespace(|| {
        make("some0", libc::IFF_MULTI_QUEUE);
        let description = spec::Net {
            backend: spec::NetBackend::Vhost,
            queue_pairs: Some(2),
            ..spec::Net::new("some0", "02:00:00:00:00:01".parse().unwrap())
        };
        test(Driver::new(Net::open(&description, 0).unwrap()), "some0");
    });
}

const FEATURES: u64 = F_CTRL_VQ | F_CTRL_RX | F_MQ | F_MRG_RXBUF;
const MINE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Makes a chain available and tells the kernel; waits until `count` are used.
fn hand(driver: &mut Driver, queue: usize, buffer: (u64, u32, u16), count: usize) -> Vec<(u32, u32)> {
    if buffer.1 > 0 {
        driver.submit(queue, &[buffer]);
        driver.write(offset::QUEUE_NOTIFY, queue as u32);
    }
    let started = Instant::now();
    let mut used = driver.used(queue);
    while used.len() < count && started.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
        used.extend(driver.used(queue));
    }
    used
}

#[test]
fn the_kernel_moves_packets_both_ways_and_raises_the_line() {
    with_vhost(|driver, tap| {
        let mut driver = driver;
        for features in [FEATURES, FEATURES | F_EVENT_IDX] {
            driver = driver.restarted(features);
            let frame = [&[0; 12][..], &[0xff; 6], &MINE, &OURS, &[0; 46]].concat();
            driver.put(DATA, &frame);
            assert_eq!(hand(&mut driver, 1, (DATA, frame.len() as u32, 0), 1).len(), 1);
            assert_eq!(driver.read(offset::INTERRUPT_STATUS), 1);
            assert!(driver.device.interrupt().line().read().is_ok(), "the line was pulsed");
            // The host sends frames of its own when the interface comes up: ours is the one for us alone.
            driver.submit(0, &[(DATA + 0x1000, 1526, WRITE)]);
            driver.write(offset::QUEUE_NOTIFY, 0);
            send(tap, [2, 0, 0, 0, 0, 9]);
            send(tap, MINE);
            let used = hand(&mut driver, 0, (0, 0, 0), 1);
            assert_eq!(used.len(), 1);
            assert_eq!(driver.bytes(DATA + 0x1000 + 12, 6), MINE, "others' packets are filtered by the tap");
        }
        driver.write(offset::STATUS, 0);
        assert_eq!(driver.read(offset::INTERRUPT_STATUS), 0);
    });
}

#[test]
fn a_ring_that_the_kernel_finds_broken_ends_the_device_until_its_reset() {
    with_vhost(|mut driver, _| {
        for (address, length, flags) in [(MEMORY, 64, 0), (u64::MAX - 10, 64, 0), (DATA, 64, WRITE)] {
            driver = driver.restarted(FEATURES);
            assert!(hand(&mut driver, 1, (address, length, flags), 0).is_empty());
            let started = Instant::now();
            while !driver.needs_reset() && started.elapsed() < Duration::from_secs(10) {
                driver.rouse(0);
            }
            assert!(driver.needs_reset(), "{address:#x}");
        }
        driver = driver.restarted(FEATURES);
        driver.put(DATA, &[0; 100]);
        assert_eq!(hand(&mut driver, 1, (DATA, 72, 0), 1).len(), 1);
    });
}

#[test]
fn the_control_queue_stays_ours_wherever_it_is() {
    with_vhost(|mut driver, _| {
        for (features, queue) in [(FEATURES, 4), (FEATURES & !F_MQ, 2)] {
            driver = driver.restarted(features);
            driver.put(DATA, &[0, 0, 1]);
            driver.submit(queue, &[(DATA, 3, 0), (DATA + 0x100, 1, WRITE)]);
            driver.kick(queue);
            assert_eq!(driver.used(queue).len(), 1);
            assert_eq!(driver.bytes(DATA + 0x100, 1), [0]);
        }
    });
}
