//! What both slots of the flash disk hold.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use thimble_spec::paths;
use thimble_spec::slot::Slot;
use thimble_store::{Device, Envelope, State, Store};

use super::{boot, confirm};

/// What a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// It was confirmed to work.
    Good,
    /// It is started next, or runs, and was not confirmed yet.
    OnTrial,
    /// It was started as often as it may, and not confirmed.
    Failed,
    /// It holds a release that is not started.
    Spare,
    /// It holds nothing.
    Empty,
    /// What it holds cannot be read.
    Damaged,
}

#[derive(Debug, Serialize)]
struct Shown {
    slot: Slot,
    status: Status,
    running: bool,
    next: bool,
    /// The release's manifest hash.
    manifest: Option<String>,
    /// How often the boot loader starts it before it must be confirmed.
    starts_left: Option<u8>,
}

#[derive(Debug, Serialize)]
struct Slots {
    running: Slot,
    next: Slot,
    slots: Vec<Shown>,
    /// Why the last trial was given up.
    given_up: Option<String>,
}

/// Shows them.
///
/// # Errors
/// This host has none; the boot partition cannot be read.
pub fn run(json: bool) -> Result<()> {
    let origin = boot::origin()?;
    let store = boot::look(origin.volume)?;
    let reason = confirm::reason(Path::new(paths::GIVEN_UP));
    let slots = Slots::read(&store, origin.slot, reason)?;
    if json {
        println!("{}", serde_json::to_string(&slots)?);
    } else {
        print!("{}", slots.text());
    }
    Ok(())
}

impl Slots {
    fn read<D: Device>(store: &Store<D>, running: Slot, reason: Option<String>) -> Result<Self> {
        let state = store.state()?;
        let slots = Slot::BOTH.map(|slot| shown(&state, slot, running, &store.release(slot))).into();
        Ok(Self { running, next: state.next(), slots, given_up: reason.filter(|_| state.trial_failed()) })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for slot in &self.slots {
            let status = match slot.status {
                Status::Good => "good",
                Status::OnTrial => "on trial",
                Status::Failed => "failed its trial",
                Status::Spare => "not in use",
                Status::Empty => "empty",
                Status::Damaged => "damaged",
            };
            let flag = |set: bool, word: &'static str| if set { word } else { "" };
            let marks = [flag(slot.running, ", running"), flag(slot.next, ", starts next")].concat();
            // Writing to a string does not fail.
            let _ = write!(text, "slot {}: {status}{marks}", slot.slot);
            if let Some(left) = slot.starts_left {
                let _ = write!(text, ", {left} unconfirmed starts left");
            }
            if let Some(manifest) = &slot.manifest {
                let _ = write!(text, ", manifest {manifest}");
            }
            text.push('\n');
        }
        if let Some(reason) = &self.given_up {
            text.push_str(&thimble_spec::console::one_line(reason, thimble_spec::console::SENTENCE_MAX));
            text.push('\n');
        }
        text
    }
}

fn shown(state: &State, slot: Slot, running: Slot, release: &thimble_store::Result<Option<Envelope>>) -> Shown {
    let trial = state.trial == Some(slot);
    let status = match release {
        Err(_) => Status::Damaged,
        Ok(None) => Status::Empty,
        Ok(Some(_)) if state.good == slot => Status::Good,
        Ok(Some(_)) if trial && (state.trial_left > 0 || running == slot) => Status::OnTrial,
        Ok(Some(_)) if trial => Status::Failed,
        Ok(Some(_)) => Status::Spare,
    };
    let manifest = release.as_ref().ok().and_then(Option::as_ref).map(|release| release.release().manifest.clone());
    let starts_left = match status {
        Status::Good => Some(state.good_left),
        Status::OnTrial => Some(state.trial_left),
        _ => None,
    };
    Shown { slot, status, running: slot == running, next: state.next() == slot, manifest, starts_left }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(state: &State, running: Slot) -> [Status; 2] {
        let release = thimble_spec::release::Release {
            version: thimble_spec::release::VERSION,
            appliance: "demo".into(),
            manifest: "a".repeat(64),
            cmdline: String::new(),
            tries: 3,
            key: None,
            kernel: thimble_spec::release::Part { name: "k".into(), size: 1, sha256: "b".repeat(64) },
            initrd: vec![thimble_spec::release::Part { name: "i".into(), size: 1, sha256: "c".repeat(64) }],
        };
        let release = Ok(Some(Envelope::seal(&release, None).unwrap()));
        Slot::BOTH.map(|slot| shown(state, slot, running, &release).status)
    }

    #[test]
    fn a_slot_is_what_state_and_boot_say() {
        let state = State::new(Slot::A, 3);
        assert_eq!(statuses(&state, Slot::A), [Status::Good, Status::Spare]);
        let trial = State { trial: Some(Slot::B), trial_left: 1, ..state };
        assert_eq!(statuses(&trial, Slot::A), [Status::Good, Status::OnTrial]);
        let last = State { trial_left: 0, ..trial };
        assert_eq!(statuses(&last, Slot::B), [Status::Good, Status::OnTrial]);
        assert_eq!(statuses(&last, Slot::A), [Status::Good, Status::Failed]);
        assert_eq!(shown(&state, Slot::B, Slot::A, &Ok(None)).status, Status::Empty);
    }

    #[test]
    fn people_read_a_line_a_slot() {
        let shown = |slot, status, next, starts_left: Option<u8>| Shown {
            slot,
            status,
            running: slot == Slot::A,
            next,
            manifest: starts_left.map(|_| "c0ffee".to_owned()),
            starts_left,
        };
        let slots = Slots {
            running: Slot::A,
            next: Slot::A,
            slots: vec![shown(Slot::A, Status::Good, true, Some(2)), shown(Slot::B, Status::Failed, false, None)],
            given_up: Some("slot b is given up: guest web2 was not ready".to_owned()),
        };
        assert_eq!(
            slots.text(),
            "slot a: good, running, starts next, 2 unconfirmed starts left, manifest c0ffee\n\
             slot b: failed its trial\n\
             slot b is given up: guest web2 was not ready\n"
        );
    }
}
