//! Snapshots of guests' disks: made while the guest is off, or while it runs and stands still for a moment.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use thimble_spec::api::audit::Who;
use thimble_spec::api::guest::State as GuestState;
use thimble_spec::api::snapshot::{Moment, Snapshot, Snapshots};
use thimble_spec::api::task::{Job, Make, State, Task};
use thimble_spec::names::check_name;
use thimble_spec::vmm::{CONTROL_FILE, DiskFormat};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::Api;
use super::call::Refusal;
use crate::freeze::Freeze;
use crate::life::{Entry, Life, Loan, Wish};
use crate::plan::Place;
use crate::snapshots::{Disk, Part};
use crate::tasks::Begun;

/// How long a guest may stand still while its disk is copied.
const STILL_LIMIT: Duration = Duration::from_secs(30);
/// Snapshots of a guest.
const MOST: usize = 64;

impl Api {
    /// Those of a guest, oldest first.
    ///
    /// # Errors
    /// There is no such guest, or none can be made of its disk.
    pub async fn snapshots(&self, guest: &str) -> Result<Snapshots, Refusal> {
        let entry = self.guest(guest)?;
        let disk = self.disk_of(&entry)?;
        let snapshots = work(move || disk.list()).await.map_err(|error| Refusal::broken(format!("{error:#}")))?;
        Ok(Snapshots { snapshots })
    }

    /// Begins to make one. It goes on, whether or not somebody waits for it.
    ///
    /// # Errors
    /// There is one of this name; none is made of the guest's disk; it is about to start or to end.
    pub async fn take_snapshot(self: &Arc<Self>, guest: &str, name: &str, who: &Who) -> Result<Task, Refusal> {
        check_name(name).map_err(|error| Refusal::wrong(format!("snapshot: {error}")))?;
        let entry = self.guest(guest)?;
        let disk = self.disk_of(&entry)?;
        let (loan, runs) = entry.share_disk().await.map_err(Refusal::conflict)?;
        let there = self.snapshots(guest).await?.snapshots;
        if there.iter().any(|other| other.name == name) {
            return Err(Refusal::conflict(format!(
                "guest {guest} has a snapshot {name}: take another name, or thimblectl snapshot-delete {guest} {name}"
            )));
        }
        if there.len() >= MOST {
            return Err(Refusal::conflict(format!("guest {guest} has {MOST} snapshots: delete some")));
        }
        let begun = self.begin_on(guest, Make::SnapshotCreate)?;
        let task = begun.task();
        let qcow2 = entry.guest().disk.as_ref().is_some_and(|disk| disk.format == DiskFormat::Qcow2);
        let taking = Taking { entry, disk, frozen_only: qcow2, name: name.to_owned(), begun: begun.clone() };
        let (api, who) = (Arc::clone(self), who.clone());
        tokio::spawn(async move {
            let taken = match runs {
                None => taking.of_one_that_is_off().await,
                Some(before) => taking.of_one_that_runs(&before).await,
            };
            let done = format!("snapshot {} is made", taking.name);
            api.ended(&begun, &taking.entry.name, &who, taken.map(|how| (done, how)), loan);
        });
        Ok(task)
    }

    /// Begins to make the guest's disk what it was. The guest is off, and is not started meanwhile.
    ///
    /// # Errors
    /// The guest runs, or has no such snapshot.
    pub async fn revert(self: &Arc<Self>, guest: &str, name: &str, who: &Who) -> Result<Task, Refusal> {
        let entry = self.guest(guest)?;
        let loan = entry.borrow_disk().await.map_err(Refusal::conflict)?;
        self.snapshot(guest, name).await?;
        let begun = self.begin_on(guest, Make::SnapshotRevert)?;
        let (task, disk, name) = (begun.task(), self.disk_of(&entry)?, name.to_owned());
        let (api, who) = (Arc::clone(self), who.clone());
        tokio::spawn(async move {
            let (snapshot, own) = (name.clone(), begun.clone());
            let reverted = work(move || disk.revert(&snapshot, &|share| own.copies(share))).await;
            let done = format!("its disk is that of snapshot {name}");
            api.ended(&begun, &entry.name, &who, reverted.map(|()| (done, "done".to_owned())), loan);
        });
        Ok(task)
    }

    /// Takes one away.
    ///
    /// # Errors
    /// There is none of this name; it stays.
    pub async fn delete_snapshot(&self, guest: &str, name: &str, who: &Who) -> Result<Snapshot, Refusal> {
        let _turn = self.changes.lock().await;
        let found = self.snapshot(guest, name).await?;
        let (disk, snapshot) = (self.disk_of(&self.guest(guest)?)?, name.to_owned());
        let removed = work(move || disk.remove(&snapshot)).await;
        removed.map_err(|error| Refusal::broken(format!("{error:#}")))?;
        self.audited(who, guest, &format!("snapshot {name} is deleted"));
        Ok(found)
    }

