//! Who changed what: lines of JSON, the newest in one file and those before in another, neither of which grows beyond
//! [`FILE_MAX`]; each is told on the console and in PID 1's log, too, from where it goes to a syslog server.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use thimble_spec::api::audit::{Entry, Who};
use thimble_spec::paths;

use crate::events::now_ms;
use crate::proc::is_kept;
use crate::say;

/// A file that has so many bytes takes no more.
const FILE_MAX: u64 = 256 << 10;
/// Entries that are given to whoever asks.
const SHOWN: usize = 1000;
/// The newest entries, and those before.
const FILES: [&str; 2] = ["audit.jsonl", "audit.1.jsonl"];

/// The log.
#[derive(Clone, Debug)]
pub struct Log {
    directory: Arc<Path>,
}

impl Log {
    /// On the data partition; below the run directory, which goes with the host, where there is none.
    pub fn open() -> Self {
        let kept = is_kept(paths::DATA_DIR, &fs::read_to_string("/proc/self/mounts").unwrap_or_default());
        let directory = if kept { PathBuf::from(paths::AUDIT_DIR) } else { Path::new(paths::RUN_DIR).join("audit") };
        Self::at(&directory)
    }

    /// In this directory.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.into() }
    }

    /// Remembers that somebody wants to change something, before it is tried; or, with a reason, that it was refused.
    ///
    /// # Errors
    /// It cannot be written: then it is not to be done.
    pub fn remember(&self, who: &Who, what: &str, refused: Option<&str>) -> Result<()> {
        let outcome = refused.map(|why| format!(": refused: {why}")).unwrap_or_default();
        say::note(&format!("audit: {what} by {who}{outcome}"));
        let refused = refused.map(str::to_owned);
        self.write(&Entry { time_ms: now_ms(), who: who.clone(), what: what.to_owned(), refused })
    }

    fn write(&self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let [newest, before] = FILES.map(|name| self.directory.join(name));
        let append = || -> std::io::Result<()> {
            fs::create_dir_all(&self.directory)?;
            let mut file = File::options().create(true).append(true).open(&newest)?;
            if file.metadata()?.len() >= FILE_MAX {
                fs::rename(&newest, &before)?;
                file = File::options().create(true).append(true).open(&newest)?;
            }
            file.write_all(&line)
        };
        append().with_context(|| format!("the audit log cannot be written: {}", newest.display()))
    }

    /// The newest entries, oldest first. A line that a power cut left half-written is none.
    pub fn entries(&self) -> Vec<Entry> {
        let text: String = FILES
            .iter()
            .rev()
            .map(|name| String::from_utf8_lossy(&fs::read(self.directory.join(name)).unwrap_or_default()).into_owned())
            .collect();
        let mut entries: Vec<Entry> =
            text.lines().rev().filter_map(|line| serde_json::from_str(line).ok()).take(SHOWN).collect();
        entries.reverse();
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_remembered_in_bounded_room() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::at(&directory.path().join("audit"));
        let who = Who::Process { uid: 0, pid: 7, program: "thimblectl".to_owned() };
        for number in 0..6000 {
            let what = format!("POST /v1/guests/web1/start {number}");
            log.write(&Entry { time_ms: number, who: who.clone(), what, refused: None }).unwrap();
        }
        log.remember(&who, "POST /v1/guests/web1/start", Some("it runs already")).unwrap();
        let entries = log.entries();
        assert_eq!(entries.len(), SHOWN);
        assert_eq!(entries.last().unwrap().refused.as_deref(), Some("it runs already"));
        assert!(entries[SHOWN - 2].what.ends_with(" 5999"), "{}", entries[SHOWN - 2].what);
        for name in FILES {
            let length = fs::metadata(directory.path().join("audit").join(name)).unwrap().len();
            assert!(length <= FILE_MAX + 4096, "{name}: {length}");
        }

        let mut file = File::options().append(true).open(directory.path().join("audit").join(FILES[0])).unwrap();
        file.write_all(b"{\"time_ms\":").unwrap();
        assert_eq!(log.entries().last(), entries.last());
    }
}
