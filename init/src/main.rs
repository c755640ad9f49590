//! PID 1 of Thimble's host and of its guests: two roles of one program.
//!
//! `thimble.role=guest` on the kernel command line makes a guest, everything else a host. A binary built without the
//! feature `host` knows the guest's role only. Called by hand (not as PID 1) it tells PID 1 what to do: `init reboot`,
//! `init poweroff`, `init halt`. As `/shutdown` it ends a guest whose own init has done its part. A host's PID 1 starts itself as `init modules` to load modules beside it.
//!
//! PID 1 must neither panic nor exit: the kernel would panic. Every error becomes a `thimble: error` line, and PID 1
//! goes on or ends the machine in order.

// The standard library's start-up opens /dev/null for standard descriptors that are closed and aborts if it cannot.
// In an initramfs without /dev that would be the end, before a word is said; so `main` is ours.
#![cfg_attr(not(test), no_main)]

mod backoff;
mod clock;
mod console;
mod early;
mod error;
mod events;
mod guest;
#[cfg(feature = "host")]
mod host;
#[cfg(any(test, not(feature = "host")))]
mod lean;
mod lines;
mod net;
mod power;
mod process;
mod service;
mod signals;

use std::fs;
use std::process::ExitCode;

use thimble_spec::cmdline::Cmdline;

use crate::error::Doing;
use crate::power::Ending;

/// What the C library's start-up calls.
#[cfg(not(test))]
// SAFETY: no other symbol of this name is linked in: `no_main` keeps the standard library's away.
#[unsafe(no_mangle)]
extern "C" fn main(_count: libc::c_int, _arguments: *const *const libc::c_char) -> libc::c_int {
    libc::c_int::from(run() != ExitCode::SUCCESS)
}

/// The test harness has a `main` of its own; this one only tells the compiler where the program begins.
#[cfg(test)]
fn main() -> ExitCode {
    run()
}

/// PID 1, or a word to it.
fn run() -> ExitCode {
    if std::process::id() == 1 {
        let mut arguments = std::env::args();
        if arguments.next().as_deref() == Some(guest::foreign::SHUTDOWN) {
            guest::foreign::end(&arguments.next().unwrap_or_default());
        }
        pid1();
    }
    let verb = std::env::args().nth(1).unwrap_or_default();
    #[cfg(feature = "host")]
    if verb == host::MODULES_VERB {
        return host::load_modules(&std::env::args().nth(2).unwrap_or_default());
    }
    match signals::ask(&verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("init: {}", error.sentence());
            ExitCode::FAILURE
        }
    }
}

/// What both roles do first, and then the role.
fn pid1() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        console::error(&format!("PID 1 is broken and only waits for a reboot now; please report this: {panic}"));
        power::limp();
    }));
    let mut errors = early::create(early::COMMON);
    errors.extend(console::attach().err());
    for error in errors {
        console::failed(&error);
    }
    let line = fs::read_to_string("/proc/cmdline").doing(|| "read /proc/cmdline".to_owned());
    let line = Cmdline::parse(&line.unwrap_or_else(|error| {
        console::failed(&error);
        String::new()
    }));
    match signals::listen() {
        Ok(signals) => role(&line, &signals),
        Err(error) => {
            console::failed(&error);
            power::end_after(std::time::Duration::from_secs(10), Ending::Reboot)
        }
    }
}

#[cfg(feature = "host")]
fn role(line: &Cmdline, signals: &nix::sys::signalfd::SignalFd) -> ! {
    match thimble_spec::cmdline::Role::of(line) {
        thimble_spec::cmdline::Role::Guest => guest::run(line, signals),
        thimble_spec::cmdline::Role::Host => host::run(line, signals),
    }
}

#[cfg(not(feature = "host"))]
fn role(line: &Cmdline, signals: &nix::sys::signalfd::SignalFd) -> ! {
    guest::run(line, signals)
}
