//! What the balloon is to hold, and what the guest says that it does.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use thimble_spec::vmm::BalloonStats;

use super::config::PAGES_PER_MIB;

/// Numbers between the device and who asks for them.
#[derive(Debug, Default)]
pub struct Metrics {
    target_pages: AtomicU32,
    actual_pages: AtomicU32,
    reported_bytes: AtomicU64,
}

impl Metrics {
    /// What the specification calls them.
    pub fn stats(&self) -> BalloonStats {
        BalloonStats {
            target_mib: self.target_pages() / PAGES_PER_MIB,
            actual_mib: self.actual_pages() / PAGES_PER_MIB,
            reported_bytes: self.reported_bytes.load(Ordering::Relaxed),
        }
    }

    /// Sets what the balloon is to hold. The device's configuration has changed then, which its driver must be told.
    pub fn set_target_mib(&self, mib: u32) {
        self.target_pages.store(mib.saturating_mul(PAGES_PER_MIB), Ordering::Relaxed);
    }

    pub(super) fn target_pages(&self) -> u32 {
        self.target_pages.load(Ordering::Relaxed)
    }

    pub(super) fn actual_pages(&self) -> u32 {
        self.actual_pages.load(Ordering::Relaxed)
    }

    pub(super) fn set_actual_pages(&self, pages: u32) {
        self.actual_pages.store(pages, Ordering::Relaxed);
    }

    pub(super) fn count_reported(&self, bytes: u64) {
        self.reported_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
