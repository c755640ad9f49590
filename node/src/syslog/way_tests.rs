use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;

use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;

use super::*;
use crate::api::tls::roots;
use crate::testing::tls::{Authority, dns};

fn syslog(transport: SyslogTransport, server: SocketAddr) -> Syslog {
    Syslog { transport, server, tls_name: None }
}

#[test]
fn messages_are_counted_in_bytes() {
    assert_eq!(counted(&["ab".to_owned(), "\u{e4}".to_owned()]), "2 ab2 \u{e4}".as_bytes());
}

#[test]
fn a_server_gets_lines_by_udp_and_by_tcp_and_its_end_is_noticed() {
    let nothing = Path::new("/nowhere");
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut way = Way::to(&syslog(SyslogTransport::Udp, server.local_addr().unwrap()), nothing).unwrap();
    way.send(&["one".to_owned(), "x".repeat(3000)]).unwrap();
    let mut buffer = [0; 4096];
    assert_eq!(server.recv(&mut buffer).unwrap(), 3);
    assert_eq!(server.recv(&mut buffer).unwrap(), DATAGRAM_MAX);

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut way = Way::to(&syslog(SyslogTransport::Tcp, server.local_addr().unwrap()), nothing).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    way.send(&["one".to_owned()]).unwrap();
    let mut text = [0; 5];
    peer.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"3 one");
    drop(peer);
    until_gone(&mut way);
}

/// The peer's end comes to us in a moment.
fn until_gone(way: &mut Way) {
    let gone = (0..500).any(|_| {
        sleep(Duration::from_millis(20));
        way.send(&["more".to_owned()]).is_err()
    });
    assert!(gone);
}

/// A server that asks for a certificate of `authority`'s, and gives the first bytes that it reads.
fn server(authority: &Authority, keys: &Path) -> (SocketAddr, thread::JoinHandle<Result<Vec<u8>>>) {
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(&authority.signs(&keys.join("of"), &[]).join("ca.pem")).unwrap()),
        Arc::clone(&provider),
    );
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(certificates(&keys.join("cert.pem")).unwrap(), key(&keys.join("key.pem")).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config))?, stream);
        let mut text = vec![0; 5];
        stream.read_exact(&mut text)?;
        Ok(text)
    });
    (address, reader)
}

#[test]
fn tls_tells_both_who_the_other_is() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    let ours = Authority::new("ours");
    let own = ours.signs(&at("server"), &[dns("loghost.example")]);
    let host = ours.signs(&at("host"), &[]);
    let tls = |server: SocketAddr, name: Option<&str>| Syslog {
        tls_name: name.map(str::to_owned),
        ..syslog(SyslogTransport::Tls, server)
    };

    let (address, reader) = server(&ours, &own);
    let mut way = Way::to(&tls(address, Some("loghost.example")), &host).unwrap();
    way.send(&["one".to_owned()]).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), b"3 one");
    until_gone(&mut way);

    // A server of another name, and one of another authority, hear nothing.
    let (address, _) = server(&ours, &own);
    let told = |way: Result<Way>| format!("{:#}", way.err().expect("it is refused"));
    let text = told(Way::to(&tls(address, None), &host));
    assert!(text.contains("the TLS handshake: invalid peer certificate"), "{text}");
    let (address, _) = server(&ours, &Authority::new("ours").signs(&at("foreign"), &[dns("loghost.example")]));
    let text = told(Way::to(&tls(address, Some("loghost.example")), &host));
    assert!(text.contains("invalid peer certificate"), "{text}");
    // A server that does not know the host says so before a line is lost.
    let stranger = Authority::new("ours").signs(&at("stranger"), &[]);
    std::fs::copy(host.join("ca.pem"), stranger.join("ca.pem")).unwrap();
    let (address, reader) = server(&ours, &own);
    let text = told(Way::to(&tls(address, Some("loghost.example")), &stranger));
    assert!(text.contains("the server refuses"), "{text}");
    assert!(reader.join().unwrap().is_err());
}
