use proptest::prelude::*;

use crate::console::{Input, RING_BYTES};
use crate::serial::INPUT_MAX;
use crate::virtio::Progress;
use crate::virtio::registers::{offset, status};
use crate::virtio::testing::{DATA, Driver, MEMORY, RING, WRITE, console};

const RX: usize = 0;
const TX: usize = 1;

fn started() -> (Driver, std::sync::Arc<Input>) {
    let (device, input) = console();
    let driver = Driver::new(device);
    driver.start(1);
    (driver, input)
}

fn output(input: &Input) -> Vec<u8> {
    let mut bytes = vec![0; 2 * RING_BYTES];
    let (_, count) = input.console().read(0, &mut bytes);
    bytes.truncate(count);
    bytes
}

#[test]
fn what_the_guest_writes_is_in_the_ring() {
    let (mut driver, input) = started();
    driver.put(DATA, b"hello, world");
    driver.submit(TX, &[(DATA, 5, 0), (DATA + 5, 7, 0)]);
    driver.kick(TX);
    assert_eq!(driver.used(TX).len(), 1);
    assert_eq!(output(&input), b"hello, world");
}

#[test]
fn a_buffer_larger_than_the_ring_leaves_its_end() {
    let (mut driver, input) = started();
    driver.put(DATA, &vec![b'.'; 0x4_0000]);
    driver.put(MEMORY - 3, b"end");
    // More than the guest's memory in one chain: the same pieces again and again.
    let pieces = [(0, MEMORY as u32, 0); RING as usize - 1];
    driver.submit(TX, &pieces);
    driver.kick(TX);
    assert_eq!(driver.used(TX).len(), 1);
    let text = output(&input);
    assert_eq!(text.len(), RING_BYTES);
    assert!(text.ends_with(b"end"));
}

#[test]
fn input_waits_for_buffers_and_for_a_driver() {
    let (mut driver, input) = started();
    assert_eq!(input.put(b"typed"), Some(5));
    driver.rouse(0);
    assert!(driver.used(RX).is_empty());
    driver.submit(RX, &[(DATA, 3, WRITE)]);
    driver.submit(RX, &[(DATA + 0x100, 0x100, WRITE)]);
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 3), (1, 2)]);
    assert_eq!([driver.bytes(DATA, 3), driver.bytes(DATA + 0x100, 3)], [b"typ".to_vec(), b"ed\0".to_vec()]);
    driver.write(offset::STATUS, 0);
    assert_eq!(input.put(b"typed"), None);
}

#[test]
fn a_full_queue_of_input_tells_of_room() {
    let (mut driver, input) = started();
    let _ = input.console().event().read();
    assert_eq!(input.put(&vec![b'x'; INPUT_MAX]), Some(INPUT_MAX));
    driver.submit(RX, &[(DATA, 64, WRITE)]);
    driver.kick(RX);
    assert_eq!(input.room(), Some(64));
    assert_eq!(input.console().event().read().unwrap(), 1);
}

#[test]
fn the_size_is_the_classic_one() {
    let (driver, _) = started();
    assert_eq!(driver.read(offset::CONFIG), 80 | 25 << 16);
    assert_eq!(driver.read(offset::CONFIG + 4), 0);
}

#[test]
fn empty_buffers_are_the_drivers_fault() {
    for (queue, flags) in [(RX, 0), (TX, WRITE)] {
        let (mut driver, input) = started();
        input.put(b"x");
        driver.submit(queue, &[(DATA, 16, flags)]);
        driver.kick(queue);
        assert!(driver.needs_reset());
        assert_eq!(driver.read(offset::STATUS) & status::NEEDS_RESET, status::NEEDS_RESET);
        assert_eq!(input.room(), None);
    }
}

proptest! {
    #[test]
    fn input_arrives_whole_and_in_order(
        typed in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 1..12),
        lengths in prop::collection::vec(1u32..200, 1..40),
    ) {
        let (mut driver, input) = started();
        let mut got = Vec::new();
        let mut lengths = lengths.iter().cycle();
        for text in &typed {
            prop_assert_eq!(input.put(text), Some(text.len()));
        }
        while got.len() < typed.concat().len() {
            driver.submit(RX, &[(DATA, *lengths.next().unwrap(), WRITE)]);
            prop_assert_eq!(driver.wake(RX), Progress::Done);
            for (_, count) in driver.used(RX) {
                got.extend(driver.bytes(DATA, count as usize));
            }
        }
        prop_assert_eq!(got, typed.concat());
    }
}
