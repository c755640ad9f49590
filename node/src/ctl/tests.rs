//! The words against a node that serves the API, with keepers that do as they are told.

use super::*;
use crate::api::tests::node;
use thimble_spec::api::guest::{State, Verb};
use words::Guests;

fn guests(names: &[&str], wait: bool) -> Guests {
    Guests { names: names.iter().map(|name| (*name).to_owned()).collect(), wait }
}

#[tokio::test]
async fn what_is_waited_for_comes_about_fails_or_is_late() {
    let node = node(2);
    let client = Client::at(&node.directory.path().join("node.sock"));
    let act = async |verb, guests: &Guests, limit_ms| {
        act::run(&client, verb, guests, Duration::from_millis(limit_ms), true).await.map_err(|failure| failure.code())
    };
    let code = |number: u8| Err(ExitCode::from(number));
    assert_eq!(act(Verb::Destroy, &guests(&["web1"], true), 10_000).await, Ok(()));
    assert_eq!(node.api.guests()[0].life.borrow().state, State::Off);
    // It was asked for, and does not come about.
    assert_eq!(act(Verb::Shutdown, &guests(&["web2"], true), 500).await, code(3));
    assert_eq!(act(Verb::Shutdown, &guests(&["web2"], false), 10_000).await, Ok(()));
    assert_eq!(node.api.tasks.all().len(), 3);
    // What one refuses does not keep the others from it.
    assert_eq!(act(Verb::Destroy, &guests(&["web9", "web2"], true), 10_000).await, code(1));
    assert_eq!(node.api.guests()[1].life.borrow().state, State::Off);
}

#[tokio::test]
async fn what_is_looked_at_is_shown_or_a_failure() {
    let node = node(1);
    let client = Client::at(&node.directory.path().join("node.sock"));
    let show = async |word: Word, json| show::run(&client, &word, json).await.map_err(|failure| failure.to_string());
    let web1 = || "web1".to_owned();
    for json in [true, false] {
        assert_eq!(show(Word::Sysinfo, json).await, Ok(()));
        assert_eq!(show(Word::Domifaddr { guest: web1() }, json).await, Ok(()));
        let told = show(Word::NetList { all: true }, json).await.unwrap_err();
        assert!(told.contains("asking PID 1 for its links"), "{told}");
    }
    let off = guests(&["web1"], true);
    act::run(&client, Verb::Destroy, &off, Duration::from_secs(20), true).await.unwrap();
    let told = show(Word::Dommemstat { guest: web1() }, true).await.unwrap_err();
    assert_eq!(told, "guest web1 does not run, and takes no memory");
    assert!(
        show(Word::Domifaddr { guest: "web9".to_owned() }, false).await.unwrap_err().contains("no guest of that name")
    );
}

#[tokio::test]
async fn events_are_counted_and_a_node_that_is_not_there_is_told() {
    let node = node(1);
    let client = Client::at(&node.directory.path().join("node.sock"));
    event::run(&client, Some("begin"), Some(1), true).await.unwrap();
    let nobody = Client::at(&node.directory.path().join("nobody.sock"));
    let failure = event::run(&nobody, None, Some(1), true).await.unwrap_err();
    assert!(failure.is_nobody() && failure.to_string().contains("no node daemon listens at"), "{failure}");
}
