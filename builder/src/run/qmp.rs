//! As much of QMP as it takes to press the power button (QEMU's `docs/interop/qmp-spec`).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// How long QEMU may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    greeted: bool,
}

impl Qmp {
    /// Takes over a connection on which nothing was said yet.
    ///
    /// # Errors
    /// The socket has no time limits.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self { stream: BufReader::new(stream), greeted: false })
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// QEMU does not answer or refuses.
    pub fn power_down(&mut self) -> io::Result<()> {
        if !self.greeted {
            // The greeting; it is the first line, whenever it is read.
            self.read()?;
            self.execute("qmp_capabilities")?;
            self.greeted = true;
        }
        self.execute("system_powerdown")
    }

    fn execute(&mut self, command: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{}\n", json!({ "execute": command })).as_bytes())?;
        loop {
            let answer = self.read()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("QEMU refuses {command}: {error}")));
            }
            // Everything else is an event.
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_button_is_pressed_after_the_handshake_and_events_are_passed_over() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qemu = std::thread::spawn(move || {
            let mut stream = BufReader::new(theirs);
            stream.get_mut().write_all(b"{\"QMP\": {}}\r\n").unwrap();
            let mut asked = Vec::new();
            for _ in 0..2 {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                asked.push(line);
                stream.get_mut().write_all(b"{\"event\": \"RESUME\"}\r\n{\"return\": {}}\r\n").unwrap();
            }
            asked
        });
        Qmp::new(ours).unwrap().power_down().unwrap();
        assert_eq!(
            qemu.join().unwrap(),
            ["{\"execute\":\"qmp_capabilities\"}\n", "{\"execute\":\"system_powerdown\"}\n"]
        );
    }
}
