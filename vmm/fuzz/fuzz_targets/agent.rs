//! What a guest's PID 1 writes on its line to the VMM, which may be anything: what is understood of it can be told again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_spec::inside::{Inside, LINE_MAX};
use thimble_vmm::agent::Agent;
use thimble_vmm::serial::Sink;

fuzz_target!(|data: &[u8]| {
    let Ok(agent) = Agent::new() else { return };
    data.iter().for_each(|byte| agent.put(*byte));
    if let Some((_, inside)) = agent.take().seen {
        let line = inside.to_string();
        assert!(line.len() < LINE_MAX);
        let again: Inside = line.parse().expect("what is written can be read");
        assert_eq!(again.to_string(), line);
    }
});
