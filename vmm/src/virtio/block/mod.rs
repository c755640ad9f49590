//! Block device (virtio 1.2, section 5.2) on a file or a block device of the host.
//!
//! | file | what |
//! | --- | --- |
//! | `device` | the front: opens the disk, offers features, gives a lane a queue |
//! | `request` | a request's header, checked, as an operation on the disk |
//! | `queues` | a lane: requests in flight, limits, answers |
//! | `bounce` | buffers in the place of the guest's |
//! | `engine` | how operations reach the host's kernel: io_uring, calls, qcow2 |
//! | `full` | requests that wait for room on the host |
//! | `geometry` | the sizes of the host's blocks |
//! | `lock` | whose a disk is |
//! | `disk` | what front, lanes and verbs share: size, limits, counts |
//! | `config`, `metrics` | what the driver, and what the administrator is told |

mod bounce;
mod config;
mod device;
mod disk;
pub mod engine;
mod full;
mod geometry;
mod lock;
mod metrics;
mod queues;
mod request;
#[cfg(test)]
mod tests;

pub use device::Block;
pub use disk::Handle;
