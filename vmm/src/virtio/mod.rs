//! virtio devices over MMIO (virtio 1.2; section 4.2 for the transport), version 2 ("modern") only.
//!
//! | file | what |
//! | --- | --- |
//! | [`device`] | the traits that a device implements, with its life as a picture |
//! | [`transport`] | the MMIO window: widths, offsets, who may touch what without a lock |
//! | [`lane`] | queues that one thread works on |
//! | [`registers`] | the state behind the registers: negotiation, queues, reset |
//! | [`ring`], [`buffers`] | a virtqueue whose chains are checked; their memory as I/O vectors |
//! | [`interrupt`] | status register and irqfd |
//! | [`worker`] | the thread that a lane works on |
//! | [`limit`] | rate limits |
//! | [`block`], [`net`], [`console`], [`balloon`], [`vsock`], [`rng`] | the devices: `device`, `queues` and, where there is one, `config` each |

pub mod balloon;
pub mod block;
pub mod buffers;
pub mod console;
pub mod device;
pub mod interrupt;
pub mod lane;
pub mod limit;
pub mod net;
pub mod registers;
pub mod ring;
pub mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;
pub mod vsock;
pub mod worker;

pub use device::{Lane, Progress, Service, VirtioDevice, Wake, read_space};