    async fn snapshot(&self, guest: &str, name: &str) -> Result<Snapshot, Refusal> {
        let found = self.snapshots(guest).await?.snapshots.into_iter().find(|other| other.name == name);
        let none = || format!("guest {guest} has no snapshot of that name: thimblectl snapshot-list {guest}");
        found.ok_or_else(|| Refusal::missing(&none()))
    }

    fn disk_of(&self, entry: &Entry) -> Result<Disk, Refusal> {
        Disk::of(&self.book, &entry.guest()).map_err(Refusal::conflict)
    }

    fn begin_on(&self, guest: &str, what: Make) -> Result<Begun, Refusal> {
        let begun = self.tasks.begin(guest, Job::Make(what));
        begun.ok_or_else(|| Refusal::busy("too many tasks run: wait for some, or give them up"))
    }

    /// Tells what became of a task: what was done, and how. The disk is given back before it.
    fn ended(&self, begun: &Begun, guest: &str, who: &Who, outcome: Result<(String, String)>, loan: Loan) {
        drop(loan);
        match outcome {
            Ok((done, how)) => {
                self.audited(who, guest, &done);
                begun.end(State::Done, &how);
            }
            Err(error) => begun.end(State::Failed, &format!("{error:#}")),
        }
    }
}

/// A snapshot that is being made.
struct Taking {
    entry: Entry,
    disk: Disk,
    /// What is in the file is whole only when the guest has flushed it, and writes nothing.
    frozen_only: bool,
    name: String,
    begun: Begun,
}

impl Taking {
    async fn of_one_that_is_off(&self) -> Result<String> {
        let begun = self.begun.clone();
        let part = fill(self.prepared().await?, Moment::Off, move |share| begun.copies(share)).await?;
        self.finish(part).await?;
        Ok("made, of a guest that is off".to_owned())
    }

    /// Frozen, if it can be; then still, and copied; then it goes on, and only then is it waited for the disk below.
    async fn of_one_that_runs(&self, before: &Life) -> Result<String> {
        let part = self.prepared().await?;
        let socket = Place::of(&self.entry.name).file(CONTROL_FILE);
        self.begun.progress("freezing its file system");
        let freeze = Freeze::ask(&socket).await;
        let began = Instant::now();
        let filled = self.while_still(part, &freeze).await;
        // Asked for in any case: what was asked before may come about late.
        let went = self.entry.order(Wish::GoOn).await;
        let still = began.elapsed().as_secs_f64();
        freeze.thaw().await;
        let (part, fault) = filled?;
        let now = self.entry.life.borrow().clone();
        // Killed, it has stood still for good.
        if now.starts != before.starts || (went.is_err() && now.state != GuestState::Off) {
            // Taken away by one who may wait for it.
            work(move || {
                drop(part);
                Ok(())
            })
            .await?;
            bail!("the guest went on while its disk was copied: try again");
        }
        self.finish(part).await?;
        Ok(match fault {
            None => format!("made, its file system frozen, the guest still for {still:.2} s"),
            Some(fault) => format!(
                "made, as after a power cut, the guest still for {still:.2} s: its file system was not frozen, for {fault}"
            ),
        })
    }

    async fn while_still(&self, part: Part, freeze: &Freeze) -> Result<(Part, Option<String>)> {
        self.entry.order(Wish::Still).await.map_err(anyhow::Error::msg)?;
        if let Some(fault) = freeze.fault()
            && self.frozen_only
        {
            bail!(
                "its disk is a qcow2 image, of which its VMM has a part in memory: it is kept with the guest's file system \
                 frozen, which it was not, for {fault}, or when the guest is off: thimblectl shutdown {} --wait",
                self.entry.name
            );
        }
        let (fault, begun, end) = (freeze.fault(), self.begun.clone(), Instant::now() + STILL_LIMIT);
        let moment = if fault.is_none() { Moment::Frozen } else { Moment::Crash };
        let part = fill(part, moment, move |share| Instant::now() < end && begun.copies(share)).await;
        ensure!(
            part.is_ok() || Instant::now() < end,
            "copying its disk takes more than the {} s for which a guest that runs may stand still: thimblectl shutdown {} \
             --wait first",
            STILL_LIMIT.as_secs(),
            self.entry.name
        );
        Ok((part?, fault))
    }

    async fn prepared(&self) -> Result<Part> {
        let (disk, name, begun) = (self.disk.clone(), self.name.clone(), self.begun.clone());
        work(move || disk.prepare(&name, &|| begun.goes_on())).await
    }

    async fn finish(&self, part: Part) -> Result<()> {
        let begun = self.begun.clone();
        work(move || {
            ensure!(begun.goes_on(), "given up");
            part.finish()
        })
        .await
    }
}

async fn fill(mut part: Part, moment: Moment, goes_on: impl Fn(u64) -> bool + Send + 'static) -> Result<Part> {
    work(move || part.fill(moment, &goes_on).map(|()| part)).await
}

/// What waits for disks, or for LVM.
async fn work<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await?
}

