//! What an administrator asks PID 1 over its control socket ([`thimble_spec::host`]). One file for each concern's words.

mod firewall;
mod kexec;
pub mod logs;
mod network;
mod power;
mod services;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use thimble_spec::host::{Answer, LINE_MAX, NetworkStatus, Outcome, Power, Reply, Request, VERSION, Verb};
use thimble_spec::json::Json;
use thimble_spec::paths::HOST_CONTROL;

use crate::cli::Options;

/// How long PID 1 may take to answer. It answers at once; this is for a host whose CPUs are all busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What is asked, as the command line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    what: What,
    /// For programs.
    json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// One question, one answer.
    Verb(Verb),
    /// A network.
    Network(network::Wanted),
    /// Lines as they come.
    Logs(logs::Wanted),
}

impl Ask {
    /// Reads the words of the command line, and takes its options.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(words: &[&str], options: &mut Options<'_>) -> Result<Self, String> {
        let what = match words {
            ["services", words @ ..] => What::Verb(Verb::Services(services::parse(words)?)),
            ["firewall", words @ ..] => What::Verb(Verb::Firewall(firewall::parse(words)?)),
            ["network", words @ ..] => What::Network(network::parse(words, options)?),
            ["power", words @ ..] => What::Verb(Verb::Power(power::parse(words)?)),
            ["logs", words @ ..] => {
                let follow = options.flag("--follow");
                let (level, source) = (options.value("--level"), options.value("--source"));
                What::Logs(logs::parse(words, follow, level.as_deref(), source.as_deref())?)
            }
            _ => return Err("PID 1 is asked for services, firewall, network, logs or power".to_owned()),
        };
        Ok(Self { json: options.flag("--json"), what })
    }
}

/// Asks, and prints the answer.
///
/// # Errors
/// PID 1 refuses or is not there.
pub fn run(ask: &Ask) -> Result<()> {
    let verb = match &ask.what {
        What::Logs(wanted) => return logs::run(wanted, ask.json),
        What::Network(wanted) => &Verb::Network(network::verb(wanted)?),
        What::Verb(verb) => verb,
    };
    if *verb == Verb::Power(Power::Kexec) {
        kexec::load()?;
    }
    let answer = Connection::open(Path::new(HOST_CONTROL))?.ask(verb)?;
    if ask.json {
        println!("{}", serde_json::to_string(&answer)?);
        return Ok(());
    }
    match answer {
        // The log is asked for elsewhere.
        Answer::Done | Answer::Logs(_) => {}
        Answer::Firewall(counters) => print!("{}", firewall::text(&counters)),
        Answer::Network(status) => print!("{}", network::text(&status)),
        Answer::Services(services) => print!("{}", services::text(&services)),
    }
    Ok(())
}

/// Links and addresses, a line each.
pub fn network_text(status: &NetworkStatus) -> String {
    network::text(status)
}

/// A connection to PID 1.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connecting to {}: is this a host of Thimble?", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// PID 1 refuses, or does not answer in time.
    pub fn ask(&mut self, verb: &Verb) -> Result<Answer> {
        let mut line = Request { v: VERSION, verb: verb.clone() }.to_json()?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).context("asking PID 1")?;
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_MAX as u64).read_until(b'\n', &mut line).context("waiting for PID 1's answer")?;
        ensure!(line.ends_with(b"\n"), "PID 1's answer is cut off");
        match Reply::from_json(&line).context("PID 1's answer is not understood")?.outcome {
            Outcome::Ok(answer) => Ok(answer),
            Outcome::Error(sentence) => bail!(sentence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn words_become_verbs() {
        let parse = |words: &[&str]| Ask::parse(words, &mut Options::default()).map(|ask| ask.what);
        let verb = |verb| Ok(What::Verb(verb));
        assert_eq!(parse(&["services"]), verb(Verb::Services(thimble_spec::host::ServicesVerb::List)));
        assert_eq!(parse(&["power", "kexec"]), verb(Verb::Power(Power::Kexec)));
        assert!(parse(&["power"]).is_err());
        assert!(parse(&["services", "explode", "ntp"]).is_err());
    }

    /// Asks one that says `text`.
    fn asked(text: &'static [u8]) -> Result<Answer> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut connection = Connection::open(&path).unwrap();
        let peer = std::thread::spawn(move || {
            let mut peer = BufReader::new(listener.accept().unwrap().0);
            peer.read_line(&mut String::new()).unwrap();
            peer.get_mut().write_all(text).unwrap();
        });
        let answer = connection.ask(&Verb::Services(thimble_spec::host::ServicesVerb::List));
        peer.join().unwrap();
        answer
    }

    #[test]
    fn answers_refusals_and_nonsense() {
        assert_eq!(asked(b"{\"v\":1,\"ok\":\"done\"}\n").unwrap(), Answer::Done);
        assert_eq!(asked(b"{\"v\":1,\"error\":\"no\"}\n").unwrap_err().to_string(), "no");
        assert!(asked(b"{\"v\":1,\"ok\":").is_err());
        assert!(asked(b"what?\n").is_err());
    }
}
