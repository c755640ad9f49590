//! What can be done to a host's storage: one change each, small enough that a power cut between two of them is no matter.

use std::fmt;

use serde::Serialize;
use thimble_spec::appliance::{Filesystem, Luks, Raid, Volume};

use crate::mark::Place;

/// A device by the kernel's name, and by the name that people know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    /// `/dev/NAME`.
    pub block: String,
    /// What the definition calls it.
    pub path: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path == format!("/dev/{}", self.block) {
            f.write_str(&self.path)
        } else {
            write!(f, "{} ({})", self.path, self.block)
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// Zeroes the beginning and the end of a device: nothing is on it after that.
    Wipe {
        /// The device.
        target: Target,
        /// What is on it, for people.
        content: String,
    },
    /// Writes a partition table.
    Partition {
        /// The disk.
        target: Target,
        /// Its name in the definition.
        disk: String,
    },
    /// Takes the mark off that says that something is being made.
    Finish {
        /// The device.
        target: Target,
        /// Where the mark is.
        #[serde(skip)]
        place: Place,
    },
    /// Makes a new array.
    CreateArray {
        /// What it is to be.
        #[serde(serialize_with = "name_of")]
        raid: Raid,
        /// Its members, in order.
        members: Vec<Target>,
        /// Its spares.
        spares: Vec<Target>,
    },
    /// Starts an array from its members.
    Assemble {
        /// Its name.
        name: String,
        /// Its members.
        members: Vec<Target>,
        /// Members that are missing.
        missing: u32,
        /// Whatever the superblocks say of a crash.
        force: bool,
    },
    /// Stops an array that was not started whole, so that it can be started anew.
    Stop {
        /// The kernel's name.
        block: String,
    },
    /// Tells an array that members are not there any more, so that their places are free.
    Release {
        /// The array.
        array: Target,
    },
    /// Gives an array a member, or one back.
    AddMember {
        /// The array.
        array: Target,
        /// The member.
        target: Target,
        /// It was one before: only what changed since is copied, if the array has a bitmap.
        returns: bool,
    },
    /// Makes a LUKS container in which nothing is, and opens it.
    MakeLuks {
        /// The device.
        target: Target,
        /// The device with the key.
        key: Target,
        /// What it is to be.
        #[serde(serialize_with = "luks_name")]
        luks: Luks,
    },
    /// Opens a LUKS container.
    OpenLuks {
        /// The device.
        target: Target,
        /// The device with the key.
        key: Target,
        /// What it is.
        #[serde(serialize_with = "luks_name")]
        luks: Luks,
    },
    /// Closes a LUKS container whose making was cut off, so that it can be made anew.
    CloseLuks {
        /// Its name.
        name: String,
    },
    /// Makes a volume group.
    CreateGroup {
        /// Its name.
        name: String,
        /// Its members.
        members: Vec<Target>,
    },
    /// Gives a volume group more members.
    ExtendGroup {
        /// Its name.
        name: String,
        /// The new members.
        members: Vec<Target>,
    },
    /// Makes the devices of a group's volumes.
    ActivateGroup {
        /// Its name.
        name: String,
        /// Those that have none.
        volumes: Vec<String>,
    },
    /// Makes a volume.
    CreateVolume {
        /// Its group.
        group: String,
        /// What it is to be.
        #[serde(serialize_with = "volume_name")]
        volume: Volume,
    },
    /// Keeps a thin volume as it is now, as another one ([`crate::snapshots`]).
    CopyVolume {
        /// Their group.
        group: String,
        /// The volume.
        of: String,
        /// The other one's name.
        to: String,
        /// A device is made of that.
        active: bool,
    },
    /// Gives a volume another name.
    RenameVolume {
        /// Its group.
        group: String,
        /// The name that it has.
        from: String,
        /// The name that it gets.
        to: String,
    },
    /// Takes a volume away that is kept beside another one.
    RemoveVolume {
        /// Its group.
        group: String,
        /// Its name.
        volume: String,
    },
    /// Zeroes the beginning and the end of a volume that was just made: what was in its extents before is nobody's.
    ClearVolume {
        /// Its group.
        group: String,
        /// Its device.
        target: Target,
        /// Its name.
        volume: String,
    },
    /// Makes a file system.
    MakeFilesystem {
        /// The device.
        target: Target,
        /// What it is to be.
        #[serde(serialize_with = "mount_of")]
        filesystem: Filesystem,
    },
    /// Mounts a file system.
    Mount {
        /// The device.
        target: Target,
        /// Where and how.
        #[serde(serialize_with = "mount_of")]
        filesystem: Filesystem,
    },
    /// Makes swap.
    MakeSwap {
        /// The device.
        target: Target,
    },
    /// Swaps to it.
    SwapOn {
        /// The device.
        target: Target,
    },
    /// Swaps to compressed memory.
    Zram {
        /// How much.
        bytes: u64,
    },
    /// Gives a device the name by which the definition knows it.
    Name {
        /// The device.
        target: Target,
    },
}

