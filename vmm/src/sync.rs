//! Locks that a panicking thread does not take with it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. What it guards is consistent after every statement of its users, so that a panic elsewhere is no
/// reason to stop the other threads; the guest's end is decided by whoever sees the panic.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
