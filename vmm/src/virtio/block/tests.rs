use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use imago::FormatCreateBuilder;
use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use thimble_spec::vmm::{Disk, DiskEngine, DiskFormat, Limits, Rate};

use super::Block;
use super::config::{F_FLUSH, F_MQ};
use crate::virtio::VirtioDevice;
use crate::virtio::registers::offset;
use crate::virtio::testing::{DATA, Driver, WRITE, block};

/// Each of these tests, for each engine of raw disks.
macro_rules! for_each_engine {
    ($($name:ident)*) => {
        mod sync {
            $(#[test] fn $name() { super::$name(super::DiskEngine::Sync); })*
        }
        mod uring {
            $(#[test] fn $name() { super::$name(super::DiskEngine::Uring); })*
        }
    };
}

for_each_engine! {
    what_is_written_can_be_read
    header_and_status_may_share_their_buffers
    beyond_the_end_there_is_an_error
    an_image_that_ends_within_a_sector_reads_as_zeros_behind
    a_read_only_disk_is_not_written
    a_failing_host_is_an_error_in_the_guest
    a_full_host_lets_the_guest_wait
    a_disk_has_a_name
    sectors_can_be_given_back
    an_unknown_request_is_unsupported
    a_request_without_a_header_or_a_status_is_the_drivers_fault
    many_requests_are_answered_each_once
    a_reset_waits_for_what_is_on_its_way
    a_limit_holds_requests_back
}

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
pub(super) const BUFFER: u64 = DATA + 0x1000;
pub(super) const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

/// Carries out a request with `buffer` between header and status; says what the driver is told and the used length.
pub(super) fn request(driver: &mut Driver, kind: u32, sector: u64, buffer: &[(u64, u32, u16)]) -> (u8, u32) {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    driver.put(HEADER, &header);
    driver.put(STATUS, &[0xee]);
    let chain = [&[(HEADER, 16, 0)], buffer, &[(STATUS, 1, WRITE)]].concat();
    driver.submit(0, &chain);
    driver.kick(0);
    let used = used(driver, 1);
    (driver.bytes(STATUS, 1)[0], used[0].1)
}

/// Waits until the device has used `count` chains.
pub(super) fn used(driver: &mut Driver, count: usize) -> Vec<(u32, u32)> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut used = driver.used(0);
    while used.len() < count {
        assert!(!driver.needs_reset() && Instant::now() < deadline, "{used:?}");
        std::thread::sleep(Duration::from_micros(100));
        driver.rouse(1);
        used.extend(driver.used(0));
    }
    used
}

fn started(read_only: bool, engine: DiskEngine) -> (Driver, File) {
    let (device, file) = block(read_only, engine);
    let driver = Driver::new(device);
    driver.start(0);
    (driver, file)
}

fn what_is_written_can_be_read(engine: DiskEngine) {
    let (mut driver, mut file) = started(false, engine);
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

fn header_and_status_may_share_their_buffers(engine: DiskEngine) {
    let (mut driver, mut file) = started(false, engine);
    file.write_all(&[9; 512]).unwrap();
    driver.put(HEADER, &[0; 16]);
    driver.submit(0, &[(HEADER, 7, 0), (HEADER + 7, 9, 0), (BUFFER, 13, WRITE), (BUFFER + 13, 500, WRITE)]);
    driver.kick(0);
    assert_eq!(used(&mut driver, 1)[0].1, 513);
    assert_eq!(driver.bytes(BUFFER, 513), [vec![9; 512], vec![S_OK]].concat());
}

fn beyond_the_end_there_is_an_error(engine: DiskEngine) {
    let (mut driver, file) = started(false, engine);
    for (sector, length) in [(8, 512), (7, 1024), (u64::MAX, 512), (1 << 55, 512), (0, 511)] {
        for kind in [0, 1] {
            let flags = if kind == 0 { WRITE } else { 0 };
            let answer = request(&mut driver, kind, sector, &[(BUFFER, length, flags)]);
            assert_eq!(answer, (S_IOERR, 1), "{kind} {sector} {length}");
        }
    }
    assert_eq!(file.metadata().unwrap().len(), 4096);
}

fn an_image_that_ends_within_a_sector_reads_as_zeros_behind(engine: DiskEngine) {
    let (mut driver, file) = started(true, engine);
    (&file).write_all(&[5; 100]).unwrap();
    file.set_len(100).unwrap();
    driver.put(BUFFER, &[0xff; 512]);
    assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 512, WRITE)]), (S_OK, 513));
    assert_eq!(driver.bytes(BUFFER, 512), [vec![5; 100], vec![0; 412]].concat());
}

