//! The API over TLS as its clients have it: who gets past it, and who may what.

use std::fs;

use rcgen::SanType;
use thimble_spec::api::audit::Who;
use thimble_spec::api::guest::Guests;
use thimble_spec::api::identity::NODE_NAME;
use thimble_spec::api::task::Task;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::api::peer::Role;
use crate::api::tests::{Node, PASSWORD, node};
use crate::ctl::client::Client;
use crate::ctl::words::Where;
use crate::testing::tls::{Authority, dns, uri};
use hyper::Method;

/// A node that listens, and where.
async fn listening(authority: &Authority) -> (Node, SocketAddr) {
    let node = node(1);
    let own = authority.signs(&node.directory.path().join("own"), &[dns(NODE_NAME)]);
    let [ca, certificate, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| own.join(name));
    let config = config(Files { ca: &ca, certificate: &certificate, key: &key }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, config, Arc::clone(&node.api)));
    (node, address)
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
    let mut held = Vec::new();
    for _ in 0..HANDSHAKES_MAX {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    // They lose their places after a while.
    timeout(HANDSHAKE_TIME * 3, client(address, &keys).text(Method::GET, "/v1/node")).await.unwrap().unwrap();
}
