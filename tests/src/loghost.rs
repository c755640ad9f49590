//! A syslog server that is reached by TLS and wants a certificate (RFC 5425): OpenSSL's.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::free_port;

/// The name in its certificate.
pub const NAME: &str = "loghost.example";

/// The server; it ends with the value.
#[derive(Debug)]
pub struct Loghost {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// A directory with what a host needs, as a definition's `log.tls-keys` names it.
    pub keys: PathBuf,
    server: Child,
}

impl Loghost {
    /// Starts it, with all certificates made anew in the directory; gives the lines that it hears, without their lengths.
    ///
    /// # Panics
    /// `openssl` is missing.
    pub fn start(directory: &Path) -> (Self, Receiver<String>) {
        let authority = directory.join("authority");
        let keys = directory.join("loghost");
        let own = directory.join("loghost-own");
        made(&authority, &["req", "-x509", "-days", "2", "-subj", "/CN=authority", "-out", "cert.pem"]);
        signed(&own, &authority, NAME);
        signed(&keys, &authority, "node.example");
        std::fs::copy(authority.join("cert.pem"), keys.join("ca.pem")).expect("it was made");

        let port = free_port();
        let mut server = Command::new("openssl");
        server.args(["s_server", "-quiet", "-tls1_3", "-accept", &format!("127.0.0.1:{port}")]);
        server.args(["-cert", "cert.pem", "-key", "key.pem"]).current_dir(&own);
        server.arg("-CAfile").arg(authority.join("cert.pem")).args(["-Verify", "1", "-verify_return_error"]);
        // It ends with its standard input, and tells of each certificate.
        server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = server.spawn().expect("openssl starts");
        let mut heard = BufReader::new(server.stdout.take().expect("it is a pipe"));
        let (sender, received) = channel();
        thread::spawn(move || {
            while let Ok(line) = frame(&mut heard) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        (Self { port, keys, server }, received)
    }
}

impl Drop for Loghost {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A key and what OpenSSL makes of it.
fn made(directory: &Path, words: &[&str]) {
    std::fs::create_dir_all(directory).expect("a directory");
    let mut command = Command::new("openssl");
    command.args(words).args([
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        "key.pem",
    ]);
    let made = command.current_dir(directory).output().expect("openssl starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A certificate for a name, which the authority signs.
fn signed(directory: &Path, authority: &Path, name: &str) {
    made(directory, &["req", "-subj", "/", "-addext", &format!("subjectAltName=DNS:{name}"), "-out", "request.pem"]);
    let mut command = Command::new("openssl");
    command.args(["x509", "-req", "-days", "2", "-copy_extensions", "copy", "-in", "request.pem", "-out", "cert.pem"]);
    command.arg("-CA").arg(authority.join("cert.pem")).arg("-CAkey").arg(authority.join("key.pem"));
    let signed = command.current_dir(directory).output().expect("openssl starts");
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
}

/// A line behind its length in bytes and a space (RFC 5425, 4.3).
fn frame(stream: &mut impl BufRead) -> io::Result<String> {
    let mut length = Vec::new();
    stream.read_until(b' ', &mut length)?;
    let length: u64 = String::from_utf8_lossy(&length).trim().parse().map_err(io::Error::other)?;
    let mut line = String::new();
    stream.take(length).read_to_string(&mut line)?;
    Ok(line)
}
