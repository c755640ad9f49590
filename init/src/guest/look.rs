//! What the guest is like, for whoever asks its host ([`thimble_spec::inside`]); and its clock, which stood while it was held.

use std::fs;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_settime};
use thimble_spec::inside::Inside;

use crate::clock::since_boot;
use crate::console;
use crate::net;

/// Clocks that differ by less are let alone: so long a word may take to come.
const TOLERANCE: Duration = Duration::from_millis(100);

/// Looks.
pub fn look() -> Inside {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Inside {
        uptime_s: since_boot().as_secs_f64(),
        load: load(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
        memory_kib: kib(&memory, "MemTotal:"),
        available_kib: kib(&memory, "MemAvailable:"),
        clock_ms: u64::try_from(now().as_millis()).unwrap_or_default(),
        addresses: net::address::all().unwrap_or_default(),
    }
}

/// Takes the host's word for the time.
pub fn set_clock(milliseconds: u64) {
    let time = Duration::from_millis(milliseconds);
    if time.abs_diff(now()) > TOLERANCE
        && let Err(errno) = clock_settime(ClockId::CLOCK_REALTIME, time.into())
    {
        console::error(&format!("cannot set the clock: {errno}"));
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// `0.00 0.01 0.05 1/50 123` (proc_loadavg(5)).
fn load(text: &str) -> [f64; 3] {
    let mut averages = text.split_ascii_whitespace().map(|word| word.parse().unwrap_or_default());
    std::array::from_fn(|_| averages.next().unwrap_or_default())
}

/// `MemTotal:   62000 kB` (proc_meminfo(5)).
fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim_end().parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(load("0.10 0.01 5.05 1/50 123\n"), [0.1, 0.01, 5.05]);
        assert_eq!(load(""), [0.0; 3]);
        let memory = "MemTotal:          62000 kB\nMemFree:        1 kB\nMemAvailable:    41000 kB\n";
        assert_eq!(
            (kib(memory, "MemTotal:"), kib(memory, "MemAvailable:"), kib(memory, "Cached:")),
            (62_000, 41_000, 0)
        );
    }

    #[test]
    fn what_is_seen_here_can_be_told() {
        let inside = look();
        assert!(inside.memory_kib > inside.available_kib && inside.available_kib > 0, "{inside:?}");
        assert!(inside.addresses.iter().all(|net| !net.address.is_loopback()), "{inside:?}");
        let told: Inside = inside.to_string().parse().unwrap();
        assert_eq!((told.clock_ms, told.addresses), (inside.clock_ms, inside.addresses));
    }
}
