//! The host.

use serde::{Deserialize, Serialize};

/// The host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    /// The appliance's name.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// Hash of all that the host's initramfs holds.
    pub manifest: Option<String>,
    /// Release of its kernel.
    pub kernel: String,
    /// Model of its processors.
    pub cpu_model: String,
    /// Number of its processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Memory that can still be had, in MiB.
    pub memory_available_mib: u64,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Processes that want to run, on average over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Guests that it has.
    pub guests: u32,
    /// Guests that run.
    pub running: u32,
    /// What its sensors say, as far as its kernel has drivers for them.
    pub temperatures: Vec<Temperature>,
}

/// How warm something of the host is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Temperature {
    /// What has the sensor, as its driver calls it: `coretemp`, `nvme`.
    pub chip: String,
    /// The sensor, as its driver calls it: `Core 0`, `Composite`; `temp1` if it gives it no name.
    pub sensor: String,
    /// Degrees Celsius.
    pub celsius: f64,
}

/// What the machine is, as its firmware says (System Management BIOS, DSP0134, types 0 and 1) and as its kernel counts. What the
/// firmware does not say is left out; what it says wrong stays so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Sysinfo {
    /// Who made the machine.
    pub vendor: Option<String>,
    /// What they call it.
    pub product: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Who made its firmware.
    pub firmware_vendor: Option<String>,
    /// Which version that is.
    pub firmware_version: Option<String>,
    /// When that was released, as they write it.
    pub firmware_date: Option<String>,
    /// Model of its processors.
    pub cpu_model: String,
    /// Number of its processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// What the host's kernel found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hardware {
    /// Devices on the PCI bus, by place.
    pub pci: Vec<PciDevice>,
}

/// A device on the PCI bus, as the kernel's `/sys/bus/pci/devices` has it (PCI Local Bus 3.0, section 6.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PciDevice {
    /// Its place: `0000:00:1f.2`.
    pub slot: String,
    /// Class, subclass and programming interface, a byte each.
    pub class: u32,
    /// Who made it.
    pub vendor: u16,
    /// What it is.
    pub device: u16,
    /// Which of these.
    pub revision: u8,
    /// Who sold it; 0 where that is not said.
    pub subsystem_vendor: u16,
    /// As what.
    pub subsystem_device: u16,
    /// The driver that has it.
    pub driver: Option<String>,
}
