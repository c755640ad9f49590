//! Thin volumes kept as they were. What is kept of `VOLUME` is a volume beside it, with its time in LVM's own notes:
//!
//! | name | what |
//! | --- | --- |
//! | `VOLUME+NAME.MOMENT` | a snapshot; no device is made of it |
//! | `VOLUME+new` | one that is being made, or what `VOLUME` is about to be |
//! | `VOLUME+old` | what `VOLUME` was |
//!
//! No declared volume has a `+` in its name. `VOLUME` becomes what a snapshot is by names alone, for LVM merges a snapshot into
//! what it was made of, and then it is gone: `VOLUME+new` is made of the snapshot, `VOLUME` becomes `VOLUME+old`, and
//! `VOLUME+new` becomes `VOLUME`. Wherever that is cut off, the [plan](crate::plan) ends it.

use serde_json::Value;
use thimble_spec::api::snapshot::{Moment, Snapshot};
use thimble_spec::appliance::{Storage, Volume};
use thimble_spec::names::check_name;

use crate::observe::{rows, word};
use crate::step::Step;
use crate::{Error, Result, tools};

/// Between a volume's name and what it is beside that.
const BESIDE: char = '+';
/// How much of a pool, in percent, may be used for something new to be kept in it: what is kept takes room with each write.
const DATA_MAX: f64 = 95.0;
/// The same of its room for notes: without any the pool takes no writes at all.
const NOTES_MAX: f64 = 90.0;

/// What a volume is about to be.
pub(crate) fn new(volume: &str) -> String {
    format!("{volume}{BESIDE}new")
}

/// What a volume was.
pub(crate) fn old(volume: &str) -> String {
    format!("{volume}{BESIDE}old")
}

/// Whether a volume is kept beside another one: nobody uses it as it is.
pub(crate) fn is_beside(name: &str) -> bool {
    name.contains(BESIDE)
}

/// A declared thin volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thin {
    /// Its group.
    pub group: String,
    /// Its name.
    pub volume: String,
}

impl Thin {
    /// The one at a path; none if nothing of that path takes from a pool.
    pub fn at(storage: &Storage, path: &str) -> Option<Self> {
        storage.groups.iter().find_map(|group| {
            let is = |volume: &&Volume| volume.kind.is_thin() && group.path(&volume.name) == path;
            let volume = group.volumes.iter().find(is)?;
            Some(Self { group: group.name.clone(), volume: volume.name.clone() })
        })
    }

    /// Its path.
    pub fn path(&self) -> String {
        format!("/dev/{}/{}", self.group, self.volume)
    }

