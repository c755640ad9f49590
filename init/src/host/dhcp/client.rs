//! The client's side of DHCP as a pure function of state, input and time (RFC 2131, section 4.4 and its figure 5).
//!
//! ```text
//!   Selecting --offer--> Requesting --ack--> Bound --T1--> Renewing --T2--> Rebinding
//!       ^                    | nak             ^               | ack            | ack
//!       |                    | no answer       +---------------+----------------+
//!       +--------------------+-------------------- nak, or the lease ended -----+
//! ```
//! There is no INIT-REBOOT: a node keeps nothing over a reboot. Nor is an offered address probed by ARP (a "SHOULD" of
//! section 2.2), which costs seconds at each boot and which servers do before they offer.

use std::net::Ipv4Addr;
use std::time::Duration;

use thimble_spec::names::Ipv4Net;

/// The first pause before a message is repeated. RFC 2131, section 4.1, names 4 s for a 10 Mb/s Ethernet; a port that
/// has just been switched on loses the first message often, and a boot should not wait 4 s for the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause (section 4.1).
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// So many requests to a server that offered, then look for another.
const REQUESTS: u32 = 4;
/// The shortest pause between requests for a longer lease (section 4.4.5).
const RENEW_PAUSE: Duration = Duration::from_secs(60);
/// No lease is believed to be shorter.
const SHORTEST_LEASE: u32 = 30;
/// A lease without end (section 3.3).
const INFINITE: u32 = u32::MAX;
/// The lease when a server says nothing about it.
const DEFAULT_LEASE: u32 = 3600;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which message.
    pub kind: AnswerKind,
    /// Of the question.
    pub xid: u32,
    /// `yiaddr`.
    pub address: Ipv4Addr,
    /// Who says it.
    pub server: Ipv4Addr,
    /// Subnet mask, as a prefix length.
    pub prefix: Option<u8>,
    /// The first router.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Lease, T1 and T2 in seconds.
    pub times: (Option<u32>, Option<u32>, Option<u32>),
}

/// The messages of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// DHCPOFFER.
    Offer,
    /// DHCPACK.
    Ack,
    /// DHCPNAK.
    Nak,
}

/// What the client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which message.
    pub kind: QuestionKind,
    /// Chosen by the client; the answer repeats it.
    pub xid: u32,
    /// Seconds since it began to ask.
    pub seconds: u16,
    /// The address that it has: `ciaddr`.
    pub current: Option<Ipv4Addr>,
    /// The address that it wants.
    pub wanted: Option<Ipv4Addr>,
    /// The server that is meant.
    pub server: Option<Ipv4Addr>,
}

/// The messages of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuestionKind {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPREQUEST.
    Request,
    /// DHCPRELEASE.
    Release,
}

/// What a server granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Address of the interface.
    pub address: Ipv4Net,
    /// Default route.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Who granted it.
    pub server: Ipv4Addr,
    /// When T1, T2 and the lease itself end; none if never.
    pub ends: Option<(Duration, Duration, Duration)>,
}

/// Where the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asks everybody.
    Selecting,
    /// Asks the one who offered.
    Requesting(Box<Answer>),
    /// Has a lease.
    Bound(Lease),
    /// Asks its server for more time.
    Renewing(Lease),
    /// Asks any server for more time.
    Rebinding(Lease),
    /// Gave its lease back.
    Stopped,
}

/// The whole state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where the client is.
    pub phase: Phase,
    /// Of the current question.
    xid: u32,
    /// When it began to ask.
    began: Duration,
    /// Messages sent in this phase.
    sent: u32,
    /// When there is something to do; none if never.
    due: Option<Duration>,
}

/// What happens to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time went on.
    Tick,
    /// A server said something.
    Answer(Answer),
    /// The machine ends.
    Stop,
}

/// What the client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask everybody on the link.
    Broadcast(Question),
    /// Ask one server.
    Unicast(Ipv4Addr, Question),
    /// Use this lease from now on.
    Configure(Lease),
    /// Do not use this lease any more.
    Deconfigure(Lease),
}

impl State {
    /// A client that begins at once. `seed` makes its transactions differ from other clients'.
    pub fn new(seed: u32, now: Duration) -> Self {
        Self { phase: Phase::Selecting, xid: seed, began: now, sent: 0, due: Some(now) }
    }

