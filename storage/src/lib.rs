//! From what a definition says of disks to disks that are so.
//!
//! ```text
//! observe ──> Observed ─┐
//!                       ├─ plan ──> steps ──> execute ──> observe again, until nothing is left to do
//! definition ─> Storage ┘
//! ```
//! A plan goes no further than what was seen: nothing is made on an array before the array is there and its content was
//! read. So it does not matter where a power cut ends a run: the next one sees how far it came.
//!
//! **What carries a signature that is not the declared one is never written to**, unless the definition says `wipe = true`
//! of that very disk. [`plan`] is the only place that decides this; it is pure, and its tests try it on thousands of disks.
//! What Thimble itself has begun and not finished is known by a [`mark`].
//!
//! | module | what |
//! | --- | --- |
//! | [`signature`] | what is on a device, by its first and last MiB |
//! | [`mark`] | "this is being made" |
//! | [`observed`] | what there is |
//! | [`step`] | what can be done |
//! | [`plan`](mod@plan) | what is to be done |
//! | [`observe`] | reads sysfs, the devices, LVM |
//! | [`execute`] | does a step, with the distribution's tools |
//! | [`iscsi`] | logs in to iSCSI targets, and out again |
//! | `luks` | makes, opens and closes LUKS containers |
//! | [`snapshots`] | thin volumes kept as they were |
//! | [`apply`] | all of it, until nothing is left |
//! | [`state`] | what may be used by now, for whoever waits for it |
//! | [`repair`] | what administrators have done to an array |
//! | [`status`] | what administrators and programs are told |
//! | [`end`] | all of it taken down, when the host ends |

pub mod apply;
pub mod end;
pub mod execute;
pub mod iscsi;
mod luks;
pub mod mark;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod repair;
pub mod signature;
pub mod snapshots;
pub mod state;
pub mod status;
pub mod step;
mod table;
mod tools;

/// What could not be done, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// The result of what can fail with a sentence.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was being done when something failed.
fn doing<T, E: std::fmt::Display>(result: std::result::Result<T, E>, what: impl FnOnce() -> String) -> Result<T> {
    result.map_err(|error| Error(format!("cannot {}: {error}", what())))
}
