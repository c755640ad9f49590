//! A connection to the HTTP server, with all that a client sends on it.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use thimble_builder::serve::board::Board;
use thimble_builder::serve::http;
use thimble_builder::serve::journal::Journal;
use thimble_builder::serve::tree::Tree;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::runtime::{Builder, Runtime};

/// More than any input can ask for: as many requests as fit it, each for the largest file.
const ANSWER_MAX: u64 = 64 << 20;

struct World {
    _dir: TempDir,
    tree: Tree,
    board: Arc<Board>,
    runtime: Runtime,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("secret"), "SECRET").expect("a file");
        let root = dir.path().join("netboot");
        std::fs::create_dir(&root).expect("a directory");
        std::fs::write(root.join("k"), [7; 1000]).expect("a file");
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        World { tree: Tree::new(&root), _dir: dir, board: Arc::new(Board::new(Journal::silent())), runtime }
    })
}

fuzz_target!(|data: &[u8]| {
    let World { tree, board, runtime, .. } = world();
    runtime.block_on(async {
        let (client, server) = tokio::io::duplex(4096);
        let (from_server, mut to_server) = split(client);
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let write = async {
            // The server may end the connection before it has all.
            let _ = to_server.write_all(data).await;
            let _ = to_server.shutdown().await;
        };
        let mut answer = Vec::new();
        let mut from_server = from_server.take(ANSWER_MAX);
        let read = from_server.read_to_end(&mut answer);
        let ((), (), read) = tokio::join!(http::converse(server, peer, tree.clone(), Arc::clone(board)), write, read);
        read.expect("it ends");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "a response");
        assert!(!answer.windows(6).any(|window| window == b"SECRET"), "nothing outside the tree");
    });
});