fn a_read_only_disk_is_not_written(engine: DiskEngine) {
    let (mut driver, _) = started(true, engine);
    for kind in [1, 11, 13] {
        assert_eq!(request(&mut driver, kind, 0, &[(BUFFER, 512, 0)]).0, S_IOERR);
    }
}

fn a_failing_host_is_an_error_in_the_guest(engine: DiskEngine) {
    // A file that was opened for writing only.
    let file = tempfile::NamedTempFile::new().unwrap();
    let write_only = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
    let mut driver = Driver::new(Block::on(write_only, 8, false, engine));
    driver.start(0);
    assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 512, WRITE)]).0, S_IOERR);
}

fn a_full_host_lets_the_guest_wait(engine: DiskEngine) {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let device = Block::on(full, 8, false, engine);
    let handle = device.handle();
    let mut driver = Driver::new(device);
    driver.start(0);
    driver.put(HEADER, &[1_u32.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat());
    driver.submit(0, &[(HEADER, 16, 0), (BUFFER, 512, 0), (STATUS, 1, WRITE)]);
    driver.kick(0);
    // However often it is tried again.
    let deadline = Instant::now() + Duration::from_secs(10);
    while handle.stats().waiting != 1 {
        assert!(Instant::now() < deadline);
        driver.rouse(1);
    }
    driver.rouse(1);
    assert!(driver.used(0).is_empty() && !driver.needs_reset());
    assert_eq!(handle.stats().errors, 0);
    // A reset lets go of it.
    driver.start(0);
    assert_eq!(handle.stats().waiting, 0);
}

fn a_disk_has_a_name(engine: DiskEngine) {
    let (mut driver, _) = started(false, engine);
    assert_eq!(request(&mut driver, 8, 0, &[(BUFFER, 20, WRITE)]), (S_OK, 21));
    assert_eq!(driver.bytes(BUFFER, 20), [b"disk0".as_slice(), &[0; 15]].concat());
}

fn sectors_can_be_given_back(engine: DiskEngine) {
    let (mut driver, mut file) = started(false, engine);
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

fn an_unknown_request_is_unsupported(engine: DiskEngine) {
    let (mut driver, _) = started(false, engine);
    assert_eq!(request(&mut driver, 99, 0, &[]).0, S_UNSUPP);
}

fn a_request_without_a_header_or_a_status_is_the_drivers_fault(engine: DiskEngine) {
    for chain in [vec![(HEADER, 15, 0), (STATUS, 1, WRITE)], vec![(HEADER, 16, 0)], vec![(STATUS, 1, WRITE)]] {
        let (mut driver, _) = started(false, engine);
        driver.submit(0, &chain);
        driver.kick(0);
        assert!(driver.needs_reset());
    }
}

fn many_requests_are_answered_each_once(engine: DiskEngine) {
    let (mut driver, mut file) = started(false, engine);
    for round in 0..50u8 {
        // Five reads at once, three descriptors each: as many as the ring holds.
        file.rewind().unwrap();
        file.write_all(&[round; 4096]).unwrap();
        let mut heads = Vec::new();
        for index in 0..5u64 {
            let header = DATA + index * 0x20;
            driver.put(header, &[&0u32.to_le_bytes()[..], &[0; 4], &index.to_le_bytes()].concat());
            let chain = [(header, 16, 0), (BUFFER + index * 512, 512, WRITE), (DATA + 0x200 + index, 1, WRITE)];
            heads.push(u32::from(driver.submit(0, &chain)));
        }
        driver.kick(0);
        let mut answered: Vec<u32> = used(&mut driver, 5).into_iter().map(|(head, _)| head).collect();
        answered.sort_unstable();
        heads.sort_unstable();
        assert_eq!(answered, heads);
        assert_eq!(driver.bytes(BUFFER, 2560), vec![round; 2560]);
        assert_eq!(driver.bytes(DATA + 0x200, 5), [S_OK; 5]);
    }
}

fn a_reset_waits_for_what_is_on_its_way(engine: DiskEngine) {
    let (mut driver, _file) = started(false, engine);
    for _ in 0..20 {
        driver.put(HEADER, &[0; 16]);
        driver.submit(0, &[(HEADER, 16, 0), (BUFFER, 4096, WRITE), (STATUS, 1, WRITE)]);
        driver.kick(0);
        driver = driver.restarted(0);
        driver.put(BUFFER, &[3; 4096]);
        driver.rouse(1);
        assert_eq!(driver.bytes(BUFFER, 4096), vec![3; 4096], "nothing is written after the reset");
    }
    driver.put(HEADER, &[0; 16]);
    assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 512, WRITE)]), (S_OK, 513));
}

