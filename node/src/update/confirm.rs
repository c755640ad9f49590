//! The running slot works: what PID 1's health gate has written, once a boot.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use thimble_spec::paths;
use thimble_spec::slot::Slot;
use thimble_store::State;

use super::boot;
use crate::say;

/// As much is read of why the last trial was given up.
const REASON_MAX: u64 = 4096;

/// Tells the boot loader, and the console what has become of a trial.
///
/// # Errors
/// The boot partition cannot be written.
pub fn run() -> Result<()> {
    let origin = boot::origin()?;
    let mut store = boot::open(origin.volume)?;
    let before = store.state().ok();
    store.confirm(origin.slot)?;
    match before.map(|state| (state, became(&state, origin.slot))) {
        Some((state, Became::Good)) => say::note(&format!("slot {} works and is the good one now", state.good.other())),
        Some((_, Became::Back(failed))) => {
            let reason = reason(Path::new(paths::GIVEN_UP)).map_or(String::new(), |reason| format!(" ({reason})"));
            say::error(&format!(
                "slot {failed} was started and not confirmed, and this is slot {} again{reason}: mend that release and \
                 update once more",
                origin.slot
            ));
        }
        _ => {}
    }
    Ok(())
}

/// What a boot that works means.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    /// A trial is over, and well.
    Good,
    /// The trial of this slot has failed.
    Back(Slot),
    /// Nothing new.
    Usual,
}

fn became(before: &State, running: Slot) -> Became {
    if before.good != running {
        Became::Good
    } else if before.trial_failed() {
        Became::Back(running.other())
    } else {
        Became::Usual
    }
}

/// What PID 1 wrote down when it gave the slot up; it did not always come to that.
pub fn reason(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(REASON_MAX).read_to_string(&mut text).ok()?;
    let sentence = text.trim();
    (!sentence.is_empty()).then(|| sentence.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_boot_means() {
        let state = State::new(Slot::A, 3);
        assert_eq!(became(&state, Slot::A), Became::Usual);
        let trial = State { trial: Some(Slot::B), trial_left: 2, ..state };
        assert_eq!(became(&trial, Slot::B), Became::Good);
        assert_eq!(became(&State { trial_left: 0, ..trial }, Slot::B), Became::Good, "at the last try");
        assert_eq!(became(&trial, Slot::A), Became::Usual, "it is still to come");
        assert_eq!(became(&State { trial_left: 0, ..trial }, Slot::A), Became::Back(Slot::B));
    }

    #[test]
    fn the_reason_is_bounded_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reason");
        assert_eq!(reason(&path), None);
        std::fs::write(&path, "slot b is given up: x\n").unwrap();
        assert_eq!(reason(&path).unwrap(), "slot b is given up: x");
        std::fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(reason(&path), None);
    }
}
