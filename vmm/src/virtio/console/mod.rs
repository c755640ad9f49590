//! Console device (virtio 1.2, section 5.3) with one port: `/dev/hvc0` in a Linux guest.
//!
//! Its output goes where the serial port's goes, into the ring of [`crate::console::Console`]; what clients type comes
//! here while a driver runs the device, and to the serial port otherwise.

mod config;
mod device;
mod queues;

pub use device::ConsolePort;
