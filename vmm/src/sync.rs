//! What threads share: locks that a panicking one does not take with it, and how large their stacks are.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a thread's stack. A host that gives huge pages unasked would give one of 2 MiB to a stack that can hold it,
/// and clear all of it, for a thread that needs a few KiB.
pub const STACK_BYTES: usize = 1 << 20;

/// Locks `mutex`. What it guards is consistent after every statement of its users, so that a panic elsewhere is no
/// reason to stop the other threads; the guest's end is decided by whoever sees the panic.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
