//! How long to wait before something that died is started again.

use std::time::Duration;

/// The first pause.
pub const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
pub const LONGEST: Duration = Duration::from_secs(10);
/// Who lived this long starts again from the first pause.
pub const STABLE: Duration = Duration::from_secs(30);

/// Doubles from [`FIRST`] to [`LONGEST`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after a life of `lived`.
    pub fn after(&mut self, lived: Duration) -> Duration {
        if lived >= STABLE {
            self.failures = 0;
        }
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff.after(STABLE), FIRST, "a long life clears the record");
    }

    proptest! {
        #[test]
        fn stays_within_its_bounds(lives in prop::collection::vec(0u64..60, 0..100)) {
            let mut backoff = Backoff::default();
            for life in lives {
                let pause = backoff.after(Duration::from_secs(life));
                prop_assert!((FIRST..=LONGEST).contains(&pause));
            }
        }
    }
}
