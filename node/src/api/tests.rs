//! The API as its clients have it: requests over a socket, with keepers that do as they are told.

use std::time::Duration;

use serde_json::Value;
use thimble_spec::api::guest::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::*;
use crate::testing;

pub struct Node {
    /// Its socket is `node.sock` there.
    pub directory: tempfile::TempDir,
    /// What it serves.
    pub api: Arc<Api>,
}

/// A node with so many guests, of which each runs and obeys, and none ever powers off.
pub fn node(count: usize) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let guests = testing::appliance(&vec!["memory = \"64MiB\""; count]).guests;
    let (api, posts) = Api::of("demo", &guests, audit::Log::at(&directory.path().join("audit")));
    for mut post in posts {
        post.starts();
        post.is(State::Running, "booted");
        tokio::spawn(async move {
            while let Some(order) = post.orders.recv().await {
                match order.verb.name() {
                    "start" => order.refuse("it runs already".to_owned()),
                    "destroy" => {
                        post.is(State::Off, "killed");
                        order.accept();
                    }
                    _ => order.accept(),
                }
            }
        });
    }
    let api = Arc::new(api);
    let listener = bind(&directory.path().join("node.sock")).unwrap();
    tokio::spawn(serve(listener, Arc::clone(&api)));
    Node { directory, api }
}

impl Node {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("node.sock")).await.unwrap()
    }

    /// What is answered to these bytes, to the end of the connection.
    async fn says(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // Who is refused early is hung up on.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        let answer = self.says(head.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap())
    }
}

#[tokio::test]
async fn guests_are_listed_and_obey() {
    let node = node(2);
    let (status, list) = node.ask("GET", "/v1/guests").await;
    assert_eq!((status, list["guests"].as_array().unwrap().len()), (200, 2));
    assert_eq!(list["guests"][1]["name"], "web2");
    assert_eq!(list["guests"][1]["state"], "running");

    let (status, task) = node.ask("POST", "/v1/guests/web1/destroy").await;
    assert_eq!((status, &task["verb"]), (202, &"destroy".into()));
    let (_, ended) = node.ask("GET", &format!("/v1/tasks/{}?wait_s=10", task["id"].as_str().unwrap())).await;
    assert_eq!((&ended["state"], &ended["progress"]), (&"done".into(), &"killed".into()));
    assert_eq!(node.ask("GET", "/v1/guests/web1").await.1["state"], "off");

    let (status, problem) = node.ask("POST", "/v1/guests/web2/start").await;
    assert_eq!((status, &problem["error"]), (409, &"it runs already".into()));
    // Who asked for what, and what was refused.
    let (_, audit) = node.ask("GET", "/v1/audit").await;
    let told: Vec<_> =
        audit["entries"].as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(told, ["POST /v1/guests/web1/destroy", "POST /v1/guests/web2/start", "POST /v1/guests/web2/start"]);
    assert_eq!(audit["entries"][2]["refused"], "it runs already");
    assert_eq!(audit["entries"][0]["who"]["pid"], std::process::id());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_what_is_not_known_yet() {
    let directory = tempfile::tempdir().unwrap();
    let guests = testing::appliance(&["memory = \"64MiB\"", "memory = \"64MiB\""]).guests;
    let (api, posts) = Api::of("demo", &guests, audit::Log::at(directory.path()));
    posts[0].is(State::Running, "adopted");
    assert!(timeout(KNOWN_LIMIT / 2, api.known()).await.is_err());
    posts[1].is(State::Off, "killed");
    assert!(timeout(KNOWN_LIMIT / 2, api.known()).await.is_ok());
}

#[tokio::test]
async fn a_task_is_waited_for_and_given_up() {
    let node = node(1);
    let (_, task) = node.ask("POST", "/v1/guests/web1/shutdown").await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    assert_eq!(node.ask("GET", &format!("{path}?wait_s=1")).await.1["state"], "running");
    assert_eq!(node.ask("DELETE", &path).await.1["state"], "cancelled");
    assert_eq!(node.ask("GET", "/v1/tasks").await.1["tasks"][0]["state"], "cancelled");
    assert_eq!(node.ask("GET", "/v1/tasks/nonsense").await.0, 404);
    assert_eq!(node.ask("GET", &format!("{path}?wait_s=x")).await.0, 400);
}

#[tokio::test]
async fn what_is_none_of_this_is_refused_in_bounded_memory() {
    let node = node(1);
    for (method, path, status) in [
        ("GET", "/v1", 404),
        ("GET", "/v1/guests/web9", 404),
        ("GET", "/v1/guests/..%2f..%2fetc", 404),
        ("POST", "/v1/guests/web9/start", 404),
        ("PUT", "/v1/guests", 405),
        ("GET", "/v1/guests/web1/console", 426),
    ] {
        let (found, problem) = node.ask(method, path).await;
        assert_eq!(found, status, "{path}");
        assert!(problem["error"].is_string());
    }
    for (request, status) in [
        ("POST /v1/guests/web1/start HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".to_owned(), "413"),
        ("POST /v1/guests/web1/start HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nf".to_owned(), "413"),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20)), "4"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000)), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = node.says(request.as_bytes()).await;
        // One that is still writing when it is hung up on may miss the answer.
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    // A body is no change.
    assert!(node.api.audit.entries().iter().all(|entry| entry.what == "POST /v1/guests/web9/start"));
}

