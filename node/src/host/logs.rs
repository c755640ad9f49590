//! `thimble-node logs`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};
use thimble_spec::host::{Answer, Level, LogLine, Logs, LogsVerb, Verb};
use thimble_spec::paths::HOST_CONTROL;

use super::Connection;

/// Who follows asks so often.
const INTERVAL: Duration = Duration::from_millis(300);

/// What is wanted of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    asked: LogsVerb,
    follow: bool,
}

/// The options behind `logs`; the value of one stands behind an equals sign.
///
/// # Errors
/// A sentence.
pub fn parse(words: &[&str], follow: bool, level: Option<&str>, source: Option<&str>) -> Result<Wanted, String> {
    if !words.is_empty() {
        return Err("logs takes options only: --follow, --level=LEVEL, --source=SOURCE".to_owned());
    }
    let level = level.map(|name| {
        let known = Level::ALL.map(Level::name).join(", ");
        Level::named(name).ok_or_else(|| format!("`{}` is no level: there are {known}", name.escape_debug()))
    });
    let asked = LogsVerb { from: 0, level: level.transpose()?, source: source.map(str::to_owned) };
    Ok(Wanted { asked, follow })
}

/// Prints what there is, and with `follow` what comes.
///
/// # Errors
/// PID 1 is not there.
pub fn run(wanted: &Wanted, json: bool) -> Result<()> {
    let mut connection = Connection::open(Path::new(HOST_CONTROL))?;
    let mut asked = wanted.asked.clone();
    loop {
        let logs = ask(&mut connection, &asked)?;
        let mut text = String::new();
        if logs.lost > 0 && !json {
            // Writing to a string does not fail.
            let _ = writeln!(text, "({} lines had given way to newer ones)", logs.lost);
        }
        for line in &logs.lines {
            text.push_str(&if json { serde_json::to_string(line)? } else { shown(line) });
            text.push('\n');
        }
        let mut out = std::io::stdout().lock();
        // Whoever closes the pipe has seen enough.
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        asked.from = logs.next;
        if !logs.more {
            if !wanted.follow {
                return Ok(());
            }
            sleep(INTERVAL);
        }
    }
}

/// Lines of the log.
///
/// # Errors
/// PID 1 is not there, or does not answer.
pub fn ask(connection: &mut Connection, asked: &LogsVerb) -> Result<Logs> {
    match connection.ask(&Verb::Logs(asked.clone()))? {
        Answer::Logs(logs) => Ok(logs),
        _ => bail!("PID 1 does not answer with its log"),
    }
}

/// `[    5.140] error   kernel: TEXT`.
pub fn shown(line: &LogLine) -> String {
    let (seconds, ms) = (line.ms / 1000, line.ms % 1000);
    format!("[{seconds:5}.{ms:03}] {:9} {}: {}", line.level.name(), line.source, line.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood() {
        let wanted = parse(&[], true, Some("warning"), Some("kernel")).unwrap();
        assert!(wanted.follow);
        assert_eq!((wanted.asked.level, wanted.asked.source.as_deref()), (Some(Level::Warning), Some("kernel")));
        assert!(parse(&[], false, Some("loud"), None).unwrap_err().contains("there are emergency, alert"));
        assert!(parse(&["kernel"], false, None, None).is_err());
    }

    #[test]
    fn a_line_is_read_by_people() {
        let line =
            LogLine { number: 1, ms: 5140, level: Level::Error, source: "kernel".into(), text: "sda: gone".into() };
        assert_eq!(shown(&line), "[    5.140] error     kernel: sda: gone");
    }
}
