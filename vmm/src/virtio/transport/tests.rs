use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::virtio::registers::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, offset, status};
use crate::virtio::rng::Rng;
use crate::virtio::testing::{self, DATA, Driver, INDIRECT, NEXT, RING, WRITE, one_of_each};

#[test]
fn every_width_at_every_offset_has_an_answer() {
    for driver in one_of_each().0 {
        driver.start(0);
        for at in 0..0x1000 {
            for width in [1, 2, 4, 8] {
                let mut data = vec![0xaa; width];
                driver.device.read(at, &mut data);
                if at < offset::CONFIG && (width != 4 || at % 4 != 0) {
                    assert_eq!(data, vec![0; width], "{at:#x}/{width}");
                }
                driver.device.write(at, &vec![0; width]);
            }
        }
    }
}

#[test]
fn a_device_says_what_it_is() {
    for (driver, kind) in one_of_each().0.iter().zip([2, 1, 4, 3, 5]) {
        assert_eq!(driver.read(offset::MAGIC), u32::from_le_bytes(*b"virt"));
        assert_eq!(driver.read(offset::VERSION), 2);
        assert_eq!(driver.read(offset::DEVICE_ID), kind);
        driver.write(offset::DEVICE_FEATURES_SEL, 1);
        assert_eq!(driver.read(offset::DEVICE_FEATURES) & 1, (F_VERSION_1 >> 32) as u32);
        driver.write(offset::DEVICE_FEATURES_SEL, 7);
        assert_eq!(driver.read(offset::DEVICE_FEATURES), 0);
        assert_eq!(driver.read(offset::SHM_LEN_LOW), u32::MAX);
        driver.write(offset::QUEUE_SEL, 99);
        assert_eq!(driver.read(offset::QUEUE_NUM_MAX), 0);
    }
}

