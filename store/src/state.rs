//! Which slot is started: a GRUB environment block, that the boot loader's script reads and counts in.
//!
//! The block is 1024 bytes of text (GRUB 2.06, `include/grub/lib/envblk.h`): a signature line, lines of `name=value`, and
//! `#` up to the end. All that is said here stands in the first sector, so that one sector's write changes it.

use thimble_spec::release::TRIES;
use thimble_spec::slot::Slot;

use crate::error::{Error, Result};

/// Bytes of the block.
pub const BYTES: usize = 1024;
/// What it starts with (`GRUB_ENVBLK_SIGNATURE`).
const SIGNATURE: &str = "# GRUB Environment Block\n";

/// What stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The slot that was last confirmed to work.
    pub good: Slot,
    /// `tries`, less the boots of the good slot that were not confirmed since.
    pub good_left: u8,
    /// The slot that is started as long as it has tries left.
    pub trial: Option<Slot>,
    /// How many it has; with none left, the good slot is started and the trial has failed.
    pub trial_left: u8,
    /// How many there are at first.
    pub tries: u8,
}

impl State {
    /// That of a disk whose only release is in `good`.
    pub fn new(good: Slot, tries: u8) -> Self {
        Self { good, good_left: tries, trial: None, trial_left: 0, tries }
    }

    /// The slot that the boot loader starts next, if it is whole.
    pub fn next(&self) -> Slot {
        self.trial.filter(|_| self.trial_left > 0).unwrap_or(self.good)
    }

    /// Whether the slot on trial was given up.
    pub fn trial_failed(&self) -> bool {
        self.trial.is_some() && self.trial_left == 0
    }

    /// `slot` works: it is the good one, and what was not confirmed before is forgotten. A trial of the other slot stands.
    pub fn confirmed(self, slot: Slot) -> Self {
        let trial = self.trial.filter(|trial| *trial != slot);
        let trial_left = if trial.is_some() { self.trial_left } else { 0 };
        Self { good: slot, good_left: self.tries, trial, trial_left, tries: self.tries }
    }

    /// The block as it is written.
    pub fn to_block(self) -> [u8; BYTES] {
        let trial = self.trial.map_or("", Slot::as_str);
        let text = format!(
            "{SIGNATURE}good={}\ngood_left={}\ntrial={trial}\ntrial_left={}\ntries={}\n",
            self.good, self.good_left, self.trial_left, self.tries
        );
        let mut block = [b'#'; BYTES];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    /// Reads a block, as we or GRUB wrote it.
    ///
    /// # Errors
    /// It is no environment block, or one without a sensible state.
    pub fn from_block(block: &[u8]) -> Result<Self> {
        let wrong = |what: &str| Error::damaged(format!("thimble/state {what}"));
        let body = block.strip_prefix(SIGNATURE.as_bytes()).ok_or_else(|| wrong("is no GRUB environment block"))?;
        let value = |name: &str| -> Result<&str> {
            body.split(|byte| *byte == b'\n')
                .find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
                .and_then(|value| std::str::from_utf8(value).ok())
                .ok_or_else(|| wrong(&format!("does not say {name}")))
        };
        let slot = |name: &str| value(name)?.parse::<Slot>().map_err(|_| wrong(&format!("names no slot as {name}")));
        let count = |name: &str| {
            let count = value(name)?.parse::<u8>().ok().filter(|count| count <= TRIES.end());
            count.ok_or_else(|| wrong(&format!("has no number from 0 to 9 as {name}")))
        };
        let trial = if value("trial")?.is_empty() { None } else { Some(slot("trial")?) };
        let tries = count("tries")?.max(*TRIES.start());
        Ok(Self { good: slot("good")?, good_left: count("good_left")?, trial, trial_left: count("trial_left")?, tries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_block_is_as_grub_reads_it() {
        let block = State { trial: Some(Slot::B), trial_left: 3, ..State::new(Slot::A, 3) }.to_block();
        let text = String::from_utf8(block.to_vec()).unwrap();
        assert!(text.starts_with("# GRUB Environment Block\ngood=a\ngood_left=3\ntrial=b\ntrial_left=3\ntries=3\n###"));
        assert!(text.find("##").unwrap() < 512);
    }

    #[test]
    fn a_trial_is_next_until_it_is_used_up() {
        let state = State { trial: Some(Slot::B), trial_left: 1, ..State::new(Slot::A, 3) };
        assert_eq!(state.next(), Slot::B);
        let failed = State { trial_left: 0, ..state };
        assert_eq!((failed.next(), failed.trial_failed()), (Slot::A, true));
        let confirmed = state.confirmed(Slot::B);
        assert_eq!(confirmed, State::new(Slot::B, 3));
        let old = State { good_left: 2, ..state }.confirmed(Slot::A);
        assert_eq!(old, state, "the trial is still to come");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(good: bool, good_left in 0u8..=9, trial: Option<bool>, left in 0u8..=9, tries in 1u8..=9) {
            let slot = |b| if b { Slot::B } else { Slot::A };
            let state = State { good: slot(good), good_left, trial: trial.map(slot), trial_left: left, tries };
            prop_assert_eq!(State::from_block(&state.to_block()).unwrap(), state);
        }

        #[test]
        fn garbage_is_no_panic(at in 0usize..BYTES, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut block = State::new(Slot::A, 3).to_block();
            let end = (at + bytes.len()).min(BYTES);
            block[at..end].copy_from_slice(&bytes[..end - at]);
            let _ = State::from_block(&block);
        }
    }
}
