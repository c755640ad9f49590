//! An iSCSI target as an ordinary process on 127.0.0.1: tgt, unpacked by `scripts/tgt`.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::free_port;
use crate::unpacked::{unpacked, with_libraries};

/// How long it may take to hear what it is told.
const LIMIT: Duration = Duration::from_secs(30);

/// A target, and who may log in to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Name and password of CHAP.
    pub account: [&'static str; 2],
    /// The files that are its logical units from 1 on.
    pub units: Vec<PathBuf>,
}

/// A process with targets; it is ended with the value.
pub struct Tgt {
    tree: PathBuf,
    port: u16,
    targets: Vec<Target>,
    process: Option<Child>,
}

impl Tgt {
    /// These targets, not there yet.
    ///
    /// # Panics
    /// It cannot be fetched.
    pub fn new(targets: &[Target]) -> Self {
        Self { tree: unpacked("tgt"), port: free_port(), targets: targets.to_vec(), process: None }
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it.
    ///
    /// # Panics
    /// It does not do what it is told.
    pub fn start(&mut self) {
        let portal = format!("portal=127.0.0.1:{}", self.port);
        let mut command = with_libraries(&self.tree, &self.tree.join("usr/sbin/tgtd"));
        command.args(["--foreground", "--iscsi", &portal, "--control-port", &self.port.to_string()]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("tgtd starts"));
        let deadline = Instant::now() + LIMIT;
        while !self.tell(&["--mode", "system", "--op", "show"]).0 {
            assert!(Instant::now() < deadline, "tgtd hears nothing");
            thread::sleep(Duration::from_millis(100));
        }
        for (index, target) in self.targets.iter().enumerate() {
            let id = (index + 1).to_string();
            let told = |words: &[&str]| {
                let (done, said) = self.tell(&[words, &["--tid", &id]].concat());
                assert!(done, "tgtadm {words:?}: {said}");
            };
            told(&["--mode", "target", "--op", "new", "--targetname", target.name]);
            let [user, password] = target.account;
            // There may be one of that name.
            self.tell(&["--mode", "account", "--op", "new", "--user", user, "--password", password]);
            told(&["--mode", "account", "--op", "bind", "--user", user]);
            for (unit, file) in target.units.iter().enumerate() {
                let (lun, file) = ((unit + 1).to_string(), file.to_str().expect("a path"));
                told(&["--mode", "logicalunit", "--op", "new", "--lun", &lun, "--backing-store", file]);
            }
            told(&["--mode", "target", "--op", "bind", "--initiator-address", "ALL"]);
        }
    }

    /// Takes it away at once.
    ///
    /// # Panics
    /// It is not there.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().and_then(|()| process.wait()).expect("it runs");
    }

    /// Who is logged in, by their names.
    ///
    /// # Panics
    /// It is not there.
    pub fn initiators(&self) -> Vec<String> {
        let (done, said) = self.tell(&["--mode", "target", "--op", "show"]);
        assert!(done, "{said}");
        let names = said.lines().filter_map(|line| line.trim().strip_prefix("Initiator: "));
        names.map(|name| name.split(' ').next().unwrap_or(name).to_owned()).collect()
    }

    /// Whether it did, and what it said.
    fn tell(&self, words: &[&str]) -> (bool, String) {
        let mut command = with_libraries(&self.tree, &self.tree.join("usr/sbin/tgtadm"));
        command.args(["--lld", "iscsi", "--control-port", &self.port.to_string()]).args(words);
        let output = command.output().expect("tgtadm starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.stop();
        }
    }
}

/// A blank file for a unit.
///
/// # Panics
/// It cannot be made.
pub fn unit(directory: &Path, name: &str, mib: u64) -> PathBuf {
    let path = directory.join(name);
    std::fs::File::create(&path).and_then(|file| file.set_len(mib << 20)).expect("a file can be made");
    path
}
