//! QEMU's machine protocol (docs/interop/qmp-spec in QEMU's tree): one command at a time.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Runs one command.
///
/// # Errors
/// QEMU is gone, or refuses.
pub fn execute(socket: &Path, command: &str, arguments: Value) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut answer = String::new();
    reader.read_line(&mut answer).context("the greeting")?;
    let mut ask = |request: Value| -> Result<Value> {
        writeln!(stream, "{request}")?;
        loop {
            answer.clear();
            anyhow::ensure!(reader.read_line(&mut answer)? > 0, "QEMU closed the connection");
            let mut message: Value = serde_json::from_str(&answer)?;
            if let Some(error) = message.get("error") {
                bail!("{error}");
            }
            // Events come in between.
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
        }
    };
    ask(json!({ "execute": "qmp_capabilities" }))?;
    ask(json!({ "execute": command, "arguments": arguments })).with_context(|| format!("QMP {command}"))
}
