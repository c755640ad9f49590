//! The host, and the machine that it is.

use std::fs;
use std::path::Path;

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::node::{Node, Sysinfo};
use thimble_spec::console::one_line;
use thimble_spec::paths;
use thimble_spec::units::MIB;

use crate::api::Api;
use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::{hwmon, proc};

/// What the firmware says, as the kernel gives it out (Linux `Documentation/ABI/testing/sysfs-firmware-dmi-tables`).
const DMI: &str = "/sys/class/dmi/id";
/// Most bytes of a word of the firmware's.
const WORD_MAX: usize = 256;

/// Its routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/node",
        role: Role::Read,
        summary: "The host",
        query: &[],
        gives: Gives::Json("Node"),
        serve: |call| Box::pin(async move { get(&call) }),
    },
    Route {
        method: Method::GET,
        path: "/v1/node/sysinfo",
        role: Role::Read,
        summary: "What the machine is, as its firmware and its kernel say",
        query: &[],
        gives: Gives::Json("Sysinfo"),
        serve: |_| Box::pin(async { answer::json(StatusCode::OK, &sysinfo(Path::new(DMI))) }),
    },
];

fn get(call: &Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &node(&call.api))
}

/// The host.
pub fn node(api: &Api) -> Node {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let mib = |name: &str| proc::memory(&memory, name).unwrap_or_default() / MIB;
    let (cpu_model, cpus) = processors(&read("/proc/cpuinfo"));
    let guests = api.guests();
    let running = guests.iter().filter(|entry| entry.life.borrow().state.is_active()).count();
    Node {
        name: api.book.appliance.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        manifest: Some(read(paths::END_MARKER).trim().to_owned()).filter(|hash| !hash.is_empty()),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu_model,
        cpus,
        memory_mib: mib("MemTotal"),
        memory_available_mib: mib("MemAvailable"),
        uptime_s: numbers(&read("/proc/uptime"))[0],
        load: numbers(&read("/proc/loadavg")),
        guests: guests.len() as u32,
        running: running as u32,
        temperatures: hwmon::temperatures(Path::new(hwmon::CLASS)),
    }
}

/// What the machine is.
fn sysinfo(dmi: &Path) -> Sysinfo {
    let read = |path: &Path| fs::read(path).unwrap_or_default();
    // Vendors write what they like, and a terminal is to show it.
    let said = |name: &str| {
        let word = one_line(String::from_utf8_lossy(&read(&dmi.join(name))).trim(), WORD_MAX);
        Some(word).filter(|word| !word.is_empty())
    };
    let text = |path: &str| String::from_utf8_lossy(&read(Path::new(path))).into_owned();
    let (cpu_model, cpus) = processors(&text("/proc/cpuinfo"));
    Sysinfo {
        vendor: said("sys_vendor"),
        product: said("product_name"),
        serial: said("product_serial"),
        firmware_vendor: said("bios_vendor"),
        firmware_version: said("bios_version"),
        firmware_date: said("bios_date"),
        cpu_model,
        cpus,
        memory_mib: proc::memory(&text("/proc/meminfo"), "MemTotal").unwrap_or_default() / MIB,
    }
}

/// Their model, and how many there are, of the text of `/proc/cpuinfo`.
fn processors(cpuinfo: &str) -> (String, u32) {
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    (proc::value(cpuinfo, "model name").unwrap_or_default().to_owned(), count as u32)
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
        let two = "processor\t: 0\nmodel name\t: QEMU TCG CPU\nprocessor\t: 1\nmodel name\t: QEMU TCG CPU\n";
        assert_eq!(processors(two), ("QEMU TCG CPU".to_owned(), 2));
        assert_eq!(numbers("0.10 0.20 0.30 1/77 300\n"), [0.1, 0.2, 0.3]);
    }
    #[test]
    fn what_the_firmware_says_is_read_and_what_it_does_not_say_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let words: [(&str, &[u8]); 4] = [
            ("sys_vendor", b"QEMU\n"),
            ("product_name", b"Standard PC (Q35 + ICH9, 2009)\n"),
            ("product_serial", b" \n"),
            ("bios_version", b"1.16\x1b[2J\xff\n"),
        ];
        for (name, text) in words {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let found = sysinfo(directory.path());
        assert_eq!(found.vendor.as_deref(), Some("QEMU"));
        assert_eq!(found.product.as_deref(), Some("Standard PC (Q35 + ICH9, 2009)"));
        assert_eq!((&found.serial, &found.firmware_date), (&None, &None));
        assert_eq!(found.firmware_version.as_deref(), Some("1.16 [2J\u{fffd}"));
        assert!(found.cpus > 0 && found.memory_mib > 0, "{found:?}");
    }
}
