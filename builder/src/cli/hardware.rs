//! `thimble hardware`: what a machine's host must carry.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use thimble_spec::appliance::HostKernelSource;

use crate::apt::{Apt, Pins};
use crate::build::definition::Inputs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::kernel::{hardware, host};
use crate::library::Library;
use crate::machine::advice::{self, Advice, Finding, Verdict};
use crate::machine::lspci;
use crate::tool;

/// No machine's list is longer.
const LIST_MAX: u64 = 4 << 20;
/// How many firmware files of a module are named.
const FIRMWARE_SHOWN: usize = 3;

/// Say which hardware sets, modules and firmware a machine needs, from its list of PCI devices.
///
/// Run `lspci -nmm` on the machine, with any Linux, and hand in what it prints. Without lspci, `cat
/// /sys/bus/pci/devices/*/modalias` does.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the sets drive all disks, networks and USB controllers, 1 they do not (or something \
    failed), 2 no such list."
)]
pub struct Args {
    /// What `lspci -nmm` (also -nnmm, -nvmm) printed; `-` reads the standard input
    #[arg(value_name = "FILE")]
    list: PathBuf,
    /// The definition whose kernel is asked
    #[arg(long, value_name = "CONFIG", conflicts_with = "kernel")]
    config: Option<PathBuf>,
    /// The package whose kernel is asked
    #[arg(long, value_name = "PACKAGE", default_value = "linux-image-amd64")]
    kernel: String,
    /// Directory with configs/ and images/ [default: found above CONFIG or the current directory]
    #[arg(long, value_name = "DIR")]
    library: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    kernel: &'a str,
    version: &'a str,
    #[serde(flatten)]
    advice: &'a Advice,
}

