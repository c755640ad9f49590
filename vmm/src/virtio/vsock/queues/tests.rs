use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use thimble_spec::vmm;

use crate::virtio::registers::offset;
use crate::virtio::testing::{DATA, Driver, WRITE};
use crate::virtio::vsock::connection::WINDOW;
use crate::virtio::vsock::packet::{HEADER_BYTES, HOST_CID, Header, Op, RECEIVE, SEND};
use crate::virtio::vsock::table::CONNECTIONS_MAX;
use crate::virtio::vsock::{Metrics, Vsock};

const RX: usize = 0;
const TX: usize = 1;
const CID: u32 = 7;
/// Buffers that the guest has for packets from the host.
const SLOTS: u16 = 4;
/// Where they are.
const INBOX: u64 = DATA;
/// Bytes of each.
const ROOM: u64 = 0x1000;
/// Where its own packets are.
const OUTBOX: u64 = DATA + 0x1_0000;

/// A guest with a driver, and the host around it.
struct Rig {
    driver: Driver,
    directory: tempfile::TempDir,
    metrics: Arc<Metrics>,
    has_buffers: bool,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = Vsock::open(&vmm::Vsock { cid: CID, path: directory.path().join("v") }).unwrap();
        let metrics = device.metrics();
        let driver = Driver::new(device);
        driver.start(0);
        Self { driver, directory, metrics, has_buffers: false }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.path().join(format!("v{suffix}"))
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(&format!("_{port}"))).unwrap()
    }

    /// The guest sends a packet from `guest` to `host`.
    fn send(&mut self, op: Op, (guest, host): (u32, u32), flags: u32, data: &[u8]) {
        let header = Header {
            src_cid: CID.into(),
            dst_cid: HOST_CID,
            src_port: guest,
            dst_port: host,
            length: data.len() as u32,
            kind: 1,
            op: op as u16,
            flags,
            buf_alloc: 0x10_0000,
            fwd_cnt: 0,
        };
        self.send_raw(header, data);
    }

    fn send_raw(&mut self, header: Header, data: &[u8]) {
        self.driver.put(OUTBOX, &[&header.to_bytes(), data].concat());
        self.driver.submit(TX, &[(OUTBOX, 20, 0), (OUTBOX + 20, (HEADER_BYTES - 20 + data.len()) as u32, 0)]);
        self.driver.kick(TX);
    }

    /// What the guest gets in the buffers that it gives.
    fn receive(&mut self) -> Vec<(Header, Vec<u8>)> {
        if !std::mem::replace(&mut self.has_buffers, true) {
            (0..SLOTS).for_each(|slot| self.give(slot));
        }
        let mut packets = Vec::new();
        loop {
            self.driver.kick(RX);
            let used = self.driver.used(RX);
            if used.is_empty() {
                return packets;
            }
            for (slot, length) in used {
                let bytes = self.driver.bytes(INBOX + u64::from(slot) * ROOM, length as usize);
                let (header, data) = bytes.split_first_chunk().unwrap();
                let header = Header::from_bytes(header);
                assert_eq!((header.dst_cid, header.kind, header.length as usize), (CID.into(), 1, data.len()));
                packets.push((header, data.to_vec()));
                self.give(slot as u16);
            }
        }
    }

    fn give(&mut self, slot: u16) {
        self.driver.put_descriptor(RX, slot, INBOX + u64::from(slot) * ROOM, ROOM as u32, WRITE, 0);
        self.driver.offer(RX, slot);
    }

    fn ops(&mut self) -> Vec<(u16, u32)> {
        self.receive().iter().map(|(header, _)| (header.op, header.flags)).collect()
    }

    /// A program connects and says `words`.
    fn call(&self, words: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.path("")).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(words).unwrap();
        // It is accepted first, and heard then.
        self.rouse();
        self.rouse();
        stream
    }

    /// A connection from the guest to `listener`.
    fn connect(&mut self, listener: &UnixListener, ports: (u32, u32)) -> UnixStream {
        self.send(Op::Request, ports, 0, &[]);
        assert_eq!(self.ops(), [(Op::Response as u16, 0)]);
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// The host's side has something.
    fn rouse(&self) {
        self.driver.rouse(0);
    }
}

fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let mut done = 0;
    while let Ok(count) = stream.read(&mut bytes[done..])
        && count > 0
    {
        done += count;
    }
    bytes.truncate(done);
    bytes
}

fn is_at_end(stream: &mut UnixStream) -> bool {
    stream.read(&mut [0]).is_ok_and(|count| count == 0)
}

#[test]
fn the_guest_reaches_who_listens_on_the_host() {
    let mut rig = Rig::new();
    let listener = rig.listen(52);
    let mut stream = rig.connect(&listener, (1000, 52));
    assert_eq!(rig.metrics.stats().connections, 1);
    rig.send(Op::Data, (1000, 52), 0, b"from the guest");
    assert_eq!(read_all(&mut stream), b"from the guest");
    stream.write_all(b"from the host").unwrap();
    rig.rouse();
    let packets = rig.receive();
    assert_eq!(packets[0].1, b"from the host");
    assert_eq!((packets[0].0.src_port, packets[0].0.dst_port), (52, 1000));
    assert_eq!((packets[0].0.buf_alloc, packets[0].0.fwd_cnt), (WINDOW, 14));
    let stats = rig.metrics.stats();
    assert_eq!((stats.sent_bytes, stats.received_bytes), (14, 13));
}

#[test]
fn halves_close_one_by_one_in_both_directions() {
    let mut rig = Rig::new();
    let listener = rig.listen(52);
    let mut stream = rig.connect(&listener, (1000, 52));
    rig.send(Op::Shutdown, (1000, 52), SEND, &[]);
    assert!(is_at_end(&mut stream));
    stream.write_all(b"still").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    rig.rouse();
    let packets = rig.receive();
    let data: Vec<u8> = packets.iter().flat_map(|(_, data)| data.clone()).collect();
    assert_eq!(data, b"still");
    assert_eq!((packets.last().unwrap().0.op, packets.last().unwrap().0.flags & SEND), (Op::Shutdown as u16, SEND));
    rig.send(Op::Shutdown, (1000, 52), SEND | RECEIVE, &[]);
    assert_eq!(rig.ops(), [(Op::Reset as u16, 0)]);
    assert_eq!(rig.metrics.stats().connections, 0);
}

#[test]
fn a_program_that_closes_ends_both_halves() {
    let mut rig = Rig::new();
    let listener = rig.listen(52);
    let mut stream = rig.connect(&listener, (1000, 52));
    stream.write_all(b"last words").unwrap();
    drop(stream);
    rig.rouse();
    let packets = rig.receive();
    let data: Vec<u8> = packets.iter().flat_map(|(_, data)| data.clone()).collect();
    assert_eq!(data, b"last words");
    assert_eq!((packets.last().unwrap().0.op, packets.last().unwrap().0.flags), (Op::Shutdown as u16, SEND | RECEIVE));
    // What the guest still sends goes nowhere, and costs it nothing.
    rig.send(Op::Data, (1000, 52), 0, &[0; 100]);
    rig.send(Op::CreditRequest, (1000, 52), 0, &[]);
    assert_eq!(rig.receive()[0].0.fwd_cnt, 100);
    rig.send(Op::Reset, (1000, 52), 0, &[]);
    assert_eq!(rig.metrics.stats().connections, 0);
}

#[test]
fn programs_of_the_host_reach_the_guest() {
    let mut rig = Rig::new();
    let mut stream = rig.call(b"CONNECT 22\nhello");
    let packets = rig.receive();
    let request = packets[0].0;
    assert_eq!((packets.len(), request.op, request.dst_port), (1, Op::Request as u16, 22));
    rig.send(Op::Response, (22, request.src_port), 0, &[]);
    let packets = rig.receive();
    assert_eq!(packets[0].1, b"hello");
    assert_eq!(read_all(&mut stream), format!("OK {}\n", request.src_port).as_bytes());
    // Another one gets another port.
    let mut other = rig.call(b"CONNECT 22\n");
    let second = rig.receive()[0].0;
    assert_ne!(second.src_port, request.src_port);
    rig.send(Op::Reset, (22, second.src_port), 0, &[]);
    assert!(is_at_end(&mut other));
}

