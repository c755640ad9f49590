//! An appliance in QEMU: the same artefacts that hardware boots.
//!
//! | module | what |
//! | --- | --- |
//! | [`artefacts`] | the output directory of a build |
//! | [`accel`] | KVM or translation |
//! | [`net`], [`forward`] | the user network and its forwarded ports |
//! | [`medium`] | what it boots from, if not the flash disk |
//! | [`unpacked`] | kernel and initramfs for a QEMU that translates |
//! | [`qemu`] | the command line |
//! | [`process`], [`qmp`] | QEMU as our child, and its power button |
//! | [`session`], [`console`], [`keys`], [`terminal`] | the machine and its user |

pub mod accel;
pub mod artefacts;
pub mod console;
pub mod forward;
pub mod keys;
pub mod medium;
pub mod net;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod session;
pub mod terminal;
pub mod unpacked;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use regex::Regex;
use tempfile::NamedTempFile;
use thimble_spec::appliance::Appliance;
use thimble_spec::format::Format;
use thimble_spec::units::{ByteSize, MIB};

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::serve::boot::{GRUB_UEFI, IPXE_SCRIPT};
use crate::{files, tool};
use accel::{Accel, Wish};
use artefacts::Artefacts;
use forward::Forward;
use medium::Medium;
use net::UserNet;
use process::Running;
use qemu::{Firmware, Machine};
use session::Sink;

/// First port that is tried when the user names none.
const FIRST_PORT: u16 = 8081;
/// The guests' port that is forwarded when the user names none: HTTP.
const GUEST_PORT: u16 = 80;
/// What the host needs besides its guests' memory, and the least that it boots in.
const HOST_MEMORY: u64 = 384 * MIB;
/// See [`HOST_MEMORY`].
const MEMORY_MIN: u64 = 512 * MIB;

/// How to boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Boot {
    /// flash.img, by a BIOS.
    #[default]
    FlashBios,
    /// flash.img, by UEFI.
    FlashUefi,
    /// netboot/vmlinuz and netboot/initrd, loaded by QEMU itself; unpacked before, where QEMU translates.
    Direct,
    /// nfs/vmlinuz and nfs/initrd, loaded by QEMU itself; --append thimble.nfs=SERVER:/PATH says where nfs/ is exported.
    Nfs,
    /// thimble.iso as a CD, by a BIOS.
    IsoBios,
    /// thimble.iso as a CD, by UEFI.
    IsoUefi,
    /// thimble.iso written to a USB stick, by a BIOS.
    UsbBios,
    /// thimble.iso written to a USB stick, by UEFI.
    UsbUefi,
    /// thimble.efi as the only program of a USB stick, by UEFI.
    Uki,
    /// netboot/, by the PXE of the card's ROM, which is iPXE; needs --internet.
    PxeBios,
    /// netboot/, by the PXE of UEFI; needs --internet.
    PxeUefi,
}

impl Boot {
    /// The artefacts that it needs. One that boots from something else finds its data on the flash disk all the same.
    pub fn formats(self) -> &'static [Format] {
        match self {
            Self::FlashBios | Self::FlashUefi => &[Format::Flash],
            Self::Direct => &[Format::Flash, Format::Netboot],
            Self::Nfs => &[Format::Nfs],
            Self::IsoBios | Self::IsoUefi | Self::UsbBios | Self::UsbUefi => &[Format::Flash, Format::Iso],
            Self::Uki => &[Format::Flash, Format::Uki],
            Self::PxeBios | Self::PxeUefi => &[Format::Netboot],
        }
    }

    /// Whether it loads everything from the network, and so has no disk unless one is named.
    pub fn is_network(self) -> bool {
        matches!(self, Self::PxeBios | Self::PxeUefi)
    }

    /// Whether QEMU loads the kernel itself, and so takes more words for it.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::Nfs)
    }

    /// Whether UEFI firmware is what boots.
    pub fn by_uefi(self) -> bool {
        matches!(self, Self::FlashUefi | Self::IsoUefi | Self::UsbUefi | Self::Uki | Self::PxeUefi)
    }

    /// Whether it is the flash disk that is booted from.
    pub fn from_flash(self) -> bool {
        matches!(self, Self::FlashBios | Self::FlashUefi)
    }
}