/// Reads, asks the kernel, says.
///
/// # Errors
/// The list is none; the kernel cannot be fetched; something that a host needs would not be driven.
pub fn run(args: Args) -> Result<()> {
    let text = read(&args.list)?;
    let devices = lspci::parse(&text).map_err(|why| Error::Usage(format!("{}: {why}", args.list.display())))?;
    let (from, settings, lock, beside) = match &args.config {
        Some(config) => {
            let inputs = Inputs::read(config, args.library.as_deref())?;
            (inputs.appliance.host_kernel.from, inputs.host_settings, inputs.lock, config.as_path())
        }
        None => (HostKernelSource::Package(args.kernel), Vec::new(), None, Path::new("definition")),
    };
    let library = Library::find(args.library.as_deref(), beside)?;
    let sets = hardware::all(&library)?;
    tool::require(&["apt-get", "apt-cache", "dpkg-deb"])?;
    let context = Context::open(args.quiet)?;
    let apt = Apt::open(&context, Pins::of(lock.as_ref()))?;
    let kernel = host::get(&context, &apt, &from, &settings)?;

    let advice = advice::advise(devices, &kernel.catalog, &sets);
    let (package, version) = (&kernel.package.name, &kernel.package.version);
    let text = if args.json {
        let report = Report { kernel: package, version, advice: &advice };
        serde_json::to_string_pretty(&report).map_err(|error| Error::environment(error.to_string()))? + "\n"
    } else {
        render(&advice, &format!("{package} {version}"))
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write", "standard output"))?;
    match advice.open().count() {
        0 => Ok(()),
        count => Err(Error::environment(format!("{count} of the devices that a host needs would have no driver"))),
    }
}

fn read(list: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let wrong = |error: std::io::Error| Error::Usage(format!("cannot read {}: {error}", list.display()));
    if list == Path::new("-") {
        std::io::stdin().lock().take(LIST_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    } else {
        std::fs::File::open(list).map_err(wrong)?.take(LIST_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    }
    if bytes.len() as u64 > LIST_MAX {
        return Err(Error::Usage(format!("{} has more than {LIST_MAX} bytes: no list of devices has", list.display())));
    }
    // Names of devices come in whatever encoding the machine had; the numbers are what counts.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The devices, what is to be done, and the line for the definition.
fn render(advice: &Advice, kernel: &str) -> String {
    // Writing to a string does not fail.
    let mut text = String::new();
    let _ = writeln!(text, "{:<12}  {:<28}  {:<9}  {:<24}  by", "place", "device", "number", "module");
    for found in &advice.devices {
        let (device, by) = (&found.device, by(found));
        let modules = if found.modules.is_empty() { "-".to_owned() } else { found.modules.join(" ") };
        let number = format!("{:04x}:{:04x}", device.vendor, device.device);
        let _ = writeln!(text, "{:<12}  {:<28}  {number}  {modules:<24}  {by}", device.slot, device.kind());
    }
    text.push('\n');
    for found in advice.open() {
        let name = name(found);
        let _ = match found.verdict {
            Verdict::Unsupported => writeln!(text, "{name}: no module of {kernel} supports it"),
            _ => writeln!(
                text,
                "{name}: {kernel} has {}, and no hardware set names it: add it to one in configs/hardware",
                found.modules.join(", ")
            ),
        };
    }
    firmware(advice, &mut text);
    let names: Vec<String> = advice.hardware.iter().map(|name| format!("\"{name}\"")).collect();
    let _ = writeln!(text, "hardware = [{}]", names.join(", "));
    text
}

fn by(found: &Finding) -> String {
    match found.verdict {
        Verdict::Driven => found.sets.join(", "),
        Verdict::BuiltIn => "the kernel itself".to_owned(),
        Verdict::NoSet => "NO SET".to_owned(),
        Verdict::Unsupported => "NOTHING".to_owned(),
        Verdict::NotNeeded if found.sets.is_empty() => "(not needed)".to_owned(),
        Verdict::NotNeeded => found.sets.join(", "),
    }
}

fn name(found: &Finding) -> String {
    let device = &found.device;
    let words = if device.name.is_empty() { device.kind() } else { &device.name };
    format!("{} {words} {:04x}:{:04x}", device.slot, device.vendor, device.device).trim_start().to_owned()
}

/// A line a module.
fn firmware(advice: &Advice, text: &mut String) {
    let mut modules: Vec<&str> = advice.firmware.iter().map(|firmware| firmware.module.as_str()).collect();
    modules.dedup();
    for module in modules {
        let files: Vec<&str> = advice
            .firmware
            .iter()
            .filter(|firmware| firmware.module == module)
            .map(|firmware| firmware.file.as_str())
            .collect();
        let shown = files.iter().take(FIRMWARE_SHOWN).copied().collect::<Vec<_>>().join(", ");
        let more = files.len().saturating_sub(FIRMWARE_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(text, "{module} may ask for firmware: {shown}{more}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::device::Device;
    use thimble_spec::manifest::Firmware;

    #[test]
    fn the_line_for_the_definition_comes_last() {
        let device =
            Device { slot: "18:00.0".into(), class: 0x0104, vendor: 0x1000, device: 0x16, ..Device::default() };
        let found = |verdict, modules: &[&str], sets: &[&str]| Finding {
            device: device.clone(),
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            sets: sets.iter().map(|name| (*name).to_owned()).collect(),
            verdict,
        };
        let file = |file: &str| Firmware { module: "a".into(), file: file.into() };
        let advice = Advice {
            hardware: vec!["raid".into(), "usb".into()],
            devices: vec![
                found(Verdict::Driven, &["megaraid_sas"], &["raid"]),
                found(Verdict::NoSet, &["odd"], &[]),
                found(Verdict::Unsupported, &[], &[]),
            ],
            firmware: ["1", "2", "3", "4"].map(file).into(),
        };
        assert_eq!(
            render(&advice, "linux-image 6.1"),
            "place         device                        number     module                    by\n\
             18:00.0       RAID controller               1000:0016  megaraid_sas              raid\n\
             18:00.0       RAID controller               1000:0016  odd                       NO SET\n\
             18:00.0       RAID controller               1000:0016  -                         NOTHING\n\
             \n\
             18:00.0 RAID controller 1000:0016: linux-image 6.1 has odd, and no hardware set names it: add it to one in \
             configs/hardware\n\
             18:00.0 RAID controller 1000:0016: no module of linux-image 6.1 supports it\n\
             a may ask for firmware: 1, 2, 3 and 1 more\n\
             hardware = [\"raid\", \"usb\"]\n"
        );
    }
}
