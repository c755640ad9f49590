//! `thimble serve` at 127.0.0.1: many clients at once get the right bytes and its memory stays bounded; what is wrong on its
//! command line is a sentence; Ctrl-C ends it cleanly. Machines that boot from it are in `netboot.rs`.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;
use thimble_tests::clients::{Expected, Way, fetch};
use thimble_tests::site::Serve;
use thimble_tests::{curl, thimble};

/// How many are served at once here; `make bench` has 200.
const CLIENTS: usize = 40;
/// The most memory that those may cost the server, its own included. Together the files are larger than that.
const MEMORY: u64 = 64 << 20;

/// A tree with files of a real one's names, not its sizes.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, size) in [("undionly.kpxe", 74_213), ("vmlinuz", 3 << 20), ("initrd", (5 << 20) + 1468)] {
        let path = dir.path().join("netboot").join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        // Not the same byte twice in a row, and no two blocks the same.
        let content: Vec<u8> = (0..size).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(path, content).expect("there is room");
    }
    fs::write(dir.path().join("manifest.json"), "not for everybody").expect("there is room");
    dir
}

/// Files only, at free ports: where TFTP and HTTP are.
fn serve(dir: &Path) -> (Serve, SocketAddr, SocketAddr) {
    let mut command = thimble();
    command.arg("serve").arg(dir).args(["--on", "127.0.0.1", "--files-only", "--json"]);
    command.args(["--http-port", "0", "--tftp-port", "0"]);
    let mut serve = Serve::start(command);
    let at = serve.wait("it listens", |event| event["event"] == "serving")["at"].to_string();
    let address = |scheme: &str| {
        let rest = at.split_once(scheme).expect("it is told").1;
        rest[..rest.find('/').expect("it ends")].parse().expect("an address")
    };
    let (tftp, http) = (address("tftp://"), address("http://"));
    (serve, tftp, http)
}

#[test]
fn many_at_once_get_the_right_bytes_and_cost_little_memory() {
    let dir = tree();
    let files: Vec<Expected> = ["undionly.kpxe", "vmlinuz", "initrd"]
        .iter()
        .map(|name| Expected::of(&dir.path().join("netboot"), name).expect("it is there"))
        .collect();
    let all: u64 = files.iter().map(Expected::size).sum::<u64>() * CLIENTS as u64;
    assert!(all > MEMORY);
    let (serve, tftp, http) = serve(dir.path());
    for (server, way) in [(tftp, Way::Tftp { window: 1 }), (tftp, Way::Tftp { window: 16 }), (http, Way::Http)] {
        assert_eq!(fetch(server, way, CLIENTS, &files).expect("no failure").bytes, all, "{way:?}");
    }
    let memory = serve.peak_memory();
    assert!(memory < MEMORY, "{memory} bytes");
    let events = serve.end();
    let count = |what: &str| events.iter().filter(|event| event["event"] == what).count();
    assert_eq!((count("sent"), count("failed")), (3 * CLIENTS * files.len(), 0));
}

#[test]
fn curl_gets_what_is_in_the_tree_and_nothing_else() {
    let dir = tree();
    let (serve, tftp, http) = serve(dir.path());
    let kernel = fs::read(dir.path().join("netboot/vmlinuz")).expect("it is there");
    let got = |words: &[&str], path: &str| -> Output { curl(words, path) };
    assert_eq!(got(&[], &format!("http://{http}/vmlinuz")).stdout, kernel);
    assert_eq!(got(&["--range", "5-14"], &format!("http://{http}/vmlinuz")).stdout, kernel[5..15]);
    assert_eq!(got(&["--tftp-blksize", "1468"], &format!("tftp://{tftp}/vmlinuz")).stdout, kernel);
    assert_eq!(got(&["--tftp-no-options"], &format!("tftp://{tftp}/vmlinuz")).stdout, kernel);
    let status = ["--write-out", "%{http_code}", "--output", "/dev/null", "--path-as-is"];
    for (path, expected) in [("/../manifest.json", "403"), ("/%2e%2e/manifest.json", "403"), ("/none", "404")] {
        assert_eq!(String::from_utf8_lossy(&got(&status, &format!("http://{http}{path}")).stdout), expected, "{path}");
    }
    let head = String::from_utf8(got(&["--head"], &format!("http://{http}/vmlinuz")).stdout).expect("text");
    assert!(head.contains(&format!("Content-Length: {}", kernel.len())) && head.contains("Accept-Ranges: bytes"));
    let beyond = got(&["--range", "99999999-", "--include"], &format!("http://{http}/vmlinuz")).stdout;
    assert!(String::from_utf8_lossy(&beyond).starts_with("HTTP/1.1 416"));
    assert!(!got(&["--path-as-is"], &format!("tftp://{tftp}/../manifest.json")).status.success());
    serve.end();
}

#[test]
fn nonsense_does_not_end_it() {
    let dir = tree();
    let (serve, tftp, http) = serve(dir.path());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for packet in
        [&b""[..], b"\0", b"\0\x01", b"\0\x02x\0octet\0", b"\0\x03\0\x01", &[0xff; 1400], b"\0\x01\xff\0octet\0"]
    {
        socket.send_to(packet, tftp).expect("it is sent");
    }
    let mut open = Vec::new();
    for request in ["\0\0\0\0", "GET", "GET / HTTP/9.9\r\n\r\n", "GET http://[ HTTP/1.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(http).expect("it listens");
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("it is sent");
        open.push(stream);
    }
    let long = format!("http://{http}/{}", "x".repeat(100_000));
    curl(&[], &long);
    assert_eq!(curl(&[], &format!("http://{http}/undionly.kpxe")).stdout.len(), 74_213);
    serve.end();
}

#[test]
fn what_cannot_be_served_is_a_sentence() {
    let dir = tree();
    let said = |words: &[&str]| {
        let output = thimble().arg("serve").arg(dir.path()).args(words).output().expect("thimble starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (code, text) = said(&["--on", "127.0.0.1", "--files-only", "--tftp-port", "0", "--http-port", &port]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains(&format!("port {port} (HTTP) is taken by another program")) && !text.contains('\n'),
        "{text}"
    );
    for (words, expected) in [
        (&["--on", "nowhere7", "--files-only"][..], "no such interface"),
        (&["--on", "0.0.0.0", "--files-only"], "name one interface"),
        (&["--on", "127.0.0.1", "--proxy"], "netboot/boot.ipxe"),
        (&["--on", "127.0.0.1", "--dhcp", "10.0.0.9-10.0.0.1"], "comes after"),
        (&["--files-only"], "--on"),
        (&["--on", "127.0.0.1"], "--proxy"),
    ] {
        let (code, text) = said(words);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