fn a_limit_holds_requests_back(engine: DiskEngine) {
    let (device, _file) = block(false, engine);
    let handle = device.handle();
    let mut driver = Driver::new(device);
    driver.start(0);
    let rate = Rate { per_second: 1000, burst: Some(512) };
    handle.limit(Limits { bandwidth: Some(rate), operations: None });
    let began = Instant::now();
    assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 512, WRITE)]).0, S_OK);
    driver.submit(0, &[(HEADER, 16, 0), (BUFFER, 512, WRITE), (STATUS, 1, WRITE)]);
    driver.kick(0);
    while driver.used(0).is_empty() {
        // What the lane's thread does when the timer fires, and when the engine is done.
        std::thread::sleep(Duration::from_millis(5));
        driver.rouse(0);
        driver.rouse(1);
    }
    assert!(began.elapsed() >= Duration::from_millis(511), "512 bytes at 1000 a second: {:?}", began.elapsed());
    assert!(handle.stats().throttled >= 1);
    assert_eq!((handle.stats().reads, handle.stats().read_bytes), (2, 1024));
}

#[test]
fn a_disk_grows_and_does_not_shrink() {
    let (device, file) = block(false, DiskEngine::Sync);
    let handle = device.handle();
    let mut driver = Driver::new(device);
    driver.start(0);
    assert_eq!(handle.resize(Some(8192)), Ok(()));
    driver.device.config_changed();
    assert_eq!(file.metadata().unwrap().len(), 8192);
    let mut sectors = [0; 8];
    driver.device.read(offset::CONFIG, &mut sectors);
    assert_eq!((u64::from_le_bytes(sectors), driver.read(offset::CONFIG_GENERATION)), (16, 1));
    assert_eq!(driver.read(offset::INTERRUPT_STATUS) & 2, 2);
    assert_eq!(request(&mut driver, 0, 15, &[(BUFFER, 512, WRITE)]).0, S_OK);

    file.set_len(16384).unwrap();
    assert!(handle.resize(Some(12288)).unwrap_err().contains("has 16384 bytes by now"), "nothing is cut off");
    assert_eq!(handle.resize(None), Ok(()));
    assert_eq!(handle.stats().bytes, 16384);
    assert!(handle.resize(Some(512)).unwrap_err().contains("does not shrink"));
    assert!(handle.resize(Some(20001)).unwrap_err().contains("whole sectors"));
    file.set_len(512).unwrap();
    assert!(handle.resize(None).unwrap_err().contains("has shrunk"));
    let (read_only, _file) = block(true, DiskEngine::Sync);
    assert!(read_only.handle().resize(Some(8192)).unwrap_err().contains("read-only"));
}

/// A disk of 64 KiB in a file.
fn description(format: DiskFormat) -> (Disk, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    match format {
        DiskFormat::Raw => File::create(&path).unwrap().set_len(65536).unwrap(),
        DiskFormat::Qcow2 => make_qcow2(&path, None),
    }
    (Disk { path, format, ..Disk::default() }, directory)
}

