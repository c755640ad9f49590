//! `thimble serve`: the netboot server for a bench or a small rack.
//!
//! | module | what |
//! | --- | --- |
//! | [`place`], [`sockets`] | the one address where it listens |
//! | [`tree`] | the files, by names that strangers send |
//! | [`boot`] | which file a machine boots from |
//! | [`dhcp`], [`tftp`], [`http`] | the protocols |
//! | [`admission`] | how many at once |
//! | [`board`], [`event`], [`journal`], [`view`] | who boots what, how far, and how that is shown |
//!
//! Memory: each transfer has one block or piece of its file, never the file; machines, leases, transfers, connections and
//! events that wait are all counted and bounded. Everything a packet may say is read by a function without sockets that a
//! property test feeds.
//!
//! Limits: IPv4 only. DHCP, TFTP and plain HTTP have no authentication: whoever is on the network can ask for every file of
//! the tree, and can answer in our stead. A range can be used up by made-up cards; no transfer that is under way is harmed
//! by that.

pub mod admission;
pub mod board;
pub mod boot;
pub mod dhcp;
pub mod event;
pub mod http;
pub mod journal;
pub mod place;
pub mod sockets;
pub mod tftp;
pub mod tree;
pub mod view;

use std::io::{self, IsTerminal};
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::interrupt;
use crate::serve::admission::Admission;
use crate::serve::board::Board;
use crate::serve::boot::{Files, Loader};
use crate::serve::dhcp::answer::{Network, Server};
use crate::serve::dhcp::leases::Leases;
use crate::serve::dhcp::range::Range;
use crate::serve::event::Event;
use crate::serve::journal::{Form, Journal};
use crate::serve::place::Place;
use crate::serve::tree::Tree;
use crate::serve::view::View;

/// Time between two looks at the board.
const TICK: Duration = Duration::from_millis(250);
/// Time between two lines about a transfer.
const REPORT: Duration = Duration::from_secs(5);
/// How long the last events may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is done about addresses.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Nothing: somebody else's DHCP server names the boot file.
    FilesOnly,
    /// Boot files beside a site's DHCP server.
    Proxy,
    /// Addresses of this range, and boot files.
    Dhcp(Range, Network),
}

/// What to serve.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The directory.
    pub tree: &'a Path,
    /// Where.
    pub place: Place,
    /// DHCP.
    pub mode: Mode,
    /// The loader that firmware gets.
    pub loader: Loader,
    /// Port for HTTP; 0: any.
    pub http_port: u16,
    /// Port for TFTP; 0: any.
    pub tftp_port: u16,
    /// Events as JSON.
    pub json: bool,
}

/// Serves until the user interrupts.
///
/// # Errors
/// A port is taken, a privilege is missing, the range is not of this network.
pub fn run(request: &Request<'_>) -> Result<()> {
    check(request)?;
    sockets::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::environment(format!("cannot start threads: {error}")))?;
    let on_terminal = !request.json && io::stdout().is_terminal();
    let journal = match (on_terminal, request.json) {
        (true, _) => Journal::silent(),
        (_, true) => Journal::to(io::stdout(), Form::Json),
        (_, false) => Journal::to(io::stdout(), Form::Lines),
    };
    let board = Arc::new(Board::new(journal));
    let at = runtime.block_on(async { start(request, &board) })?;
    board.say(Event::Serving { at: at.clone() });
    let mut view = on_terminal.then(|| View::new(format!("serving {at}; Ctrl-C ends it")));
    let mut reported = Instant::now();
    while !interrupt::requested() {
        if let Some(view) = &mut view {
            // A terminal that has gone away is no reason to leave machines without their files.
            let _ = view.draw(&board.machines());
        } else if reported.elapsed() >= REPORT {
            board.report();
            reported = Instant::now();
        }
        std::thread::sleep(TICK);
    }
    runtime.shutdown_timeout(LAST_WORDS);
    if let Ok(board) = Arc::try_unwrap(board) {
        board.into_journal().close(LAST_WORDS);
    }
    Ok(())
}

fn check(request: &Request<'_>) -> Result<()> {
    if !request.tree.is_dir() {
        return Err(Error::Usage(format!("{} is not there: build it first", request.tree.display())));
    }
    let Mode::Dhcp(range, network) = &request.mode else { return Ok(()) };
    let place = &request.place;
    for address in [range.first, range.last].into_iter().chain(network.router) {
        if !place.reaches(address) {
            let (own, interface) = (place.address, &place.interface);
            return Err(Error::Usage(format!(
                "{address} is not in the network of {interface}, where this machine has {own} with mask {}",
                place.mask
            )));
        }
    }
    Ok(())
}

/// Binds everything, and only then serves anything. Gives where.
fn start(request: &Request<'_>, board: &Arc<Board>) -> Result<String> {
    let address = request.place.address;
    let tree = Tree::new(request.tree);
    let tftp = tftp::bind(SocketAddrV4::new(address, request.tftp_port))?;
    let http = http::bind(SocketAddrV4::new(address, request.http_port))?;
    let port = |bound: io::Result<std::net::SocketAddr>| {
        bound.map(|bound| bound.port()).map_err(|error| Error::environment(format!("a socket has no port: {error}")))
    };
    let (tftp_port, http_port) = (port(tftp.local_addr())?, port(http.local_addr())?);
    let (leases, network, what) = match &request.mode {
        Mode::FilesOnly => (None, Network::default(), "no DHCP".to_owned()),
        Mode::Proxy => (None, Network::default(), "proxy DHCP".to_owned()),
        Mode::Dhcp(range, network) => {
            (Some(Leases::new(*range, address)), network.clone(), format!("DHCP {}-{}", range.first, range.last))
        }
    };
    if !matches!(request.mode, Mode::FilesOnly) {
        let files = Files { address, http_port, loader: request.loader };
        let server = Server { place: request.place.clone(), files, network, leases };
        tokio::spawn(dhcp::serve(dhcp::bind(&request.place)?, server, Arc::clone(board)));
    }
    let own = SocketAddrV4::new(address, tftp_port);
    tokio::spawn(tftp::serve(tftp, own, tree.clone(), Arc::clone(board), Admission::default()));
    tokio::spawn(http::serve(http, tree, Arc::clone(board), Admission::default()));
    Ok(format!(
        "http://{address}:{http_port}/ and tftp://{address}:{tftp_port}/, {what}, on {}",
        request.place.interface
    ))
}