#[test]
fn a_program_that_gives_up_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let stream = rig.call(b"CONNECT 22\n");
    let request = rig.receive()[0].0;
    drop(stream);
    rig.rouse();
    assert_eq!(rig.metrics.stats().connections, 0);
    rig.send(Op::Response, (22, request.src_port), 0, &[]);
    assert_eq!(rig.ops(), [(Op::Reset as u16, 0)]);
}

#[test]
fn programs_that_do_not_know_the_words_are_dropped() {
    let rig = Rig::new();
    let mut stream = rig.call(b"GET / HTTP/1.0\r\n\r\n");
    assert!(stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn nobody_listens() {
    let mut rig = Rig::new();
    rig.send(Op::Request, (1000, 52), 0, &[]);
    assert_eq!(rig.ops(), [(Op::Reset as u16, 0)]);
    for op in [Op::Response, Op::Data, Op::Shutdown, Op::CreditUpdate] {
        rig.send(op, (1000, 52), 0, &[]);
        assert_eq!(rig.ops(), [(Op::Reset as u16, 0)], "{op:?}");
    }
    rig.send(Op::Reset, (1000, 52), 0, &[]);
    assert!(rig.ops().is_empty());
    // Nor does anybody answer to another host, or for another guest.
    let request =
        Header { src_cid: CID.into(), dst_cid: 9, src_port: 1, dst_port: 2, kind: 1, op: 1, ..Header::default() };
    rig.send_raw(Header { src_cid: 8, ..request }, &[]);
    assert!(rig.ops().is_empty());
    rig.send_raw(Header { kind: 2, dst_cid: HOST_CID, ..request }, &[]);
    assert_eq!(rig.ops(), [(Op::Reset as u16, 0)]);
}

#[test]
fn a_program_that_does_not_read_stops_nobody_else() {
    let mut rig = Rig::new();
    let listener = rig.listen(52);
    let (mut slow, mut quick) = (rig.connect(&listener, (1, 52)), rig.connect(&listener, (2, 52)));
    // The guest keeps to its window, of which it learns by the counts; the socket's own buffer fills too.
    let piece = vec![b'x'; WINDOW as usize / 2];
    let (mut sent, mut passed) = (0u32, 0u32);
    while sent - passed < WINDOW {
        rig.send(Op::Data, (1, 52), 0, &piece);
        sent += piece.len() as u32;
        passed = rig.receive().last().map_or(passed, |(header, _)| header.fwd_cnt);
    }
    rig.send(Op::Data, (2, 52), 0, b"not stalled");
    assert_eq!(read_all(&mut quick), b"not stalled");
    let read = read_all(&mut slow).len();
    rig.rouse();
    let update = rig.receive();
    assert_eq!(update.last().unwrap().0.op, Op::CreditUpdate as u16);
    assert_eq!(read + read_all(&mut slow).len(), sent as usize);
}

#[test]
fn beyond_its_window_a_guest_loses_the_connection() {
    let mut rig = Rig::new();
    let listener = rig.listen(52);
    let _slow = rig.connect(&listener, (1, 52));
    let piece = vec![b'x'; WINDOW as usize];
    let mut resets = Vec::new();
    while resets.is_empty() {
        rig.send(Op::Data, (1, 52), 0, &piece);
        resets = rig.ops().into_iter().filter(|(op, _)| *op == Op::Reset as u16).collect();
    }
    assert!(!rig.driver.needs_reset());
    assert_eq!(rig.metrics.stats().connections, 0);
}

#[test]
fn what_was_sent_before_the_end_arrives() {
    let mut rig = Rig::new();
    let listener = rig.listen(52);
    let mut stream = rig.connect(&listener, (1, 52));
    let piece = vec![b'x'; WINDOW as usize / 2];
    let (mut sent, mut passed) = (0u32, 0u32);
    while sent - passed < WINDOW {
        rig.send(Op::Data, (1, 52), 0, &piece);
        sent += piece.len() as u32;
        passed = rig.receive().last().map_or(passed, |(header, _)| header.fwd_cnt);
    }
    rig.send(Op::Shutdown, (1, 52), SEND | RECEIVE, &[]);
    assert_eq!(rig.ops(), [(Op::Reset as u16, 0)]);
    // The guest may use its port again before the program has read.
    let _again = rig.connect(&listener, (1, 52));
    let mut read = 0;
    while read < sent as usize {
        read += read_all(&mut stream).len();
        rig.rouse();
    }
    assert!(is_at_end(&mut stream));
}

#[test]
fn a_guest_that_takes_no_answers_is_heard_no_longer() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.send(Op::Data, (1, 52), 0, &[]);
        assert!(!rig.driver.needs_reset());
        if rig.driver.used(TX).is_empty() {
            break;
        }
    }
    // One packet waits until the guest has taken the answers to those before it.
    let answers = rig.receive().len() + rig.receive().len();
    assert_eq!(rig.driver.used(TX).len(), 1);
    assert_eq!(answers, 65);
}