/// Does `work` on a thread for which the system call `call` fails with `error`.
pub(super) fn while_failing<T: Send>(call: libc::c_long, error: i32, work: impl FnOnce() -> T + Send) -> T {
    let rules = BTreeMap::from([(call, Vec::new())]);
    let fails = SeccompAction::Errno(error.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, fails, TargetArch::x86_64).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    let filtered = move || {
        apply_filter(&filter).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(filtered).join().unwrap())
}

/// Makes a qcow2 image of 64 KiB; a backing file has a name and a format.
pub(super) fn make_qcow2(path: &Path, backing: Option<(&str, &str)>) {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut image = Qcow2::<Storage>::create_builder(Storage::try_from(file).unwrap()).size(65536);
    if let Some((name, format)) = backing {
        image = image.backing(name.to_owned(), format.to_owned());
    }
    image.create().unwrap();
}

#[test]
fn several_queues_serve_one_disk() {
    let (mut description, _directory) = description(DiskFormat::Raw);
    description.queues = Some(3);
    let mut device = Block::open(&description, 0).unwrap();
    assert_eq!((device.queue_sizes().len(), device.features() & F_MQ), (3, F_MQ));
    let mut count = [0; 2];
    device.read_config(34, &mut count);
    assert_eq!(count, [3, 0]);
    assert_eq!(
        device.take_lanes().iter().map(|lane| lane.name()).collect::<Vec<_>>(),
        ["disk0.0", "disk0.1", "disk0.2"]
    );
    for queues in [0, 17] {
        description.queues = Some(queues);
        assert!(Block::open(&description, 0).err().unwrap().sentence().contains("give it 1 to 16"));
    }
}

#[test]
fn a_disk_belongs_to_one_guest() {
    let (description, _directory) = description(DiskFormat::Raw);
    let first = Block::open(&description, 0).unwrap();
    assert!(Block::open(&description, 1).err().unwrap().sentence().contains("used by another guest"));
    drop(first);
    let shared = Disk { read_only: true, ..description };
    let _both = (Block::open(&shared, 0).unwrap(), Block::open(&shared, 1).unwrap());
}

#[test]
fn a_qcow2_image_is_a_disk() {
    let (description, directory) = description(DiskFormat::Qcow2);
    let device = Block::open(&description, 0).unwrap();
    let handle = device.handle();
    let mut driver = Driver::new(device);
    driver.start(F_FLUSH);
    driver.put(BUFFER, &[7; 1024]);
    assert_eq!(request(&mut driver, 1, 2, &[(BUFFER, 100, 0), (BUFFER + 100, 924, 0)]), (S_OK, 1));
    assert_eq!(request(&mut driver, 4, 0, &[]), (S_OK, 1));
    assert_eq!(request(&mut driver, 0, 1, &[(BUFFER + 0x1000, 2048, WRITE)]), (S_OK, 2049));
    let bytes = driver.bytes(BUFFER + 0x1000, 2048);
    assert!(bytes[..512].iter().all(|byte| *byte == 0) && bytes[512..1536].iter().all(|byte| *byte == 7));
    driver.put(BUFFER, &[&2u64.to_le_bytes()[..], &1u32.to_le_bytes(), &1u32.to_le_bytes()].concat());
    assert_eq!(request(&mut driver, 13, 0, &[(BUFFER, 16, 0)]).0, S_OK);
    assert_eq!(request(&mut driver, 0, 2, &[(BUFFER, 512, WRITE)]), (S_OK, 513));
    assert_eq!(driver.bytes(BUFFER, 512), [0; 512]);
    assert_eq!(handle.resize(Some(1 << 20)), Ok(()));
    assert_eq!(request(&mut driver, 0, 2047, &[(BUFFER, 512, WRITE)]), (S_OK, 513));
    // What was flushed is there for the next one who opens it.
    driver.put(BUFFER, &[5; 512]);
    assert_eq!(request(&mut driver, 1, 2047, &[(BUFFER, 512, 0)]), (S_OK, 1));
    assert_eq!(request(&mut driver, 4, 0, &[]), (S_OK, 1));
    // So it is in a copy of the file that somebody makes meanwhile.
    let copy = Disk { path: directory.path().join("copy"), ..description.clone() };
    std::fs::copy(&description.path, &copy.path).unwrap();
    drop(driver);
    drop(handle);
    let mut copied = Driver::new(Block::open(&copy, 0).unwrap());
    copied.start(0);
    for (sector, byte) in [(2047, 5), (3, 7), (2, 0)] {
        assert_eq!(request(&mut copied, 0, sector, &[(BUFFER, 512, WRITE)]), (S_OK, 513));
        assert_eq!(copied.bytes(BUFFER, 512), [byte; 512], "{sector}");
    }
    let mut driver = Driver::new(Block::open(&description, 0).unwrap());
    driver.start(0);
    for (sector, byte) in [(2047, 5), (3, 7), (2, 0)] {
        assert_eq!(request(&mut driver, 0, sector, &[(BUFFER, 512, WRITE)]), (S_OK, 513));
        assert_eq!(driver.bytes(BUFFER, 512), [byte; 512], "{sector}");
    }
}

