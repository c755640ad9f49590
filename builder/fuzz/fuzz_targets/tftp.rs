//! A client of TFTP: its request, and then whatever it says while the file goes to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_builder::serve::tftp::packet::{Reply, Request};
use thimble_builder::serve::tftp::sender::{Sender, Step};

fuzz_target!(|data: &[u8]| {
    let Some(([head @ .., size], rest)) = data.split_first_chunk::<2>() else { return };
    let (request, replies) = rest.split_at((head[0] as usize * 2).min(rest.len()));
    let request = [&[0, 1], request].concat();
    let Ok(request) = Request::parse(&request) else { return };
    let options = request.options;
    assert!((8..=65464).contains(&options.block()) && (1..=64).contains(&options.window()));
    let size = u64::from(*size) * 257;
    assert!(options.acknowledgement(size).is_none_or(|packet| packet.len() <= 512));

    let mut sender = Sender::new(size, options.block(), options.window());
    for reply in replies.chunks(4) {
        for _ in 0..options.window() {
            let Some(block) = sender.next_block() else { break };
            assert!(block.offset + block.length as u64 <= size, "nothing outside the file");
        }
        match Reply::parse(reply) {
            Reply::Acknowledgement(number) => match sender.acknowledged(number) {
                Step::Done => return assert_eq!(sender.arrived(), size),
                Step::Send | Step::Wait => assert!(sender.arrived() <= size),
            },
            Reply::Error(_) => return,
            Reply::Other => sender.again(),
        }
    }
});
