//! `thimble-node syslog`: sends the log that PID 1 keeps to a syslog server (RFC 5424), a service of PID 1's.
//!
//! The queue is PID 1's ring: what the server does not take stays there, and what gives way to newer lines meanwhile is
//! counted and told as a line of its own. How far it came is kept in a file, so that the next one goes on there.

pub mod format;
mod way;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use thimble_spec::appliance::Syslog;
use thimble_spec::host::{Level, LogLine, LogsVerb};
use thimble_spec::paths::{APPLIANCE, HOST_CONTROL, SYSLOG_KEYS};

use crate::host::{Connection, logs};
use way::Way;

/// PID 1 is asked so often.
const INTERVAL: Duration = Duration::from_millis(500);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How far the last one came.
const POSITION: &str = "/run/thimble/syslog.position";
/// The clock was set if it shows this time or a later one, 2020: until then there is no time to tell.
const SET_SINCE: Duration = Duration::from_secs(1_577_836_800);

/// Sends for ever.
///
/// # Errors
/// The appliance cannot be read, or has no syslog server.
pub fn run() -> Result<()> {
    let appliance = crate::node::appliance(Path::new(APPLIANCE))?;
    let syslog = appliance.host.syslog.context("the appliance names no syslog server")?;
    let from = fs::read_to_string(POSITION).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let server = syslog.server;
    let mut sender = Sender { syslog, host: appliance.name, connection: None };
    let mut asked = LogsVerb { from, level: None, source: None };
    let mut pause = PAUSES.0;
    let mut down = false;
    loop {
        match sender.send(&asked) {
            Ok(Some(next)) => {
                if std::mem::take(&mut down) {
                    println!("<5>{server} takes the log again");
                }
                pause = PAUSES.0;
                asked.from = next;
                fs::write(POSITION, next.to_string()).with_context(|| format!("writing {POSITION}"))?;
            }
            Ok(None) => sleep(INTERVAL),
            Err(error) => {
                if !std::mem::replace(&mut down, true) {
                    println!("<4>{server} does not take the log, which waits: {error:#}");
                }
                sender.connection = None;
                sleep(pause);
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

struct Sender {
    syslog: Syslog,
    host: String,
    connection: Option<Way>,
}

impl Sender {
    /// Sends what there is from a line on; gives where to go on, none if there is nothing new.
    fn send(&mut self, asked: &LogsVerb) -> Result<Option<u64>> {
        let logs = logs::ask(&mut Connection::open(Path::new(HOST_CONTROL))?, asked)?;
        if logs.next == asked.from || (logs.lines.is_empty() && logs.lost == 0) {
            return Ok(None);
        }
        let started = started();
        let mut messages = Vec::new();
        if logs.lost > 0 {
            let text = format!("{} lines were dropped before they could be sent", logs.lost);
            let ms = logs.lines.first().map_or(0, |line| line.ms);
            let line = LogLine { number: 0, ms, level: Level::Warning, source: "syslog".to_owned(), text };
            messages.push(format::message(&line, &self.host, started));
        }
        messages.extend(logs.lines.iter().map(|line| format::message(line, &self.host, started)));
        let way = match &mut self.connection {
            Some(way) => way,
            none => none.insert(Way::to(&self.syslog, Path::new(SYSLOG_KEYS))?),
        };
        way.send(&messages)?;
        Ok(Some(logs.next))
    }
}

/// When the kernel started, by the clock on the wall, if that was set.
fn started() -> Option<SystemTime> {
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    let now = SystemTime::now();
    let set = now.duration_since(UNIX_EPOCH).is_ok_and(|now| now >= SET_SINCE);
    now.checked_sub(since_boot).filter(|_| set)
}
