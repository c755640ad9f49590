//! What the host's kernel found, and what the host logged.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::node::{Hardware, PciDevice};
use thimble_spec::host::{Logs, LogsVerb};
use thimble_spec::paths;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::host::{Connection, logs};

/// Where the kernel tells of devices.
const PCI: &str = "/sys/bus/pci/devices";
/// How long PID 1 may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Its routes.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/v1/node/hardware",
        role: Role::Read,
        summary: "What the host's kernel found",
        query: &[],
        gives: Gives::Json("Hardware"),
        serve: |_| Box::pin(async { answer::json(StatusCode::OK, &Hardware { pci: devices(Path::new(PCI)) }) }),
    },
    Route {
        method: Method::GET,
        path: "/v1/node/log",
        role: Role::Read,
        summary: "What the kernel, PID 1 and its services logged",
        query: &[("from", "only lines with this number and higher ones: the `next` of the answer before")],
        gives: Gives::Json("Logs"),
        serve: |call| Box::pin(log(call)),
    },
];

async fn log(call: Call) -> Result<Response<Content>, Refusal> {
    let asked = LogsVerb { from: call.query("from")?.unwrap_or_default(), level: None, source: None };
    let logs: Logs = ask("its log", move |pid1| logs::ask(pid1, &asked)).await?;
    answer::json(StatusCode::OK, &logs)
}

/// Asks PID 1 for `what`.
///
/// # Errors
/// It is not there, refuses, or does not answer in time.
pub async fn ask<T: Send + 'static>(
    what: &str,
    question: impl FnOnce(&mut Connection) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let asked = move || question(&mut Connection::open(Path::new(paths::HOST_CONTROL))?);
    match timeout(LIMIT, spawn_blocking(asked)).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(error))) => Err(Refusal::broken(format!("asking PID 1 for {what}: {error:#}"))),
        _ => Err(Refusal::broken("PID 1 does not answer in time".to_owned())),
    }
}

/// All devices of a directory of the kernel's; what cannot be read of one is 0.
fn devices(directory: &Path) -> Vec<PciDevice> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut devices: Vec<PciDevice> = entries
        .map(|entry| {
            let path = entry.path();
            let number = |name: &str| {
                let text = fs::read_to_string(path.join(name)).unwrap_or_default();
                u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or_default()
            };
            let driver = fs::read_link(path.join("driver")).ok();
            PciDevice {
                slot: entry.file_name().to_string_lossy().into_owned(),
                class: number("class"),
                vendor: number("vendor") as u16,
                device: number("device") as u16,
                revision: number("revision") as u8,
                subsystem_vendor: number("subsystem_vendor") as u16,
                subsystem_device: number("subsystem_device") as u16,
                driver: driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
            }
        })
        .collect();
    devices.sort_by(|a, b| a.slot.cmp(&b.slot));
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_the_kernel_writes_them() {
        let directory = tempfile::tempdir().unwrap();
        let device = directory.path().join("0000:00:1f.2");
        fs::create_dir(&device).unwrap();
        for (name, text) in
            [("class", "0x010601\n"), ("vendor", "0x8086\n"), ("device", "0x2922\n"), ("revision", "0x02\n")]
        {
            fs::write(device.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("../../../bus/pci/drivers/ahci", device.join("driver")).unwrap();
        let wanted = PciDevice {
            slot: "0000:00:1f.2".to_owned(),
            class: 0x01_0601,
            vendor: 0x8086,
            device: 0x2922,
            revision: 2,
            subsystem_vendor: 0,
            subsystem_device: 0,
            driver: Some("ahci".to_owned()),
        };
        assert_eq!(devices(directory.path()), [wanted]);
        assert_eq!(devices(Path::new("/nowhere")), []);
    }
}