impl Begun {
    /// Tells how much is copied; says whether to go on.
    fn copies(&self, share: u64) -> bool {
        self.progress(&format!("copying, {share} %"));
        self.goes_on()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use crate::api::tests::{Node, node_of};

    const GUEST: &str = "memory = \"64MiB\"\ndisk = { size = \"16MiB\" }";

    fn node() -> Node {
        let device = "memory = \"64MiB\"\ndisk = { device = \"/dev/vg/web2\" }";
        let node = node_of(&[GUEST, device, "memory = \"64MiB\""]);
        fs::create_dir_all(node.directory.path().join("disks/web1")).unwrap();
        fs::write(disk(&node), vec![7; 3 << 20]).unwrap();
        node
    }

    fn disk(node: &Node) -> std::path::PathBuf {
        node.directory.path().join("disks/web1/disk.raw")
    }

    /// Asks, and gives what became of the task: its state and its last words.
    async fn done(node: &Node, path: &str) -> (String, String) {
        let (status, task) = node.ask("POST", path).await;
        assert_eq!(status, 202, "{path}: {task}");
        let (_, task) = node.ask("GET", &format!("/v1/tasks/{}?wait_s=60", task["id"].as_str().unwrap())).await;
        let word = |key: &str| task[key].as_str().unwrap().to_owned();
        (word("state"), word("progress"))
    }

    async fn listed(node: &Node) -> Vec<(String, String)> {
        let list = node.ask("GET", "/v1/guests/web1/snapshots").await.1;
        let word = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
        let all = list["snapshots"].as_array().unwrap();
        all.iter().map(|it| (word(it, "name"), word(it, "moment"))).collect()
    }

    #[tokio::test]
    async fn a_disk_is_kept_and_given_back() {
        let node = node();
        // One that runs and does not answer is kept as after a power cut, and goes on.
        let (state, how) = done(&node, "/v1/guests/web1/snapshots/running").await;
        assert!(state == "done" && how.starts_with("made, as after a power cut"), "{state}: {how}");
        let (status, problem) = node.ask("POST", "/v1/guests/web1/snapshots/running").await;
        assert!(status == 409 && problem["error"].as_str().unwrap().contains("has a snapshot running"), "{problem}");
        let (status, _) = node.ask("POST", "/v1/guests/web1/snapshots/running/revert").await;
        assert_eq!(status, 409, "it runs");
        node.ask("POST", "/v1/guests/web1/destroy").await;
        fs::write(disk(&node), vec![8; 2 << 20]).unwrap();
        let (state, how) = done(&node, "/v1/guests/web1/snapshots/off").await;
        assert_eq!((state.as_str(), how.as_str()), ("done", "made, of a guest that is off"));
        let pair = |name: &str, moment: &str| (name.to_owned(), moment.to_owned());
        assert_eq!(listed(&node).await, [pair("running", "crash"), pair("off", "off")]);
        assert_eq!(done(&node, "/v1/guests/web1/snapshots/running/revert").await.0, "done");
        assert!(fs::read(disk(&node)).unwrap() == vec![7; 3 << 20]);
        assert_eq!(done(&node, "/v1/guests/web1/snapshots/off/revert").await.0, "done");
        assert!(fs::read(disk(&node)).unwrap() == vec![8; 2 << 20]);
        assert_eq!(node.ask("DELETE", "/v1/guests/web1/snapshots/running").await.0, 200);
        assert_eq!(node.ask("DELETE", "/v1/guests/web1/snapshots/running").await.0, 404);
        assert_eq!(listed(&node).await, [pair("off", "off")]);
        assert_eq!(node.ask("POST", "/v1/guests/web1/start").await.0, 202, "it has its disk back");
        let audit = node.api.audit.entries();
        for what in ["snapshot running is made", "its disk is that of snapshot off", "snapshot running is deleted"] {
            assert!(audit.iter().any(|entry| entry.what == format!("guest web1: {what}")), "{what}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_refused() {
        let node = node();
        for (method, path, status, wanted) in [
            ("POST", "web1/snapshots/A", 400, "snapshot: `A` is not a host name"),
            ("POST", "web1/snapshots/..", 400, "snapshot: "),
            ("POST", "web2/snapshots/a", 409, "the disk of guest web2 is /dev/vg/web2"),
            ("GET", "web2/snapshots", 409, "the disk of guest web2 is /dev/vg/web2"),
            ("POST", "web3/snapshots/a", 409, "guest web3 has no disk"),
            ("POST", "web9/snapshots/a", 404, "there is no guest of that name"),
            ("DELETE", "web1/snapshots/..", 404, "guest web1 has no snapshot of that name"),
            ("DELETE", "web1/snapshots/disk.raw", 404, "guest web1 has no snapshot of that name"),
        ] {
            let (found, problem) = node.ask(method, &format!("/v1/guests/{path}")).await;
            assert_eq!(found, status, "{path}: {problem}");
            assert!(problem["error"].as_str().unwrap().starts_with(wanted), "{wanted}: {problem}");
        }
        assert!(disk(&node).exists());
    }
}
