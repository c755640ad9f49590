//! Signals, read from a file descriptor: nothing in PID 1 is ever interrupted.
//!
//! The convention is busybox's, so that its `reboot`, `poweroff` and `halt` work: `SIGTERM` reboots, `SIGUSR2` powers
//! off, `SIGUSR1` halts. `SIGINT` is Ctrl-Alt-Del once the kernel was told not to reboot by itself, and `SIGPWR` comes
//! from those who watch an UPS.

use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::error::{Doing, Error, Result};
use crate::power::Ending;

/// All that PID 1 listens to.
const HEARD: [Signal; 7] = [
    Signal::SIGCHLD,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGPWR,
    // Never asked for, and its default action would end the process.
    Signal::SIGHUP,
];

/// How `signal` wants the machine to end, if it does.
pub fn ending(signal: Signal) -> Option<Ending> {
    match signal {
        Signal::SIGINT | Signal::SIGTERM => Some(Ending::Reboot),
        Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGPWR => Some(Ending::PowerOff),
        _ => None,
    }
}

/// Blocks the signals and gives the descriptor that tells of them; turns Ctrl-Alt-Del into `SIGINT`.
pub fn listen() -> Result<SignalFd> {
    // A kernel without keyboard (a guest's) has no Ctrl-Alt-Del to turn.
    let _ = set_cad_enabled(false);
    let mask: SigSet = HEARD.into_iter().collect();
    mask.thread_block().doing(|| "block signals".to_owned())?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).doing(|| "open a signalfd".to_owned())
}

/// Reads all that came; says how the machine should end, if a signal asked for that.
pub fn read(signals: &SignalFd) -> Option<Ending> {
    let mut wanted = None;
    while let Ok(Some(info)) = signals.read_signal() {
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        wanted = wanted.or(signal.and_then(ending));
    }
    wanted
}

/// `init reboot`, `init poweroff`, `init halt` from a shell: tells PID 1.
pub fn ask(verb: &str) -> Result<()> {
    let signal = match verb {
        "reboot" => Signal::SIGTERM,
        "poweroff" => Signal::SIGUSR2,
        "halt" => Signal::SIGUSR1,
        _ => return Err(Error::Said(format!("`{verb}` is not a verb: say reboot, poweroff or halt"))),
    };
    kill(Pid::from_raw(1), signal).doing(|| format!("signal PID 1 to {verb}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busyboxs_convention() {
        assert_eq!(ending(Signal::SIGTERM), Some(Ending::Reboot));
        assert_eq!(ending(Signal::SIGINT), Some(Ending::Reboot));
        assert_eq!(ending(Signal::SIGUSR1), Some(Ending::PowerOff));
        assert_eq!(ending(Signal::SIGUSR2), Some(Ending::PowerOff));
        assert_eq!(ending(Signal::SIGPWR), Some(Ending::PowerOff));
        assert_eq!(ending(Signal::SIGCHLD), None);
        assert_eq!(ending(Signal::SIGHUP), None);
    }

    #[test]
    fn other_verbs_are_refused() {
        assert!(ask("explode").unwrap_err().sentence().contains("say reboot"));
    }
}
