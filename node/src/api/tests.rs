//! The API as its clients have it: requests over a socket, with keepers that do as they are told.

use std::time::Duration;

use serde_json::Value;
use thimble_spec::api::guest::{Origin, State, Verb};
use thimble_spec::appliance::Appliance;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::*;
use crate::definitions::Store;
use crate::disk;
use crate::life::Wish;
use crate::testing;

pub struct Node {
    /// Its socket is `node.sock` there.
    pub directory: tempfile::TempDir,
    /// What it serves.
    pub api: Arc<Api>,
}

/// What no reader is to see.
pub const PASSWORD: &str = "xyzzy";

/// A node with so many guests, of which each runs and obeys, and none ever powers off.
pub fn node(count: usize) -> Node {
    let guest = format!("memory = \"64MiB\"\nenvironment = {{ PASSWORD = \"{PASSWORD}\" }}");
    node_of(&vec![guest.as_str(); count])
}

/// The same with guests that have these keys.
pub fn node_of(guests: &[&str]) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let appliance = Arc::new(testing::appliance(guests));
    let (api, mut posts) = api(&appliance, directory.path());
    tokio::spawn(async move {
        while let Some(post) = posts.recv().await {
            tokio::spawn(keep(post));
        }
    });
    let api = Arc::new(api);
    let listener = bind(&directory.path().join("node.sock")).unwrap();
    tokio::spawn(serve(listener, Arc::clone(&api)));
    Node { directory, api }
}

/// What serves such a node, which keeps what it keeps in this directory.
fn api(appliance: &Arc<Appliance>, directory: &Path) -> (Api, mpsc::UnboundedReceiver<Post>) {
    let book = Book::of_test(Arc::clone(appliance), Store::at(&directory.join("definitions")), directory);
    let guests = book.guests();
    Api::of(book, guests, audit::Log::at(&directory.join("audit")))
}

