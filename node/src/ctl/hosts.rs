//! `thimblectl --hosts FILE`: the same of many hosts, several at a time. Each is asked by a process of its own, so that what one
//! host does to it is no matter of the others'.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{Write, stderr, stdout};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Output, Stdio};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use thimble_spec::console::one_line;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::failure::Failure;
use super::words::Word;

/// Hosts that are asked at a time.
const AT_ONCE: usize = 32;
/// The longest list.
const LIST_MAX: u64 = 16 << 20;
/// The longest line that a terminal is shown.
const LINE_MAX: usize = 4096;

/// What a host answered, for programs.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    host: &'a str,
    exit: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Value>,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

/// Asks all hosts of a list what the command line says, and prints the answers in the order of the list.
///
/// # Errors
/// The list cannot be read; the word goes on for ever.
pub async fn run(list: &Path, word: &Word, json: bool) -> Result<ExitCode, Failure> {
    if matches!(word, Word::Edit { .. }) {
        return Err(Failure::usage("edit asks one host, with --host".to_owned()));
    }
    if matches!(word, Word::Console { .. } | Word::Top { .. } | Word::Event { .. }) {
        return Err(Failure::usage("event, top and console go on for ever: ask one host, with --host".to_owned()));
    }
    if matches!(word, Word::Exec(_)) {
        return Err(Failure::usage(
            "exec asks one host, with --host: guests of a name are others elsewhere".to_owned(),
        ));
    }
    let hosts = read(list)?;
    let words = without_hosts(std::env::args_os().skip(1));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for (index, host) in hosts.iter().cloned().enumerate() {
        let (words, places) = (words.clone(), Arc::clone(&places));
        asked.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire_owned().await;
            (index, ask(&host, &words).await)
        });
    }
    let mut answers: Vec<Option<Output>> = hosts.iter().map(|_| None).collect();
    while let Some(done) = asked.join_next().await {
        let (index, output) = done.map_err(|error| Failure::failed(format!("asking a host: {error}")))?;
        answers[index] = Some(output.map_err(|error| Failure::failed(format!("asking {}: {error}", hosts[index])))?);
    }
    let answers: Vec<(String, Output)> = hosts.into_iter().zip(answers.into_iter().flatten()).collect();
    // Whoever closes the pipe has seen enough.
    let _ = print(&answers, json, word.has_lines());
    Ok(ExitCode::from(exit_code(answers.iter().map(|(_, output)| code(output)))))
}

/// A host a line; what begins with `#` is for people. Each once.
fn read(list: &Path) -> Result<Vec<String>, Failure> {
    let wrong = |why: String| Failure::usage(format!("--hosts {}: {why}", list.display()));
    let length = std::fs::metadata(list).map_err(|error| wrong(error.to_string()))?.len();
    if length > LIST_MAX {
        return Err(wrong(format!("a list has {LIST_MAX} bytes at most")));
    }
    let text = std::fs::read_to_string(list).map_err(|error| wrong(error.to_string()))?;
    let mut known = BTreeSet::new();
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let hosts: Vec<String> = lines.filter(|line| !line.is_empty() && known.insert(*line)).map(str::to_owned).collect();
    if hosts.is_empty() {
        return Err(wrong("it names no host: one a line, NAME[:PORT]".to_owned()));
    }
    Ok(hosts)
}

/// The command line without `--hosts FILE`.
fn without_hosts(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut words = words;
    while let Some(word) = words.next() {
        if word == "--hosts" {
            words.next();
        } else if !word.to_string_lossy().starts_with("--hosts=") {
            kept.push(word);
        }
    }
    kept
}

async fn ask(host: &str, words: &[OsString]) -> std::io::Result<Output> {
    let mut command = std::process::Command::new("/proc/self/exe");
    // The program knows by its name what it is.
    command.arg0("thimblectl").arg("--host").arg(host).args(words).stdin(Stdio::null());
    Command::from(command).kill_on_drop(true).output().await
}

/// One that was killed has failed.
fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(1)
}

/// 0 if all did it; the code of those that did not if they agree; else 1.
fn exit_code(codes: impl Iterator<Item = i32>) -> u8 {
    let failed: BTreeSet<i32> = codes.filter(|code| *code != 0).collect();
    match failed.first() {
        None => 0,
        Some(code) if failed.len() == 1 => u8::try_from(*code).unwrap_or(1),
        Some(_) => 1,
    }
}

/// What a host printed for programs: one object; of a word that prints an object a line, a list of them. None: something else.
fn answer(text: &str, lines: bool) -> Option<Value> {
    if !lines || text.is_empty() {
        return serde_json::from_str(text).ok();
    }
    let lines = text.lines().filter(|line| !line.is_empty()).map(serde_json::from_str);
    lines.collect::<Result<Vec<Value>, _>>().ok().map(Value::from)
}

fn print(answers: &[(String, Output)], json: bool, lines: bool) -> std::io::Result<()> {
    let width = answers.iter().map(|(host, _)| host.len()).max().unwrap_or_default();
    let mut out = stdout().lock();
    for (host, output) in answers {
        let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let error = error.trim_end().trim_start_matches("thimblectl: ");
        if json {
            let answer = answer(&text, lines);
            let line = Answer { host, exit: code(output), answer, error };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
            continue;
        }
        for line in text.lines().filter(|line| !line.is_empty()) {
            writeln!(out, "{host:width$}  {}", one_line(line, LINE_MAX))?;
        }
        if code(output) != 0 {
            writeln!(stderr(), "{host:width$}  failed ({}): {}", code(output), one_line(error, LINE_MAX))?;
        }
    }
    let failed = answers.iter().filter(|(_, output)| code(output) != 0).count();
    if failed > 0 {
        writeln!(stderr(), "thimblectl: {failed} of {} hosts failed", answers.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_host_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# the web servers\nweb1\n web2:80 # new\n\nweb1\n").unwrap();
        assert_eq!(read(file.path()).unwrap(), ["web1", "web2:80"]);
        std::fs::write(file.path(), "# none\n").unwrap();
        assert!(read(file.path()).unwrap_err().to_string().contains("it names no host"));
        assert!(read(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn each_host_is_asked_the_rest_of_the_command_line() {
        let words = ["list", "--hosts", "a", "--all", "--hosts=b", "--json"].map(OsString::from);
        assert_eq!(without_hosts(words.into_iter()), ["list", "--all", "--json"]);
    }

    #[test]
    fn an_answer_is_an_object_or_a_list_of_them() {
        let (one, two) = ("{\"text\":\"a\"}\n", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
        let shown = |text, lines| answer(text, lines).map(|value| value.to_string());
        assert_eq!(shown(one, false).as_deref(), Some("{\"text\":\"a\"}"));
        assert_eq!(shown(one, true).as_deref(), Some("[{\"text\":\"a\"}]"));
        assert_eq!(shown(two, true).as_deref(), Some("[{\"text\":\"a\"},{\"text\":\"b\"}]"));
        // Nothing was written, or said.
        assert_eq!((shown("\n", true).as_deref(), shown("", true)), (Some("[]"), None));
        assert_eq!((shown("", false), shown("x\n", true)), (None, None));
    }

    #[test]
    fn the_exit_code_tells() {
        assert_eq!(exit_code([0, 0].into_iter()), 0);
        assert_eq!(exit_code([0, 4, 4].into_iter()), 4);
        assert_eq!(exit_code([0, 4, 3].into_iter()), 1);
    }
}
