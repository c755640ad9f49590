use proptest::prelude::*;

use super::*;
use crate::virtio::vsock::packet::Ports;

fn packet(op: Op) -> Header {
    Header { buf_alloc: 1000, ..Header::to_guest(3, Ports { host: 1, guest: 2 }, op) }
}

fn shutdown(flags: u32) -> Header {
    Header { flags, ..packet(Op::Shutdown) }
}

fn data(length: u32) -> Header {
    Header { length, ..packet(Op::Data) }
}

/// Takes what is next for the guest.
fn step(connection: &mut Connection, readable: bool) -> Option<Next> {
    let next = connection.next(readable)?;
    let (op, flags, length) = match next {
        Next::Control(op, flags) => (op, flags, 0),
        Next::Data(most) => (Op::Data, 0, most),
    };
    let mut header = Header { flags, length, ..packet(op) };
    connection.stamp(op, &mut header);
    assert_eq!(header.buf_alloc, WINDOW);
    Some(next)
}

fn open() -> Connection {
    let mut connection = Connection::from_guest(&packet(Op::Request));
    assert_eq!(step(&mut connection, true), Some(Next::Control(Op::Response, 0)));
    connection
}

#[test]
fn the_host_asks_and_waits_for_an_answer() {
    let mut connection = Connection::to_guest();
    // An answer before the question is none.
    assert_eq!(Connection::to_guest().hear(Op::Response, &packet(Op::Response)), Heard::Broken);
    assert_eq!(step(&mut connection, true), Some(Next::Control(Op::Request, 0)));
    assert_eq!(step(&mut connection, true), None);
    assert_eq!(connection.hear(Op::Response, &packet(Op::Response)), Heard::Accepted);
    assert_eq!(step(&mut connection, true), Some(Next::Data(1000)));
    assert_eq!(connection.hear(Op::Response, &packet(Op::Response)), Heard::Broken);
}

#[test]
fn data_before_the_answer_breaks_the_connection() {
    let mut connection = Connection::to_guest();
    step(&mut connection, false);
    assert_eq!(connection.hear(Op::Data, &data(1)), Heard::Broken);
}

#[test]
fn without_credit_the_guest_is_asked_for_it_once() {
    let mut connection = open();
    assert_eq!(step(&mut connection, true), Some(Next::Data(1000)));
    assert_eq!(step(&mut connection, true), Some(Next::Control(Op::CreditRequest, 0)));
    assert_eq!(step(&mut connection, true), None);
    let update = Header { fwd_cnt: 600, ..packet(Op::CreditUpdate) };
    assert_eq!(connection.hear(Op::CreditUpdate, &update), Heard::Nothing);
    assert_eq!(step(&mut connection, true), Some(Next::Data(600)));
}

#[test]
fn the_guest_learns_of_its_credit_in_time() {
    let mut connection = open();
    assert_eq!(connection.hear(Op::Data, &data(WINDOW)), Heard::Data);
    connection.pass(WINDOW / 2 - 1);
    assert_eq!(connection.next(false), None);
    connection.pass(1);
    assert_eq!(step(&mut connection, false), Some(Next::Control(Op::CreditUpdate, 0)));
    assert_eq!(step(&mut connection, false), None);
    assert_eq!(connection.hear(Op::CreditRequest, &packet(Op::CreditRequest)), Heard::Nothing);
    assert_eq!(step(&mut connection, false), Some(Next::Control(Op::CreditUpdate, 0)));
}

#[test]
fn more_than_the_window_breaks_the_connection() {
    let mut connection = open();
    assert_eq!(connection.hear(Op::Data, &data(WINDOW)), Heard::Data);
    assert_eq!(connection.hear(Op::Data, &data(1)), Heard::Broken);
    assert_eq!(open().hear(Op::Data, &data(u32::MAX)), Heard::Broken);
}

