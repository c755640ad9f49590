//! Logging in to a host.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::BOOT_LIMIT;

/// How long a login may take in an emulated machine.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a connection stays for the next command: a login takes an emulated machine longer than most commands.
const PERSIST: Duration = Duration::from_secs(60);
/// Where commands find the connections that stay, each with the port that it leads to.
static CONNECTIONS: Mutex<Vec<(u16, PathBuf)>> = Mutex::new(Vec::new());

/// A new key; gives the private one's file and the public one's line.
///
/// # Panics
/// `ssh-keygen` is missing.
pub fn key(directory: &Path, name: &str) -> (PathBuf, String) {
    let path = directory.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path).status();
    assert!(made.expect("ssh-keygen starts").success());
    let public = fs::read_to_string(path.with_extension("pub")).expect("it wrote the public key");
    (path, public.trim().to_owned())
}

/// Waits until somebody answers as an SSH server (RFC 4253, 4.2): QEMU accepts for a machine before it listens. Connections to
/// the machine as it was before are not used any more.
///
/// # Panics
/// Nobody does.
pub fn wait(port: u16) {
    let mut connections = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    for (_, connection) in connections.extract_if(.., |(to, _)| *to == port) {
        // One that has ended has removed it.
        let _ = fs::remove_file(connection);
    }
    drop(connections);
    let began = Instant::now();
    let mut said = [0; 4];
    while began.elapsed() < BOOT_LIMIT {
        let read = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| stream.read_exact(&mut said));
        if read.is_ok() && said == *b"SSH-" {
            return;
        }
        sleep(Duration::from_millis(500));
    }
    panic!("no SSH server at port {port}");
}

/// Runs a command as root of the host behind a port of 127.0.0.1, by a key or, without one, by what ssh could try else.
///
/// # Panics
/// `ssh` is missing.
pub fn run(port: u16, key: Option<&Path>, command: &str) -> Output {
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-p", &port.to_string(), "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]);
    ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes"]);
    ssh.args(["-o", &format!("ConnectTimeout={}", LIMIT.as_secs()), "-o", "LogLevel=ERROR"]);
    // A machine that is gone, or starts again, does not hold the caller.
    ssh.args(["-o", "ServerAliveInterval=5", "-o", &format!("ServerAliveCountMax={}", LIMIT.as_secs() / 5)]);
    if let Some(key) = key {
        let connection = key.with_extension(port.to_string());
        let mut path = OsString::from("ControlPath=");
        path.push(&connection);
        ssh.arg("-i").arg(key).args(["-o", "ControlMaster=auto", "-o"]).arg(path);
        ssh.args(["-o", &format!("ControlPersist={}", PERSIST.as_secs())]);
        CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner).push((port, connection));
    }
    ssh.args(["root@127.0.0.1", command]).stdin(Stdio::null()).output().expect("ssh starts")
}

/// [`run`] by a key that works; gives what the command printed.
///
/// # Panics
/// It fails.
pub fn said(port: u16, key: &Path, command: &str) -> String {
    let output = run(port, Some(key), command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
