//! What the device did so far.

use std::sync::atomic::{AtomicU64, Ordering};

use thimble_spec::vmm::VsockStats;

/// Counters between the device's lane and who asks for them.
#[derive(Debug, Default)]
pub struct Metrics {
    connections: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Metrics {
    /// What the specification calls them.
    pub fn stats(&self) -> VsockStats {
        VsockStats {
            connections: self.connections.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn set_connections(&self, count: usize) {
        self.connections.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
