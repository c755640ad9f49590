//! What a network device counts.

use std::sync::atomic::{AtomicU64, Ordering};

use thimble_spec::vmm::NetStats;

/// Counters of all lanes together; what each means is said at [`NetStats`].
#[derive(Debug, Default)]
pub struct Counters {
    received_bytes: AtomicU64,
    received: AtomicU64,
    sent_bytes: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
    throttled: AtomicU64,
}

impl Counters {
    /// The driver has got a packet of `bytes`.
    pub fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// The host has taken a packet of `bytes`.
    pub fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet is lost.
    pub fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet has to wait.
    pub fn throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }

    /// How they stand.
    pub fn stats(&self, vhost: bool) -> NetStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetStats {
            vhost,
            received_bytes: read(&self.received_bytes),
            received: read(&self.received),
            sent_bytes: read(&self.sent_bytes),
            sent: read(&self.sent),
            dropped: read(&self.dropped),
            throttled: read(&self.throttled),
        }
    }
}