    /// What LVM says of its group.
    ///
    /// # Errors
    /// LVM says nothing.
    pub fn look(&self) -> Result<Report> {
        let fields = "lv_name,lv_size,lv_time,pool_lv,data_percent,metadata_percent";
        let json =
            tools::lvm(&["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields, &self.group])?;
        Ok(Report { of: self.clone(), rows: rows(&json, "lv") })
    }

    /// Keeps it as it is now, as what is about to be a snapshot.
    pub fn keep(&self) -> Step {
        self.copy(&self.volume, false)
    }

    /// It is the snapshot of this name from now on.
    pub fn kept(&self, name: &str, moment: Moment) -> Step {
        self.rename(&new(&self.volume), &self.name(name, moment))
    }

    /// What is about to be a snapshot is none.
    pub fn forget(&self) -> Step {
        self.remove_volume(new(&self.volume))
    }

    /// The steps after which the plan makes it what a snapshot is.
    pub fn revert(&self, snapshot: &Snapshot) -> [Step; 2] {
        let of = self.name(&snapshot.name, snapshot.moment);
        [self.copy(&of, true), self.rename(&self.volume, &old(&self.volume))]
    }

    /// Takes a snapshot away.
    pub fn remove(&self, snapshot: &Snapshot) -> Step {
        self.remove_volume(self.name(&snapshot.name, snapshot.moment))
    }

    fn name(&self, snapshot: &str, moment: Moment) -> String {
        format!("{}{BESIDE}{snapshot}.{moment}", self.volume)
    }

    fn copy(&self, of: &str, active: bool) -> Step {
        Step::CopyVolume { group: self.group.clone(), of: of.to_owned(), to: new(&self.volume), active }
    }

    fn rename(&self, from: &str, to: &str) -> Step {
        Step::RenameVolume { group: self.group.clone(), from: from.to_owned(), to: to.to_owned() }
    }

    fn remove_volume(&self, volume: String) -> Step {
        Step::RemoveVolume { group: self.group.clone(), volume }
    }
}

/// What LVM says of a group with a thin volume.
#[derive(Clone, Debug)]
pub struct Report {
    of: Thin,
    rows: Vec<Value>,
}

impl Report {
    /// The volume's snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut found: Vec<Snapshot> = self.rows.iter().filter_map(|row| self.snapshot(row)).collect();
        found.sort_by(|one, other| (one.made_ms, &one.name).cmp(&(other.made_ms, &other.name)));
        found
    }

    fn snapshot(&self, row: &Value) -> Option<Snapshot> {
        let rest = word(row, "lv_name").strip_prefix(&self.of.volume)?.strip_prefix(BESIDE)?;
        let (name, moment) = rest.split_once('.')?;
        check_name(name).ok()?;
        let moment = Moment::ALL.into_iter().find(|it| it.name() == moment)?;
        let made_ms = word(row, "lv_time").parse::<u64>().unwrap_or(0).saturating_mul(1000);
        let size = word(row, "lv_size").parse().ok()?;
        // The pool knows what they take together, and not whose it is.
        Some(Snapshot { name: name.to_owned(), made_ms, moment, size, allocated: None })
    }

    /// Whether something is left of what was cut off.
    pub fn is_unsettled(&self) -> bool {
        let volume = &self.of.volume;
        self.row(volume).is_none() || [new(volume), old(volume)].iter().any(|left| self.row(left).is_some())
    }

    /// Whether its pool has room for what is kept.
    ///
    /// # Errors
    /// It has none to speak of: a sentence.
    pub fn has_room(&self) -> Result<()> {
        let pool = self.row(&self.of.volume).map_or("", |row| word(row, "pool_lv"));
        let used = |key: &str| self.row(pool).and_then(|row| word(row, key).parse::<f64>().ok());
        for (key, most, what) in [("data_percent", DATA_MAX, "room"), ("metadata_percent", NOTES_MAX, "room for notes")]
        {
            if let Some(used) = used(key).filter(|used| *used >= most) {
                return Err(Error(format!(
                    "{used} % of the {what} of the pool {}/{pool} is used, and what is kept takes more with each write: \
                     delete snapshots, or give it more",
                    self.of.group
                )));
            }
        }
        Ok(())
    }

    fn row(&self, name: &str) -> Option<&Value> {
        self.rows.iter().find(|row| word(row, "lv_name") == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(rows: &[Value]) -> Report {
        let of = Thin { group: "vg".to_owned(), volume: "thin".to_owned() };
        let pool = json!({ "lv_name": "pool", "data_percent": "12.5", "metadata_percent": "3.1" });
        let thin = json!({ "lv_name": "thin", "pool_lv": "pool", "data_percent": "99.0" });
        Report { of, rows: [&[pool, thin], rows].concat() }
    }

    fn row(name: &str, time: &str) -> Value {
        json!({ "lv_name": name, "lv_size": "67108864", "lv_time": time, "pool_lv": "pool" })
    }

    #[test]
    fn a_volume_knows_its_own_snapshots() {
        let names = [
            "thin+b.frozen",
            "thin+a.off",
            "thin+new",
            "thin+old",
            "thin+c",
            "thin+A.off",
            "thin+a.b.off",
            "thin2+a.off",
            "thin+c.sometimes",
            "other",
        ];
        let report = report(&names.map(|name| row(name, if name.contains("frozen") { "7" } else { "8" })));
        let found = report.snapshots();
        let told: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.moment, it.made_ms, it.size)).collect();
        assert_eq!(told, [("b", Moment::Frozen, 7000, 64 << 20), ("a", Moment::Off, 8000, 64 << 20)]);
        let thin = &report.of;
        assert_eq!(thin.remove(&found[1]), Step::RemoveVolume { group: "vg".into(), volume: "thin+a.off".into() });
        assert_eq!(
            thin.kept("a", Moment::Off),
            Step::RenameVolume { group: "vg".into(), from: "thin+new".into(), to: "thin+a.off".into() }
        );
    }

    #[test]
    fn what_was_cut_off_is_seen() {
        assert!(!report(&[row("thin+a.off", "1")]).is_unsettled());
        assert!(report(&[row("thin+new", "1")]).is_unsettled() && report(&[row("thin+old", "1")]).is_unsettled());
        let mut without = report(&[]);
        without.rows.remove(1);
        assert!(without.is_unsettled());
    }

    #[test]
    fn a_pool_that_is_full_keeps_nothing_new() {
        let mut report = report(&[]);
        assert_eq!(report.has_room(), Ok(()));
        for (key, what) in
            [("data_percent", "97.2 % of the room of the pool vg/pool"), ("metadata_percent", "room for notes")]
        {
            let before = std::mem::replace(&mut report.rows[0][key], "97.2".into());
            let Error(sentence) = report.has_room().unwrap_err();
            assert!(sentence.contains(what), "{sentence}");
            report.rows[0][key] = before;
        }
        // What LVM does not tell is nobody's fault.
        report.rows.clear();
        assert_eq!(report.has_room(), Ok(()));
    }

    #[test]
    fn only_a_volume_of_a_pool_is_thin() {
        let text = "[[storage.volume-group]]\nname = \"vg\"\nmembers = [\"/dev/sda\"]\nvolumes = [\n\
                    { name = \"plain\", size = \"64MiB\" }, { name = \"pool\", size = \"64MiB\", thin-pool = true },\n\
                    { name = \"thin\", size = \"64MiB\", pool = \"pool\" }, { name = \"first\", snapshot-of = \"thin\" },\n]\n";
        let storage = crate::plan::tests::storage(text);
        for (path, wanted) in [
            ("/dev/vg/thin", true),
            ("/dev/vg/first", true),
            ("/dev/vg/plain", false),
            ("/dev/vg/pool", false),
            ("/dev/vg2/thin", false),
        ] {
            assert_eq!(Thin::at(&storage, path).map(|thin| thin.path()), wanted.then(|| path.to_owned()));
        }
    }
}
