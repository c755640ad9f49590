//! Rate limits: token buckets, shared by a device's lanes, and a timer each that wakes a lane when tokens are there.
//!
//! A bucket holds up to `burst` tokens, starts full and gains `per_second` tokens a second, counted in whole
//! nanoseconds: of `elapsed * per_second` the part that makes no whole token is carried on. A request of `n` tokens may
//! go when `min(n, burst)` are there, and takes all `n`: one that is larger than the bucket leaves a debt, and the ones
//! behind it wait for longer. So over any time `t` at most `burst + per_second * t` tokens go, and one request more.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thimble_spec::vmm::{Limits, Rate};
use vmm_sys_util::timerfd::TimerFd;

use crate::sync::lock;

/// Nanoseconds of a second: what a token costs, in units of [`Bucket::carry`].
const SECOND: u128 = 1_000_000_000;
/// The shortest wait, so that a lane is not woken for every token.
const SHORTEST: Duration = Duration::from_micros(100);
/// The longest wait before a lane asks again: limits may have been replaced meanwhile.
const LONGEST: Duration = Duration::from_millis(100);
/// A burst where none is given: this part of a second's worth.
const DEFAULT_BURST: u64 = 10;

/// A token bucket.
#[derive(Clone, Debug)]
struct Bucket {
    per_second: u64,
    burst: u64,
    tokens: i128,
    carry: u128,
    filled: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        let per_second = rate.per_second.max(1);
        let burst = rate.burst.unwrap_or(per_second / DEFAULT_BURST).max(1);
        Self { per_second, burst, tokens: burst.into(), carry: 0, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_nanos();
        self.filled = self.filled.max(now);
        let gained = elapsed * u128::from(self.per_second) + self.carry;
        self.carry = gained % SECOND;
        self.tokens = self.tokens.saturating_add((gained / SECOND) as i128);
        if self.tokens >= i128::from(self.burst) {
            self.tokens = self.burst.into();
            self.carry = 0;
        }
    }

    /// How long until `wanted` tokens may go, from the time of the last [`Self::fill`].
    fn wait(&self, wanted: u64) -> Duration {
        let missing = i128::from(wanted.min(self.burst)) - self.tokens;
        if missing <= 0 {
            return Duration::ZERO;
        }
        let needed = (missing as u128 * SECOND).saturating_sub(self.carry).div_ceil(self.per_second.into());
        Duration::from_nanos(u64::try_from(needed).unwrap_or(u64::MAX))
    }
}

/// The buckets of one direction of a device.
#[derive(Clone, Debug, Default)]
struct Buckets {
    bandwidth: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Buckets {
    fn new(limits: Limits, now: Instant) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now));
        Self { bandwidth: bucket(limits.bandwidth), operations: bucket(limits.operations) }
    }

    /// Takes the tokens of one request of `bytes`; if they are not there, nothing, and says how long to wait.
    fn take(&mut self, bytes: u64, now: Instant) -> Result<(), Duration> {
        let mut both = [(&mut self.bandwidth, bytes), (&mut self.operations, 1)];
        let mut wait = Duration::ZERO;
        for (bucket, wanted) in &mut both {
            if let Some(bucket) = bucket {
                bucket.fill(now);
                wait = wait.max(bucket.wait(*wanted));
            }
        }
        if !wait.is_zero() {
            return Err(wait);
        }
        for (bucket, wanted) in both {
            if let Some(bucket) = bucket {
                bucket.tokens -= i128::from(wanted);
            }
        }
        Ok(())
    }
}

/// Limits of a device, to be changed while it works.
#[derive(Clone, Debug)]
pub struct SharedLimits(Arc<Mutex<Buckets>>);

impl SharedLimits {
    /// Buckets that are full.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Buckets::new(limits, Instant::now()))))
    }

    /// Replaces them. A lane that waits learns of it when it asks again, after a tenth of a second at most.
    pub fn set(&self, limits: Limits) {
        *lock(&self.0) = Buckets::new(limits, Instant::now());
    }
}

/// A lane's view of its device's limits.
#[derive(Debug)]
pub struct Limiter {
    shared: SharedLimits,
    timer: TimerFd,
    waiting: bool,
}

impl Limiter {
    /// A view with a timer of its own.
    ///
    /// # Errors
    /// The host gives no timer.
    pub fn new(shared: SharedLimits) -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        // Read only to take its signal away; that must not wait.
        // SAFETY: fcntl with these takes numbers only.
        if unsafe { libc::fcntl(timer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { shared, timer, waiting: false })
    }