impl Step {
    /// The devices whose content is lost by it.
    pub fn destroys(&self) -> Vec<&Target> {
        match self {
            Self::Wipe { target, .. }
            | Self::Partition { target, .. }
            | Self::ClearVolume { target, .. }
            | Self::MakeFilesystem { target, .. }
            | Self::MakeLuks { target, .. }
            | Self::MakeSwap { target }
            | Self::AddMember { target, returns: false, .. } => vec![target],
            Self::CreateArray { members, spares, .. } => members.iter().chain(spares).collect(),
            Self::CreateGroup { members, .. } | Self::ExtendGroup { members, .. } => members.iter().collect(),
            _ => Vec::new(),
        }
    }
}

fn list(targets: &[Target]) -> String {
    targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wipe { target, content } => write!(f, "wipe {target}, which has {content}, as `wipe = true` says"),
            Self::Partition { target, .. } => write!(f, "write a partition table onto {target}"),
            Self::Finish { target, .. } => write!(f, "note that {target} is made"),
            Self::CreateArray { raid, members, spares } => {
                write!(f, "make the RAID {} array {} of {}", raid.level, raid.path(), list(members))?;
                if spares.is_empty() { Ok(()) } else { write!(f, ", with {} to spare", list(spares)) }
            }
            Self::Assemble { name, members, missing, force } => {
                let how = if *force { " by force" } else { "" };
                write!(f, "start the array {name}{how} of {}", list(members))?;
                if *missing == 0 { Ok(()) } else { write!(f, ", without {missing} that are missing") }
            }
            Self::Stop { block } => write!(f, "stop the array {block}, which is not whole"),
            Self::Release { array } => write!(f, "take the members out of {array} that are not there any more"),
            Self::AddMember { array, target, returns: true } => write!(f, "give {target} back to {array}"),
            Self::AddMember { array, target, returns: false } => write!(f, "add {target} to {array}"),
            Self::MakeLuks { target, key, luks } => {
                write!(f, "make the LUKS container {} on {target}, with the key on {key}", luks.name)
            }
            Self::OpenLuks { target, key, luks } => {
                write!(f, "open the LUKS container {} on {target}, with the key on {key}", luks.name)
            }
            Self::CloseLuks { name } => write!(f, "close the LUKS container {name}, which is not whole"),
            Self::CreateGroup { name, members } => write!(f, "make the volume group {name} on {}", list(members)),
            Self::ExtendGroup { name, members } => write!(f, "add {} to the volume group {name}", list(members)),
            Self::ActivateGroup { name, .. } => write!(f, "activate the volume group {name}"),
            Self::CreateVolume { group, volume } => write!(f, "make the volume {group}/{}", volume.name),
            Self::CopyVolume { group, of, to, .. } => write!(f, "keep the volume {group}/{of} as {to}"),
            Self::RenameVolume { group, from, to } => write!(f, "rename the volume {group}/{from} to {to}"),
            Self::RemoveVolume { group, volume } => write!(f, "remove the volume {group}/{volume}"),
            Self::ClearVolume { target, .. } => write!(f, "clear the new volume {target}"),
            Self::MakeFilesystem { target, filesystem } => {
                write!(f, "make an {} file system on {target}", filesystem.kind.name())
            }
            Self::Mount { target, filesystem } => write!(f, "mount {target} at {}", filesystem.mount),
            Self::MakeSwap { target } => write!(f, "make swap on {target}"),
            Self::SwapOn { target } => write!(f, "swap to {target}"),
            Self::Zram { bytes } => write!(f, "swap to {} MiB of compressed memory", bytes >> 20),
            Self::Name { target } => write!(f, "name /dev/{} {}", target.block, target.path),
        }
    }
}

fn name_of<S: serde::Serializer>(raid: &Raid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&raid.name)
}

fn luks_name<S: serde::Serializer>(luks: &Luks, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&luks.name)
}

fn volume_name<S: serde::Serializer>(volume: &Volume, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&volume.name)
}

fn mount_of<S: serde::Serializer>(filesystem: &Filesystem, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&filesystem.mount)
}
