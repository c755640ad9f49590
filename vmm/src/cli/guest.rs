//! The options that describe a guest, for a developer at a shell.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use thimble_spec::names::Mac;
use thimble_spec::units::{ByteSize, MIB};
use thimble_spec::vmm::{Balloon, Cpu, CpuModel, Discovery, Disk, GuestConfig, Jail, Memory, Net, Vsock};

use super::words::{Words, named};

/// Whom a jailed VMM becomes where nobody says: nobody.
const NOBODY: u32 = 65_534;

/// A guest, piece by piece.
#[derive(Debug, Args)]
pub struct GuestOptions {
    /// The guest's kernel: an ELF vmlinux with a PVH note, or a bzImage
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Its initramfs
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Its command line; without --acpi, the VMM adds what names the devices
    #[arg(long, value_name = "WORDS", default_value = "console=ttyS0 panic=-1 reboot=k")]
    cmdline: String,

    /// Tell it of its processors and devices by ACPI tables, as distributions' kernels want
    #[arg(long)]
    acpi: bool,

    /// Its memory; pages= is default, transparent or huge; prefault takes all of it at the start
    #[arg(long, value_name = "SIZE[,pages=KIND][,prefault]", default_value = "128MiB", value_parser = parse_memory)]
    memory: MemoryArg,

    /// Its number of virtual processors
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=254))]
    vcpus: u8,

    /// What its processors can do: host, or x86-64-v1 to x86-64-v4; nested lets it run guests of its own
    #[arg(long, value_name = "MODEL[,nested]", default_value = "host", value_parser = parse_cpu)]
    cpu: Cpu,

    /// Where one of its processors may run: 0=0-3, 1=2,6
    #[arg(long = "pin", value_name = "VCPU=CPUS", value_parser = parse_pin)]
    pins: Vec<(u8, Vec<u16>)>,

    /// A file or a block device, /dev/vda for the first; with :ro, read-only. The keys: format=raw|qcow2,
    /// backing=DIRECTORY (a qcow2 image may name files in it), serial=TEXT, direct (O_DIRECT), engine=auto|uring|sync, queues=COUNT,
    /// and the limits bandwidth=RATE[:BURST] and operations=RATE[:BURST], a second
    #[arg(long = "disk", value_name = "PATH[:ro][,KEY...]", value_parser = parse_disk)]
    disks: Vec<Disk>,

    /// An existing tap interface, eth0 for the first. The keys: mac=ADDRESS, backend=auto|vhost|user,
    /// queue-pairs=COUNT, mtu=BYTES, and the limits receive-bandwidth=, receive-operations=, transmit-bandwidth= and
    /// transmit-operations=RATE[:BURST], a second
    #[arg(long = "net", value_name = "tap=NAME[,KEY...]", value_parser = parse_net)]
    nets: Vec<NetArg>,

    /// A virtio console, /dev/hvc0, beside the serial port
    #[arg(long)]
    virtio_console: bool,

    /// A memory balloon that is to hold SIZE at the start
    #[arg(long, value_name = "SIZE[,deflate-on-oom][,free-page-reporting]", value_parser = parse_balloon)]
    balloon: Option<Balloon>,

    /// A socket device with this context identifier, 3 or more; programs of the host connect to PATH
    #[arg(long, value_name = "cid=NUMBER,path=PATH", value_parser = parse_vsock)]
    vsock: Option<Vsock>,

    /// What holds the VMM: auto is every layer there is, as user and group 65534
    #[arg(long, value_enum, default_value_t = JailKind::Auto)]
    jail: JailKind,

    /// Its name
    #[arg(long, default_value = "guest")]
    pub name: String,
}

/// What holds the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum JailKind {
    /// All that there is.
    Auto,
    /// Nothing: for debuggers, and for users who are not root.
    None,
}

/// A `--memory`.
#[derive(Clone, Copy, Debug)]
struct MemoryArg {
    mib: u32,
    memory: Memory,
}

/// A `--net`, whose address may be made up.
#[derive(Clone, Debug)]
struct NetArg {
    net: Net,
    has_mac: bool,
}

fn parse_memory(text: &str) -> Result<MemoryArg, String> {
    let mut words = Words::new(text);
    let size: ByteSize = words.head().parse().map_err(|error: thimble_spec::units::SizeError| error.to_string())?;
    let memory = Memory { pages: words.name("pages")?.unwrap_or_default(), prefault: words.flag("prefault") };
    words.finish("pages=, prefault")?;
    Ok(MemoryArg { mib: whole_mib(size)?, memory })
}

/// `size` in MiB, if it is a whole number of them.
pub fn whole_mib(size: ByteSize) -> Result<u32, String> {
    match u32::try_from(size.bytes() / MIB) {
        Ok(mib) if size.bytes().is_multiple_of(MIB) => Ok(mib),
        _ => Err("give whole MiB, such as 128MiB".to_owned()),
    }
}

