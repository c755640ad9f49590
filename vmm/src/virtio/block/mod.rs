//! Block device (virtio 1.2, section 5.2) on a raw file or a block device of the host.

mod config;
mod device;
mod queues;

pub use device::Block;
