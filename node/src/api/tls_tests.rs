//! The API over TLS as its clients have it: who gets past it, and who may what.

use std::fs;

use rcgen::SanType;
use thimble_spec::api::audit::Who;
use thimble_spec::api::guest::Guests;
use thimble_spec::api::identity::NODE_NAME;
use thimble_spec::api::task::Task;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::api::peer::Role;
use crate::api::tests::{Node, PASSWORD, node};
use crate::ctl::client::Client;
use crate::ctl::words::Where;
use crate::testing::tls::{Authority, dns, uri};
use hyper::Method;

/// A node that listens, and where.
async fn listening(authority: &Authority) -> (Node, SocketAddr) {
    listening_within(authority, HANDSHAKE_TIME).await
}

/// The same, where a handshake may take so long.
async fn listening_within(authority: &Authority, limit: Duration) -> (Node, SocketAddr) {
    let node = node(1);
    let own = authority.signs(&node.directory.path().join("own"), &[dns(NODE_NAME)]);
    let [ca, certificate, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| own.join(name));
    let config = config(Files { ca: &ca, certificate: &certificate, key: &key }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_within(listener, config, Arc::clone(&node.api), limit));
    (node, address)
}

/// So many connections from 127.0.0.LAST on which nothing is said.
async fn silent(address: SocketAddr, last: u8, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), 0)).unwrap();
        held.push(socket.connect(address).await.unwrap());
    }
    held
}

fn client(address: SocketAddr, keys: &Path) -> Client {
    let place = Where {
        host: Some(address.to_string()),
        keys: Some(keys.to_owned()),
        tls_name: NODE_NAME.to_owned(),
        ..Where::default()
    };
    Client::of(&place).unwrap()
}

#[tokio::test]
async fn a_certificate_says_who_asks_and_what_they_may() {
    let authority = Authority::new("ours");
    let (node, address) = listening(&authority).await;
    let signed =
        |name: &str, names: &[SanType]| client(address, &authority.signs(&node.directory.path().join(name), names));

    let read = signed("read", &[uri("thimble:read:rita")]);
    let operate = signed("operate", &[uri("spiffe://elsewhere"), uri("thimble:operate:olga")]);
    for client in [&read, &operate] {
        let (guests, _): (Guests, _) = client.json(Method::GET, "/v1/guests").await.unwrap();
        assert_eq!(guests.guests.len(), 1);
    }
    // Passwords are for those who may change them.
    let admin = signed("admin", &[uri("thimble:admin:anna")]);
    for what in ["definition", "config"] {
        let path = format!("/v1/guests/web1/{what}");
        for (client, sees) in [(&read, false), (&operate, false), (&admin, true)] {
            let text = String::from_utf8(client.text(Method::GET, &path).await.unwrap()).unwrap();
            assert!(text.contains("PASSWORD") && text.contains(PASSWORD) == sees, "{what}: {text}");
        }
    }
    for route in crate::api::routes::all().filter(|route| route.method != Method::GET) {
        let refused = async |client: &Client| {
            let path = route.path.replace("{name}", "web1");
            client.text(route.method.clone(), &path).await.unwrap_err().to_string()
        };
        let told = refused(&read).await;
        assert!(told.starts_with("thimble:read:rita from 127.0.0.1:"), "{}: {told}", route.path);
        assert!(told.contains(&format!("it takes the role {}", route.role.name())), "{told}");
        if route.role == Role::Admin {
            let told = refused(&operate).await;
            assert!(told.contains("thimble:operate:olga") && told.contains("it takes the role admin"), "{told}");
        }
    }
    // What types is asked for by GET in a browser.
    let websocket = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for query in ["write=true", "force=true"] {
        let path = format!("/v1/guests/web1/console?{query}");
        let told = read.ask(Method::GET, &path, &websocket, None).await.unwrap_err().to_string();
        assert!(told.starts_with("thimble:read:rita") && told.contains("it takes the role operate"), "{told}");
    }
    assert!(read.ask(Method::GET, "/v1/guests/web1/console", &websocket, None).await.is_ok());
    assert!(node.api.audit.entries().is_empty(), "nothing was tried");
    let (task, _): (Task, _) = operate.json(Method::POST, "/v1/guests/web1/destroy").await.unwrap();
    assert_eq!(task.guest, "web1");
    let entries = node.api.audit.entries();
    assert!(
        matches!(&entries[0].who, Who::Client { certificate, .. } if certificate == "thimble:operate:olga"),
        "{entries:?}"
    );

    // Who is nobody, or two, may nothing.
    for (name, names) in [("nobody", vec![]), ("two", vec![uri("thimble:read:a"), uri("thimble:admin:b")])] {
        let told = signed(name, &names).text(Method::GET, "/v1/guests").await.unwrap_err().to_string();
        assert!(told.contains("a certificate without thimble:ROLE:NAME"), "{told}");
    }
}

