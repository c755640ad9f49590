//! The host.

use std::fs;

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::node::Node;
use thimble_spec::paths;
use thimble_spec::units::MIB;

use crate::api::Api;
use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::proc;

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/v1/node",
    role: Role::Read,
    summary: "The host",
    query: &[],
    gives: Gives::Json("Node"),
    serve: |call| Box::pin(async move { get(&call) }),
}];

fn get(call: &Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &node(&call.api))
}

/// The host.
pub fn node(api: &Api) -> Node {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (memory, cpus) = (read("/proc/meminfo"), read("/proc/cpuinfo"));
    let mib = |name: &str| proc::memory(&memory, name).unwrap_or_default() / MIB;
    let guests = api.guests();
    let running = guests.iter().filter(|entry| entry.life.borrow().state.is_active()).count();
    Node {
        name: api.book.appliance.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        manifest: Some(read(paths::END_MARKER).trim().to_owned()).filter(|hash| !hash.is_empty()),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu_model: value(&cpus, "model name").unwrap_or_default().to_owned(),
        cpus: cpus.lines().filter(|line| line.starts_with("processor")).count() as u32,
        memory_mib: mib("MemTotal"),
        memory_available_mib: mib("MemAvailable"),
        uptime_s: numbers(&read("/proc/uptime"))[0],
        load: numbers(&read("/proc/loadavg")),
        guests: guests.len() as u32,
        running: running as u32,
    }
}

/// What stands behind `name` and a colon.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim()))
}

/// The first numbers of a text.
fn numbers(text: &str) -> [f64; 3] {
    let mut words = text.split_whitespace();
    [(); 3].map(|()| words.next().and_then(|word| word.parse().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(value("processor\t: 0\nmodel name\t: QEMU TCG CPU\n", "model name"), Some("QEMU TCG CPU"));
        assert_eq!(numbers("0.10 0.20 0.30 1/77 300\n"), [0.1, 0.2, 0.3]);
    }
}
