//! Waiting for something to happen.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::since_boot;

/// Waits until one of `readers` can be read, one of `writers` can be written or `deadline` has passed. Which one does not
/// matter: everything that PID 1 reads and writes goes without waiting, and there are few of them.
pub fn wait<'a>(
    readers: impl IntoIterator<Item = BorrowedFd<'a>>,
    writers: impl IntoIterator<Item = BorrowedFd<'a>>,
    deadline: Option<Duration>,
) {
    let readers = readers.into_iter().map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    let writers = writers.into_iter().map(|descriptor| PollFd::new(descriptor, PollFlags::POLLOUT));
    let mut descriptors: Vec<PollFd> = readers.chain(writers).collect();
    // An interruption or an error is one more look.
    let _ = poll(&mut descriptors, timeout(deadline, since_boot()));
}

/// Milliseconds until `deadline` as poll(2) takes them, rounded up so that it has passed when poll returns.
fn timeout(deadline: Option<Duration>, now: Duration) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_sub(now) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_up_and_never_waits_for_the_past() {
        let ms =
            |deadline: u64| timeout(Some(Duration::from_micros(deadline)), Duration::from_micros(5000)).as_millis();
        assert_eq!(ms(0), Some(0));
        assert_eq!(ms(5000), Some(0));
        assert_eq!(ms(5001), Some(1));
        assert_eq!(ms(7000), Some(2));
        assert_eq!(timeout(None, Duration::ZERO), PollTimeout::NONE);
        assert_eq!(timeout(Some(Duration::MAX / 2), Duration::ZERO), PollTimeout::MAX);
    }
}
