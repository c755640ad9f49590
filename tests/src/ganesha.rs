//! An NFS server for a directory, as an ordinary process on 127.0.0.1: nfs-ganesha, unpacked by `scripts/ganesha`.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
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
}

impl Ganesha {
    /// Exports a directory, read-only, as `/thimble`.
    ///
    /// # Panics
    /// The server cannot be fetched or does not start.
    pub fn export(directory: &Path) -> Self {
        let script = Command::new(repository().join("scripts/ganesha")).output().expect("scripts/ganesha starts");
        assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
        let tree = String::from_utf8(script.stdout).expect("a path");
        let tree = Path::new(tree.trim());
        let (state, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
        let file = |name: &str| state.path().join(name);
        let config = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Plugins_Dir = \"{}\"; \
             Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; }}\n\
             NFSV4 {{ Grace_Period = 1; RecoveryRoot = \"{}\"; UseGetpwnam = true; \
             DomainName = \"thimble\"; Only_Numeric_Owners = true; }}\n\
             EXPORT {{ Export_Id = 1; Path = \"{}\"; Pseudo = \"/thimble\"; Access_Type = RO; SecType = sys; \
             Squash = No_Root_Squash; Transports = TCP; FSAL {{ Name = VFS; }} }}\n",
            tree.join("usr/lib/x86_64-linux-gnu/ganesha").display(),
            file("recovery").display(),
            // It follows no links.
            directory.canonicalize().expect("the directory is there").display(),
        );
        fs::write(file("config"), config).expect("the configuration is written");
        let libraries = LIBRARIES.map(|dir| tree.join(dir).display().to_string()).join(":");
        let process = Command::new(tree.join("usr/bin/ganesha.nfsd"))
            .env("LD_LIBRARY_PATH", libraries)
            .arg("-F")
            .args([Path::new("-f"), &file("config"), Path::new("-L"), &file("log"), Path::new("-p"), &file("pid")])
            .stdin(Stdio::null())
            .spawn()
            .expect("ganesha starts");
        let mut server = Self { process, port, state };
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(server.state.path().join("log")).unwrap_or_default();
            let ended = server.process.try_wait().expect("it is our child").is_some();
            assert!(!ended && Instant::now() < deadline, "ganesha does not listen:\n{log}");
            thread::sleep(Duration::from_millis(100));
        }
        server
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Ganesha {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
