use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;

use super::config::{F_GUEST_ECN, F_GUEST_UFO, F_GUEST_USO4, GUEST_OFFLOADS};
use super::*;

/// `TUNSETPERSIST` (linux/if_tun.h).
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;
/// An EtherType for experiments (IEEE 802.3).
pub const OURS: [u8; 2] = [0x88, 0xb5];

/// Runs `test` in a network namespace of its own; the thread ends with it.
pub fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => test(),
        Err(errno) => eprintln!("SKIPPED: a network namespace needs root: {errno}"),
    });
    thread.join().unwrap();
}

/// Makes a tap that stays, and takes it up.
pub fn make(name: &str, flags: libc::c_int) {
    let file = attach(name, FLAGS | flags).unwrap();
    // SAFETY: TUNSETPERSIST takes a number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETPERSIST, 1 as libc::c_ulong) }).unwrap();
    let mut request = request(libc::IFF_UP);
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let socket = packet_socket();
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).unwrap();
}

fn packet_socket() -> OwnedFd {
    // SAFETY: a new descriptor, or -1, which is looked at.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}

/// The host sends a frame of our type out through the interface.
pub fn send(name: &str, to: [u8; 6]) {
    // SAFETY: all-zero bytes are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = nix::net::if_::if_nametoindex(name).unwrap() as i32;
    let frame = [&to[..], &[2, 0, 0, 0, 0, 0xff], &OURS, &[0; 46]].concat();
    let (length, socket) = (size_of_val(&address) as u32, packet_socket());
    // SAFETY: frame and address have the lengths that are given.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const address).cast(), length)
    };
    assert_eq!(sent, frame.len() as isize);
}

/// Destinations of the frames of our type that a queue holds; the host sends others on its own.
fn received(tap: &Tap, pair: usize) -> Vec<[u8; 6]> {
    let mut to = Vec::new();
    let mut bytes = [0; 2000];
    while let Ok(count) = std::io::Read::read(&mut tap.file(pair), &mut bytes) {
        let frame = &bytes[HEADER_BYTES..count];
        if frame[12..14] == OURS {
            to.push(*frame.first_chunk().unwrap());
        }
    }
    to
}

