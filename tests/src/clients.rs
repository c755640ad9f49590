//! Machines that fetch, without machines: as many TFTP and HTTP clients at once as a rack has, each with a thread.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What UEFI's PXE asks for: a block fits a frame.
const BLOCK: usize = 1468;
/// Patience for one packet, and how often it is asked for again.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 15;

/// A way to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// TFTP, so many blocks between two acknowledgements; some servers know of one only.
    Tftp {
        /// Blocks.
        window: u16,
    },
    /// HTTP, all files by one connection.
    Http,
}

/// What all of them together did.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    /// Bytes that arrived.
    pub bytes: u64,
    /// From the first request to the last byte.
    pub time: Duration,
}

impl Sum {
    /// Million bytes a second.
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.time.as_secs_f64()
    }
}

/// So many clients at once fetch all files, each of which must arrive as it is.
///
/// # Errors
/// The first failure of a client.
pub fn fetch(server: SocketAddr, way: Way, clients: usize, files: &[Expected]) -> Result<Sum> {
    let began = Instant::now();
    let bytes = thread::scope(|scope| {
        let one = |number: usize| move || one(server, way, files).with_context(|| format!("client {number}, {way:?}"));
        let threads: Vec<_> = (0..clients)
            .map(|number| thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, one(number)))
            .collect::<Result<_, _>>()?;
        threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).sum::<Result<u64>>()
    })?;
    Ok(Sum { bytes, time: began.elapsed() })
}

/// A file as it must arrive.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Expected {
    /// A file of a tree.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(tree: &std::path::Path, name: &str) -> Result<Self> {
        let content = std::fs::read(tree.join(name)).with_context(|| name.to_owned())?;
        Ok(Self { name: name.to_owned(), content })
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.content.len() as u64
    }

    /// Whether `piece` is what it has from `from` on.
    fn has(&self, from: usize, piece: &[u8]) -> bool {
        self.content.get(from..from + piece.len()) == Some(piece)
    }
}

fn one(server: SocketAddr, way: Way, files: &[Expected]) -> Result<u64> {
    match way {
        Way::Tftp { window } => files.iter().map(|file| tftp(server, window, file)).sum(),
        Way::Http => http(server, files),
    }
}

fn tftp(server: SocketAddr, window: u16, file: &Expected) -> Result<u64> {
    let socket = UdpSocket::bind((server.ip(), 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut request = format!("\0\u{1}{}\0octet\0blksize\0{BLOCK}\0tsize\00\0", file.name);
    if window > 1 {
        request.push_str(&format!("windowsize\0{window}\0"));
    }
    let mut buffer = [0; 4 + BLOCK];
    let (mut peer, mut last, mut size, mut silent) = (server, 0u16, 0usize, 0);
    let mut answer = request.into_bytes();
    let (mut since, mut asked_again) = (0, false);
    socket.send_to(&answer, peer)?;
    loop {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) => {
                silent += 1;
                ensure!(silent < ATTEMPTS, "{}: silence after {size} bytes: {error}", file.name);
                socket.send_to(&answer, peer)?;
                continue;
            }
        };
        if peer != server && from != peer {
            continue;
        }
        match &buffer[..length] {
            [0, 6, ..] if size == 0 => {
                peer = from;
                answer = vec![0, 4, 0, 0];
                socket.send_to(&answer, peer)?;
            }
            [0, 3, high, low, data @ ..] => {
                let number = u16::from_be_bytes([*high, *low]);
                if number != last.wrapping_add(1) {
                    // Something is missing: what came last is said once, and the server goes on from there.
                    if window > 1 && !asked_again {
                        asked_again = true;
                        socket.send_to(&answer_to(last), peer)?;
                    }
                    continue;
                }
                (last, silent, asked_again) = (number, 0, false);
                ensure!(file.has(size, data), "{} is something else from byte {size} on", file.name);
                size += data.len();
                since += 1;
                let over = data.len() < BLOCK;
                if since >= window || over {
                    since = 0;
                    answer = answer_to(last);
                    socket.send_to(&answer, peer)?;
                }
                if over {
                    ensure!(size == file.content.len(), "{} ends after {size} bytes", file.name);
                    return Ok(file.size());
                }
            }
            [0, 5, ..] => bail!("{}: {}", file.name, String::from_utf8_lossy(&buffer[4..length])),
            _ => {}
        }
    }
}

fn answer_to(block: u16) -> Vec<u8> {
    [&[0, 4][..], &block.to_be_bytes()].concat()
}

fn http(server: SocketAddr, files: &[Expected]) -> Result<u64> {
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE * ATTEMPTS))?;
    let mut reader = BufReader::with_capacity(64 << 10, stream.try_clone()?);
    let mut all = 0;
    for file in files {
        write!(&stream, "GET /{} HTTP/1.1\r\nHost: server\r\n\r\n", file.name)?;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{}: {line:?}", file.name);
        let mut length = None;
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<u64>().ok();
            }
        }
        ensure!(length == Some(file.size()), "{} is promised with {length:?} bytes", file.name);
        let mut arrived = 0;
        while arrived < file.content.len() {
            let piece = reader.fill_buf()?;
            ensure!(!piece.is_empty(), "{} ends after {arrived} bytes", file.name);
            let taken = piece.len().min(file.content.len() - arrived);
            ensure!(file.has(arrived, &piece[..taken]), "{} is something else from byte {arrived} on", file.name);
            reader.consume(taken);
            arrived += taken;
        }
        all += file.size();
    }
    Ok(all)
}
