//! `thimble flash`: an image onto a disk, without hurting any other.
//!
//! | module | what |
//! | --- | --- |
//! | [`image`] | what is to be written: looked at before anything is touched |
//! | [`system`] | where this machine tells of its disks: `/sys`, `/proc` |
//! | [`disk`] | one disk, as it tells of itself |
//! | [`usage`] | what is mounted, what swaps |
//! | [`guard`] | what speaks against writing to a disk |
//! | [`contents`] | what will be lost: partitions, labels |
//! | [`device`] | the block device, opened alone |
//! | [`write`] | writing, and reading back past the cache |
//! | [`backup`] | the backup partition table's way to the end of the disk |
//!
//! Checks read from a [`system::System`], which a test makes up as a tree of files.

pub mod backup;
pub mod contents;
pub mod device;
pub mod disk;
pub mod guard;
pub mod image;
pub mod system;
pub mod usage;
pub mod write;

use nix::sys::stat::{major, minor};

/// `MAJOR:MINOR`, as `/sys` writes a device's numbers.
pub fn numbers(device: u64) -> String {
    format!("{}:{}", major(device), minor(device))
}
