//! The two slots of a flash disk, and how the boot loader tells the running system which one it is.
//!
//! A flash disk holds an appliance twice at most. The boot loader starts the slot on trial as long as it has tries left,
//! the good one otherwise, and says on the kernel's command line which it was:
//!
//! | word | value |
//! | --- | --- |
//! | [`SLOT_WORD`] | the slot: `a` or `b` |
//! | [`BOOT_WORD`] | the boot partition: the volume id of its FAT, `XXXX-XXXX` in upper-case hexadecimal digits |
//! | [`TRIAL_WORD`] | none: it stands there if the slot is on trial |
//!
//! A system that was started otherwise (from the network, from an ISO) has none of them: it cannot update itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cmdline::Cmdline;

/// Key on the kernel's command line: the slot that was started, as [`Slot`] is written.
pub const SLOT_WORD: &str = "thimble.slot";
/// Key on the kernel's command line: the boot partition, as [`VolumeId`] is written.
pub const BOOT_WORD: &str = "thimble.boot";
/// On the kernel's command line, without a value: nobody has confirmed yet that the slot works.
pub const TRIAL_WORD: &str = "thimble.trial";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The one that a new disk starts from.
    A,
    /// The one that its first update goes to.
    B,
}

impl Slot {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The one beside this.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// `a` or `b`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SlotError {
    /// Neither `a` nor `b`.
    #[error("`{0}` is no slot: there are a and b")]
    Slot(String),
    /// Not `XXXX-XXXX`.
    #[error("`{0}` is no volume id: it is written XXXX-XXXX, in upper-case hexadecimal digits")]
    Volume(String),
}

impl FromStr for Slot {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        Self::BOTH.into_iter().find(|slot| slot.as_str() == text).ok_or_else(|| SlotError::Slot(text.to_owned()))
    }
}

/// The number that tells one FAT from another, as GRUB's `search.fs_uuid` compares it and Linux's `blkid` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VolumeId(pub u32);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}-{:04X}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl FromStr for VolumeId {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let digits = text.replacen('-', "", 1);
        u32::from_str_radix(&digits, 16)
            .ok()
            .map(Self)
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| SlotError::Volume(text.to_owned()))
    }
}

/// Where a running system came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The slot that was started.
    pub slot: Slot,
    /// The boot partition.
    pub volume: VolumeId,
    /// Whether the slot is on trial.
    pub trial: bool,
}

impl Origin {
    /// What the kernel's command line says; none if the system was not started from a slot.
    ///
    /// # Errors
    /// It names a slot and no boot partition, or what is none.
    pub fn of(line: &Cmdline) -> Result<Option<Self>, SlotError> {
        let Some(slot) = line.get(SLOT_WORD) else { return Ok(None) };
        let volume = line.get(BOOT_WORD).unwrap_or_default().parse()?;
        Ok(Some(Self { slot: slot.parse()?, volume, trial: line.has(TRIAL_WORD) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_command_line_says_where_a_system_came_from() {
        let origin = |line: &str| Origin::of(&Cmdline::parse(line));
        let from_b = Origin { slot: Slot::B, volume: VolumeId(0x0a2b_00ff), trial: false };
        assert_eq!(origin("quiet thimble.slot=b thimble.boot=0A2B-00FF"), Ok(Some(from_b)));
        let line = "quiet thimble.slot=b thimble.boot=0A2B-00FF thimble.trial";
        assert_eq!(origin(line), Ok(Some(Origin { trial: true, ..from_b })));
        assert_eq!(origin("quiet thimble.trial"), Ok(None));
        assert!(origin("thimble.slot=c thimble.boot=0A2B-00FF").is_err());
        assert!(origin("thimble.slot=a").is_err());
    }

    #[test]
    fn only_slots_are_slots() {
        assert_eq!("a".parse(), Ok(Slot::A));
        assert_eq!(Slot::B.other(), Slot::A);
        for text in ["", "A", "c", "ab"] {
            assert!(text.parse::<Slot>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_volume_ids_are_volume_ids() {
        for text in ["", "0A2B00FF", "0a2b-00ff", "A2B-00FF", "-0A2B00FF", "0A2B-00F", "+A2B-00FF"] {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_number_round_trip(id in any::<u32>()) {
            prop_assert_eq!(VolumeId(id).to_string().parse(), Ok(VolumeId(id)));
        }
    }
}