/// What to run, and how.
#[derive(Debug)]
pub struct Request {
    /// How to boot.
    pub boot: Boot,
    /// Who runs the code.
    pub accel: Wish,
    /// A line to wait for, and for how long.
    pub until: Option<(Regex, Duration)>,
    /// OVMF's variables with the keys by which Secure Boot is enforced, if it is.
    pub secure_boot: Option<PathBuf>,
    /// Forwarded ports.
    pub forwards: Vec<Forward>,
    /// A copy of the console.
    pub serial: Option<PathBuf>,
    /// Memory, if not what the appliance needs.
    pub memory: Option<ByteSize>,
    /// Processors.
    pub cpus: u8,
    /// A disk that stays.
    pub disk: Option<PathBuf>,
    /// More disks, to read.
    pub attach: Vec<PathBuf>,
    /// Whether it has a watchdog.
    pub watchdog: bool,
    /// A QMP socket for somebody else.
    pub qmp: Option<PathBuf>,
    /// Whether the machine may reach more than its forwarded ports.
    pub internet: bool,
    /// More words for the kernel.
    pub append: String,
    /// More words for QEMU.
    pub qemu: Vec<String>,
}

/// Runs an appliance to its end, or to the line that is waited for.
///
/// # Errors
/// Something is missing or in use, which is told before anything starts; else see [`session`].
pub fn run(artefacts: &Artefacts, request: Request, progress: &Progress) -> Result<()> {
    tool::require(&[process::QEMU])?;
    if request.boot.by_uefi() {
        tool::require(&[qemu::OVMF_CODE])?;
    }
    if request.boot == Boot::PxeBios {
        tool::require(&[qemu::IPXE_ROM])?;
    }
    if request.boot.is_network() && !request.internet {
        return Err(Error::Usage(
            "--boot pxe-bios and pxe-uefi need --internet: QEMU's own TFTP server serves only a network that is not \
             closed (`thimble serve` is for a network of your own)"
                .to_owned(),
        ));
    }
    if let Some(vars) = &request.secure_boot {
        if !request.boot.by_uefi() || request.boot.is_network() {
            return Err(Error::Usage(
                "--secure-boot goes with what UEFI boots from a disk or a CD: see --boot".to_owned(),
            ));
        }
        if !vars.is_file() {
            return Err(Error::Usage(format!("--secure-boot {}: there is no such file", vars.display())));
        }
    }
    let appliance = &artefacts.appliance;
    let net = UserNet::plan(appliance).map_err(Error::Usage)?;
    let mut forwards = request.forwards;
    let mut reached = targets(&net, appliance, &forwards)?;
    let medium = Medium::of(artefacts, request.boot)?;
    let firmware = match request.secure_boot {
        Some(vars) => Firmware::SecureUefi(vars),
        None => firmware(artefacts, request.boot, &request.append)?,
    };
    let disk = disk(artefacts, request.boot, request.disk.as_deref())?;
    if forwards.is_empty() && request.until.is_none() {
        // Last: a machine that starts at the same time looks for free ports, too.
        forwards = net.default_forwards(appliance, FIRST_PORT, GUEST_PORT);
        reached = targets(&net, appliance, &forwards)?;
    }
    let mut machine = Machine {
        name: appliance.name.clone(),
        firmware,
        medium: medium.as_ref().map(Medium::device),
        cpus: request.cpus,
        memory_mib: request.memory.unwrap_or_else(|| memory(appliance)).bytes().div_ceil(MIB),
        disk,
        keep: request.disk.is_some(),
        attached: attached(request.attach)?,
        forwards: reached,
        net,
        internet: request.internet,
        // Who waits for a line has no use for a machine that starts again and again.
        ends_on_reboot: request.until.is_some(),
        watchdog: request.watchdog,
        qmp: request.qmp,
        more: request.qemu,
        emulated_cpu: accel::emulated_cpu(process::QEMU),
        // Last, so that its notice stands alone: whatever could be wrong has been told.
        accel: accelerate(request.accel, progress),
    };
    let sink = Sink::open(request.serial.as_deref())?;
    let _unpacked = unpack(&mut machine)?;
    let running = Running::start(&machine)?;
    match request.until {
        Some((pattern, limit)) => session::until(running, &pattern, limit, sink),
        None => session::interactive(running, &forwards, sink),
    }
}

