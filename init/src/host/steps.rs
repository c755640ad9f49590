//! How long each step of the boot took: for the kernel's log, where whoever makes a boot shorter reads it.

use std::time::Duration;

use crate::clock::since_boot;
use crate::console;

/// A stopwatch for the boot.
pub struct Steps {
    last: Duration,
}

impl Steps {
    /// The kernel has started PID 1.
    pub fn begin() -> Self {
        let now = since_boot();
        console::notice(&step("kernel", now));
        Self { last: now }
    }

    /// What went on since the step before was this.
    pub fn done(&mut self, name: &str) {
        let now = since_boot();
        console::notice(&step(name, now.saturating_sub(self.last)));
        self.last = now;
    }
}

/// `boot: NAME took SECONDS s`, in microseconds.
fn step(name: &str, took: Duration) -> String {
    format!("boot: {name} took {:.6} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_line() {
        assert_eq!(step("modules", Duration::from_micros(1_234_567)), "boot: modules took 1.234567 s");
    }
}