#[test]
fn the_configuration_space_reads_in_every_width() {
    let driver = Driver::new(testing::net().0);
    // An address, the link's status, the pairs of queues, no MTU.
    let mut whole = [0; 12];
    driver.device.read(offset::CONFIG, &mut whole);
    assert_eq!(whole, [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0]);
    let mut end = [0xaa; 8];
    driver.device.read(offset::CONFIG + 5, &mut end);
    assert_eq!(end, [1, 1, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let driver = Driver::new(Rng);
    driver.negotiate(1);
    assert_eq!(driver.read(offset::STATUS) & status::FEATURES_OK, 0);
    // A legacy driver does not know VERSION_1.
    driver.write(offset::STATUS, 0);
    driver.write(offset::STATUS, 3);
    driver.write(offset::STATUS, 11);
    assert_eq!(driver.read(offset::STATUS), 3);
    // Nor can it go live without.
    driver.write(offset::STATUS, 15);
    assert_eq!(driver.read(offset::STATUS), 3);
    driver.negotiate(F_EVENT_IDX);
    assert_eq!(driver.read(offset::STATUS), 11);
}

#[test]
fn queues_are_set_up_in_their_time_and_reset_with_the_device() {
    let driver = Driver::new(Rng);
    driver.set_up_queues();
    assert_eq!(driver.read(offset::QUEUE_READY), 0, "before negotiation");
    driver.start(0);
    assert_eq!(driver.read(offset::QUEUE_READY), 1);
    driver.write(offset::QUEUE_READY, 0);
    assert_eq!(driver.read(offset::QUEUE_READY), 1, "live");
    driver.write(offset::STATUS, 0);
    assert_eq!((driver.read(offset::STATUS), driver.read(offset::QUEUE_READY)), (0, 0));
}

#[test]
fn rings_outside_memory_are_refused() {
    for register in [offset::QUEUE_DESC_HIGH, offset::QUEUE_DRIVER_HIGH, offset::QUEUE_DEVICE_HIGH] {
        let driver = Driver::new(Rng);
        driver.negotiate(0);
        driver.set_up_queues();
        driver.write(offset::QUEUE_READY, 0);
        driver.write(register, 0xffff_ffff);
        driver.write(offset::QUEUE_READY, 1);
        assert_eq!(driver.read(offset::QUEUE_READY), 0);
        assert!(driver.needs_reset());
    }
}

#[test]
fn an_interrupt_is_read_and_acknowledged() {
    let mut driver = Driver::new(Rng);
    driver.start(0);
    driver.submit(0, &[(DATA, 16, WRITE)]);
    driver.kick(0);
    assert_eq!(driver.used(0), [(0, 16)]);
    assert_eq!(driver.read(offset::INTERRUPT_STATUS), 1);
    assert_eq!(driver.device.interrupt().line().read().unwrap(), 1);
    driver.write(offset::INTERRUPT_ACK, 1);
    assert_eq!(driver.read(offset::INTERRUPT_STATUS), 0);
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let mut driver = Driver::new(Rng);
    driver.start(F_EVENT_IDX);
    // The used event, behind the available ring's elements: far ahead.
    driver.memory.write_obj(9u16, GuestAddress(Driver::ring(0)[1] + 4 + 32)).unwrap();
    driver.submit(0, &[(DATA, 16, WRITE)]);
    driver.kick(0);
    assert_eq!(driver.used(0).len(), 1);
    assert_eq!(driver.read(offset::INTERRUPT_STATUS), 0);
}

#[test]
fn what_was_queued_before_the_driver_was_ready_is_kicked() {
    let driver = Driver::new(Rng);
    driver.start(0);
    assert!(driver.device.kicks()[0].read().is_ok());
}

/// Makes a chain of `length` descriptors of a byte each available, in a table of their own but for the first `outside`.
fn offer_indirect(driver: &mut Driver, outside: u16, length: u16) {
    const TABLE: u64 = DATA + 0x1000;
    let inside = length - outside;
    for index in 0..outside {
        driver.put_descriptor(0, index, DATA, 1, WRITE | NEXT, index + 1);
    }
    driver.put_descriptor(0, outside, TABLE, u32::from(inside) * 16, INDIRECT, 0);
    for index in 0..inside {
        let more = if index + 1 < inside { NEXT } else { 0 };
        let rest = 1 | u64::from(WRITE | more) << 32 | u64::from(index + 1) << 48;
        driver.memory.write_obj([DATA, rest], GuestAddress(TABLE + u64::from(index) * 16)).unwrap();
    }
    driver.offer(0, 0);
}

#[test]
fn a_chain_may_be_as_long_as_its_queue() {
    for outside in [0, 1, 5] {
        let mut driver = Driver::new(Rng);
        driver.start(F_INDIRECT_DESC);
        offer_indirect(&mut driver, outside, RING);
        driver.kick(0);
        assert_eq!((driver.used(0), driver.needs_reset()), (vec![(0, RING.into())], false), "{outside}");
    }
}

/// What a broken chain looks like.
type Sabotage = fn(&mut Driver);

#[test]
fn a_driver_that_breaks_the_rules_loses_its_device() {
    let sabotages: [(&str, Sabotage); 10] = [
        ("an index from nowhere", |driver| driver.put(Driver::ring(0)[1] + 2, &[0xff, 0x7f])),
        ("a head outside the table", |driver| driver.offer(0, 500)),
        ("a chain that bites its tail", |driver| {
            driver.put_descriptor(0, 0, DATA, 16, 3, 0);
            driver.offer(0, 0);
        }),
        ("a next outside the table", |driver| {
            driver.put_descriptor(0, 0, DATA, 16, 3, 77);
            driver.offer(0, 0);
        }),
        ("an address outside memory", |driver| {
            driver.submit(0, &[(1 << 40, 16, WRITE)]);
        }),
        ("a length that wraps around", |driver| {
            driver.submit(0, &[(u64::MAX - 3, 16, WRITE)]);
        }),
        ("a table of indirect descriptors outside memory", |driver| {
            driver.put_descriptor(0, 0, 1 << 40, 64, 4, 0);
            driver.offer(0, 0);
        }),
        ("a table longer than the queue", |driver| offer_indirect(driver, 0, RING + 1)),
        ("a table longer than what is left of the queue", |driver| offer_indirect(driver, 3, RING + 1)),
        ("nothing to write to", |driver| {
            driver.submit(0, &[(DATA, 16, 0)]);
        }),
    ];
    for (name, sabotage) in sabotages {
        let mut driver = Driver::new(Rng);
        driver.start(0);
        sabotage(&mut driver);
        driver.kick(0);
        assert!(driver.needs_reset(), "{name}");
        assert_eq!(driver.read(offset::INTERRUPT_STATUS), 2, "{name}");
        driver.kick(0);
        assert!(driver.used(0).is_empty(), "{name}");
        driver.start(0);
        assert!(!driver.needs_reset(), "{name}: a reset heals");
    }
}

#[derive(Clone, Debug)]
enum Move {
    Read(u64, usize),
    Write(u64, u32),
    WriteWide(u64, Vec<u8>),
    Ring(usize, usize, u64, u64),
    Offer(usize, u16),
    Service(usize),
    Backend,
    Start(u32),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let register = prop_oneof![0u64..0x200, (0u64..0x40).prop_map(|n| n * 4)];
    // Values that are plausible more often than chance would have it.
    let value = prop_oneof![any::<u32>(), 0u32..32, Just(0x1_0000), Just(0x2_0000)];
    let word = prop_oneof![
        any::<u64>(),
        0u64..testing::MEMORY,
        (0u64..64, 0u64..8, 0u64..20).prop_map(|(l, f, n)| l | f << 32 | n << 48)
    ];
    let one = prop_oneof![
        (register.clone(), 1usize..=8).prop_map(|(at, width)| Move::Read(at, width)),
        (register.clone(), value).prop_map(|(at, value)| Move::Write(at, value)),
        (register, prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Move::WriteWide(at, bytes)),
        (0usize..2, 0usize..3, 0u64..32, word)
            .prop_map(|(queue, part, slot, word)| Move::Ring(queue, part, slot, word)),
        (0usize..2, 0u16..20).prop_map(|(queue, head)| Move::Offer(queue, head)),
        (0usize..3).prop_map(Move::Service),
        Just(Move::Backend),
        any::<u32>().prop_map(Move::Start),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No guest, whatever it does to registers and rings, makes a device panic or hang.
    #[test]
    fn a_hostile_guest_harms_only_itself(moves in moves()) {
        let (drivers, wire) = one_of_each();
        for mut driver in drivers {
            driver.start(0);
            for step in &moves {
                match step.clone() {
                    Move::Read(at, width) => driver.device.read(at, &mut vec![0; width]),
                    Move::Write(at, value) => driver.write(at, value),
                    Move::WriteWide(at, bytes) => driver.device.write(at, &bytes),
                    Move::Ring(queue, part, slot, word) => {
                        driver.put(Driver::ring(queue)[part] + slot * 8, &word.to_le_bytes());
                    }
                    Move::Offer(queue, head) => driver.offer(queue % driver.device.kicks().len(), head),
                    Move::Service(queue) => driver.kick(queue),
                    Move::Backend => {
                        let _ = wire.send(&[0; 100]);
                        driver.rouse(0);
                    }
                    Move::Start(features) => driver.start(features.into()),
                }
            }
        }
    }
}
