//! When a guest's start and end reached what: a few moments, each taken once, for whoever wants to know what a start
//! costs. A process runs one guest, so they are the process's.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The VMM begins with the guest.
    Begin,
    /// Its memory is mapped.
    Memory,
    /// Kernel, initrd and tables are in it.
    Load,
    /// KVM has its virtual machine.
    Machine,
    /// The devices are connected.
    Devices,
    /// The processors are made.
    Vcpus,
    /// A processor enters the guest for the first time.
    Enter,
    /// It left it for the first time.
    Leave,
    /// The guest wrote to its console for the first time.
    Console,
    /// Its end is known.
    End,
}

/// All of them, in the order in which they come, and what they are called.
const NAMES: [(Phase, &str); 10] = [
    (Phase::Begin, "begin"),
    (Phase::Memory, "memory"),
    (Phase::Load, "load"),
    (Phase::Machine, "machine"),
    (Phase::Devices, "devices"),
    (Phase::Vcpus, "vcpus"),
    (Phase::Enter, "enter"),
    (Phase::Leave, "leave"),
    (Phase::Console, "console"),
    (Phase::End, "end"),
];

static TAKEN: [OnceLock<Instant>; NAMES.len()] = [const { OnceLock::new() }; NAMES.len()];

/// Notes the moment, if it is the first of its kind. Where it is not, this costs a load.
pub fn mark(phase: Phase) {
    TAKEN[phase as usize].get_or_init(Instant::now);
}

/// What was reached so far, and the time from [`Phase::Begin`] to it.
pub fn reached() -> Vec<(&'static str, Duration)> {
    let Some(begin) = TAKEN[Phase::Begin as usize].get() else { return Vec::new() };
    let since = |(phase, name): (Phase, &'static str)| {
        TAKEN[phase as usize].get().map(|moment| (name, moment.saturating_duration_since(*begin)))
    };
    NAMES.into_iter().filter_map(since).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_taken_once() {
        for (index, (phase, _)) in NAMES.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
        }
        mark(Phase::Begin);
        mark(Phase::End);
        let end = || reached().into_iter().find(|(name, _)| *name == "end").unwrap().1;
        let first = end();
        mark(Phase::End);
        assert_eq!(end(), first);
        assert_eq!(reached()[0], ("begin", Duration::ZERO));
    }
}
