//! Network device (virtio 1.2, section 5.1) on a tap interface of the host.

mod config;
mod device;
mod queues;
mod tap;

pub use device::Net;
