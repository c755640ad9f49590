use super::*;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use thimble_spec::host::Power;

const NOW: Duration = Duration::ZERO;

struct Place {
    directory: tempfile::TempDir,
    control: Control,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::listen(&directory.path().join("s")).unwrap();
        Self { directory, control }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("s")).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Takes turns in which every verb is answered by `answer`.
    fn turns(&mut self, count: usize, answer: &Done) -> Vec<Verb> {
        let mut heard = Vec::new();
        for _ in 0..count {
            self.control.exchange(NOW, |verb| {
                heard.push(verb);
                answer.clone()
            });
        }
        heard
    }
}

fn lines(stream: &UnixStream) -> Vec<String> {
    BufReader::new(stream).lines().map_while(std::result::Result::ok).collect()
}

#[test]
fn requests_are_answered_in_order() {
    // Given a client that asks twice at once, and half a third time,
    let mut place = Place::new();
    let mut client = place.connect();
    client.write_all(b"{\"v\":1,\"power\":\"reboot\"}\n{\"v\":1,\"services\":\"list\"}\n{\"v\":1,").unwrap();
    // when PID 1 looks,
    let heard = place.turns(1, &Ok(Answer::Done));
    // then both are obeyed, and the rest when it is whole.
    assert_eq!(heard.len(), 2);
    assert_eq!(lines(&client), [r#"{"v":1,"ok":"done"}"#, r#"{"v":1,"ok":"done"}"#]);
    client.write_all(b"\"power\":\"off\"}\n").unwrap();
    assert_eq!(place.turns(1, &Err("no".to_owned())), [Verb::Power(Power::Off)]);
    assert_eq!(lines(&client), [r#"{"v":1,"error":"no"}"#]);
}

#[test]
fn what_is_no_request_is_told_so_and_closed() {
    let long = "x".repeat(LINE_MAX + 1);
    let said = [
        ("nonsense\n", "this is no request: "),
        ("{\"v\":1,\"explode\":{}}\n", "this is no request: "),
        ("{\"v\":2,\"services\":\"list\"}\n", "version 2 of the protocol"),
        (&long, "a line is longer than"),
    ];
    for (text, sentence) in said {
        let mut place = Place::new();
        let mut client = place.connect();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match client.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) => assert!(error.kind() == ErrorKind::WouldBlock, "{error}"),
            }
            assert_eq!(place.turns(1, &Ok(Answer::Done)), []);
        }
        place.turns(32, &Ok(Answer::Done));
        let lines = lines(&client);
        assert!(lines.len() == 1 && lines[0].contains(sentence), "{lines:?}");
        assert!(place.control.clients.is_empty());
    }
}

#[test]
fn one_that_does_not_read_waits_alone() {
    // Given a client that asks for much and reads nothing,
    let mut place = Place::new();
    let mut deaf = place.connect();
    let much = Ok(Answer::Services(Vec::new())).and_then(|_: Answer| Err::<Answer, _>("x".repeat(LINE_MAX - 100)));
    for _ in 0..8 {
        let _ = deaf.write(b"{\"v\":1,\"services\":\"list\"}\n").unwrap();
        place.turns(2, &much);
    }
    assert_eq!(place.control.writers().count(), 1);
    assert!(place.control.clients[0].output.len() <= LINE_MAX);
    // then another one is served,
    let mut client = place.connect();
    client.write_all(b"{\"v\":1,\"services\":\"list\"}\n").unwrap();
    place.turns(1, &Ok(Answer::Done));
    assert_eq!(lines(&client).len(), 1);
    // and the first one gets everything once it reads.
    let mut count = 0;
    for _ in 0..400 {
        count += lines(&deaf).iter().filter(|line| line.ends_with("\"}")).count();
        place.turns(1, &much);
    }
    assert!(count >= 1, "{count}");
    assert_eq!(place.control.writers().count(), 0);
}

#[test]
fn an_answer_that_is_too_long_is_an_error() {
    let text = String::from_utf8(written(Outcome::Error("x".repeat(LINE_MAX)))).unwrap();
    assert!(text.contains("the answer is longer than") && text.ends_with('\n'), "{text}");
}

#[test]
fn the_quietest_makes_room() {
    let mut place = Place::new();
    let clients: Vec<UnixStream> = (0..CLIENTS_MAX + 3).map(|_| place.connect()).collect();
    place.turns(2, &Ok(Answer::Done));
    assert_eq!(place.control.clients.len(), CLIENTS_MAX);
    let mut last = clients.last().unwrap();
    last.write_all(b"{\"v\":1,\"services\":\"list\"}\n").unwrap();
    assert_eq!(place.turns(1, &Ok(Answer::Done)).len(), 1);
    drop(clients);
    // A process that another test starts has the other ends, too, until it is another program.
    let began = Instant::now();
    while !place.control.clients.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10));
        place.turns(1, &Ok(Answer::Done));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut place = Place::new();
        let mut client = place.connect();
        client.write_all(&bytes).unwrap();
        let heard = place.turns(3, &Ok(Answer::Done));
        prop_assert!(heard.is_empty());
    }
}
