//! How a stopping host ends a guest.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a guest may take to stop its services and power off before its power is cut.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(25);
/// How long a VMM that was told to end at once may take.
pub const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What a stopping host does to a guest, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask it to power off.
    Ask,
    /// After [`SHUTDOWN_LIMIT`]: tell its VMM to end.
    End,
    /// After [`KILL_LIMIT`] more: kill whatever is in its cgroup. A VMM that its guest has taken over does as it likes.
    Force,
}

/// The steps, each in its time.
pub struct Stop {
    stopping: watch::Receiver<bool>,
    /// The last one, and when the next is due.
    last: Option<(Step, Instant)>,
}

impl Stop {
    /// Nothing was done yet.
    pub fn new(stopping: watch::Receiver<bool>) -> Self {
        Self { stopping, last: None }
    }

    /// The next step, when it is time; cancel-safe.
    pub async fn next(&mut self) -> Step {
        let (step, then) = match self.last {
            None => {
                // The sender lives as long as the daemon; without it there is nothing to wait for.
                if self.stopping.wait_for(|stopping| *stopping).await.is_err() {
                    return std::future::pending().await;
                }
                (Step::Ask, SHUTDOWN_LIMIT)
            }
            Some((Step::Ask, due)) => {
                sleep_until(due).await;
                (Step::End, KILL_LIMIT)
            }
            Some((Step::End, due)) => {
                sleep_until(due).await;
                (Step::Force, KILL_LIMIT)
            }
            Some((Step::Force, _)) => return std::future::pending().await,
        };
        self.last = Some((step, Instant::now() + then));
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_stop_is_stopped() {
        let (tell, stopping) = watch::channel(false);
        let mut stop = Stop::new(stopping);
        assert!(timeout(SHUTDOWN_LIMIT, stop.next()).await.is_err(), "nobody stops");
        tell.send(true).unwrap();
        let began = Instant::now();
        for (step, after) in
            [(Step::Ask, Duration::ZERO), (Step::End, SHUTDOWN_LIMIT), (Step::Force, SHUTDOWN_LIMIT + KILL_LIMIT)]
        {
            // A select drops it at each event of the guest's.
            assert!(after.is_zero() || timeout(Duration::from_secs(1), stop.next()).await.is_err());
            assert_eq!(stop.next().await, step);
            assert!(
                (after..after + Duration::from_secs(1)).contains(&began.elapsed()),
                "{step:?}: {:?}",
                began.elapsed()
            );
        }
        assert!(timeout(SHUTDOWN_LIMIT, stop.next()).await.is_err(), "there is no more to be done");
    }
}
