//! An NFS server for a directory, as an ordinary process on 127.0.0.1: nfs-ganesha, unpacked by `scripts/ganesha`.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{free_port, repository};

/// How long it may take to listen.
const LIMIT: Duration = Duration::from_secs(30);
/// Where its parts are in the tree of its packages.
const LIBRARIES: [&str; 2] = ["usr/lib/ganesha", "usr/lib/x86_64-linux-gnu"];

/// A server that runs; it is ended with the value.
pub struct Ganesha {
    process: Child,
    port: u16,
    state: TempDir,
    tree: PathBuf,
}

impl Ganesha {
    /// Exports a directory, read-only, as `/thimble`.
    ///
    /// # Panics
    /// The server cannot be fetched or does not start.
    pub fn export(directory: &Path) -> Self {
        Self::serve(directory, "RO")
    }

    /// The same, and whoever mounts it may write.
    ///
    /// # Panics
    /// As [`Self::export`].
    pub fn export_writable(directory: &Path) -> Self {
        Self::serve(directory, "RW")
    }

    fn serve(directory: &Path, access: &str) -> Self {
        let script = Command::new(repository().join("scripts/ganesha")).output().expect("scripts/ganesha starts");
        assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
        let tree = String::from_utf8(script.stdout).expect("a path");
        let tree = PathBuf::from(tree.trim());
        let (state, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
        let file = |name: &str| state.path().join(name);
        let config = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Plugins_Dir = \"{}\"; \
             Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; }}\n\
             NFSV4 {{ Grace_Period = 1; RecoveryRoot = \"{}\"; UseGetpwnam = true; \
             DomainName = \"thimble\"; Only_Numeric_Owners = true; }}\n\
             EXPORT {{ Export_Id = 1; Path = \"{}\"; Pseudo = \"/thimble\"; Access_Type = {access}; SecType = sys; \
             Squash = No_Root_Squash; Transports = TCP; FSAL {{ Name = VFS; }} }}\n",
            tree.join("usr/lib/x86_64-linux-gnu/ganesha").display(),
            file("recovery").display(),
            // It follows no links.
            directory.canonicalize().expect("the directory is there").display(),
        );
        fs::write(file("config"), config).expect("the configuration is written");
        let process = start(&tree, state.path());
        let mut server = Self { process, port, state, tree };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(self.state.path().join("log")).unwrap_or_default();
            let ended = self.process.try_wait().expect("it is our child").is_some();
            assert!(!ended && Instant::now() < deadline, "ganesha does not listen:\n{log}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Takes it away at once.
    ///
    /// # Panics
    /// It is not there.
    pub fn stop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("it runs");
    }

    /// Starts it again where it was.
    ///
    /// # Panics
    /// As [`Self::export`].
    pub fn start(&mut self) {
        self.process = start(&self.tree, self.state.path());
        self.wait();
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Starts one that is configured.
fn start(tree: &Path, state: &Path) -> Child {
    let libraries = LIBRARIES.map(|dir| tree.join(dir).display().to_string()).join(":");
    let file = |name: &str| state.join(name);
    Command::new(tree.join("usr/bin/ganesha.nfsd"))
        .env("LD_LIBRARY_PATH", libraries)
        .arg("-F")
        .args([Path::new("-f"), &file("config"), Path::new("-L"), &file("log"), Path::new("-p"), &file("pid")])
        .stdin(Stdio::null())
        .spawn()
        .expect("ganesha starts")
}

impl Drop for Ganesha {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
