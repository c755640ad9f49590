use proptest::prelude::*;

use super::NUMBERS_MAX;
use crate::virtio::registers::offset;
use crate::virtio::testing::{DATA, Driver, MEMORY, WRITE, balloon};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const REPORT: usize = 2;
/// Offset of `actual` in the device's window.
const ACTUAL: u64 = offset::CONFIG + 4;
/// Behind the rings and the numbers.
const FIRST: u32 = (DATA >> 12) as u32 + 4;
const LAST: u32 = (MEMORY >> 12) as u32 - 1;

fn started() -> Driver {
    let driver = Driver::new(balloon().0);
    driver.start(1 << 2 | 1 << 5);
    for page in FIRST..=LAST {
        driver.put(u64::from(page) << 12, &[0xaa; 4096]);
    }
    driver
}

fn pages(driver: &mut Driver, queue: usize, numbers: &[u32]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    driver.put(DATA, &bytes);
    driver.submit(queue, &[(DATA, bytes.len() as u32, 0)]);
    driver.kick(queue);
}

/// The pages of which nothing is left.
fn gone(driver: &Driver) -> Vec<u32> {
    let is_gone = |page: &u32| match driver.bytes(u64::from(*page) << 12, 4096) {
        bytes if bytes == [0; 4096] => true,
        bytes => {
            assert_eq!(bytes, [0xaa; 4096], "half of page {page} is gone");
            false
        }
    };
    (FIRST..=LAST).filter(is_gone).collect()
}

#[test]
fn the_configuration_space_is_spoken_both_ways() {
    let (device, metrics) = balloon();
    let driver = Driver::new(device);
    driver.start(0);
    assert_eq!([driver.read(offset::CONFIG), driver.read(ACTUAL)], [512, 0]);
    driver.write(ACTUAL, 256);
    driver.write(offset::CONFIG, 7);
    assert_eq!([driver.read(offset::CONFIG), driver.read(ACTUAL)], [512, 256]);
    assert_eq!((metrics.stats().target_mib, metrics.stats().actual_mib), (2, 1));
    metrics.set_target_mib(3);
    assert_eq!(driver.read(offset::CONFIG), 768);
    // A driver that begins afresh has an empty balloon.
    driver.start(0);
    assert_eq!(driver.read(ACTUAL), 0);
}

#[test]
fn deflating_gives_nothing_back_and_takes_nothing() {
    let mut driver = started();
    pages(&mut driver, DEFLATE, &[FIRST, u32::MAX]);
    assert_eq!(driver.used(DEFLATE), [(0, 0)]);
    assert!(gone(&driver).is_empty() && !driver.needs_reset());
}

#[test]
fn a_page_that_is_not_the_guests_is_the_drivers_fault() {
    for wild in [LAST + 1, 0xd_0000, u32::MAX] {
        let mut driver = started();
        pages(&mut driver, INFLATE, &[FIRST, wild]);
        assert!(driver.needs_reset() && gone(&driver).is_empty());
    }
}

#[test]
fn of_a_long_chain_only_the_beginning_counts() {
    let mut driver = started();
    let mut numbers = vec![FIRST; NUMBERS_MAX];
    numbers.push(FIRST + 1);
    pages(&mut driver, INFLATE, &numbers);
    assert_eq!(gone(&driver), [FIRST]);
}

#[test]
fn reported_pages_go_as_a_whole() {
    let (device, metrics) = balloon();
    let mut driver = Driver::new(device);
    driver.start(1 << 5);
    for page in FIRST..=LAST {
        driver.put(u64::from(page) << 12, &[0xaa; 4096]);
    }
    let at = u64::from(FIRST) << 12;
    // Two pages and a half, the middle of which two buffers share.
    driver.submit(REPORT, &[(at, 0x1800, WRITE), (at + 0x1800, 0x1000, WRITE)]);
    driver.kick(REPORT);
    assert_eq!(driver.used(REPORT), [(0, 0)]);
    assert_eq!(gone(&driver), [FIRST, FIRST + 1]);
    assert_eq!(metrics.stats().reported_bytes, 0x2800);
    driver.submit(REPORT, &[(at, 0x1000, 0)]);
    driver.kick(REPORT);
    assert!(driver.needs_reset());
}

#[test]
fn without_reporting_there_is_no_third_queue() {
    let driver = Driver::new(super::super::Balloon::new(&thimble_spec::vmm::Balloon::default(), 4096));
    driver.start(0);
    driver.write(offset::QUEUE_SEL, REPORT as u32);
    assert_eq!(driver.read(offset::QUEUE_NUM_MAX), 0);
    driver.write(offset::DEVICE_FEATURES_SEL, 0);
    assert_eq!(driver.read(offset::DEVICE_FEATURES) & 0xff, 0);
}

#[test]
fn huge_pages_go_as_a_whole_or_not_at_all() {
    let mut driver = Driver::new(super::super::Balloon::new(&thimble_spec::vmm::Balloon::default(), 2 << 20));
    driver.start(0);
    driver.put(u64::from(FIRST) << 12, &[0xaa; 4096]);
    pages(&mut driver, INFLATE, &[FIRST]);
    assert_eq!(driver.bytes(u64::from(FIRST) << 12, 4096), [0xaa; 4096]);
    assert!(!driver.needs_reset());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn just_the_pages_in_the_balloon_are_gone(numbers in prop::collection::vec(FIRST..=LAST, 0..100)) {
        let mut driver = started();
        // An empty chain is none.
        prop_assume!(!numbers.is_empty());
        pages(&mut driver, INFLATE, &numbers);
        let expected: std::collections::BTreeSet<u32> = numbers.into_iter().collect();
        prop_assert_eq!(gone(&driver), Vec::from_iter(expected));
    }
}
