//! Time since the kernel started.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`: never set back, counts sleep too. Everything here that has a deadline counts by it.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Looks at `condition` every few milliseconds until it holds or `limit` has passed; says whether it holds.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    /// Short beside a boot, long beside a look at a file.
    const INTERVAL: Duration = Duration::from_millis(5);
    let end = since_boot() + limit;
    loop {
        if condition() {
            return true;
        }
        if since_boot() >= end {
            return false;
        }
        std::thread::sleep(INTERVAL);
    }
}