    /// Whether a request of `bytes` may go now, which then counts. If not, [`Self::source`] will tell when to ask
    /// again.
    pub fn take(&mut self, bytes: u64) -> bool {
        match lock(&self.shared.0).take(bytes, Instant::now()) {
            Ok(()) => {
                self.waiting = false;
                true
            }
            Err(wait) => {
                // A timer that cannot be set would be a wait for ever: rather go on without a limit.
                self.waiting = self.timer.reset(wait.clamp(SHORTEST, LONGEST), None).is_ok();
                !self.waiting
            }
        }
    }

    /// Whether the last [`Self::take`] was refused: until the timer has fired there is no use in asking.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// The timer has fired: its signal is taken away.
    pub fn fired(&mut self) {
        // One that has not fired, after a change of limits, has nothing to read.
        let _ = self.timer.wait();
        self.waiting = false;
    }

    /// Becomes readable when it is worth asking again.
    pub fn source(&self) -> BorrowedFd<'_> {
        // SAFETY: the timer owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.timer.as_raw_fd()) }
    }
}

impl AsFd for Limiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(bandwidth: Option<(u64, u64)>, operations: Option<(u64, u64)>) -> Limits {
        let rate = |(per_second, burst)| Rate { per_second, burst: Some(burst) };
        Limits { bandwidth: bandwidth.map(rate), operations: operations.map(rate) }
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut buckets = Buckets::new(limits(Some((1000, 500)), None), start);
        assert_eq!(buckets.take(500, start), Ok(()));
        assert_eq!(buckets.take(100, start), Err(Duration::from_millis(100)));
        assert_eq!(buckets.take(100, start + Duration::from_millis(100)), Ok(()));
    }

    #[test]
    fn a_request_larger_than_the_bucket_goes_and_leaves_a_debt() {
        let start = Instant::now();
        let mut buckets = Buckets::new(limits(Some((1000, 100)), None), start);
        assert_eq!(buckets.take(1100, start), Ok(()));
        assert_eq!(buckets.take(1, start), Err(Duration::from_millis(1001)));
    }

    #[test]
    fn a_refused_request_takes_nothing_from_either_bucket() {
        let start = Instant::now();
        let mut buckets = Buckets::new(limits(Some((1000, 1000)), Some((1, 1))), start);
        assert_eq!(buckets.take(10, start), Ok(()));
        assert_eq!(buckets.take(10, start), Err(Duration::from_secs(1)));
        assert_eq!(buckets.bandwidth.unwrap().tokens, 990);
    }

    #[test]
    fn the_timer_fires_when_tokens_are_there() {
        let mut limiter = Limiter::new(SharedLimits::new(limits(None, Some((100, 1))))).unwrap();
        assert!(limiter.take(0) && !limiter.take(0) && limiter.is_waiting());
        let mut poll = libc::pollfd { fd: limiter.source().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which is there.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 5000) }, 1);
        limiter.fired();
        assert!(limiter.take(0));
    }

    #[test]
    fn a_lane_in_debt_learns_of_new_limits() {
        let shared = SharedLimits::new(limits(Some((1, 1)), None));
        let mut limiter = Limiter::new(shared.clone()).unwrap();
        // A debt of weeks.
        assert!(limiter.take(1 << 20) && !limiter.take(1));
        shared.set(Limits::default());
        let mut poll = libc::pollfd { fd: limiter.source().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which is there.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 5000) }, 1);
        limiter.fired();
        assert!(limiter.take(1));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let mut limiter = Limiter::new(SharedLimits::new(Limits::default())).unwrap();
        assert!((0..1000).all(|_| limiter.take(u64::MAX)));
    }

    proptest! {
        #[test]
        fn the_long_run_keeps_to_the_rate(
            per_second in 1u64..1_000_000_000, burst in 1u64..1_000_000, steps in prop::collection::vec(1u64..50_000_000, 1..60),
        ) {
            let start = Instant::now();
            let mut buckets = Buckets::new(limits(Some((per_second, burst)), None), start);
            let (mut now, mut gone, size) = (start, 0u128, burst.div_ceil(3));
            for step in steps {
                now += Duration::from_nanos(step);
                for _ in 0..100 {
                    if buckets.take(size, now).is_err() { break }
                    gone += u128::from(size);
                }
            }
            let most = u128::from(burst) + (now - start).as_nanos() * u128::from(per_second) / SECOND;
            prop_assert!(gone <= most, "{gone} > {most}");
        }

        #[test]
        fn after_the_wait_it_goes(per_second in 1u64.., burst in 1u64.., wanted in any::<u64>()) {
            let start = Instant::now();
            let mut buckets = Buckets::new(limits(Some((per_second, burst)), None), start);
            prop_assert_eq!(buckets.take(burst, start), Ok(()));
            if let Err(wait) = buckets.take(wanted, start) {
                prop_assume!(wait < Duration::from_secs(1 << 30));
                prop_assert_eq!(buckets.take(wanted, start + wait), Ok(()));
            }
        }
    }
}
