use std::io::{Read, Seek, Write};

use crate::virtio::testing::{DATA, Driver, WRITE, block};

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

/// Carries out a request with `buffer` between header and status; says what the driver is told and the used length.
fn request(driver: &mut Driver, kind: u32, sector: u64, buffer: &[(u64, u32, u16)]) -> (u8, u32) {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    driver.put(HEADER, &header);
    driver.put(STATUS, &[0xee]);
    let chain = [&[(HEADER, 16, 0)], buffer, &[(STATUS, 1, WRITE)]].concat();
    driver.submit(0, &chain);
    driver.kick(0);
    assert!(!driver.needs_reset());
    (driver.bytes(STATUS, 1)[0], driver.used(0)[0].1)
}

fn started(read_only: bool) -> (Driver, std::fs::File) {
    let (device, file) = block(read_only);
    let driver = Driver::new(device);
    driver.start(0);
    (driver, file)
}

#[test]
fn what_is_written_can_be_read() {
    let (mut driver, mut file) = started(false);
    driver.put(BUFFER, &[7; 1024]);
    assert_eq!(request(&mut driver, 1, 2, &[(BUFFER, 100, 0), (BUFFER + 100, 924, 0)]), (S_OK, 1));
    assert_eq!(request(&mut driver, 0, 1, &[(BUFFER + 0x1000, 2048, WRITE)]), (S_OK, 2049));
    let bytes = driver.bytes(BUFFER + 0x1000, 2048);
    assert!(bytes[..512].iter().all(|byte| *byte == 0) && bytes[512..1536].iter().all(|byte| *byte == 7));
    let mut on_disk = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut on_disk).unwrap();
    assert_eq!(on_disk.iter().filter(|byte| **byte == 7).count(), 1024);
    assert_eq!(request(&mut driver, 4, 0, &[]), (S_OK, 1));
}

#[test]
fn header_and_status_may_share_their_buffers() {
    let (mut driver, mut file) = started(false);
    file.write_all(&[9; 512]).unwrap();
    driver.put(HEADER, &[0; 16]);
    driver.submit(0, &[(HEADER, 7, 0), (HEADER + 7, 9, 0), (BUFFER, 13, WRITE), (BUFFER + 13, 500, WRITE)]);
    driver.kick(0);
    assert_eq!(driver.used(0)[0].1, 513);
    assert_eq!(driver.bytes(BUFFER, 513), [vec![9; 512], vec![S_OK]].concat());
}

#[test]
fn beyond_the_end_there_is_an_error() {
    let (mut driver, file) = started(false);
    for (sector, length) in [(8, 512), (7, 1024), (u64::MAX, 512), (1 << 55, 512), (0, 511)] {
        for kind in [0, 1] {
            let flags = if kind == 0 { WRITE } else { 0 };
            let answer = request(&mut driver, kind, sector, &[(BUFFER, length, flags)]);
            assert_eq!(answer, (S_IOERR, 1), "{kind} {sector} {length}");
        }
    }
    assert_eq!(file.metadata().unwrap().len(), 4096);
}

#[test]
fn an_image_that_ends_within_a_sector_reads_as_zeros_behind() {
    let (mut driver, file) = started(true);
    (&file).write_all(&[5; 100]).unwrap();
    file.set_len(100).unwrap();
    driver.put(BUFFER, &[0xff; 512]);
    assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 512, WRITE)]), (S_OK, 513));
    assert_eq!(driver.bytes(BUFFER, 512), [vec![5; 100], vec![0; 412]].concat());
}

#[test]
fn a_read_only_disk_is_not_written() {
    let (mut driver, _) = started(true);
    for kind in [1, 11, 13] {
        assert_eq!(request(&mut driver, kind, 0, &[(BUFFER, 512, 0)]).0, S_IOERR);
    }
}

#[test]
fn a_failing_host_is_an_error_in_the_guest() {
    // A file that was opened for writing only.
    let file = tempfile::NamedTempFile::new().unwrap();
    let write_only = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
    let mut driver = Driver::new(crate::virtio::block::Block::on(write_only, 8, false));
    driver.start(0);
    assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 512, WRITE)]).0, S_IOERR);
    // A full one.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut driver = Driver::new(crate::virtio::block::Block::on(full, 8, false));
    driver.start(0);
    assert_eq!(request(&mut driver, 1, 0, &[(BUFFER, 512, 0)]).0, S_IOERR);
}

#[test]
fn a_disk_has_a_name() {
    let (mut driver, _) = started(false);
    assert_eq!(request(&mut driver, 8, 0, &[(BUFFER, 20, WRITE)]), (S_OK, 21));
    assert_eq!(driver.bytes(BUFFER, 20), [b"disk0".as_slice(), &[0; 15]].concat());
}

#[test]
fn sectors_can_be_given_back() {
    let (mut driver, mut file) = started(false);
    file.write_all(&[1; 4096]).unwrap();
    let segment = |sector: u64, count: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    for (kind, bytes, status) in [
        (13, segment(0, 1, 1), S_OK),
        (11, segment(1, 1, 0), S_OK),
        (11, segment(8, 1, 0), S_IOERR),
        (11, segment(0, 1, 1), S_UNSUPP),
        (13, segment(0, 1, 2), S_UNSUPP),
        (13, segment(0, u32::MAX, 0), S_UNSUPP),
    ] {
        driver.put(BUFFER, &bytes);
        assert_eq!(request(&mut driver, kind, 0, &[(BUFFER, 16, 0)]).0, status, "{kind} {bytes:?}");
    }
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, [vec![0; 1024], vec![1; 3072]].concat());
}

#[test]
fn an_unknown_request_is_unsupported() {
    let (mut driver, _) = started(false);
    assert_eq!(request(&mut driver, 99, 0, &[]).0, S_UNSUPP);
}

#[test]
fn a_request_without_a_header_or_a_status_is_the_drivers_fault() {
    for chain in [vec![(HEADER, 15, 0), (STATUS, 1, WRITE)], vec![(HEADER, 16, 0)], vec![(STATUS, 1, WRITE)]] {
        let (mut driver, _) = started(false);
        driver.submit(0, &chain);
        driver.kick(0);
        assert!(driver.needs_reset());
    }
}
