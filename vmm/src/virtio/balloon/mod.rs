//! Memory balloon (virtio 1.2, section 5.5): the guest gives memory back, in part because it is asked to, in part
//! because it has no use for it at the moment.
//!
//! What is given back is dropped from the host with `MADV_DONTNEED` and is all zeros when the guest touches it again, or
//! what the kernel's and the initrd's files hold where guest memory is a mapping of those. Either may be: a guest must
//! not rely on what was in a page that it gave away (sections 5.5.6.1 and 5.5.6.7). A guest that gives away a page into
//! which a disk or a network interface still writes harms itself alone.

mod config;
mod device;
mod discard;
mod metrics;
mod queues;

pub use device::Balloon;
pub use metrics::Metrics;