#[tokio::test]
async fn nobody_else_gets_past_tls() {
    let authority = Authority::new("ours");
    let (node, address) = listening(&authority).await;
    // Signed by somebody else, who has taken the same name;
    let theirs = Authority::new("ours").signs(&node.directory.path().join("theirs"), &[uri("thimble:admin:mallory")]);
    fs::write(theirs.join("ca.pem"), &authority.pem).unwrap();
    let failure = client(address, &theirs).text(Method::GET, "/v1/guests").await.unwrap_err();
    assert!(!failure.is_nobody() && failure.to_string().contains("refuses this certificate"), "{failure}");
    // without any;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&theirs.join("ca.pem")).unwrap())
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = NODE_NAME.try_into().unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let _ = stream.write_all(b"GET /v1/guests HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let told = stream.read_to_end(&mut Vec::new()).await.unwrap_err().to_string();
    assert!(told.contains("CertificateRequired"), "{told}");
    // without TLS;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /v1/guests HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    // and a node of another authority is none for us.
    let other = Authority::new("ours").signs(&node.directory.path().join("other"), &[uri("thimble:admin:anna")]);
    let failure = client(address, &other).text(Method::GET, "/v1/guests").await.unwrap_err();
    assert!(failure.to_string().contains("no node daemon is reached"), "{failure}");
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_else_waiting() {
    let authority = Authority::new("ours");
    let (node, address) = listening(&authority).await;
    let keys = authority.signs(&node.directory.path().join("read"), &[uri("thimble:read:rita")]);
    // Each place is taken,
    let mut held = Vec::new();
    for last in 2..6 {
        held.extend(silent(address, last, HANDSHAKES_OF_ONE).await);
    }
    // and lost after a while.
    timeout(HANDSHAKE_TIME * 3, client(address, &keys).text(Method::GET, "/v1/node")).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_address_has_a_quarter_of_the_places() {
    // Far more than any machine takes for a handshake; and for ever.
    let (enough, ever) = (Duration::from_secs(120), Duration::from_secs(86_400));
    let authority = Authority::new("ours");
    let (node, address) = listening_within(&authority, ever).await;
    let keys = authority.signs(&node.directory.path().join("read"), &[uri("thimble:read:rita")]);
    let asked = || async { timeout(enough, client(address, &keys).text(Method::GET, "/v1/node")).await };
    // Given one who would take all places, and says nothing,
    let mut held = silent(address, 2, HANDSHAKES_MAX + 1).await;
    // then others are answered,
    asked().await.unwrap().unwrap();
    // their oldest are hung up on, and the newest are not.
    let end = timeout(enough, held[0].read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let last = held.last().unwrap().try_read(&mut [0; 1]);
    assert_eq!(last.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // Who asks is not kept out by who says nothing at the same address.
    let _more = silent(address, 1, HANDSHAKES_OF_ONE).await;
    asked().await.unwrap().unwrap();
}

#[tokio::test]
async fn the_oldest_handshake_of_an_address_gives_way() {
    let [one, other] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
    let mut under_way = UnderWay::default();
    let mut begin = |address| {
        let handshake = tokio::spawn(std::future::pending::<()>());
        under_way.begin(address, handshake.abort_handle());
        handshake
    };
    let mut handshakes: Vec<_> = (0..HANDSHAKES_OF_ONE).map(|_| begin(one)).collect();
    handshakes.push(begin(other));
    tokio::task::yield_now().await;
    assert!(handshakes.iter().all(|handshake| !handshake.is_finished()));
    // One that is over counts no more;
    let over = handshakes.remove(1);
    over.abort();
    assert!(over.await.unwrap_err().is_cancelled());
    handshakes.push(begin(one));
    tokio::task::yield_now().await;
    assert!(handshakes.iter().all(|handshake| !handshake.is_finished()));
    // one more ends the oldest, and no other.
    handshakes.push(begin(one));
    assert!(handshakes.remove(0).await.unwrap_err().is_cancelled());
    tokio::task::yield_now().await;
    assert!(handshakes.iter().all(|handshake| !handshake.is_finished()));
}