    /// When it wants a [`Input::Tick`].
    pub fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// Makes it ask at once: for an address, or, if it has one, whether it may keep it.
    pub fn hurry(&mut self, now: Duration) {
        if self.phase != Phase::Stopped {
            (self.sent, self.due) = (0, Some(now));
        }
    }

    /// The lease that is in use.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Bound(lease) | Phase::Renewing(lease) | Phase::Rebinding(lease) => Some(lease),
            _ => None,
        }
    }

    /// A new phase, which begins to ask at `now`.
    fn enter(&self, phase: Phase, now: Duration) -> Self {
        // Numerical Recipes' generator: it need not be hard to guess, whoever could guess sees it on the wire anyway.
        let xid = self.xid.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Self { phase, xid, began: now, sent: 0, due: Some(now) }
    }

    fn question(&self, kind: QuestionKind, now: Duration) -> Question {
        let seconds = u16::try_from(now.saturating_sub(self.began).as_secs()).unwrap_or(u16::MAX);
        Question { kind, xid: self.xid, seconds, current: None, wanted: None, server: None }
    }

    /// The pause behind the message that is sent now: it doubles, and differs by up to a quarter between clients so
    /// that a machine room that is switched on does not ask in step.
    fn pause(&self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.sent.min(6)).min(LONGEST_PAUSE);
        pause + pause / 4 * (self.xid >> 24) / 256
    }
}

/// One step.
pub fn step(state: State, input: &Input, now: Duration) -> (State, Vec<Action>) {
    match input {
        Input::Tick => tick(state, now),
        Input::Answer(answer) => answered(state, answer, now),
        Input::Stop => stop(state, now),
    }
}

fn tick(state: State, now: Duration) -> (State, Vec<Action>) {
    if state.due.is_none_or(|due| due > now) {
        return (state, Vec::new());
    }
    let paused = |mut state: State| {
        state.due = Some(now + state.pause());
        state.sent = state.sent.saturating_add(1);
        state
    };
    match state.phase.clone() {
        Phase::Selecting => {
            let question = state.question(QuestionKind::Discover, now);
            (paused(state), vec![Action::Broadcast(question)])
        }
        Phase::Requesting(_) if state.sent >= REQUESTS => tick(state.enter(Phase::Selecting, now), now),
        Phase::Requesting(offer) => {
            let wanted = Some(offer.address);
            let question =
                Question { wanted, server: Some(offer.server), ..state.question(QuestionKind::Request, now) };
            (paused(state), vec![Action::Broadcast(question)])
        }
        Phase::Bound(lease) => tick(state.enter(Phase::Renewing(lease), now), now),
        Phase::Renewing(lease) => renew(state, lease, now),
        Phase::Rebinding(lease) => rebind(state, lease, now),
        Phase::Stopped => (State { due: None, ..state }, Vec::new()),
    }
}

fn renew(state: State, lease: Lease, now: Duration) -> (State, Vec<Action>) {
    let Some((_, t2, _)) = lease.ends else { return (State { due: None, ..state }, Vec::new()) };
    if now >= t2 {
        return tick(state.enter(Phase::Rebinding(lease), now), now);
    }
    let current = Some(lease.address.address);
    let question = Question { current, ..state.question(QuestionKind::Request, now) };
    (State { due: Some(half_way(now, t2)), ..state }, vec![Action::Unicast(lease.server, question)])
}

fn rebind(state: State, lease: Lease, now: Duration) -> (State, Vec<Action>) {
    let Some((_, _, end)) = lease.ends else { return (State { due: None, ..state }, Vec::new()) };
    if now >= end {
        let (state, mut actions) = tick(state.enter(Phase::Selecting, now), now);
        actions.insert(0, Action::Deconfigure(lease));
        return (state, actions);
    }
    let current = Some(lease.address.address);
    let question = Question { current, ..state.question(QuestionKind::Request, now) };
    (State { due: Some(half_way(now, end)), ..state }, vec![Action::Broadcast(question)])
}

