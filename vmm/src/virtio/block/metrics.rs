//! What a disk did.

use std::sync::atomic::{AtomicU64, Ordering};

use thimble_spec::vmm::DiskStats;

use super::request::Kind;

/// Counters of a disk; its lanes add to them.
#[derive(Debug, Default)]
pub struct Metrics {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    erases: AtomicU64,
    errors: AtomicU64,
    throttled: AtomicU64,
    waiting: AtomicU64,
}

impl Metrics {
    /// A request that succeeded.
    pub fn done(&self, kind: Kind, bytes: u64) {
        let (count, sum) = match kind {
            Kind::Read => (&self.reads, Some(&self.read_bytes)),
            Kind::Write => (&self.writes, Some(&self.written_bytes)),
            Kind::Flush => (&self.flushes, None),
            Kind::Discard | Kind::WriteZeroes { .. } => (&self.erases, None),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(sum) = sum {
            sum.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A request that failed.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that had to wait for a limit.
    pub fn throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that waits for room on the host.
    pub fn waits(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// One that is tried again.
    pub fn waits_no_more(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// All of them, for a disk of `bytes`.
    pub fn stats(&self, bytes: u64) -> DiskStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskStats {
            bytes,
            read_bytes: read(&self.read_bytes),
            written_bytes: read(&self.written_bytes),
            reads: read(&self.reads),
            writes: read(&self.writes),
            flushes: read(&self.flushes),
            erases: read(&self.erases),
            errors: read(&self.errors),
            throttled: read(&self.throttled),
            waiting: read(&self.waiting),
        }
    }
}
