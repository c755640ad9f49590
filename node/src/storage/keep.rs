//! The storage service: applies, then watches disks and arrays, and applies again when some come or go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thimble_spec::appliance::{Raid, Storage};
use thimble_spec::paths::STORAGE_SETTLED;
use thimble_storage::status::{Health, health};

use super::exports::Exports;
use super::system;
use super::targets::Targets;
use super::watch::Watch;
use crate::say;

/// Disks are announced one after the other: they are looked at when none came for so long,
const QUIET: Duration = Duration::from_secs(1);
/// and after so long in any case.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// The longest time between two looks at the arrays, should a sign of theirs be lost.
const LOOK: Duration = Duration::from_secs(60);

/// Runs until it is ended.
///
/// # Errors
/// The kernel announces nothing.
pub fn run(storage: &Storage) -> Result<()> {
    // Before the first look: what comes after it is announced.
    let mut watch = Watch::open()?;
    let mut exports = Exports::new(storage);
    let mut targets = Targets::new(storage);
    let mut told = Told::default();
    let mut arrays = Arrays::default();
    let mut settled = false;
    loop {
        // A spare takes over at once, and may be done before this is.
        let mut each_look = || {
            arrays.look(storage);
            targets.run();
        };
        match system::apply(storage, settled, &mut each_look) {
            Ok(outcome) => told.tell(outcome.problems.into_iter().chain(outcome.waiting), outcome.held),
            Err(error) => say::error(&format!("storage: {error:#}")),
        }
        if !settled {
            settled = true;
            File::create(STORAGE_SETTLED).with_context(|| format!("making {STORAGE_SETTLED}"))?;
        }
        loop {
            arrays.look(storage);
            let mounted = exports.run();
            targets.run();
            let pause = exports.pause().into_iter().chain(targets.pause()).min();
            let heard = watch.wait(pause.unwrap_or(LOOK))?;
            if heard.disks {
                let end = Instant::now() + QUIET_LIMIT;
                while Instant::now() < end && watch.wait(QUIET)?.disks {}
            }
            if heard.disks || mounted {
                break;
            }
        }
    }
}

/// What was told already is not told again as long as it stays so.
#[derive(Default)]
struct Told {
    sentences: BTreeSet<String>,
    /// Some of them were errors.
    errors: bool,
}

impl Told {
    fn tell(&mut self, errors: impl Iterator<Item = String>, notes: Vec<String>) {
        let errors: Vec<String> = errors.collect();
        for sentence in errors.iter().filter(|sentence| !self.sentences.contains(*sentence)) {
            say::error(&format!("storage: {sentence}"));
        }
        for sentence in notes.iter().filter(|sentence| !self.sentences.contains(*sentence)) {
            system::note(sentence);
        }
        if std::mem::replace(&mut self.errors, !errors.is_empty()) && errors.is_empty() {
            system::note("all is as declared again");
        }
        self.sentences = errors.into_iter().chain(notes).collect();
    }
}

/// How the arrays were when they were looked at the last time.
#[derive(Default)]
struct Arrays {
    last: BTreeMap<String, Health>,
}

impl Arrays {
    fn look(&mut self, storage: &Storage) {
        for raid in &storage.raids {
            let block = fs::canonicalize(raid.path()).ok();
            let Some(block) = block.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()) else {
                self.last.remove(&raid.name);
                continue;
            };
            let now = health(block);
            let before = self.last.insert(raid.name.clone(), now.clone()).unwrap_or_default();
            for news in news(raid, &before, &now) {
                match news {
                    News::Bad(sentence) => say::error(&format!("storage: {sentence}")),
                    News::Good(sentence) => system::note(&sentence),
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Bad(String),
    Good(String),
}

/// What is worth a line.
fn news(raid: &Raid, before: &Health, now: &Health) -> Vec<News> {
    let name = &raid.name;
    let mut news = Vec::new();
    if now.degraded > before.degraded {
        let (lost, all) = (now.degraded, raid.members.len());
        news.push(News::Bad(format!(
            "array {name} goes on without {lost} of its {all} members: put the disk back, or another one in its place \
             with thimble-node storage replace"
        )));
    }
    if now.degraded == 0 && before.degraded > 0 {
        news.push(News::Good(format!("array {name} is whole again")));
    }
    let idle = |health: &Health| matches!(health.action.as_str(), "" | "idle" | "frozen");
    if before.action == "check" && idle(now) && now.mismatches > 0 {
        let sectors = now.mismatches;
        news.push(News::Bad(format!(
            "array {name} has members that differ in {sectors} sectors: look for the disk that fails, then replace it"
        )));
    }
    match (idle(before), idle(now)) {
        (true, false) => news.push(News::Good(format!("array {name}: {} begins", now.action))),
        (false, true) => news.push(News::Good(format!("array {name}: {} is over", before.action))),
        _ => {}
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::appliance::{Consistency, Metadata};

    #[test]
    fn arrays_that_change_are_told_once() {
        let raid = Raid {
            name: "data".to_owned(),
            level: 1,
            members: vec!["/dev/a".to_owned(), "/dev/b".to_owned()],
            spares: Vec::new(),
            metadata: Metadata::Start,
            consistency: Some(Consistency::Bitmap),
            chunk: None,
        };
        let health = |degraded, action: &str, mismatches| Health {
            degraded,
            action: action.to_owned(),
            done_per_mille: None,
            mismatches,
        };
        let idle = health(0, "idle", 0);
        let told = |before: &Health, now: &Health| {
            let sentence = |news| match news {
                News::Bad(sentence) => format!("bad: {sentence}"),
                News::Good(sentence) => sentence,
            };
            news(&raid, before, now).into_iter().map(sentence).collect::<Vec<_>>()
        };
        assert_eq!(told(&Health::default(), &idle), [""; 0]);
        assert_eq!(told(&idle, &idle), [""; 0]);
        let lost = told(&idle, &health(1, "recover", 0));
        assert!(lost[0].starts_with("bad: array data goes on without 1 of its 2 members"), "{lost:?}");
        assert_eq!(lost[1..], ["array data: recover begins"]);
        let back = told(&health(1, "recover", 0), &idle);
        assert_eq!(back, ["array data is whole again", "array data: recover is over"]);
        assert!(told(&health(0, "check", 0), &health(0, "idle", 8))[0].starts_with("bad: array data has members"));
    }
}