fn parse_cpu(text: &str) -> Result<Cpu, String> {
    let mut words = Words::new(text);
    let model: CpuModel = named(words.head())?;
    let nested = words.flag("nested");
    words.finish("nested")?;
    Ok(Cpu { model, nested, pins: Vec::new() })
}

/// `VCPU=CPUS`, the latter numbers and ranges.
fn parse_pin(text: &str) -> Result<(u8, Vec<u16>), String> {
    let shape = || format!("`{text}` is not VCPU=CPUS, such as 0=0-3 or 1=2,6");
    let (vcpu, cpus) = text.split_once('=').ok_or_else(shape)?;
    let number = |text: &str| text.parse::<u16>().map_err(|_| shape());
    let mut all = Vec::new();
    for part in cpus.split(',') {
        match part.split_once('-') {
            Some((first, last)) => all.extend(number(first)?..=number(last)?),
            None => all.push(number(part)?),
        }
    }
    if all.is_empty() { Err(shape()) } else { Ok((vcpu.parse().map_err(|_| shape())?, all)) }
}

fn parse_disk(text: &str) -> Result<Disk, String> {
    let mut words = Words::new(text);
    let head = words.head();
    let (path, read_only) = head.strip_suffix(":ro").map_or((head, false), |path| (path, true));
    if path.is_empty() {
        return Err("name a file".to_owned());
    }
    let disk = Disk {
        path: path.into(),
        format: words.name("format")?.unwrap_or_default(),
        backing: words.text("backing").map(Into::into),
        serial: words.text("serial").map(str::to_owned),
        read_only,
        direct: words.flag("direct"),
        engine: words.name("engine")?.unwrap_or_default(),
        queues: words.value("queues")?,
        limits: words.limits("")?,
    };
    words.finish("format=, backing=, serial=, direct, engine=, queues=, bandwidth=, operations=")?;
    Ok(disk)
}

fn parse_net(text: &str) -> Result<NetArg, String> {
    let mut words = Words::new(text);
    let tap = words.text("tap").ok_or("say which interface: tap=NAME")?;
    let mac = words.value("mac")?;
    let net = Net {
        backend: words.name("backend")?.unwrap_or_default(),
        queue_pairs: words.value("queue-pairs")?,
        mtu: words.value("mtu")?,
        receive: words.limits("receive-")?,
        transmit: words.limits("transmit-")?,
        ..Net::new(tap, mac.unwrap_or(Mac([2, 0, 0, 0, 0, 0])))
    };
    words.finish("tap=, mac=, backend=, queue-pairs=, mtu=, receive-... and transmit-bandwidth= and -operations=")?;
    Ok(NetArg { net, has_mac: mac.is_some() })
}

fn parse_balloon(text: &str) -> Result<Balloon, String> {
    let mut words = Words::new(text);
    let size: ByteSize = words.head().parse().map_err(|error: thimble_spec::units::SizeError| error.to_string())?;
    let balloon = Balloon {
        target_mib: whole_mib(size)?,
        deflate_on_oom: words.flag("deflate-on-oom"),
        free_page_reporting: words.flag("free-page-reporting"),
    };
    words.finish("deflate-on-oom, free-page-reporting")?;
    Ok(balloon)
}

fn parse_vsock(text: &str) -> Result<Vsock, String> {
    let mut words = Words::new(text);
    let cid = words.value("cid")?.filter(|cid| *cid >= 3).ok_or("say which identifier, 3 or more: cid=NUMBER")?;
    let path = words.text("path").ok_or("say where its socket is to be: path=PATH")?.into();
    words.finish("cid=, path=")?;
    Ok(Vsock { cid, path })
}

impl GuestOptions {
    /// The guest that they describe, with `kernel`.
    ///
    /// # Errors
    /// They contradict each other.
    pub fn config(&self, kernel: PathBuf) -> Result<GuestConfig, String> {
        let net = |(index, arg): (usize, &NetArg)| {
            let mut net = arg.net.clone();
            if !arg.has_mac {
                net.mac = Mac::derived("thimble-vmm", &format!("{}-{index}", self.name));
            }
            net
        };
        let mut cpu = self.cpu.clone();
        for (vcpu, cpus) in &self.pins {
            if *vcpu >= self.vcpus {
                return Err(format!("--pin {vcpu}=...: the guest has {} vCPUs, counted from 0", self.vcpus));
            }
            cpu.pins.resize(usize::from(self.vcpus), Vec::new());
            cpu.pins[usize::from(*vcpu)].clone_from(cpus);
        }
        Ok(GuestConfig {
            name: self.name.clone(),
            vcpus: self.vcpus,
            memory_mib: self.memory.mib,
            kernel,
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            discovery: if self.acpi { Discovery::Acpi } else { Discovery::Cmdline },
            cpu,
            memory: self.memory.memory,
            disks: self.disks.clone(),
            nets: self.nets.iter().enumerate().map(net).collect(),
            virtio_console: self.virtio_console,
            balloon: self.balloon,
            vsock: self.vsock.clone(),
            jail: (self.jail == JailKind::Auto).then_some(Jail { uid: NOBODY, gid: NOBODY, cgroup: None }),
        })
    }
}
