//! DHCP: an address and a boot file, or beside somebody else's DHCP server the boot file alone.

pub mod answer;
pub mod leases;
pub mod query;
pub mod range;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;

use crate::error::Result;
use crate::serve::board::Board;
use crate::serve::dhcp::answer::{BOOT_SERVICE, Server};
use crate::serve::place::Place;
use crate::serve::sockets;

/// The server's port.
const PORT: u16 = 67;
/// The largest message that is looked at: an Ethernet frame's worth.
const LARGEST: usize = 1500;

/// The two sockets. Broadcasts reach only a socket that has no address of its own, so both are bound to the interface instead:
/// the kernel gives them nothing from any other.
///
/// # Errors
/// A port is taken, or a privilege is missing.
pub fn bind(place: &Place) -> Result<[UdpSocket; 2]> {
    let one = |port| {
        let socket = sockets::udp(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port), "DHCP", |socket| {
            setsockopt(socket, sockopt::BindToDevice, &place.interface.clone().into())?;
            setsockopt(socket, sockopt::Broadcast, &true)
        })?;
        Ok(socket)
    };
    Ok([one(PORT)?, one(BOOT_SERVICE)?])
}

/// Answers until the task is ended.
pub async fn serve(sockets: [UdpSocket; 2], server: Server, board: Arc<Board>) {
    let server = Mutex::new(server);
    let [dhcp, boot] = sockets;
    tokio::join!(listen(&dhcp, PORT, &server, &board), listen(&boot, BOOT_SERVICE, &server, &board));
}

async fn listen(socket: &UdpSocket, port: u16, server: &Mutex<Server>, board: &Board) {
    let mut buffer = [0; LARGEST];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok((length, SocketAddr::V4(from))) => (length, from),
            Ok(_) => continue,
            // What an earlier answer met on its way is told here; it is no reason to stop, and must not spin.
            Err(_) => {
                tokio::time::sleep(sockets::AFTER_ERROR).await;
                continue;
            }
        };
        let answer = server.lock().unwrap_or_else(PoisonError::into_inner).answer(
            &buffer[..length],
            port,
            from,
            Instant::now(),
            board,
        );
        if let Some(answer) = answer {
            // A lost answer is asked for again.
            let _ = socket.send_to(&answer.packet, answer.to).await;
        }
    }
}
