//! `thimble-vmm ask`: a verb for a guest that runs.

use std::io::{BufRead, BufReader, Read, Write, stdout};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use thimble_spec::console::{SENTENCE_MAX, one_line};
use thimble_spec::units::ByteSize;
use thimble_spec::vmm::{Answer, LINE_MAX, Limits, Outcome, Reply, Request, VERSION, Verb};

use super::guest::whole_mib;
use super::words::Words;
use crate::terminal::Terminal;

/// How long a VMM may take to answer: it answers from memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A request.
#[derive(Debug, Args)]
pub struct Ask {
    /// The guest's control socket
    socket: PathBuf,
    #[command(subcommand)]
    what: What,
}

/// The verbs, as they are typed.
#[derive(Debug, Subcommand)]
enum What {
    /// How it does, as JSON
    Status,
    /// What it did so far, as JSON
    Stats,
    /// Asks it to power off
    Shutdown,
    /// Presses its ACPI power button
    PowerButton,
    /// Resets it
    Reset,
    /// Ends it, as if its power were cut
    Kill,
    /// Stops its processors
    Pause,
    /// Lets them run again
    Resume,
    /// Asks it to freeze the file system of its disk for a minute at most; its answer is an event
    Freeze,
    /// Asks it to thaw it again
    Thaw,
    /// Asks its PID 1 what it is like: the answer is an event
    Look,
    /// Sets how much memory it is to give back
    Balloon {
        /// The size of the balloon
        size: ByteSize,
    },
    /// Gives a disk another size
    ResizeDisk {
        /// The disk: 0 is /dev/vda
        disk: u8,
        /// Its new size; without it, the one that its file or block device has now
        size: Option<ByteSize>,
    },
    /// Replaces a disk's limits
    LimitDisk {
        /// The disk: 0 is /dev/vda
        disk: u8,
        /// The limits; none lifts them
        #[arg(value_name = "bandwidth=RATE[:BURST],operations=RATE[:BURST]", value_parser = parse_limits)]
        limits: Option<Limits>,
    },
    /// Replaces a network interface's limits
    LimitNet {
        /// The interface: 0 is eth0
        net: u8,
        /// For what it receives; none lifts them
        #[arg(long, value_name = "bandwidth=RATE[:BURST],operations=RATE[:BURST]", value_parser = parse_limits)]
        receive: Option<Limits>,
        /// For what it sends; none lifts them
        #[arg(long, value_name = "bandwidth=RATE[:BURST],operations=RATE[:BURST]", value_parser = parse_limits)]
        transmit: Option<Limits>,
    },
    /// Prints what happens to it, an event a line, until it ends
    Watch,
    /// Its console, on this terminal; Ctrl-A x leaves it
    Console,
}

fn parse_limits(text: &str) -> Result<Limits, String> {
    let mut words = Words::new(text);
    let limits = words.limits("")?;
    words.finish("bandwidth=, operations=")?;
    Ok(limits)
}

impl What {
    fn verb(&self) -> Result<Verb> {
        Ok(match *self {
            Self::Status => Verb::Status,
            Self::Stats => Verb::Stats,
            Self::Shutdown => Verb::Shutdown,
            Self::PowerButton => Verb::PowerButton,
            Self::Reset => Verb::Reset,
            Self::Kill => Verb::Kill,
            Self::Pause => Verb::Pause,
            Self::Resume => Verb::Resume,
            Self::Freeze => Verb::Freeze,
            Self::Thaw => Verb::Thaw,
            Self::Look => Verb::Look,
            Self::Balloon { size } => Verb::Balloon { target_mib: whole_mib(size).map_err(anyhow::Error::msg)? },
            Self::ResizeDisk { disk, size } => Verb::ResizeDisk { disk, bytes: size.map(ByteSize::bytes) },
            Self::LimitDisk { disk, limits } => Verb::LimitDisk { disk, limits: limits.unwrap_or_default() },
            Self::LimitNet { net, receive, transmit } => {
                Verb::LimitNet { net, receive: receive.unwrap_or_default(), transmit: transmit.unwrap_or_default() }
            }
            Self::Watch => Verb::Watch,
            Self::Console => Verb::Console,
        })
    }
}

/// Asks, prints what there is to print; 0, or 1 and a sentence on standard error.
pub fn ask(ask: &Ask) -> ExitCode {
    match carry_out(ask) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thimble-vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(ask: &Ask) -> Result<()> {
    let verb = ask.what.verb()?;
    let (stream, answer) = request(&ask.socket, verb)?;
    let text = match answer {
        Answer::Done => None,
        Answer::Status(status) => Some(serde_json::to_string_pretty(&status)?),
        Answer::Stats(stats) => Some(serde_json::to_string_pretty(&stats)?),
    };
    for line in text.iter().flat_map(|text| text.lines()) {
        writeln!(stdout(), "{}", one_line(line, LINE_MAX))?;
    }
    match verb {
        Verb::Watch => watch(&stream),
        Verb::Console => console(stream),
        _ => Ok(()),
    }
}

/// Sends a request and waits for its answer; what follows on the connection is left there.
fn request(socket: &Path, verb: Verb) -> Result<(UnixStream, Answer)> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("no VMM listens at {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut line = serde_json::to_vec(&Request { v: VERSION, verb })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    // Byte by byte: what follows the line, such as the console, is not for this reader.
    let mut line = Vec::new();
    BufReader::with_capacity(1, &stream).take(LINE_MAX as u64).read_until(b'\n', &mut line).context("no answer")?;
    ensure!(line.ends_with(b"\n"), "the VMM closed the connection");
    let reply: Reply = serde_json::from_slice(&line).context("the VMM's answer makes no sense")?;
    stream.set_read_timeout(None)?;
    match reply.outcome {
        Outcome::Ok(answer) => Ok((stream, answer)),
        Outcome::Error(sentence) => bail!(one_line(&sentence, SENTENCE_MAX)),
    }
}

/// Prints the events that follow, as they come; a VMM that its guest has taken over moves no cursor by them.
fn watch(stream: &UnixStream) -> Result<()> {
    let mut events = BufReader::new(stream);
    let mut line = Vec::new();
    while (&mut events).take(LINE_MAX as u64).read_until(b'\n', &mut line)? > 0 {
        writeln!(stdout(), "{}", one_line(&String::from_utf8_lossy(&line), LINE_MAX))?;
        line.clear();
    }
    Ok(())
}

/// Copies between the terminal and the guest's console until either ends.
fn console(stream: UnixStream) -> Result<()> {
    let leave = |console: &UnixStream| {
        // Both copies see it; a connection that is gone already has ended them.
        let _ = console.shutdown(Shutdown::Both);
    };
    Terminal::start(stream, Box::new(leave))?.run();
    Ok(())
}