/// Gives a machine whose code is translated its kernel and initramfs unpacked, where it has the memory for both; what is in
/// the file that it returns is the machine's as long as that is kept.
fn unpack(machine: &mut Machine) -> Result<Option<NamedTempFile>> {
    let Firmware::Direct { kernel, initrd, .. } = &mut machine.firmware else { return Ok(None) };
    if machine.accel == Accel::Kvm || machine.memory_mib * MIB < MEMORY_MIN {
        return Ok(None);
    }
    // Who has no place for a cache waits longer.
    let Ok(cache) = Cache::open() else { return Ok(None) };
    if let Some(unpacked) = unpacked::kernel(&cache, kernel)? {
        *kernel = unpacked;
    }
    let unpacked = unpacked::initrd(&cache, initrd)?;
    *initrd = unpacked.path().to_owned();
    Ok(Some(unpacked))
}

fn accelerate(wish: Wish, progress: &Progress) -> Accel {
    let choice = accel::choose(wish);
    if wish == Wish::Auto && choice.accel == Accel::Tcg {
        progress.warn(&format!("QEMU translates, which is slow: {}", choice.reason));
    }
    choice.accel
}

fn firmware(artefacts: &Artefacts, boot: Boot, append: &str) -> Result<Firmware> {
    Ok(match boot {
        Boot::FlashBios | Boot::IsoBios | Boot::UsbBios => Firmware::Bios,
        Boot::FlashUefi | Boot::IsoUefi | Boot::UsbUefi | Boot::Uki => Firmware::Uefi,
        Boot::Direct => direct(artefacts, "netboot", append)?,
        Boot::Nfs => direct(artefacts, "nfs", append)?,
        Boot::PxeBios => network(artefacts, false, IPXE_SCRIPT)?,
        Boot::PxeUefi => network(artefacts, true, GRUB_UEFI)?,
    })
}

/// The tree must be whole by the file that firmware asks for first.
fn network(artefacts: &Artefacts, uefi: bool, file: &str) -> Result<Firmware> {
    artefacts.file(&format!("netboot/{file}"))?;
    Ok(Firmware::Network { uefi, tree: artefacts.dir.join("netboot"), file: file.to_owned() })
}

fn direct(artefacts: &Artefacts, dir: &str, append: &str) -> Result<Firmware> {
    Ok(Firmware::Direct {
        kernel: artefacts.file(&format!("{dir}/vmlinuz"))?,
        initrd: artefacts.file(&format!("{dir}/initrd"))?,
        cmdline: format!("{} {append}", artefacts.manifest.cmdline).trim_end().to_owned(),
    })
}