#[tokio::test]
async fn who_floods_the_socket_waits_and_the_others_go_on_after() {
    let node = node(1);
    let mut held = Vec::new();
    for _ in 0..CLIENTS_MAX {
        held.push(node.connect().await);
    }
    tokio::task::yield_now().await;
    let asked = timeout(Duration::from_millis(300), node.ask("GET", "/v1/guests"));
    assert!(asked.await.is_err(), "there is no place");
    held.clear();
    assert_eq!(node.ask("GET", "/v1/guests").await.0, 200);
}

#[tokio::test]
async fn events_go_on_after_the_one_that_was_seen() {
    let node = node(1);
    let read = async |head: &str, wanted: &str| {
        let mut stream = node.connect().await;
        let request = format!("GET /v1/events HTTP/1.1\r\nHost: x\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut text, mut piece) = (String::new(), [0; 4096]);
        while !text.contains(wanted) {
            let count = timeout(Duration::from_secs(10), stream.read(&mut piece)).await.expect(wanted).unwrap();
            assert!(count > 0, "{text}");
            text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
        text
    };
    node.ask("POST", "/v1/guests/web1/destroy").await;
    let all = read("Last-Event-ID: another-1\r\n", "\"progress\":\"killed\"").await;
    assert!(all.contains("event: lost") && all.contains("text/event-stream"), "{all}");
    let id = all.lines().filter_map(|line| line.strip_prefix("id: ")).nth(2).unwrap();
    let rest = read(&format!("Last-Event-ID: {id}\r\n"), "\"progress\":\"killed\"").await;
    assert!(!rest.contains("lost") && !rest.contains("booted"), "{rest}");
}

/// What a list of a hundred guests costs the daemon, in milliseconds of processor time: a tenth of what both programs may
/// take together (20 ms).
#[tokio::test]
async fn a_list_of_a_hundred_guests_is_cheap() {
    const TIMES: u32 = 100;
    let node = node(100);
    let cpu = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap();
    let began = cpu();
    for _ in 0..TIMES {
        assert_eq!(node.ask("GET", "/v1/guests").await.1["guests"].as_array().unwrap().len(), 100);
    }
    let each = (cpu() - began) / TIMES;
    println!("a list of 100 guests, asked for and read: {:.2} ms", each.as_secs_f64() * 1000.0);
    assert!(each < Duration::from_millis(20), "{each:?}");
}
