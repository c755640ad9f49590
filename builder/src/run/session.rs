//! What goes on between a machine and its user: a line is waited for, or the user sits at the console.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;
use signal_hook::consts::SIGTERM;

use super::console::Lines;
use super::forward::Forward;
use super::keys::{Key, Keys};
use super::process::{Event, QEMU, Running};
use super::terminal::Raw;
use crate::error::{Error, Result};
use crate::interrupt;

/// Time between two looks at signals and time limits.
const POLL: Duration = Duration::from_millis(100);
/// How long an orderly power-off may take: the guests are shut down first.
const POWER_OFF: Duration = Duration::from_secs(45);

/// Where the console's bytes go.
#[derive(Debug)]
pub struct Sink {
    file: Option<File>,
}

impl Sink {
    /// Standard output, and a file if one is named.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn open(file: Option<&Path>) -> Result<Self> {
        let file = file.map(|path| File::create(path).map_err(Error::io("write", path))).transpose()?;
        Ok(Self { file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Error::io("write", "standard output"))?;
        if let Some(file) = &mut self.file {
            file.write_all(bytes).map_err(Error::io("write", "the console's file"))?;
        }
        Ok(())
    }
}

/// Shows the console until a line of it matches.
///
/// # Errors
/// Time is up, the machine ends first, or the user interrupts.
pub fn until(mut running: Running, pattern: &Regex, limit: Duration, mut sink: Sink) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut lines = Lines::default();
    let mut found = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match running.events.recv_timeout(left.min(POLL)) {
            Ok(Event::Console(bytes)) => {
                sink.write(&bytes)?;
                lines.push(&bytes, |line| found |= pattern.is_match(line));
            }
            Ok(Event::ConsoleEnd) | Err(RecvTimeoutError::Disconnected) => {
                lines.finish(|line| found |= pattern.is_match(line));
                let (_, said) = running.finish()?;
                let ended =
                    || Error::MachineEnded(with(format!("the machine ended before a line matched `{pattern}`"), &said));
                return if found { Ok(()) } else { Err(ended()) };
            }
            Ok(Event::Key(_)) | Err(RecvTimeoutError::Timeout) => {}
        }
        interrupt::check()?;
        if found {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let seconds = limit.as_secs();
            return Err(Error::TimeLimit(format!("no line matched `{pattern}` within {seconds} s")));
        }
    }
}

/// Shows the console and hands on keys until the machine ends, or the user ends it.
///
/// # Errors
/// QEMU fails, the machine does not power off when asked to, or the user doesn't wait for it.
pub fn interactive(mut running: Running, forwards: &[Forward], mut sink: Sink) -> Result<()> {
    let terminated = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&terminated)).map_err(Error::io("listen for signals of", QEMU))?;
    let raw = Raw::enter().map_err(Error::io("set the mode of", "the terminal"))?;
    if raw.is_some() {
        say("Ctrl-C powers the machine off, Ctrl-A x ends it at once, Ctrl-A c is its own Ctrl-C");
    }
    forwards.iter().for_each(|forward| say(&forward.to_string()));
    if let Some(keyboard) = running.keyboard()? {
        let sender = running.sender();
        thread::spawn(move || type_keys(keyboard, &sender));
    }

    let mut lines = Lines::default();
    let mut power_off: Option<Instant> = None;
    loop {
        let mut asked = false;
        match running.events.recv_timeout(POLL) {
            Ok(Event::Console(bytes)) => {
                sink.write(&bytes)?;
                lines.push(&bytes, |line| {
                    let of_guest = |forward: &&Forward| tells_ready(line, &forward.name);
                    forwards.iter().filter(of_guest).for_each(|forward| say(&forward.to_string()));
                });
            }
            Ok(Event::ConsoleEnd) | Err(RecvTimeoutError::Disconnected) => return ended(&mut running),
            Ok(Event::Key(Key::Quit)) => return Ok(()),
            Ok(Event::Key(Key::PowerOff)) => asked = true,
            Ok(Event::Key(Key::Send(_))) | Err(RecvTimeoutError::Timeout) => {}
        }
        if terminated.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if interrupt::requested() {
            // The next one is ours to see, too.
            interrupt::forget();
            asked = true;
        }
        match power_off {
            None if asked => {
                say(&format!("powering off; this may take {} s, Ctrl-C ends it at once", POWER_OFF.as_secs()));
                running.power_down()?;
                power_off = Some(Instant::now() + POWER_OFF);
            }
            Some(_) if asked => return Err(Error::Interrupted),
            Some(deadline) if Instant::now() >= deadline => {
                let seconds = POWER_OFF.as_secs();
                return Err(Error::environment(format!(
                    "the machine did not power off within {seconds} s and was ended"
                )));
            }
            _ => {}
        }
    }
}

/// QEMU has ended by itself: because the machine powered off, or because it could not go on.
fn ended(running: &mut Running) -> Result<()> {
    let (status, said) = running.finish()?;
    if status.success() { Ok(()) } else { Err(Error::environment(with(format!("{QEMU} failed ({status})"), &said))) }
}

/// A sentence, and what QEMU said.
fn with(sentence: String, said: &str) -> String {
    if said.is_empty() { sentence } else { format!("{sentence}:\n{said}") }
}

/// Something of our own, beside the console.
fn say(text: &str) {
    // A closed standard error ends no machine.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether a line of the console says that the guest is ready (see [`thimble_spec::console::Line::GuestReady`]).
fn tells_ready(line: &str, name: &str) -> bool {
    line.strip_prefix("thimble: guest ")
        .and_then(|rest| rest.strip_prefix(name))
        .is_some_and(|rest| rest.starts_with(" ready "))
}

/// Hands on what is typed, to its end. On a terminal, some keys are ours; from a pipe, everything is the machine's.
fn type_keys(mut keyboard: File, events: &Sender<Event>) {
    let mut stdin = io::stdin();
    let terminal = stdin.is_terminal();
    let mut keys = Keys::default();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stdin.read(&mut buffer) {
        let mut typed = Vec::new();
        for byte in &buffer[..count] {
            match if terminal { keys.press(*byte) } else { Some(Key::Send(*byte)) } {
                Some(Key::Send(byte)) => typed.push(byte),
                Some(key) if events.send(Event::Key(key)).is_err() => return,
                Some(_) | None => {}
            }
        }
        if keyboard.write_all(&typed).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_ready_line_is_its_own() {
        assert!(tells_ready("thimble: guest web1 ready 4.21", "web1"));
        assert!(!tells_ready("thimble: guest web10 ready 4.21", "web1"));
        assert!(!tells_ready("thimble: guest web1 running", "web1"));
        assert!(!tells_ready("x thimble: guest web1 ready 4.21", "web1"));
    }

    #[test]
    fn what_qemu_said_is_told() {
        assert_eq!(with("it ended".to_owned(), ""), "it ended");
        assert_eq!(with("it ended".to_owned(), "no disk"), "it ended:\nno disk");
    }
}
