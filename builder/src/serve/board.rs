//! Who boots what, and how far: the one place that DHCP, TFTP and HTTP tell what they do.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::serve::boot::Arch;
use crate::serve::event::{Event, Mac, Protocol, Who, printable};
use crate::serve::journal::Journal;

/// Machines that are remembered; the one that was quiet for longest makes room.
const MACHINES: usize = 1024;

/// The board.
#[derive(Debug)]
pub struct Board {
    machines: Mutex<Vec<Machine>>,
    journal: Journal,
}

/// A machine, as the board has it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Who.
    pub who: Who,
    /// Its architecture, if it said so.
    pub arch: Option<Arch>,
    /// What it does.
    pub state: State,
    /// The last file that it was offered or asked for.
    pub file: String,
    /// How much of that was sent.
    pub sent: Arc<AtomicU64>,
    /// How much of it there is to send.
    pub size: u64,
    /// When that began.
    pub began: Instant,
    /// When it was over.
    pub ended: Option<Instant>,
    /// Transfers under way.
    pub transfers: u32,
    /// When it was last heard of.
    pub heard: Instant,
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It asked, and was told what to boot.
    Offered,
    /// It has an address of ours.
    Leased,
    /// It fetches a file.
    Fetching,
    /// It has the file.
    Fetched,
    /// It did not get it.
    Failed,
}

impl State {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Offered => "asks",
            Self::Leased => "has an address",
            Self::Fetching => "fetches",
            Self::Fetched => "has it",
            Self::Failed => "failed",
        }
    }
}

impl Machine {
    /// How much of the file was sent.
    pub fn percent(&self) -> u64 {
        percent(self.sent.load(Ordering::Relaxed), self.size)
    }

    /// In the mean over this file.
    pub fn megabytes_per_second(&self) -> f64 {
        let time = self.ended.unwrap_or_else(Instant::now).duration_since(self.began);
        rate(self.sent.load(Ordering::Relaxed), time)
    }
}

fn percent(sent: u64, size: u64) -> u64 {
    // An empty file is there at once.
    if size == 0 { 100 } else { (u128::from(sent.min(size)) * 100 / u128::from(size)) as u64 }
}

fn rate(bytes: u64, time: Duration) -> f64 {
    // Below a millisecond the clock says little.
    (bytes as f64 / 1e6 / time.as_secs_f64().max(1e-3) * 10.0).round() / 10.0
}

impl Board {
    /// An empty one.
    pub fn new(journal: Journal) -> Self {
        Self { machines: Mutex::default(), journal }
    }

    /// Gives the journal back, for its end.
    pub fn into_journal(self) -> Journal {
        self.journal
    }

    /// Something that has to do with no machine.
    pub fn say(&self, event: Event) {
        self.journal.put(event);
    }

    /// A machine was told what to boot.
    pub fn offered(&self, mac: Mac, ip: Option<Ipv4Addr>, arch: Option<Arch>, file: Option<&str>) {
        let who = self.with(Some(mac), ip, |machine| {
            machine.arch = arch.or(machine.arch);
            if let Some(file) = file
                && machine.transfers == 0
            {
                machine.show(State::Offered, file, 0);
            }
            machine.who
        });
        self.journal.put(Event::Offered { who, arch, file: file.map(str::to_owned) });
    }

    /// A machine has an address of ours.
    pub fn leased(&self, mac: Mac, ip: Ipv4Addr) {
        let who = self.with(Some(mac), Some(ip), |machine| {
            if machine.transfers == 0 && machine.state == State::Offered {
                machine.state = State::Leased;
            }
            machine.who
        });
        self.journal.put(Event::Leased { who });
    }

    /// A machine was seen with an address that somebody else gave it.
    pub fn met(&self, mac: Mac, ip: Ipv4Addr) {
        self.with(Some(mac), Some(ip), |_| ());
    }

    /// Somebody gets nothing.
    pub fn refused(&self, who: Who, what: &str, why: impl Into<String>) {
        self.journal.put(Event::Refused { who, what: printable(what), why: why.into() });
    }

