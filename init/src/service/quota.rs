//! How many errors of services are told: fifty that crash would else drown what matters.

use std::time::Duration;

/// So many are told at once after a quiet time.
const BURST: u32 = 20;
/// One more each.
const REFILL: Duration = Duration::from_secs(6);

/// What may still be told: pure logic.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    left: u32,
    /// When the last one was given back.
    filled: Duration,
    dropped: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { left: BURST, filled: Duration::ZERO, dropped: 0 }
    }
}

impl Quota {
    /// Whether one may be told at `now`; if so, how many were not since the last one that was.
    pub fn take(&mut self, now: Duration) -> Option<u64> {
        let passed = now.saturating_sub(self.filled);
        let more = u32::try_from(passed.as_millis() / REFILL.as_millis()).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST);
            self.filled = now;
        }
        if self.left == 0 {
            self.dropped = self.dropped.saturating_add(1);
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flood_becomes_one_line_now_and_then() {
        let mut quota = Quota::default();
        let told = (0..1000).filter(|_| quota.take(Duration::from_secs(1)).is_some()).count();
        assert_eq!(told, BURST as usize);
        assert_eq!(quota.take(Duration::from_secs(7)), Some(1000 - u64::from(BURST)));
        assert_eq!(quota.take(Duration::from_secs(7)), None);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_one_for_each_pause(pauses in prop::collection::vec(0u64..20_000, 0..300)) {
            let (mut quota, mut now, mut told) = (Quota::default(), Duration::ZERO, 0u128);
            for pause in pauses {
                now += Duration::from_millis(pause);
                told += u128::from(quota.take(now).is_some());
            }
            prop_assert!(told <= u128::from(BURST) + now.as_millis() / REFILL.as_millis());
        }
    }
}
