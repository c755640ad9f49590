//! A DHCP client on one interface, inside PID 1's event loop: nothing here ever waits.
//!
//! | file | what |
//! | --- | --- |
//! | `client` | the protocol: a pure function of state, input and time |
//! | `message` | its messages as bytes |
//! | `packet` | IPv4 and UDP around them |
//! | `socket` | the way to the wire |

mod client;
mod message;
mod packet;
mod socket;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use client::{Action, Input, State, step};
use message::Identity;
use socket::PacketSocket;
use thimble_spec::names::Ipv4Net;

use crate::console;
use crate::error::{Doing, Result};
use crate::net;

/// What a server granted, as far as the kernel must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Address of the interface.
    pub address: Ipv4Net,
    /// Default route.
    pub gateway: Option<Ipv4Addr>,
}

/// The client of one interface. It only asks: whoever runs it gives the interface what was granted.
pub struct Dhcp {
    interface: String,
    index: u32,
    identity: Identity,
    socket: PacketSocket,
    state: State,
}

impl Dhcp {
    /// Begins on an interface that is up.
    pub fn start(interface: &str, host: &str, now: Duration) -> Result<Self> {
        let mac = net::mac_of(interface)?;
        let index = net::index_of(interface)?;
        let socket = PacketSocket::open(index).doing(|| format!("open a packet socket for DHCP on {interface}"))?;
        let [.., b, c, d, e] = mac;
        let seed = u32::from_be_bytes([b, c, d, e]) ^ now.subsec_nanos();
        let identity = Identity { mac, host: host.to_owned() };
        Ok(Self { interface: interface.to_owned(), index, identity, socket, state: State::new(seed, now) })
    }

    /// The interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Its number: a link that is made anew has the same name and another number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What was granted.
    pub fn leased(&self) -> Option<Leased> {
        self.state.lease().map(|lease| Leased { address: lease.address, gateway: lease.gateway })
    }

    /// The address that the interface has from it.
    pub fn address(&self) -> Option<Ipv4Net> {
        self.state.lease().map(|lease| lease.address)
    }

    /// Name servers that it was told.
    pub fn dns(&self) -> &[Ipv4Addr] {
        self.state.lease().map_or(&[], |lease| &lease.dns)
    }

    /// When [`Self::run`] has something to do even if nothing is received.
    pub fn deadline(&self) -> Option<Duration> {
        self.state.deadline()
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The link is back, maybe to another network: ask now.
    pub fn hurry(&mut self, now: Duration) {
        self.state.hurry(now);
    }

    /// Takes what was received and what the time brings; says whether the lease changed.
    pub fn run(&mut self, now: Duration) -> bool {
        let mut changed = false;
        while let Some(bytes) = self.socket.receive() {
            if let Some(answer) = message::decode(self.identity.mac, &bytes) {
                changed |= self.feed(&Input::Answer(answer), now);
            }
        }
        if self.state.deadline().is_some_and(|deadline| deadline <= now) {
            changed |= self.feed(&Input::Tick, now);
        }
        changed
    }

    /// Gives the lease back.
    pub fn stop(&mut self, now: Duration) {
        self.feed(&Input::Stop, now);
    }

    fn feed(&mut self, input: &Input, now: Duration) -> bool {
        let from = self.address();
        let (state, actions) = step(self.state.clone(), input, now);
        self.state = state;
        let mut changed = false;
        for action in actions {
            changed |= matches!(action, Action::Configure(_) | Action::Deconfigure(_));
            self.act(action, from);
        }
        changed
    }

    fn act(&self, action: Action, from: Option<Ipv4Net>) {
        let name = &self.interface;
        match action {
            Action::Broadcast(question) => {
                let bytes = message::encode(&self.identity, &question);
                // A link that is down now may be up when the question is repeated.
                if let Err(error) = self.socket.broadcast(&bytes) {
                    console::notice(&format!("DHCP on {name}: {error}"));
                }
            }
            Action::Unicast(server, question) => {
                let Some(from) = from else { return };
                let bytes = message::encode(&self.identity, &question);
                if let Err(error) = socket::unicast(from.address, server, &bytes) {
                    console::notice(&format!("DHCP on {name}, to {server}: {error}"));
                }
            }
            Action::Configure(lease) => {
                console::notice(&format!("DHCP on {name}: {} from {}", lease.address, lease.server));
            }
            Action::Deconfigure(lease) => {
                console::notice(&format!("DHCP on {name}: {} is no longer ours", lease.address));
            }
        }
    }
}