#[test]
fn a_format_is_never_guessed_and_a_backing_file_never_opened_unasked() {
    let (qcow2, directory) = description(DiskFormat::Qcow2);
    let over = directory.path().join("over");
    make_qcow2(&over, Some(("disk", "qcow2")));
    let named = Disk { path: over, ..qcow2.clone() };
    assert!(Block::open(&named, 0).err().unwrap().sentence().contains("names a backing file"));
    assert!(Block::open(&Disk { backing: Some(directory.path().into()), ..named }, 0).is_ok());
    let as_raw = Disk { format: DiskFormat::Raw, ..qcow2 };
    assert_ne!(Block::open(&as_raw, 0).unwrap().handle().stats().bytes, 65536, "the file as it is");
    let (raw, _directory) = description(DiskFormat::Raw);
    let as_qcow2 = Disk { format: DiskFormat::Qcow2, ..raw };
    assert!(Block::open(&as_qcow2, 0).err().unwrap().sentence().contains("not a qcow2 image"));
}

#[test]
fn what_a_qcow2_image_cannot_have_is_refused() {
    let (qcow2, _directory) = description(DiskFormat::Qcow2);
    let (raw, _directory) = description(DiskFormat::Raw);
    for (description, words) in [
        (Disk { direct: true, ..qcow2.clone() }, "leave `direct` out"),
        (Disk { engine: DiskEngine::Uring, ..qcow2.clone() }, "leave `engine` out"),
        (Disk { backing: Some("/".into()), ..raw }, "leave `backing` out"),
    ] {
        let sentence = Block::open(&description, 0).err().unwrap().sentence();
        assert!(sentence.contains(words), "{sentence}");
    }
    for engine in [DiskEngine::Auto, DiskEngine::Sync] {
        assert!(Block::open(&Disk { engine, ..qcow2.clone() }, 0).is_ok());
    }
}

/// io_uring's own test is with the engine.
#[test]
fn without_a_flush_each_change_is_durable_when_it_is_answered() {
    for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
        for (features, status) in [(0, S_IOERR), (F_FLUSH, S_OK)] {
            let (description, _directory) = description(format);
            let description = Disk { engine: DiskEngine::Sync, ..description };
            let mut driver = Driver::new(Block::open(&description, 0).unwrap());
            driver.start(features);
            let call = if format == DiskFormat::Raw { libc::SYS_fdatasync } else { libc::SYS_fsync };
            while_failing(call, libc::EIO, move || {
                for (kind, length, flags) in [(1, 512, 0), (11, 16, 0), (13, 16, 0), (13, 16, 1)] {
                    // One sector from the first on.
                    driver.put(BUFFER, &[&[0; 8][..], &1u32.to_le_bytes(), &u32::to_le_bytes(flags)].concat());
                    let answer = request(&mut driver, kind, 0, &[(BUFFER, length, 0)]).0;
                    assert_eq!(answer, status, "{format:?} {features:#x} {kind}");
                }
                assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 512, WRITE)]).0, S_OK);
            });
        }
    }
}
