//! The end of a session by the kernel alone (include/scsi/iscsi_if.h): the daemon refuses to give up a target that it tries to reach
//! again, and then the host would wait for that target at its end.

use std::fs;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{Error, Result, doing};

/// What tells the kernel which of its initiators is meant.
const HANDLE: &str = "/sys/class/iscsi_transport/tcp/handle";
/// `ISCSI_UEVENT_DESTROY_SESSION`: the session's number.
const DESTROY_SESSION: u32 = 12;
/// `ISCSI_UEVENT_DESTROY_CONN`: the session's number, the connection's.
const DESTROY_CONNECTION: u32 = 14;
/// `ISCSI_UEVENT_STOP_CONN`: the same, eight bytes that nobody reads any more, and how.
const STOP_CONNECTION: u32 = 18;
/// `STOP_CONN_TERM`: for good.
const FOR_GOOD: u32 = 1;
/// The header of a message of netlink (linux/netlink.h).
const HEADER: usize = 16;
/// Type, error, handle: what is before an event's own fields.
const COMMON: usize = 16;
/// At least the size of `struct iscsi_uevent`, 56 bytes: what is more is not looked at.
const EVENT: usize = 128;
/// How long the kernel may take to answer, in seconds.
const LIMIT_S: i64 = 5;

/// Ends a session and its connection. What waits for it fails.
///
/// # Errors
/// There is none, or the kernel does not answer.
pub(super) fn end(session: u32) -> Result<()> {
    let what = || format!("end the iSCSI session {session}");
    let handle = doing(fs::read_to_string(HANDLE), what)?;
    let handle: u64 = doing(handle.trim().parse(), what)?;
    let socket =
        doing(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkISCSI), what)?;
    doing(setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(LIMIT_S)), what)?;
    let events: [(u32, &[u32]); 3] = [
        (STOP_CONNECTION, &[session, 0, 0, 0, FOR_GOOD]),
        (DESTROY_CONNECTION, &[session, 0]),
        (DESTROY_SESSION, &[session]),
    ];
    for (kind, fields) in events {
        let message = message(kind, handle, fields);
        doing(sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()), what)?;
        let mut answer = [0; HEADER + EVENT];
        let length = doing(recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()), what)?;
        check(&answer[..length]).ok_or_else(|| Error(format!("cannot {}: the kernel refused step {kind}", what())))?;
    }
    Ok(())
}

fn message(kind: u32, handle: u64, fields: &[u32]) -> Vec<u8> {
    let length = u32::try_from(HEADER + EVENT).unwrap_or(u32::MAX);
    // Length, type and flags, sequence number, sender.
    let header = [length, kind, 0, 0].map(u32::to_ne_bytes).concat();
    let mut message = [header, [kind, 0].map(u32::to_ne_bytes).concat(), handle.to_ne_bytes().to_vec()].concat();
    message.extend(fields.iter().flat_map(|field| field.to_ne_bytes()));
    message.resize(HEADER + EVENT, 0);
    message
}

/// The answer is the event again, with an error or without, and what the kernel says behind the fields that were asked with.
fn check(answer: &[u8]) -> Option<()> {
    let error = answer.get(HEADER + 4..)?.first_chunk()?;
    (u32::from_ne_bytes(*error) == 0 && answer.len() >= HEADER + COMMON).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_fields_where_the_kernel_looks() {
        let message = message(STOP_CONNECTION, 0x1122_3344_5566_7788, &[7, 0, 0, 0, FOR_GOOD]);
        assert_eq!((message.len(), message[0], message[4]), (144, 144, 18));
        // Type, error, handle, the session's number, and at its place in `struct msg_stop_conn` the flag.
        assert_eq!(message[16..24], [18, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[24..32], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!((message[32], message[48]), (7, 1));
    }

    #[test]
    fn an_answer_says_whether_it_was_done() {
        let mut answer = message(DESTROY_SESSION, 1, &[7]);
        assert_eq!(check(&answer), Some(()));
        answer[HEADER + 4] = 22;
        assert_eq!(check(&answer), None);
        assert_eq!((check(&answer[..20]), check(&[])), (None, None));
    }
}
