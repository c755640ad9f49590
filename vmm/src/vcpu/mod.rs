//! The virtual processors: what they can do ([`model`]) and are ([`cpuid`], [`registers`]), how they run ([`run`]) and
//! where ([`affinity`]), and how they are stopped, held and let go together ([`gang`]).

pub mod affinity;
pub mod cpuid;
pub mod gang;
pub mod model;
pub mod registers;
pub mod run;

/// Most vCPUs of a guest: an xAPIC id is a byte, 255 addresses all of them (Intel SDM volume 3, 11.4.6), and the
/// IOAPIC takes an id too.
pub const MAX: u8 = 254;
