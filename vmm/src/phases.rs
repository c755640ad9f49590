//! When a guest's start and end reached what: a few moments, each taken once, for whoever wants to know what a start
//! costs. A process runs one guest, so they are the process's; a child that is forked has its parent's.

use std::sync::OnceLock;
use std::time::Instant;

use thimble_spec::vmm::Phases;

/// What was reached: the fields of [`Phases`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The program begins: the others are counted from here.
    Program,
    /// [`Phases::begin_us`].
    Begin,
    /// [`Phases::memory_us`].
    Memory,
    /// [`Phases::load_us`].
    Load,
    /// [`Phases::machine_us`].
    Machine,
    /// [`Phases::devices_us`].
    Devices,
    /// [`Phases::vcpus_us`].
    Vcpus,
    /// [`Phases::jail_us`].
    Jail,
    /// [`Phases::enter_us`].
    Enter,
    /// [`Phases::leave_us`].
    Leave,
    /// [`Phases::console_us`].
    Console,
    /// [`Phases::end_us`].
    End,
    /// [`Phases::gone_us`].
    Gone,
}

static TAKEN: [OnceLock<Instant>; Phase::Gone as usize + 1] = [const { OnceLock::new() }; Phase::Gone as usize + 1];

/// Notes the moment, if it is the first of its kind. Where it is not, this costs a load.
pub fn mark(phase: Phase) {
    TAKEN[phase as usize].get_or_init(Instant::now);
}

/// What was reached so far.
pub fn reached() -> Box<Phases> {
    let program = TAKEN[Phase::Program as usize].get();
    let at = |phase: Phase| {
        let since = TAKEN[phase as usize].get()?.saturating_duration_since(*program?);
        Some(since.as_micros() as u64)
    };
    Box::new(Phases {
        begin_us: at(Phase::Begin),
        memory_us: at(Phase::Memory),
        load_us: at(Phase::Load),
        machine_us: at(Phase::Machine),
        devices_us: at(Phase::Devices),
        vcpus_us: at(Phase::Vcpus),
        jail_us: at(Phase::Jail),
        enter_us: at(Phase::Enter),
        leave_us: at(Phase::Leave),
        console_us: at(Phase::Console),
        end_us: at(Phase::End),
        gone_us: at(Phase::Gone),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_taken_once() {
        mark(Phase::Program);
        mark(Phase::End);
        let first = reached().end_us;
        assert!(first.is_some());
        std::thread::sleep(std::time::Duration::from_millis(2));
        mark(Phase::End);
        assert_eq!(reached().end_us, first);
    }
}
