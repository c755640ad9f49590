//! An NFS server for a directory, as an ordinary process on 127.0.0.1: nfs-ganesha, unpacked by `scripts/ganesha`.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::free_port;
use crate::unpacked::{unpacked, with_libraries};

/// How long it may take to listen.
const LIMIT: Duration = Duration::from_secs(30);

/// A server that runs; it is ended with the value.
pub struct Ganesha {
    process: Child,
    port: u16,
    mount_port: Option<u16>,
    state: TempDir,
    tree: PathBuf,
}

/// Runs what comes behind it where another process, of which nobody else knows, hears what ports it has: without that, it does not
/// start with NFSv3. That process looks up its user, and listens on port 111: it has a network of its own.
const WITH_RPCBIND: &str = "set -e; mount -t tmpfs none /run; { cat /etc/passwd; echo '_rpc:x:0:0::/:/bin/false'; } >/run/passwd; \
     mount --bind /run/passwd /etc/passwd; \
     unshare --net sh -c 'ip link set lo up; exec setpriv --pdeathsig KILL \"$0\" -f' \"$0\" & \
     until [ -S /run/rpcbind.sock ]; do sleep 0.1; done; exec \"$@\"";

impl Ganesha {
    /// Exports a directory, read-only, as `/thimble`.
    ///
    /// # Panics
    /// The server cannot be fetched or does not start.
    pub fn export(directory: &Path) -> Self {
        Self::serve(directory, "RO", 4)
    }

    /// The same, and whoever mounts it may write.
    ///
    /// # Panics
    /// As [`Self::export`].
    pub fn export_writable(directory: &Path) -> Self {
        Self::serve(directory, "RW", 4)
    }

    /// The same by NFSv3, and by no other version.
    ///
    /// # Panics
    /// As [`Self::export`].
    pub fn export_v3(directory: &Path) -> Self {
        Self::serve(directory, "RW", 3)
    }

    fn serve(directory: &Path, access: &str, version: u8) -> Self {
        let tree = unpacked("ganesha");
        let (state, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
        let mount_port = (version == 3).then(free_port);
        let mounts = mount_port.map_or(String::new(), |port| format!("MNT_Port = {port}; Enable_UDP = false;"));
        let file = |name: &str| state.path().join(name);
        let config = format!(
            "NFS_CORE_PARAM {{ Protocols = {version}; {mounts} NFS_Port = {port}; Bind_addr = 127.0.0.1; Plugins_Dir = \"{}\"; \
             Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true; }}\n\
             NFSV4 {{ Grace_Period = 1; RecoveryRoot = \"{}\"; UseGetpwnam = true; \
             DomainName = \"thimble\"; Only_Numeric_Owners = true; }}\n\
             EXPORT {{ Export_Id = 1; Path = \"{}\"; Pseudo = \"/thimble\"; Access_Type = {access}; SecType = sys; \
             Squash = No_Root_Squash; Protocols = {version}; Transports = TCP; FSAL {{ Name = VFS; }} }}\n",
            tree.join("usr/lib/x86_64-linux-gnu/ganesha").display(),
            file("recovery").display(),
            // It follows no links.
            directory.canonicalize().expect("the directory is there").display(),
        );
        fs::write(file("config"), config).expect("the configuration is written");
        let process = start(&tree, state.path(), mount_port.is_some());
        let mut server = Self { process, port, mount_port, state, tree };
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
        self.process = start(&self.tree, self.state.path(), self.mount_port.is_some());
        self.wait();
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is asked for mounts, with NFSv3.
    pub fn mount_port(&self) -> Option<u16> {
        self.mount_port
    }
}

/// Starts one that is configured.
fn start(tree: &Path, state: &Path, with_rpcbind: bool) -> Child {
    const SERVER: &str = "usr/bin/ganesha.nfsd";
    let file = |name: &str| state.join(name);
    let mut command = if with_rpcbind {
        let mut command = with_libraries(tree, Path::new("unshare"));
        command.args(["--mount", "sh", "-c", WITH_RPCBIND]).args(["sbin/rpcbind", SERVER].map(|path| tree.join(path)));
        command
    } else {
        with_libraries(tree, &tree.join(SERVER))
    };
    command.arg("-F").args([
        Path::new("-f"),
        &file("config"),
        Path::new("-L"),
        &file("log"),
        Path::new("-p"),
        &file("pid"),
    ]);
    command.stdin(Stdio::null()).spawn().expect("ganesha starts")
}

impl Drop for Ganesha {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
