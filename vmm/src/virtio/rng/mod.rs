//! Entropy device (virtio 1.2, section 5.4): the guest's first random numbers are the host's.

mod device;
mod queues;

pub use device::Rng;
