//! How a disk's operations reach the host's kernel.
//!
//! | engine | when |
//! | --- | --- |
//! | [`uring`] | raw disks, where the host has io_uring: many operations on their way at once |
//! | [`sync`] | raw disks otherwise: one call after the other |
//! | [`qcow2`] | qcow2 images: calls too |
//!
//! An engine is one lane's. What it is given to fill or to take stays where it is until it says that the operation is
//! done: [`Pinned`] buffers, which the lane keeps valid by holding the guest's memory.

pub mod qcow2;
pub mod sync;
pub mod uring;

use std::io;
use std::os::fd::BorrowedFd;

use super::request::Operation;
use crate::virtio::buffers::Pinned;

/// What became of an operation that was begun.
#[derive(Debug)]
pub enum Begun {
    /// It is done: bytes moved, or why not.
    Done(io::Result<u64>),
    /// [`Engine::reap`] will tell.
    OnItsWay,
}

/// Carries out operations.
pub trait Engine: Send {
    /// Begins `operation`; `tag` is the name by which [`Self::reap`] tells of it, and no other's that is on its way.
    /// `durable`: a write, or an erasure, is done only when it would survive the loss of power.
    fn begin(&mut self, tag: u16, operation: Operation, buffers: &Pinned, durable: bool) -> Begun;

    /// Hands what was begun to the kernel. What it cannot take now is handed over by a later call, for which
    /// [`Self::source`] becomes readable; what it will never take fails, as [`Self::reap`] tells.
    fn hand_over(&mut self) {}

    /// The next operation that is done: its tag, and bytes moved or why not.
    fn reap(&mut self) -> Option<(u16, io::Result<u64>)> {
        None
    }

    /// Waits until nothing is on its way, for as long as that takes: the kernel may write to what it was given until
    /// then.
    fn drain(&mut self) {}

    /// Becomes readable when something is done, or there is something to hand over.
    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