    /// Somebody at a network address gets nothing.
    pub fn refused_at(&self, peer: IpAddr, what: &str, why: impl Into<String>) {
        let machines = self.lock();
        let ip = v4(peer);
        let mac = ip.and_then(|ip| machines.iter().find(|machine| machine.who.ip == Some(ip))?.who.mac);
        drop(machines);
        self.refused(Who { mac, ip }, what, why);
    }

    /// A file goes out.
    pub fn begin(self: &Arc<Self>, peer: IpAddr, by: Protocol, file: &str, size: u64) -> Transfer {
        let file = printable(file);
        let (who, sent) = self.with(None, v4(peer), |machine| {
            machine.transfers += 1;
            machine.show(State::Fetching, &file, size);
            (machine.who, Arc::clone(&machine.sent))
        });
        self.journal.put(Event::Began { who, by, file: file.clone(), bytes: size });
        let began = Instant::now();
        Transfer { board: Arc::clone(self), who, by, file, size, sent, began, over: false }
    }

    /// Everything on it, the last heard of first.
    pub fn machines(&self) -> Vec<Machine> {
        let mut machines = self.lock().clone();
        machines.sort_by_key(|machine| std::cmp::Reverse(machine.heard));
        machines
    }

    /// Says of each transfer under way how far it is.
    pub fn report(&self) {
        for machine in self.machines().into_iter().filter(|machine| machine.transfers > 0) {
            self.journal.put(Event::Progress {
                who: machine.who,
                percent: machine.percent(),
                megabytes_per_second: machine.megabytes_per_second(),
                file: machine.file,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Machine>> {
        // What is on the board is for looking at: whoever panicked while he wrote left nothing that misleads.
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a machine's place on the board, which is made if it has none.
    fn with<T>(&self, mac: Option<Mac>, ip: Option<Ipv4Addr>, work: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machines = self.lock();
        let by_mac = mac.and_then(|mac| machines.iter().position(|machine| machine.who.mac == Some(mac)));
        let by_ip = || ip.and_then(|ip| machines.iter().position(|machine| machine.who.ip == Some(ip)));
        let known = match mac {
            // Another card's address may have been this one's before.
            Some(_) => by_mac.or_else(|| by_ip().filter(|&index| machines[index].who.mac.is_none())),
            None => by_ip(),
        };
        let index = known.unwrap_or_else(|| {
            if machines.len() == MACHINES {
                let quiet = (0..machines.len()).min_by_key(|&index| (machines[index].transfers, machines[index].heard));
                machines.swap_remove(quiet.unwrap_or(0));
            }
            machines.push(Machine::new());
            machines.len() - 1
        });
        if let (Some(_), Some(ip)) = (mac, ip) {
            // An address is one machine's at a time.
            for (other, machine) in machines.iter_mut().enumerate() {
                if other != index && machine.who.ip == Some(ip) {
                    machine.who.ip = None;
                }
            }
        }
        let machine = &mut machines[index];
        machine.who.mac = mac.or(machine.who.mac);
        machine.who.ip = ip.or(machine.who.ip);
        machine.heard = Instant::now();
        work(machine)
    }
}

fn v4(peer: IpAddr) -> Option<Ipv4Addr> {
    match peer {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(ip) => ip.to_ipv4_mapped(),
    }
}

impl Machine {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            who: Who { mac: None, ip: None },
            arch: None,
            state: State::Offered,
            file: String::new(),
            sent: Arc::default(),
            size: 0,
            began: now,
            ended: None,
            transfers: 0,
            heard: now,
        }
    }

    fn show(&mut self, state: State, file: &str, size: u64) {
        self.state = state;
        file.clone_into(&mut self.file);
        // The counter is the transfer's: an older one counts on in its own.
        self.sent = Arc::default();
        self.size = size;
        (self.began, self.ended) = (Instant::now(), None);
    }
}

/// A file on its way. One that is dropped before it has ended was given up by the other side.
#[derive(Debug)]
pub struct Transfer {
    board: Arc<Board>,
    who: Who,
    by: Protocol,
    file: String,
    size: u64,
    sent: Arc<AtomicU64>,
    began: Instant,
    over: bool,
}

impl Transfer {
    /// So many bytes of it are there, in all.
    pub fn at(&self, bytes: u64) {
        self.sent.store(bytes, Ordering::Relaxed);
    }

    /// All of it is there.
    pub fn finish(mut self) {
        self.at(self.size);
        let time = self.began.elapsed();
        self.close(
            State::Fetched,
            Some(Event::Sent {
                who: self.who,
                by: self.by,
                file: self.file.clone(),
                bytes: self.size,
                seconds: (time.as_secs_f64() * 1000.0).round() / 1000.0,
                megabytes_per_second: rate(self.size, time),
            }),
        );
    }

    /// The other side wanted to know that the file is there, or its size, and no more.
    pub fn look(mut self) {
        self.close(State::Offered, None);
    }

    /// It will not get there.
    pub fn fail(mut self, why: impl Into<String>) {
        self.give_up(why.into());
    }

    fn give_up(&mut self, why: String) {
        let percent = percent(self.sent.load(Ordering::Relaxed), self.size);
        let event = Event::Failed { who: self.who, by: self.by, file: self.file.clone(), percent, why };
        self.close(State::Failed, Some(event));
    }

    fn close(&mut self, state: State, event: Option<Event>) {
        self.over = true;
        let mut machines = self.board.lock();
        // It may have left the board, or have gone on to another file.
        let same = |machine: &&mut Machine| match self.who.mac {
            Some(mac) => machine.who.mac == Some(mac),
            None => machine.who.ip == self.who.ip,
        };
        if let Some(machine) = machines.iter_mut().find(same) {
            machine.transfers = machine.transfers.saturating_sub(1);
            machine.heard = Instant::now();
            if Arc::ptr_eq(&machine.sent, &self.sent) {
                (machine.state, machine.ended) = (state, Some(Instant::now()));
            }
        }
        drop(machines);
        event.into_iter().for_each(|event| self.board.journal.put(event));
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if !self.over {
            self.give_up("the other side went away".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn what_comes_from_an_address_belongs_to_the_card_that_has_it() {
        let board = Arc::new(Board::new(Journal::silent()));
        board.offered(MAC, Some(ip(9)), Some(Arch(0)), Some("undionly.kpxe"));
        board.leased(MAC, ip(9));
        let transfer = board.begin(ip(9).into(), Protocol::Tftp, "undionly.kpxe", 200);
        transfer.at(50);
        let machines = board.machines();
        assert_eq!(machines.len(), 1);
        assert_eq!((machines[0].who.mac, machines[0].percent(), machines[0].state), (Some(MAC), 25, State::Fetching));
        transfer.finish();
        assert_eq!((board.machines()[0].percent(), board.machines()[0].state), (100, State::Fetched));
        drop(board.begin(ip(9).into(), Protocol::Http, "vmlinuz", 10));
        assert_eq!((board.machines()[0].transfers, board.machines()[0].state), (0, State::Failed));
        // Another card with that address later is another machine.
        board.leased(Mac([2, 0, 0, 0, 0, 2]), ip(9));
        let who: Vec<_> = board.machines().iter().map(|machine| machine.who.ip).collect();
        assert_eq!(who, [Some(ip(9)), None]);
    }

    #[test]
    fn strangers_without_number_take_no_more_room_than_some() {
        let board = Arc::new(Board::new(Journal::silent()));
        board.offered(MAC, Some(ip(1)), None, Some("x"));
        let kept = board.begin(ip(1).into(), Protocol::Http, "initrd", 10);
        for n in 0..3000_u32 {
            board.offered(Mac([6, 0, 0, 0, (n >> 8) as u8, n as u8]), None, None, None);
        }
        assert_eq!(board.machines().len(), MACHINES);
        assert!(board.machines().iter().any(|machine| machine.who.mac == Some(MAC)), "a transfer keeps its machine");
        kept.finish();
    }
}
