//! What there is: block devices with what is on them, arrays that run, volume groups, mounts.

use std::collections::BTreeMap;

use crate::signature::Found;

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Block devices, by the kernel's names.
    pub blocks: BTreeMap<String, Block>,
    /// Arrays that the kernel has.
    pub arrays: Vec<Array>,
    /// LUKS containers that are open, by name.
    pub containers: BTreeMap<String, Container>,
    /// Volume groups.
    pub groups: Vec<Group>,
    /// Physical volumes that belong to no group, and that Thimble made: the kernel's names.
    pub orphans: Vec<String>,
    /// What is mounted: mount point to device.
    pub mounts: BTreeMap<String, String>,
    /// The kernel's names of block devices that are swapped to.
    pub swaps: Vec<String>,
    /// Names of ours below `/dev`: path to the kernel's name of the device.
    pub names: BTreeMap<String, String>,
    /// Whether there is swap in compressed memory.
    pub zram: bool,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical sector.
    pub sector: u64,
    /// The disk's serial number.
    pub serial: Option<String>,
    /// The disk's world wide name.
    pub wwn: Option<String>,
    /// Of a disk that is an iSCSI target's: the target's name, and the unit's number.
    pub unit: Option<(String, u16)>,
    /// Of a partition: the disk, and the partition's name in its table.
    pub part_of: Option<(String, Option<String>)>,
    /// What is on it.
    pub found: Found,
    /// Who uses it, as people call them: a mount, an array, another device above it. A partition is none.
    pub used_by: Option<String>,
    /// It cannot be written to, or not be read at all.
    pub broken: Option<String>,
}

/// An array that the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The kernel's name: `md127`.
    pub block: String,
    /// Its name, as its superblocks have it.
    pub name: String,
    /// Its identity.
    pub uuid: [u8; 16],
    /// It was started.
    pub active: bool,
    /// Members that it lacks.
    pub degraded: u32,
    /// The kernel's names of its members, those that are gone or faulty left out.
    pub members: Vec<String>,
    /// The names of those that failed, or that another one replaced, and that are still there: whoever made one fail decides.
    pub failed: Vec<String>,
    /// Members that the kernel still counts, and that are not there any more.
    pub gone: usize,
}

/// A LUKS container that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The kernel's name of what is in it: `dm-0`.
    pub block: String,
    /// The kernel's name of what it is on.
    pub on: String,
}

/// A volume group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The kernel's names of its physical volumes.
    pub members: Vec<String>,
    /// How many of them are not there.
    pub missing: usize,
    /// Its volumes.
    pub volumes: Vec<VolumeState>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeState {
    /// Its name.
    pub name: String,
    /// The kernel's name of its device, if it is active and has one.
    pub block: Option<String>,
    /// It is active.
    pub active: bool,
    /// Some of it is on a disk that is not there.
    pub partial: bool,
    /// It was made and not cleared yet.
    pub fresh: bool,
}

impl Observed {
    /// The partition of a disk with this name in its table.
    pub fn partition(&self, disk: &str, name: &str) -> Option<&str> {
        let is = |block: &Block| {
            block.part_of.as_ref().is_some_and(|(of, label)| of == disk && label.as_deref() == Some(name))
        };
        self.blocks.iter().find(|(_, block)| is(block)).map(|(name, _)| name.as_str())
    }

    /// The partitions of a disk.
    pub fn partitions(&self, disk: &str) -> impl Iterator<Item = (&String, &Block)> {
        self.blocks.iter().filter(move |(_, block)| block.part_of.as_ref().is_some_and(|(of, _)| of == disk))
    }
}