/// Half of the time that is left, at least [`RENEW_PAUSE`], at most all of it (section 4.4.5).
fn half_way(now: Duration, end: Duration) -> Duration {
    (now + (end.saturating_sub(now) / 2).max(RENEW_PAUSE)).min(end)
}

fn answered(state: State, answer: &Answer, now: Duration) -> (State, Vec<Action>) {
    if answer.xid != state.xid {
        return (state, Vec::new());
    }
    match (state.phase.clone(), answer.kind) {
        (Phase::Selecting, AnswerKind::Offer) if is_usable(answer.address) => {
            // The same transaction goes on (section 4.3.2), so its number stays.
            let next = State {
                xid: state.xid,
                began: state.began,
                ..state.enter(Phase::Requesting(Box::new(answer.clone())), now)
            };
            tick(next, now)
        }
        (Phase::Requesting(offer), AnswerKind::Ack) if is_usable(answer.address) && answer.server == offer.server => {
            bound(&state, answer, None, now)
        }
        (Phase::Renewing(lease) | Phase::Rebinding(lease), AnswerKind::Ack) if is_usable(answer.address) => {
            bound(&state, answer, Some(lease), now)
        }
        (Phase::Requesting(offer), AnswerKind::Nak) if answer.server == offer.server => {
            // Not at once: a server that offers and refuses would be asked without end.
            let mut next = state.enter(Phase::Selecting, now);
            next.due = Some(now + FIRST_PAUSE);
            (next, Vec::new())
        }
        (Phase::Renewing(lease) | Phase::Rebinding(lease), AnswerKind::Nak) => {
            let (next, mut actions) = tick(state.enter(Phase::Selecting, now), now);
            actions.insert(0, Action::Deconfigure(lease));
            (next, actions)
        }
        _ => (state, Vec::new()),
    }
}

fn bound(state: &State, answer: &Answer, old: Option<Lease>, now: Duration) -> (State, Vec<Action>) {
    let lease = granted(answer, now);
    let mut actions = Vec::new();
    let same = |old: &Lease| old.address == lease.address && old.gateway == lease.gateway && old.dns == lease.dns;
    match old {
        Some(old) if same(&old) => {}
        old => {
            actions.extend(old.map(Action::Deconfigure));
            actions.push(Action::Configure(lease.clone()));
        }
    }
    let due = lease.ends.map(|(t1, _, _)| t1);
    (State { due, ..state.enter(Phase::Bound(lease), now) }, actions)
}

/// The lease in an acknowledgement, its times put right where they make no sense.
fn granted(answer: &Answer, now: Duration) -> Lease {
    let (lease, t1, t2) = answer.times;
    let ends = match lease.unwrap_or(DEFAULT_LEASE) {
        INFINITE => None,
        lease => {
            let lease = lease.max(SHORTEST_LEASE);
            // Half, and seven eighths (section 4.4.5).
            let t2 = t2.filter(|t2| *t2 < lease).unwrap_or(lease - lease / 8);
            let t1 = t1.filter(|t1| *t1 < t2).unwrap_or((lease / 2).min(t2));
            let at = |seconds: u32| now + Duration::from_secs(u64::from(seconds));
            Some((at(t1), at(t2), at(lease)))
        }
    };
    let prefix = answer.prefix.unwrap_or_else(|| class_prefix(answer.address));
    Lease {
        address: Ipv4Net { address: answer.address, prefix },
        gateway: answer.gateway.filter(|gateway| is_usable(*gateway)),
        dns: answer.dns.iter().copied().filter(|server| is_usable(*server)).collect(),
        server: answer.server,
        ends,
    }
}

/// The network's prefix by the address's class (RFC 791, section 2.3), for servers that send no mask.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        192.. => 24,
    }
}

/// Whether a machine can have this address.
fn is_usable(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast() && !address.is_loopback()
}

fn stop(state: State, now: Duration) -> (State, Vec<Action>) {
    let actions = match state.lease().cloned() {
        Some(lease) => {
            let question = Question {
                current: Some(lease.address.address),
                server: Some(lease.server),
                ..state.question(QuestionKind::Release, now)
            };
            vec![Action::Unicast(lease.server, question)]
        }
        None => Vec::new(),
    };
    (State { phase: Phase::Stopped, due: None, ..state }, actions)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
