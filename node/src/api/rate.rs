//! A token bucket: so many at once, and so many a second after that.

use std::time::Duration;

use tokio::time::Instant;

/// The bucket. It fills by one token each `1 / per_second` and never holds more than `burst`; what is done takes one out.
/// Held is not the number of tokens but the moment at which it is full: each token that is missing moves that by one interval
/// into the future, and a bucket that is full is one whose moment has passed.
#[derive(Debug)]
pub struct Rate {
    interval: Duration,
    burst: u32,
    full: Instant,
}

impl Rate {
    /// A full one.
    pub fn new(burst: u32, per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second, burst, full: Instant::now() }
    }

    /// Takes a token; if there is none, says how long it takes until there is.
    ///
    /// # Errors
    /// There is none.
    pub fn take(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        let full = self.full.max(now) + self.interval;
        let most = self.interval * self.burst;
        if full - now > most {
            return Err(full - now - most);
        }
        self.full = full;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_let_through_and_then_so_many_a_second() {
        let mut rate = Rate::new(3, 2);
        assert!((0..3).all(|_| rate.take().is_ok()));
        assert_eq!(rate.take(), Err(Duration::from_millis(500)));
        advance(Duration::from_millis(400)).await;
        assert_eq!(rate.take(), Err(Duration::from_millis(100)));
        advance(Duration::from_millis(100)).await;
        assert!(rate.take().is_ok() && rate.take().is_err());
        advance(Duration::from_secs(3600)).await;
        assert!((0..3).all(|_| rate.take().is_ok()) && rate.take().is_err(), "a pause saves up no more than a burst");
    }
}