#[test]
fn there_are_only_so_many_connections() {
    let mut rig = Rig::new();
    let listener = rig.listen(52);
    let streams: Vec<_> = (0..CONNECTIONS_MAX as u32).map(|port| rig.connect(&listener, (port, 52))).collect();
    rig.send(Op::Request, (9999, 52), 0, &[]);
    assert_eq!(rig.ops(), [(Op::Reset as u16, 0)]);
    let mut refused = rig.call(b"");
    assert!(is_at_end(&mut refused));
    assert_eq!(rig.metrics.stats().connections, CONNECTIONS_MAX as u64);
    // With the driver all go.
    rig.driver.write(offset::STATUS, 0);
    assert!(streams.into_iter().all(|mut stream| is_at_end(&mut stream)));
    assert_eq!(rig.metrics.stats().connections, 0);
}

#[test]
fn who_connects_before_the_driver_waits_for_it() {
    let rig = Rig::new();
    rig.driver.write(offset::STATUS, 0);
    let mut stream = rig.call(b"CONNECT 22\n");
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    rig.driver.start(0);
    rig.driver.kick(TX);
    assert_eq!(rig.metrics.stats().connections, 0);
    // Its greeting comes with the next look.
    rig.driver.kick(TX);
    assert_eq!(rig.metrics.stats().connections, 1);
}

#[test]
fn malformed_chains_are_the_drivers_fault() {
    let mut rig = Rig::new();
    rig.driver.submit(TX, &[(OUTBOX, 43, 0)]);
    rig.driver.kick(TX);
    assert!(rig.driver.needs_reset());
    let mut rig = Rig::new();
    rig.driver.put(OUTBOX, &Header { length: 1, ..Header::default() }.to_bytes());
    rig.driver.submit(TX, &[(OUTBOX, 44, 0)]);
    rig.driver.kick(TX);
    assert!(rig.driver.needs_reset());
    let mut rig = Rig::new();
    rig.send(Op::Data, (1, 52), 0, &[]);
    rig.driver.submit(RX, &[(INBOX, HEADER_BYTES as u32, WRITE)]);
    rig.driver.kick(RX);
    assert!(rig.driver.needs_reset());
}

#[test]
fn the_guest_learns_its_name_and_others_are_refused() {
    let rig = Rig::new();
    assert_eq!([rig.driver.read(offset::CONFIG), rig.driver.read(offset::CONFIG + 4)], [CID, 0]);
    assert_eq!(rig.driver.read(offset::DEVICE_ID), 19);
    for cid in [0, 1, 2, u32::MAX] {
        assert!(Vsock::open(&vmm::Vsock { cid, path: rig.path("-other") }).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn strange_packets_end_connections_and_nothing_else(
        packets in prop::collection::vec((0u16..9, 0u32..3, 51u32..54, any::<u32>(), 0usize..300, any::<[u32; 2]>()), 1..80),
        words in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut rig = Rig::new();
        let _listener = rig.listen(52);
        let _program = rig.call(&words);
        for (op, guest, host, flags, length, [buf_alloc, fwd_cnt]) in packets {
            let header = Header {
                src_cid: CID.into(), dst_cid: HOST_CID, src_port: guest, dst_port: host, length: length as u32, kind: 1, op,
                flags, buf_alloc, fwd_cnt,
            };
            rig.send_raw(header, &vec![1; length]);
            rig.rouse();
            rig.receive();
            prop_assert!(!rig.driver.needs_reset());
        }
        prop_assert!(rig.metrics.stats().connections <= 3);
    }
}