/// Opens a tap that nobody has open any more. A thread of another test that is just starting a program has a copy of each
/// descriptor until that program runs.
fn open_alone(name: &str, pairs: u8) -> Result<Tap> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match Tap::open(name, pairs) {
            Err(Error::Tap { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

#[test]
fn a_tap_with_one_queue_serves_one_pair_and_one_user() {
    in_a_namespace(|| {
        make("one0", 0);
        let tap = open_alone("one0", 1).unwrap();
        let busy = Tap::open("one0", 1).unwrap_err().sentence();
        assert!(busy.contains("cannot attach to the tap interface one0"), "{busy}");
        drop(tap);
        let refused = open_alone("one0", 2).unwrap_err().sentence();
        assert!(refused.contains("one0 has one queue") && refused.contains("multi_queue"), "{refused}");
    });
}

#[test]
fn a_tap_with_several_queues_serves_as_many_as_are_in_use() {
    in_a_namespace(|| {
        make("many0", libc::IFF_MULTI_QUEUE);
        assert_eq!(Tap::open("many0", 1).unwrap().pairs(), 1);
        let tap = Tap::open("many0", 3).unwrap();
        let all_received = |tap: &Tap| -> Vec<usize> { (0..3).map(|pair| received(tap, pair).len()).collect() };
        (0..8).for_each(|_| send("many0", [2, 0, 0, 0, 0, 1]));
        assert_eq!(all_received(&tap), [8, 0, 0], "only the first is in use");
        for pairs in [3, 2, 3, 1, 1] {
            tap.use_pairs(pairs).unwrap();
            assert_eq!(tap.pairs(), pairs);
            (0..8).for_each(|_| send("many0", [2, 0, 0, 0, 0, 1]));
            assert_eq!(all_received(&tap).iter().sum::<usize>(), 8, "none is lost in a queue that rests");
        }
        assert!(tap.use_pairs(0).is_err() && tap.use_pairs(4).is_err());
        assert_eq!(tap.pairs(), 1);
    });
}

/// Makes a macvtap of a tap, and takes it up; false where this machine's kernel has none.
fn make_macvtap(name: &str, of: &str) -> bool {
    let ip = |words: &str| Command::new("ip").args(words.split(' ')).output().expect("ip starts: make setup");
    let made = ip(&format!("link add {name} link {of} address 02:00:00:00:00:01 type macvtap mode bridge"));
    let told = String::from_utf8_lossy(&made.stderr);
    if told.contains("Unknown device type") {
        return false;
    }
    assert!(made.status.success(), "{told}");
    assert!(ip(&format!("link set {name} up")).status.success());
    true
}

#[test]
fn a_macvtap_serves_as_a_tap_does() {
    in_a_namespace(|| {
        make("below0", 0);
        let below = Tap::open("below0", 1).unwrap();
        if !make_macvtap("above0", "below0") {
            eprintln!("SKIPPED: this machine's kernel has no macvtap");
            return;
        }
        let above = Tap::open("above0", 2).unwrap();
        for pairs in [2, 1] {
            above.use_pairs(pairs).unwrap();
        }
        above.set_offloads(above.features() | config::F_GUEST_CSUM | config::F_GUEST_TSO4).unwrap();
        above.set_offloads(0).unwrap();
        // What comes in below for its address comes in above, and what is for another does not;
        let frame = |to: [u8; 6]| [&[0; HEADER_BYTES][..], &to, &[2, 0, 0, 0, 0, 0xff], &OURS, &[0; 46]].concat();
        for to in [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6]] {
            below.file(0).write_all(&frame(to)).unwrap();
        }
        let began = Instant::now();
        let mut came = Vec::new();
        while came.len() < 2 && began.elapsed() < Duration::from_secs(10) {
            came.extend(received(&above, 0));
        }
        assert_eq!(came, [[2, 0, 0, 0, 0, 1], [0xff; 6]]);
        // what is sent above goes out below.
        above.file(0).write_all(&frame([2, 0, 0, 0, 0, 3])).unwrap();
        while !received(&below, 0).contains(&[2, 0, 0, 0, 0, 3]) {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    });
}

#[test]
fn the_hosts_filter_keeps_other_addresses_away() {
    in_a_namespace(|| {
        make("some0", 0);
        let tap = Tap::open("some0", 1).unwrap();
        let [ours, others, everybody] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6]];
        let passes = |tap: &Tap| {
            [ours, others, everybody].into_iter().for_each(|to| send("some0", to));
            received(tap, 0)
        };
        tap.set_filter(Some(&[ours, everybody]));
        assert_eq!(passes(&tap), [ours, everybody]);
        drop(tap);
        let tap = Tap::open("some0", 1).unwrap();
        assert_eq!(passes(&tap), [ours, others, everybody], "a filter ends with who set it");
        let too_many: Vec<_> = (0..9).map(|last| [2, 0, 0, 0, 1, last]).collect();
        tap.set_filter(Some(&too_many));
        assert_eq!(passes(&tap).len(), 3, "a list that does not fit lets all pass");
    });
}

#[test]
fn every_choice_of_offloads_can_be_set() {
    in_a_namespace(|| {
        make("some0", 0);
        let tap = Tap::open("some0", 1).unwrap();
        let bits: Vec<u64> = (0..64).map(|bit| 1 << bit).filter(|bit| GUEST_OFFLOADS & bit != 0).collect();
        for choice in 0u32..1 << bits.len() {
            let features = bits.iter().enumerate().filter(|(bit, _)| choice & (1 << bit) != 0);
            let features = features.fold(0, |all, (_, feature)| all | feature);
            let offered = config::FEATURES | tap.features();
            tap.set_offloads(features & offered).unwrap_or_else(|error| panic!("{features:#x}: {error}"));
        }
    });
}

#[test]
fn a_header_that_lies_is_refused_by_the_host() {
    in_a_namespace(|| {
        make("some0", 0);
        let tap = Tap::open("some0", 1).unwrap();
        let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &OURS, &[0; 46]].concat();
        let write = |header: [u8; HEADER_BYTES], frame: &[u8]| tap.file(0).write(&[&header[..], frame].concat());
        assert!(write([0; 12], &frame).is_ok());
        // A checksum beyond the frame; headers longer than it; an unknown kind of segment; half a frame.
        assert!(write([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], &frame).is_err());
        assert!(write([0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0], &frame).is_err());
        assert!(write([0, 0x7f, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0], &frame).is_err());
        assert!(write([0; 12], &frame[..7]).is_err());
    });
}

#[test]
fn offloads_rest_on_those_below_them() {
    assert_eq!(offloads(0), 0);
    assert_eq!(offloads(GUEST_OFFLOADS & !config::F_GUEST_CSUM), 0);
    assert_eq!(offloads(config::F_GUEST_CSUM | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4), 0x11);
    assert_eq!(offloads(GUEST_OFFLOADS), 0x7f);
}

proptest! {
    #[test]
    fn a_filter_says_how_many_addresses_follow(macs in prop::collection::vec(any::<[u8; 6]>(), 0..20)) {
        let request = tun_filter(&macs);
        let count = usize::from(u16::from_ne_bytes([request[2], request[3]]));
        prop_assert_eq!(request.len(), 4 + 6 * count);
        prop_assert!(count == 0 || count == macs.len());
    }
}
