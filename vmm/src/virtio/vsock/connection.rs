//! One connection as the protocol sees it (virtio 1.2, section 5.10.6): its phase, the credit of both sides, and which
//! halves of it have ended. No sockets and no memory are here: the table has them.

use super::packet::{Header, Op, RECEIVE, SEND};

/// Bytes that the guest may send before the host has taken any: `buf_alloc` of our packets.
pub const WINDOW: u32 = 64 * 1024;
/// After so many bytes the guest is told that they are taken, if no other packet has said so.
const UPDATE_AFTER: u32 = WINDOW / 2;

/// What a packet of the guest means for the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing.
    Nothing,
    /// The guest has accepted the connection that the host asked for.
    Accepted,
    /// Data for the host.
    Data,
    /// A half of the connection has ended.
    HalfClosed,
    /// Both halves have ended: the guest waits for a reset, and nothing more comes from it.
    Finished,
    /// The guest has dropped the connection.
    Reset,
    /// The guest broke the rules, of which one is its window: the connection is to be reset.
    Broken,
}

/// What the guest is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A packet without data: what it is for, and its flags.
    Control(Op, u32),
    /// At most so many bytes of data.
    Data(u32),
}

/// A connection. Counts of bytes are modulo 2^32, as in the packets.
#[derive(Debug)]
pub struct Connection {
    /// The packet that opens it from our side, until it has gone.
    opening: Option<Op>,
    open: bool,
    /// Bytes that came from the guest.
    taken: u32,
    /// Bytes of those that the host's side has.
    passed: u32,
    /// The same, as the guest was told last.
    passed_told: u32,
    owes_credit: bool,
    /// Bytes that went to the guest.
    sent: u32,
    /// Bytes of those that it has read.
    read: u32,
    /// Bytes that it takes without reading any.
    window: u32,
    asked_for_credit: bool,
    /// [`RECEIVE`] and [`SEND`], of the guest.
    guest_done: u32,
    /// The same of the host.
    host_done: u32,
    /// The same, as the guest was told.
    host_done_told: u32,
}

impl Connection {
    /// A connection that the host asks for.
    pub fn to_guest() -> Self {
        Self::new(Op::Request, false)
    }

    /// A connection that the guest asked for with `request`, and that is granted.
    pub fn from_guest(request: &Header) -> Self {
        let mut this = Self::new(Op::Response, true);
        this.note_credit(request);
        this
    }

    fn new(opening: Op, open: bool) -> Self {
        Self {
            opening: Some(opening),
            open,
            taken: 0,
            passed: 0,
            passed_told: 0,
            owes_credit: false,
            sent: 0,
            read: 0,
            window: 0,
            asked_for_credit: false,
            guest_done: 0,
            host_done: 0,
            host_done_told: 0,
        }
    }

    /// The guest has sent a packet on this connection.
    pub fn hear(&mut self, op: Op, header: &Header) -> Heard {
        self.note_credit(header);
        match op {
            Op::Reset => Heard::Reset,
            Op::Response if !self.open && self.opening.is_none() => {
                self.open = true;
                Heard::Accepted
            }
            _ if !self.open => Heard::Broken,
            Op::Data => self.hear_data(header.length),
            Op::CreditUpdate => Heard::Nothing,
            Op::CreditRequest => {
                self.owes_credit = true;
                Heard::Nothing
            }
            Op::Shutdown => {
                self.guest_done |= header.flags & (RECEIVE | SEND);
                if self.guest_done == RECEIVE | SEND { Heard::Finished } else { Heard::HalfClosed }
            }
            Op::Request | Op::Response => Heard::Broken,
        }
    }

    fn hear_data(&mut self, length: u32) -> Heard {
        let room = WINDOW - self.backlog();
        if length > room || self.guest_sends_no_more() {
            return Heard::Broken;
        }
        self.taken = self.taken.wrapping_add(length);
        Heard::Data
    }

    /// Bytes that came from the guest and that the host's side does not have yet: never more than [`WINDOW`].
    pub fn backlog(&self) -> u32 {
        self.taken.wrapping_sub(self.passed)
    }

    /// The host's side has taken `bytes` of the backlog.
    pub fn pass(&mut self, bytes: u32) {
        self.passed = self.passed.wrapping_add(bytes.min(self.backlog()));
        self.owes_credit |= self.passed.wrapping_sub(self.passed_told) >= UPDATE_AFTER;
    }

    /// The host's side will receive no more, or send no more, or both.
    pub fn end_host(&mut self, halves: u32) {
        self.host_done |= halves;
    }

    /// Whether both sides want it.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the guest has said that it sends no more.
    pub fn guest_sends_no_more(&self) -> bool {
        self.guest_done & SEND != 0
    }

    /// Whether the guest has said that it receives no more.
    pub fn guest_receives_no_more(&self) -> bool {
        self.guest_done & RECEIVE != 0
    }

    fn note_credit(&mut self, header: &Header) {
        (self.window, self.read) = (header.buf_alloc, header.fwd_cnt);
        self.asked_for_credit &= self.credit() == 0;
    }

    /// Bytes that the guest takes now. Of a guest that lies about it only its own buffers suffer.
    fn credit(&self) -> u32 {
        self.window.saturating_sub(self.sent.wrapping_sub(self.read))
    }

    /// What the guest is to get next, if anything; `readable` says whether the host may have sent data.
    pub fn next(&self, readable: bool) -> Option<Next> {
        if let Some(op) = self.opening {
            return Some(Next::Control(op, 0));
        }
        if !self.open {
            return None;
        }
        if self.host_done & !self.host_done_told != 0 {
            return Some(Next::Control(Op::Shutdown, self.host_done));
        }
        let has_data = readable && self.host_done & SEND == 0 && !self.guest_receives_no_more();
        match self.credit() {
            credit if has_data && credit > 0 => Some(Next::Data(credit)),
            _ if self.owes_credit => Some(Next::Control(Op::CreditUpdate, 0)),
            _ if has_data && !self.asked_for_credit => Some(Next::Control(Op::CreditRequest, 0)),
            _ => None,
        }
    }

    /// `header` goes to the guest: it gets what every packet says, and counts.
    pub fn stamp(&mut self, op: Op, header: &mut Header) {
        match op {
            Op::Request | Op::Response => self.opening = None,
            Op::Shutdown => self.host_done_told = header.flags,
            Op::Data => self.sent = self.sent.wrapping_add(header.length),
            Op::CreditRequest => self.asked_for_credit = true,
            Op::CreditUpdate | Op::Reset => {}
        }
        (header.buf_alloc, header.fwd_cnt) = (WINDOW, self.passed);
        self.passed_told = self.passed;
        self.owes_credit = false;
    }
}

#[cfg(test)]
mod tests;