#[test]
fn halves_end_one_by_one() {
    let mut connection = open();
    assert_eq!(connection.hear(Op::Shutdown, &shutdown(SEND)), Heard::HalfClosed);
    assert_eq!(step(&mut connection, true), Some(Next::Data(1000)));
    connection.end_host(SEND);
    assert_eq!(step(&mut connection, true), Some(Next::Control(Op::Shutdown, SEND)));
    assert_eq!(step(&mut connection, true), None);
    assert_eq!(connection.hear(Op::Data, &data(1)), Heard::Broken);
    assert_eq!(connection.hear(Op::Shutdown, &shutdown(RECEIVE)), Heard::Finished);
}

#[test]
fn a_guest_that_receives_no_more_gets_no_data() {
    let mut connection = open();
    assert_eq!(connection.hear(Op::Shutdown, &shutdown(RECEIVE | 0xf0)), Heard::HalfClosed);
    assert_eq!(connection.next(true), None);
    connection.end_host(RECEIVE);
    assert_eq!(step(&mut connection, true), Some(Next::Control(Op::Shutdown, RECEIVE)));
}

#[derive(Clone, Debug)]
enum Act {
    Hear { op: usize, length: u32, flags: u32, buf_alloc: u32, fwd_cnt: u32 },
    Pass(u32),
    End(u32),
    Next(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let length = prop_oneof![0..WINDOW, any::<u32>()];
    prop_oneof![
        (0usize..7, length, any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(op, length, flags, buf_alloc, fwd_cnt)| Act::Hear { op, length, flags, buf_alloc, fwd_cnt }),
        any::<u32>().prop_map(Act::Pass),
        (0u32..4).prop_map(Act::End),
        any::<bool>().prop_map(Act::Next),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_backlog_keeps_to_the_window(asked in any::<bool>(), acts in prop::collection::vec(act(), 0..60)) {
        let ops = [
            Op::Request, Op::Response, Op::Reset, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest,
        ];
        let mut connection = if asked { Connection::to_guest() } else { Connection::from_guest(&packet(Op::Request)) };
        let mut quiet = 0;
        for act in acts {
            match act {
                Act::Hear { op, length, flags, buf_alloc, fwd_cnt } => {
                    let header = Header { length, flags, buf_alloc, fwd_cnt, ..packet(ops[op]) };
                    let before = connection.backlog();
                    let heard = connection.hear(ops[op], &header);
                    let grown = if heard == Heard::Data { length } else { 0 };
                    prop_assert_eq!(connection.backlog(), before + grown);
                }
                Act::Pass(bytes) => connection.pass(bytes),
                Act::End(halves) => connection.end_host(halves),
                Act::Next(readable) => {
                    if let Some(Next::Data(most)) = step(&mut connection, readable) {
                        prop_assert!(most > 0 && readable && !connection.guest_receives_no_more());
                    }
                }
            }
            prop_assert!(connection.backlog() <= WINDOW);
            quiet += 1;
        }
        // Left alone and without data, it falls silent: no connection keeps the lane busy for ever.
        while step(&mut connection, false).is_some() {
            quiet += 1;
            prop_assert!(quiet < 100);
        }
    }

    #[test]
    fn bytes_flow_as_long_as_both_read(window in 1u32..5000, reads in prop::collection::vec(1u32..5000, 1..50)) {
        let mut connection = Connection::from_guest(&Header { buf_alloc: window, ..packet(Op::Request) });
        step(&mut connection, false);
        let (mut sent, mut read) = (0u32, 0u32);
        for most in reads {
            while let Some(next) = step(&mut connection, true) {
                if let Next::Data(count) = next { sent += count }
            }
            prop_assert_eq!(sent - read, window);
            read += most.min(window);
            let update = Header { buf_alloc: window, fwd_cnt: read, ..packet(Op::CreditUpdate) };
            connection.hear(Op::CreditUpdate, &update);
        }
    }
}