/// The disk to attach: the build's own, which stays as it is, or one that is kept and made from it at the first time. A
/// machine that boots from something else has one if there is one.
fn disk(artefacts: &Artefacts, boot: Boot, kept: Option<&Path>) -> Result<Option<PathBuf>> {
    if boot.is_network() && kept.is_none() {
        // A disk would be booted from where the network fails, and hide that.
        return Ok(None);
    }
    let flash = match artefacts.file("flash.img") {
        Ok(flash) => flash,
        Err(_) if kept.is_none() && !boot.from_flash() => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(kept) = kept else { return Ok(Some(flash)) };
    if !kept.exists() {
        let parent = files::parent(kept);
        let mut copy = NamedTempFile::new_in(parent).map_err(Error::io("create a file in", parent))?;
        let mut source = fs::File::open(&flash).map_err(Error::io("read", &flash))?;
        io::copy(&mut source, &mut copy).map_err(Error::io("write", kept))?;
        files::publish(copy, kept)?;
    }
    Ok(Some(kept.to_owned()))
}

/// The files that are more disks.
fn attached(files: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    match files.iter().find(|file| !file.exists()) {
        Some(file) => Err(Error::Usage(format!("--attach {}: there is no such file", file.display()))),
        None => Ok(files),
    }
}

/// What the appliance needs: what its definition says, else what its guests and the host take.
fn memory(appliance: &Appliance) -> ByteSize {
    appliance.node_memory.unwrap_or_else(|| {
        let guests: u64 =
            appliance.guests.iter().filter(|guest| guest.autostart).map(|guest| guest.memory.bytes()).sum();
        ByteSize((guests + HOST_MEMORY).max(MEMORY_MIN))
    })
}

/// Addresses and ports that the forwards lead to; each port is free.
fn targets(net: &UserNet, appliance: &Appliance, forwards: &[Forward]) -> Result<Vec<(u16, std::net::Ipv4Addr, u16)>> {
    let mut targets: Vec<(u16, std::net::Ipv4Addr, u16)> = Vec::new();
    for forward in forwards {
        let port = forward.port;
        let wrong =
            |why: String| Error::Usage(format!("--forward {port}:{}:{}: {why}", forward.name, forward.guest_port));
        let address = net.target(appliance, &forward.name).map_err(wrong)?;
        if targets.iter().any(|(taken, ..)| *taken == port) || !net::is_free(port) {
            return Err(wrong(format!("port {port} of 127.0.0.1 is in use")));
        }
        targets.push((port, address, forward.guest_port));
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::definition;

    const DEMO: &str = "[appliance]\nname = \"demo\"\n\
        [kernel.host]\npackage = \"linux-image-amd64\"\nhardware = []\n\
        [kernel.guest]\nsource = \"linux-source-6.12\"\nfragments = []\n\
        [network.bridges.br0]\nports = [\"eth0\"]\n\
        [[guest]]\nname = \"web1\"\nimage = \"web\"\nmemory = \"96MiB\"\n\
        network = { bridge = \"br0\", address = \"10.1.1.11/24\" }\n\
        [[guest]]\nname = \"big\"\nimage = \"web\"\nmemory = \"1GiB\"\nautostart = false\n";

    #[test]
    fn memory_is_what_the_guests_that_start_need() {
        let mut demo = definition::parse("demo.toml", DEMO).unwrap().appliance;
        assert_eq!(memory(&demo), ByteSize::mib(512));
        demo.guests[1].autostart = true;
        assert_eq!(memory(&demo), ByteSize::mib(96 + 1024 + 384));
        demo.node_memory = Some(ByteSize::mib(2048));
        assert_eq!(memory(&demo), ByteSize::mib(2048));
    }

    #[test]
    fn a_port_in_use_is_told_before_anything_starts() {
        let demo = definition::parse("demo.toml", DEMO).unwrap().appliance;
        let net = UserNet::plan(&demo).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let forward = |name: &str| [Forward { port, name: name.to_owned(), guest_port: 80 }];
        let error = targets(&net, &demo, &forward("web1")).unwrap_err();
        assert_eq!(error.to_string(), format!("--forward {port}:web1:80: port {port} of 127.0.0.1 is in use"));
        assert_eq!(error.exit_code(), 2);
        let error = targets(&net, &demo, &forward("web2")).unwrap_err().to_string();
        assert!(error.contains("web2 is no guest of demo"), "{error}");
        drop(listener);
        assert_eq!(targets(&net, &demo, &forward("web1")).unwrap(), [(port, [10, 1, 1, 11].into(), 80)]);
        let twice = [forward("web1"), forward("web1")].concat();
        assert!(targets(&net, &demo, &twice).unwrap_err().to_string().contains("in use"));
    }
}
