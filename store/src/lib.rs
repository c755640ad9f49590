//! The boot partition of a flash disk: two slots, each a release of the appliance, that share their objects.
//!
//! The partition is a FAT16, because firmware and GRUB read it. It is written by this library alone, directly on the
//! device and never through the kernel's driver, so that the order of the writes is known and a power cut at any moment
//! leaves a disk that boots ([`fat`]).
//!
//! ```text
//! EFI/BOOT/BOOTX64.EFI, thimble/grub.cfg   the boot loader, not touched by updates
//! thimble/state                            which slot is started: a GRUB environment block (state)
//! thimble/a.cfg  thimble/b.cfg             how GRUB starts the slot                        (script)
//! thimble/a.sum  thimble/b.sum             SHA-256 of all that it starts, for GRUB's sha256sum
//! thimble/a.rel  thimble/b.rel             the signed release                              (envelope)
//! thimble/objects/01234567.89a             objects, named by the first digits of their SHA-256
//! ```
//!
//! A slot is good (it was confirmed to work), on trial, or neither. `thimble/state` says which, and changing it is one
//! sector's write:
//!
//! ```text
//!            apply: set_trial(b)                 the system in b is healthy: confirm(b)
//!  good = a ---------------------> good = a, trial = b ------------------------> good = b
//!     ^                                 |
//!     +---------------------------------+  GRUB started b `tries` times and nobody confirmed it
//! ```
//!
//! | who | calls |
//! | --- | --- |
//! | the builder, for a new disk | [`Store::create`], [`Store::add_object`], [`Store::install`] |
//! | an update, on the node or the workstation | [`update::apply`] |
//! | PID 1, when the appliance is healthy | [`Store::confirm`] with the slot of its command line |
//! | whoever wants to know | [`Store::state`], [`Store::release`], [`Store::objects`], [`Store::verify`] |
//!
//! The device is a [`Partition`]: [`Partition::open`] for a partition's device (it refuses a mounted one),
//! [`Partition::open_part`] for a part of a disk or an image. The running system finds its boot partition by the words of
//! [`thimble_spec::slot`] on its command line and [`Store::volume`].
//!
//! Who may sign updates is a [`Key`]; it stands in the release ([`thimble_spec::release::Release::key`]), so that the
//! running release says who may replace it.

#[cfg(test)]
mod cuts;
pub mod device;
pub mod envelope;
mod error;
pub mod fat;
mod hash;
pub mod script;
pub mod state;
mod store;
#[cfg(test)]
mod testing;
pub mod update;

pub use device::{Device, Partition};
pub use envelope::{Envelope, Key, Signer};
pub use error::{Error, Result};
pub use state::State;
pub use store::{Plan, Progress, Step, Store, Stored, Whole, silent};