/// One of the image runs, one that is defined does not.
async fn keep(mut post: Post) {
    let defined = post.defined.borrow().clone();
    match defined.origin {
        Origin::Image => {
            post.starts();
            post.is(State::Running, "booted");
            post.runs(&defined.guest);
        }
        _ => post.is(State::Off, "not started"),
    }
    while let Some(order) = post.orders.recv().await {
        let runs = post.life().state.is_active();
        match order.wish {
            Wish::Verb(Verb::Start) if runs => order.refuse("it runs already".to_owned()),
            Wish::Forget if runs => order.refuse("it runs".to_owned()),
            Wish::Lend if runs => order.refuse("it runs".to_owned()),
            Wish::Lend | Wish::Still | Wish::GoOn => order.accept(),
            Wish::Grow => {
                let (runs, next) = (post.life().runs.unwrap(), Arc::clone(&post.defined.borrow().guest));
                post.runs(&Arc::new(disk::grown(&runs, &next).unwrap().0));
                order.accept();
            }
            Wish::Forget => return order.accept(),
            Wish::Verb(Verb::Start) => {
                post.is(State::Running, "booted");
                post.runs(&post.defined.borrow().guest.clone());
                order.accept();
            }
            Wish::Verb(Verb::Destroy) => {
                post.is(State::Off, "killed");
                order.accept();
            }
            Wish::Verb(_) => order.accept(),
        }
    }
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

    pub async fn ask(&self, method: &str, path: &str) -> (u16, Value) {
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

#[tokio::test]
async fn the_machine_its_networks_and_the_memory_of_a_guest_are_told() {
    let node = node(1);
    let (status, machine) = node.ask("GET", "/v1/node/sysinfo").await;
    assert!(
        status == 200 && machine["cpus"].as_u64() > Some(0) && machine["memory_mib"].as_u64() > Some(0),
        "{machine}"
    );
    assert!(
        ["vendor", "product", "serial", "firmware_version", "firmware_date"]
            .map(|key| machine.get(key))
            .iter()
            .all(Option::is_some)
    );
    // PID 1 of this machine is none of ours: that is said, not guessed.
    let (status, problem) = node.ask("GET", "/v1/node/networks").await;
    assert!(status == 500 && problem["error"].as_str().unwrap().contains("asking PID 1 for its links"), "{problem}");
    // One that is off holds nothing.
    node.ask("POST", "/v1/guests/web1/destroy").await;
    let (status, stats) = node.ask("GET", "/v1/guests/web1/stats").await;
    assert_eq!((status, &stats["state"], &stats["memory_mib"]), (200, &"off".into(), &64.into()));
    for key in ["memory_bytes", "memory_limit_bytes", "rss_bytes", "balloon"] {
        assert_eq!(stats[key], Value::Null, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_what_is_not_known_yet() {
    let directory = tempfile::tempdir().unwrap();
    let appliance = testing::appliance(&["memory = \"64MiB\"", "memory = \"64MiB\""]);
    let (api, mut posts) = api(&Arc::new(appliance), directory.path());
    let posts = [posts.try_recv().unwrap(), posts.try_recv().unwrap()];
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

impl Node {
    /// What comes of a request with a body: status, `ETag`, and what is answered.
    async fn put(&self, name: &str, condition: &str, body: &Value) -> (u16, Option<String>, Value) {
        self.put_at(&format!("/v1/guests/{name}/definition"), condition, body).await
    }

    pub async fn put_at(&self, path: &str, condition: &str, body: &Value) -> (u16, Option<String>, Value) {
        let body = body.to_string();
        let head = format!("PUT {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{condition}");
        let answer = self.says(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).map(str::to_owned);
        (head.split(' ').nth(1).unwrap().parse().unwrap(), tag, serde_json::from_str(text).unwrap())
    }
}

#[tokio::test]
async fn a_guest_is_defined_anew_and_given_back() {
    let node = node(1);
    let (_, mut definition) = node.ask("GET", "/v1/guests/web1/definition").await;
    assert_eq!(node.ask("GET", "/v1/guests/web1/config").await.1, definition);
    // What is the same is no change.
    let (status, tag, done) = node.put("web1", "", &definition).await;
    assert_eq!((status, &done["defined"], &done["waits"]), (200, &"image".into(), &false.into()));
    let first = tag.unwrap();
    // One who was faster is not overwritten, and whoever was told so tries again.
    definition["vcpus"] = 2.into();
    let (status, tag, done) = node.put("web1", &format!("If-Match: {first}\r\n"), &definition).await;
    assert_eq!((status, &done["defined"], &done["waits"]), (200, &"node".into(), &true.into()));
    definition["vcpus"] = 3.into();
    let (status, _, problem) = node.put("web1", &format!("If-Match: {first}\r\n"), &definition).await;
    assert!(status == 412 && problem["error"].as_str().unwrap().contains("somebody else"), "{problem}");
    assert_eq!(node.put("web1", "If-None-Match: *\r\n", &definition).await.0, 412);
    assert_eq!(node.put("web1", &format!("If-Match: {}\r\n", tag.unwrap()), &definition).await.0, 200);
    // It runs by what it was started by, but for who starts it.
    let (_, shown) = node.ask("GET", "/v1/guests/web1").await;
    assert_eq!((&shown["vcpus"], &shown["waits"]), (&1.into(), &true.into()));
    definition["vcpus"] = 1.into();
    definition["autostart"] = false.into();
    assert_eq!(node.put("web1", "", &definition).await.2["waits"], false);
    assert_eq!(node.ask("GET", "/v1/guests/web1").await.1["autostart"], false);
    // What it is to be is on disk, and what it was by the image comes back.
    let file = node.directory.path().join("definitions/web1.json");
    assert!(std::fs::read_to_string(&file).unwrap().contains("\"autostart\": false"));
    let (status, done) = node.ask("DELETE", "/v1/guests/web1/definition").await;
    assert_eq!((status, &done["defined"]), (200, &"image".into()));
    assert_eq!(format!("\"{}\"", done["revision"].as_str().unwrap()), first);
    assert!(!file.exists());
    assert_eq!(node.ask("DELETE", "/v1/guests/web1/definition").await.0, 409);

    let told: Vec<String> = node.api.audit.entries().into_iter().map(|entry| entry.what).collect();
    for wanted in ["guest web1: defined, vcpus: 1 -> 2", "guest web1: what the image says again"] {
        assert!(told.iter().any(|what| what == wanted), "{told:?}");
    }
}

#[tokio::test]
async fn a_disk_that_is_defined_larger_grows_at_once() {
    let node = node_of(&["memory = \"64MiB\"\ndisk = { size = \"16MiB\" }"]);
    let (_, mut definition) = node.ask("GET", "/v1/guests/web1/definition").await;
    definition["disk"]["source"]["size"] = "32MiB".into();
    assert_eq!(node.put("web1", "", &definition).await.2["waits"], false);
    // With more that waits it grows, too; a smaller one waits.
    definition["disk"]["source"]["size"] = "48MiB".into();
    definition["vcpus"] = 2.into();
    assert_eq!(node.put("web1", "", &definition).await.2["waits"], true);
    definition["vcpus"] = 1.into();
    assert_eq!(node.put("web1", "", &definition).await.2["waits"], false);
    definition["disk"]["source"]["size"] = "16MiB".into();
    assert_eq!(node.put("web1", "", &definition).await.2["waits"], true);
}

#[tokio::test]
async fn a_new_guest_comes_and_goes() {
    let node = node(2);
    let (_, mut definition) = node.ask("GET", "/v1/guests/web1/definition").await;
    definition["name"] = "db".into();
    let (status, _, done) = node.put("db", "If-None-Match: *\r\n", &definition).await;
    assert_eq!((status, &done["guest"], &done["waits"]), (200, &"db".into(), &false.into()));
    let names = async || {
        let (_, list) = node.ask("GET", "/v1/guests").await;
        let names = list["guests"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["web1", "web2", "db"]);
    assert_eq!(node.ask("POST", "/v1/guests/db/start").await.0, 202);
    let (status, problem) = node.ask("DELETE", "/v1/guests/db/definition").await;
    assert_eq!((status, &problem["error"]), (409, &"it runs".into()));
    assert_eq!(node.ask("POST", "/v1/guests/db/destroy").await.0, 202);
    assert_eq!(node.ask("DELETE", "/v1/guests/db/definition").await.1["defined"], Value::Null);
    assert_eq!(names().await, ["web1", "web2"]);
    // The next daemon knows what was kept, and has a place of its own for each.
    node.put("db", "", &definition).await;
    definition["name"] = "another".into();
    node.put("another", "", &definition).await;
    let guests = node.api.book.guests();
    let places: Vec<_> = guests.iter().map(|it| (it.guest.name.as_str(), it.index)).collect();
    assert_eq!(places, [("web1", 0), ("web2", 1), ("another", 10_001), ("db", 10_000)]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_nothing_is_changed() {
    let node = node(1);
    let (_, good) = node.ask("GET", "/v1/guests/web1/definition").await;
    let change = |key: &str, value: Value| {
        let mut definition = good.clone();
        definition[key] = value;
        definition
    };
    let disk = |path: &str| change("disk", serde_json::json!({ "source": { "file": path } }));
    for (name, definition, wanted) in [
        ("web1", change("memory", "1MiB".into()), "memory: use 32MiB or more"),
        ("web1", change("memroy", 1.into()), "memroy: there is no such key"),
        ("web1", change("image", "../x".into()), "image: `../x` is not a name"),
        ("web1", change("image", "missing".into()), "there is no image `missing` on this node"),
        ("web1", disk("/etc/shadow"), "lies on none of the file systems"),
        ("web2", good.clone(), "name: this is the definition of `web1`"),
        ("..%2fweb1", change("name", "..%2fweb1".into()), "is not a host name"),
        ("-x", change("name", "-x".into()), "is not a host name"),
        ("web1", Value::Null, "this is no definition of a guest"),
    ] {
        let (status, _, problem) = node.put(name, "", &definition).await;
        assert_eq!(status, 400, "{problem}");
        assert!(problem["error"].as_str().unwrap().contains(wanted), "{wanted}: {problem}");
    }
    assert_eq!(node.put("web1", "If-Match: W/nonsense\r\n", &good).await.0, 400);
    assert_eq!(node.put("web1", "", &change("image", "x".repeat(65_536).into())).await.0, 413);
    let chunks = "PUT /v1/guests/web1/definition HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let flood = format!("{chunks}{}", format!("8000\r\n{}\r\n", "x".repeat(0x8000)).repeat(8));
    let answer = node.says(flood.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(node.ask("GET", "/v1/guests/web1/definition").await.1, good);
    assert!(!node.directory.path().join("definitions").exists());
}

#[tokio::test]
async fn of_many_who_change_one_definition_nobody_is_overwritten() {
    let node = node(1);
    let raise = async |node: &Node| {
        loop {
            let head = "GET /v1/guests/web1/definition HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            let answer = node.says(head.as_bytes()).await;
            let (head, text) = answer.split_once("\r\n\r\n").unwrap();
            let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
            let mut definition: Value = serde_json::from_str(text).unwrap();
            definition["vcpus"] = (definition["vcpus"].as_u64().unwrap() + 1).into();
            match node.put("web1", &format!("If-Match: {tag}\r\n"), &definition).await.0 {
                200 => return,
                status => assert_eq!(status, 412),
            }
        }
    };
    tokio::join!(raise(&node), raise(&node), raise(&node), raise(&node), raise(&node));
    assert_eq!(node.ask("GET", "/v1/guests/web1/definition").await.1["vcpus"], 6);
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

/// How a WebSocket is asked for, from a page of this origin; the key and its answer are the example of RFC 6455, 1.3.
fn websocket(path: &str, origin: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: node:7443\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Origin: {origin}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

#[tokio::test]
async fn a_console_is_opened_by_our_own_page_alone_and_what_types_is_audited() {
    let node = node(1);
    for path in ["/v1/guests/web1/console", "/v1/guests/web1/console?write=true"] {
        let asked = websocket(path, "https://evil").replace("Connection: Upgrade", "Connection: close");
        let answer = node.says(asked.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("of another site"), "{answer}");
    }
    assert!(node.api.audit.entries().is_empty());
    // It has no VMM here: that is said in the connection, which is then closed with 4409.
    let mut stream = node.connect().await;
    stream.write_all(websocket("/v1/guests/web1/console?write=true", "https://node:7443").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(2).any(|pair| pair == 4409u16.to_be_bytes()) {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    assert!(answer.contains("guest web1 has no console now, for it is off"), "{answer}");
    let entries = node.api.audit.entries();
    assert!(matches!(&entries[..], [one] if one.what == "GET /v1/guests/web1/console?write=true"), "{entries:?}");

    for (path, header, status) in [
        ("/v1/guests/web9/console", "13", "404"),
        ("/v1/guests/web1/console", "8", "426"),
        ("/v1/guests/web1/console?force=x", "13", "400"),
    ] {
        let asked = websocket(path, "https://node:7443").replace("Version: 13", &format!("Version: {header}"));
        let answer = node.says(asked.replace("Connection: Upgrade", "Connection: close").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}
