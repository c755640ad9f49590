//! From the definition of a guest to what its VMM is told. No file is touched here.
//!
//! A guest with a kernel of its own is a machine as a distribution knows it: it finds its devices by ACPI, and the disk behind
//! its own is the seed of cloud-init ([`crate::seed`]). All others share a kernel, and are told of everything by its command
//! line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use thimble_spec::appliance::{Guest, GuestBoot, GuestDisk, GuestNetwork};
use thimble_spec::cmdline::{Cmdline, DEFAULT_IMAGE, GuestParams};
use thimble_spec::names::tap_name;
use thimble_spec::parameters::DISK_SERIAL;
use thimble_spec::paths;
use thimble_spec::vmm::{DISK_WORKERS, Discovery, Disk, DiskEngine, GuestConfig, Jail, Net, NetBackend, Pages, Vsock};

use crate::seed;
use crate::shared::Version;

/// Where a guest's own block device is in the guest: behind the shared image.
const OWN_DISK: &str = "/dev/vdb";
/// Words for every guest's kernel. `reboot=k` resets through the keyboard controller, which the VMM takes for a reboot;
/// `panic=-1` reboots at once, so that a guest that panicked is started again.
const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 reboot=k";
/// The smallest free block that a guest reports, as a power of two of its pages. By itself its kernel reports blocks of 4
/// MiB, and none before 32 of them are free (Linux `mm/page_reporting.c`): more than a small guest has.
const REPORT_ORDER: &str = "page_reporting.page_reporting_order";

/// The files of one guest on the host.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its run directory.
    pub run: PathBuf,
}

impl Place {
    /// The place of the guest with this name.
    pub fn of(guest: &str) -> Self {
        Self { run: Path::new(paths::GUEST_RUN_DIR).join(guest) }
    }

    /// A file in the run directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    /// Where programs of the host connect to the guest's socket device.
    pub fn vsock(&self) -> PathBuf {
        self.file(VSOCK_DIR).join(VSOCK_FILE)
    }
}

/// The guest's image on the host; none if its own disk has its root.
pub fn image(guest: &Guest) -> Option<PathBuf> {
    Some(Path::new(paths::IMAGES_DIR).join(format!("{}.erofs", guest.image.as_ref()?)))
}

/// Place of the guest's own disk among those of its VMM: behind the image.
pub fn own_disk_index(guest: &Guest) -> u8 {
    u8::from(guest.image.is_some())
}

/// The guest's own block device on the host, if it has one.
pub fn own_disk(guest: &Guest) -> Option<PathBuf> {
    guest.disk_path().map(PathBuf::from)
}

/// Users and groups of VMMs begin here. The host has no other users than root.
const FIRST_ID: u32 = 60_000;

/// The jail of the guest at `index` of the appliance: a user and a group of its own.
pub fn jail(index: u32, cgroup: Option<PathBuf>) -> Jail {
    let id = FIRST_ID.saturating_add(index);
    Jail { uid: id, gid: id, cgroup }
}

/// Below a guest's run directory: the host's side of its socket device, and nothing else, for its VMM keeps access to
/// it.
pub const VSOCK_DIR: &str = "vsock";
/// In [`VSOCK_DIR`]: where programs of the host connect to. Those that the guest connects to listen at this path, `_`
/// and the port. Short: a socket's path has 107 bytes, of which the longest name of a guest takes 63.
const VSOCK_FILE: &str = "guest";

/// Tasks of the guest's VMM that its definition asks for: vCPUs, lanes, and what the host's kernel makes of the VMM's
/// process for a lane: a worker of vhost's (Linux 6.4 and newer), or those of a disk's io_uring.
pub fn threads(guest: &Guest) -> u64 {
    let disk = guest.disk.as_ref().map_or(0, |disk| disk.queues);
    let net = guest.network.as_ref().map_or(0, |network| network.queues);
    u64::from(guest.vcpus) + u64::from(disk) * (1 + u64::from(DISK_WORKERS)) + u64::from(net) * 2
}

/// In a guest's run directory: its configuration device ([`thimble_spec::parameters`]) or its seed ([`crate::seed`]), if it has
/// one.
pub const PARAMETERS_FILE: &str = "parameters";

/// What a guest's kernel is, and what it is told.
struct Kernel {
    file: PathBuf,
    initrd: Option<PathBuf>,
    cmdline: String,
    discovery: Discovery,
    /// What is told by a disk: its serial number and its content.
    disk: Option<(&'static str, Vec<u8>)>,
}

/// What the guest's VMM is told, and what is on the disk by which the guest is told the rest, if it needs one: at
/// [`PARAMETERS_FILE`].
///
/// # Errors
/// What the guest is told cannot be told.
pub fn config(guest: &Guest, version: &Version, jail: Jail) -> Result<(GuestConfig, Option<Vec<u8>>)> {
    let kernel = match &guest.boot {
        Some(boot) => own_kernel(guest, boot)?,
        None => shared_kernel(guest, version)?,
    };
    let image = image(guest).map(|path| Disk { path, read_only: true, ..Disk::default() });
    let own = own_disk(guest).zip(guest.disk.as_ref()).map(|(path, described)| disk(path, described));
    let more = kernel.disk.as_ref().map(|(serial, _)| Disk {
        path: Place::of(&guest.name).file(PARAMETERS_FILE),
        serial: Some((*serial).to_owned()),
        read_only: true,
        engine: DiskEngine::Sync,
        ..Disk::default()
    });
    let network = guest.network.as_ref();
    let config = GuestConfig {
        name: guest.name.clone(),
        vcpus: guest.vcpus,
        // The definition allows whole MiB only, and no more than fit.
        memory_mib: u32::try_from(guest.memory.bytes() >> 20).unwrap_or(u32::MAX),
        kernel: kernel.file,
        initrd: kernel.initrd,
        cmdline: kernel.cmdline,
        discovery: kernel.discovery,
        cpu: guest.cpu.clone(),
        memory: guest.memory_kind,
        disks: [image, own, more].into_iter().flatten().collect(),
        nets: network.map(|network| net(tap_name(&guest.name), network)).into_iter().collect(),
        virtio_console: guest.virtio_console,
        balloon: guest.balloon,
        vsock: guest.cid().map(|cid| Vsock { cid, path: Place::of(&guest.name).vsock() }),
        jail: Some(jail),
    };
    Ok((config, kernel.disk.map(|(_, content)| content)))
}

/// The guest's own.
fn own_kernel(guest: &Guest, boot: &GuestBoot) -> Result<Kernel> {
    let mut words = Cmdline::parse(KERNEL_WORDS);
    words.extend(Cmdline::parse(&boot.cmdline));
    Ok(Kernel {
        file: boot.kernel.clone().into(),
        initrd: boot.initrd.as_ref().map(PathBuf::from),
        cmdline: words.render()?,
        discovery: Discovery::Acpi,
        disk: Some((seed::SERIAL, seed::of(guest, boot).context("making its seed")?)),
    })
}

/// The one that guests share.
fn shared_kernel(guest: &Guest, version: &Version) -> Result<Kernel> {
    let network = guest.network.as_ref();
    // A disk that the guest cannot write to is not for its changes: it finds the disk there, and mounts it itself.
    let keeps_changes = guest.disk.as_ref().is_some_and(|disk| !disk.read_only);
    let mut words = Cmdline::parse(KERNEL_WORDS);
    if guest.balloon.is_some_and(|balloon| balloon.free_page_reporting) {
        words.set(REPORT_ORDER, report_order(guest.memory_kind.pages));
    }
    if guest.image.is_none() {
        // Over what its own disk says (systemd(1), "Kernel Command Line").
        words.set("systemd.hostname", &guest.name);
    }
    let told = GuestParams {
        name: guest.name.clone(),
        address: network.and_then(|network| network.address),
        gateway: network.and_then(|network| network.gateway),
        dns: network.map(|network| network.dns.clone()).unwrap_or_default(),
        image: DEFAULT_IMAGE.to_owned(),
        disk: (keeps_changes && guest.image.is_some()).then(|| OWN_DISK.to_owned()),
        root: guest.image.is_none().then(|| DEFAULT_IMAGE.to_owned()),
        commands: guest.commands,
        parameters: guest.parameters.clone(),
    };
    let (cmdline, parameters) = told.place(words)?;
    Ok(Kernel {
        file: version.kernel.clone(),
        initrd: Some(version.initrd.clone()),
        cmdline,
        discovery: Discovery::Cmdline,
        disk: parameters.map(|content| (DISK_SERIAL, content)),
    })
}

/// 256 KiB; where the host has huge pages it takes nothing smaller, or would lose them by taking it: 2 MiB then.
fn report_order(pages: Pages) -> &'static str {
    match pages {
        Pages::Default => "6",
        Pages::Transparent | Pages::Huge => "9",
    }
}

fn disk(path: PathBuf, disk: &GuestDisk) -> Disk {
    Disk {
        path,
        format: disk.format,
        backing: disk.backing.as_ref().map(PathBuf::from),
        serial: None,
        read_only: disk.read_only,
        direct: disk.direct,
        engine: disk.engine,
        queues: Some(disk.queues),
        limits: disk.limits,
    }
}

fn net(tap: String, network: &GuestNetwork) -> Net {
    Net {
        tap,
        mac: network.mac,
        backend: NetBackend::Auto,
        queue_pairs: Some(network.queues),
        mtu: network.mtu,
        receive: network.receive,
        transmit: network.transmit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thimble_spec::names::Mac;
    use thimble_spec::vmm::{Balloon, CpuModel, DiskEngine, DiskFormat, Limits, Rate};

    fn placed(guest: &Guest, jail: Jail) -> Result<(GuestConfig, Option<Vec<u8>>)> {
        let version = Version { kernel: paths::GUEST_KERNEL.into(), initrd: paths::GUEST_INITRD.into(), hashes: None };
        super::config(guest, &version, jail)
    }

    fn config(guest: &Guest, jail: Jail) -> Result<GuestConfig> {
        placed(guest, jail).map(|(config, _)| config)
    }

    use crate::testing::{definition, guest};

    fn web1() -> Guest {
        guest(
            "vcpus = 2\nmemory = \"128MiB\"\ndisk = { size = \"16MiB\" }\n\
             network = { bridge = \"br0\", address = \"10.1.1.11/24\", gateway = \"10.1.1.1\" }",
        )
    }

    #[test]
    fn two_guests_differ_in_network_disk_and_user_only() {
        let mut other = web1();
        other.name = "web2".to_owned();
        let network = other.network.as_mut().unwrap();
        network.address = Some("10.1.1.12/24".parse().unwrap());
        network.mac = Mac::derived("demo", "web2");
        let (one, two) = (config(&web1(), jail(0, None)).unwrap(), config(&other, jail(1, None)).unwrap());

        let alike = |config: &GuestConfig, name: &str, address: &str| {
            let mut config = config.clone();
            config.cmdline = config.cmdline.replace(name, "NAME").replace(address, "ADDRESS");
            config.name.clear();
            config.nets.clear();
            config.jail = None;
            assert_eq!(config.disks.remove(1).path, Path::new("/data/guests").join(name).join("disk.raw"));
            config
        };
        assert_eq!(alike(&one, "web1", "10.1.1.11"), alike(&two, "web2", "10.1.1.12"));
        assert_ne!(one.nets, two.nets);
        let ids = [&one, &two].map(|config| config.jail.as_ref().map(|jail| (jail.uid, jail.gid)));
        assert_eq!(ids, [Some((60_000, 60_000)), Some((60_001, 60_001))]);
    }

    #[test]
    fn a_guest_without_an_image_starts_from_its_own_disk() {
        let config = config(&Guest { image: None, ..web1() }, jail(0, None)).unwrap();
        let paths: Vec<_> = config.disks.iter().map(|disk| (disk.path.to_str().unwrap(), disk.read_only)).collect();
        assert_eq!(paths, [("/data/guests/web1/disk.raw", false)]);
        let words = Cmdline::parse(&config.cmdline);
        assert_eq!((words.get("thimble.root"), words.get("thimble.image")), (Some("/dev/vda"), None));
        assert_eq!((words.get("thimble.disk"), words.get("systemd.hostname")), (None, Some("web1")));
        assert_eq!((own_disk_index(&web1()), own_disk_index(&Guest { image: None, ..web1() })), (1, 0));
    }

    #[test]
    fn a_guest_with_a_kernel_of_its_own_is_told_by_its_seed() {
        let boot = GuestBoot {
            kernel: "/data/files/vmlinuz".to_owned(),
            initrd: Some("/data/files/initrd.img".to_owned()),
            cmdline: "root=\"LABEL=my root\" ro".to_owned(),
            user_data: None,
        };
        let guest = Guest { image: None, boot: Some(boot), ..web1() };
        let (config, seed) = placed(&guest, jail(0, None)).unwrap();
        assert_eq!((config.kernel.to_str(), config.discovery), (Some("/data/files/vmlinuz"), Discovery::Acpi));
        assert_eq!(config.initrd, Some("/data/files/initrd.img".into()));
        assert_eq!(config.cmdline, format!("{KERNEL_WORDS} root=\"LABEL=my root\" ro"));
        let disks: Vec<_> = config.disks.iter().map(|disk| (disk.serial.as_deref(), disk.read_only)).collect();
        assert_eq!(disks, [(None, false), (Some("cidata"), true)]);
        assert_eq!(own_disk_index(&guest), 0);
        assert!(seed.is_some_and(|seed| seed.len().is_multiple_of(512)));
    }

    #[test]
    fn a_guest_without_disk_or_network_is_told_of_none() {
        let config = config(&Guest { network: None, disk: None, ..web1() }, jail(0, None)).unwrap();
        assert!(!config.cmdline.contains("thimble.disk") && !config.cmdline.contains("thimble.address"));
        assert_eq!((config.disks.len(), config.nets.len()), (1, 0));
    }

    #[test]
    fn what_is_not_said_is_as_it_was() {
        let config = config(&web1(), jail(0, None)).unwrap();
        assert_eq!(config.cpu, thimble_spec::vmm::Cpu::default());
        assert_eq!((config.memory.pages, config.memory.prefault), (Pages::Default, false));
        assert_eq!((config.balloon, config.vsock, config.virtio_console), (None, None, false));
        let path = "/data/guests/web1/disk.raw".into();
        assert_eq!(config.disks[1], Disk { path, queues: Some(1), ..Disk::default() });
        let net = Net { queue_pairs: Some(1), ..Net::new("tap-web1", Mac::derived("demo", "web1")) };
        assert_eq!(config.nets, [net]);
        assert_eq!(threads(&web1()), 2 + 5 + 2);
    }

    #[test]
    fn what_is_said_is_told() {
        let guest = guest(
            r#"
            vcpus = 3
            memory = "64MiB"
            pages = "huge"
            prefault = true
            virtio-console = true
            vsock = {}
            cpu = { model = "x86-64-v2", nested = true, pins = [[0, 1], [], [2]] }
            balloon = { target = "16MiB", free-page-reporting = false }
            [guest.disk]
            file = "/data/x.qcow2"
            format = "qcow2"
            backing = "/data/base"
            queues = 2
            engine = "sync"
            limits = { bandwidth = "1MiB", operations = 50, operations-burst = 5 }
            [guest.network]
            bridge = "br0"
            queues = 2
            mtu = 1400
            receive = { bandwidth = "2MB", bandwidth-burst = "64KiB" }
            transmit = { operations = 1000 }
            "#,
        );
        let config = config(&guest, jail(0, None)).unwrap();
        assert_eq!((config.cpu.model, config.cpu.nested), (CpuModel::V2, true));
        assert_eq!(config.cpu.pins, [vec![0, 1], vec![], vec![2]]);
        assert_eq!((config.memory.pages, config.memory.prefault), (Pages::Huge, true));
        let balloon = Balloon { target_mib: 16, deflate_on_oom: true, free_page_reporting: false };
        assert_eq!((config.balloon, config.virtio_console), (Some(balloon), true));
        let vsock = Vsock { cid: 3, path: "/run/thimble/guests/web1/vsock/guest".into() };
        assert_eq!(config.vsock, Some(vsock));
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        let disk = &config.disks[1];
        assert_eq!(
            *disk,
            Disk {
                path: "/data/x.qcow2".into(),
                format: DiskFormat::Qcow2,
                backing: Some("/data/base".into()),
                queues: Some(2),
                engine: DiskEngine::Sync,
                limits: Limits { bandwidth: rate(1 << 20, None), operations: rate(50, Some(5)) },
                ..Disk::default()
            }
        );
        let net = &config.nets[0];
        assert_eq!((net.queue_pairs, net.mtu, net.backend), (Some(2), Some(1400), NetBackend::Auto));
        assert_eq!(net.receive, Limits { bandwidth: rate(2_000_000, Some(64 << 10)), operations: None });
        assert_eq!(net.transmit, Limits { bandwidth: None, operations: rate(1000, None) });
        assert_eq!(threads(&guest), 3 + 2 * 5 + 2 * 2);
    }

    #[test]
    fn a_small_guest_reports_small_blocks() {
        let cmdline = |keys| config(&guest(&format!("memory = \"64MiB\"\n{keys}")), jail(0, None)).unwrap().cmdline;
        assert!(cmdline("balloon = {}").contains("page_reporting.page_reporting_order=6"));
        assert!(cmdline("balloon = {}\npages = \"huge\"").contains("page_reporting.page_reporting_order=9"));
        assert!(!cmdline("balloon = { free-page-reporting = false }").contains("page_reporting"));
    }

    #[test]
    fn what_is_too_long_for_the_command_line_is_on_a_disk_behind_the_others() {
        let keys = |length| {
            let disk = "memory = \"64MiB\"\ndisk = { size = \"16MiB\" }";
            guest(&format!("{disk}\nrole = \"db\"\nenvironment = {{ A = \"{}\" }}", "x".repeat(length)))
        };
        let (config, device) = placed(&keys(10), jail(0, None)).unwrap();
        assert_eq!((config.disks.len(), device), (2, None));
        assert!(config.cmdline.contains("thimble.guest-role=db thimble.env.A=xxxxxxxxxx"), "{}", config.cmdline);
        let (config, device) = placed(&keys(3000), jail(0, None)).unwrap();
        assert!(config.cmdline.ends_with("thimble.config=thimble-config"), "{}", config.cmdline);
        let disk = &config.disks[2];
        assert_eq!((disk.path.to_str(), disk.read_only), (Some("/run/thimble/guests/web1/parameters"), true));
        let words = thimble_spec::parameters::read(&device.unwrap()).unwrap();
        assert_eq!(words.get("thimble.env.A").map(str::len), Some(3000));
    }

    #[test]
    fn a_disk_that_cannot_be_written_to_is_not_for_the_guests_changes() {
        let keys = "memory = \"64MiB\"\ndisk = { device = \"/dev/sdb\", read-only = true, direct = true }";
        let config = config(&guest(keys), jail(0, None)).unwrap();
        assert!(!config.cmdline.contains("thimble.disk"));
        assert!(config.disks[1].read_only && config.disks[1].direct);
    }

    /// `KEY = ` and a value of `values`, or nothing: the default.
    fn key(key: &'static str, values: impl Strategy<Value = String> + 'static) -> BoxedStrategy<Option<String>> {
        let value = values.prop_map(move |value| format!("{key} = {value}"));
        prop_oneof![2 => Just(None), 1 => value.prop_map(Some)].boxed()
    }

    /// One of `texts`.
    fn one(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::sample::select(texts).prop_map(str::to_owned)
    }

    fn flag() -> impl Strategy<Value = String> {
        any::<bool>().prop_map(|flag| flag.to_string())
    }

    /// A number of `range`, which is a little wider than what is allowed.
    fn number(range: std::ops::Range<u32>) -> impl Strategy<Value = String> {
        range.prop_map(|number| number.to_string())
    }

    fn table(keys: Vec<BoxedStrategy<Option<String>>>) -> impl Strategy<Value = String> {
        keys.prop_map(|keys| format!("{{ {} }}", keys.into_iter().flatten().collect::<Vec<_>>().join(", ")))
    }

    fn limits() -> impl Strategy<Value = String> {
        table(vec![
            key("bandwidth", one(&["\"1MiB\"", "1", "18446744073709551615", "0"])),
            key("bandwidth-burst", one(&["\"64KiB\"", "1", "0"])),
            key("operations", number(0..1000)),
            key("operations-burst", number(0..1000)),
        ])
    }

    fn disk() -> impl Strategy<Value = String> {
        let place = one(&["size = \"16MiB\"", "device = \"/dev/sdb\"", "file = \"/data/x\""]);
        let rest = table(vec![
            place.prop_map(Some).boxed(),
            key("format", one(&["\"raw\"", "\"qcow2\""])),
            key("backing", one(&["\"/data\"", "\"data\""])),
            key("read-only", flag()),
            key("direct", flag()),
            key("engine", one(&["\"auto\"", "\"uring\"", "\"sync\""])),
            key("queues", number(0..18)),
            key("limits", limits()),
        ]);
        rest.boxed()
    }

    fn keys() -> impl Strategy<Value = String> {
        let network = table(vec![
            Just(Some("bridge = \"br0\"".to_owned())).boxed(),
            key("dns", (0..5usize).prop_map(|count| format!("{:?}", vec!["255.255.255.255"; count]))),
            key("queues", number(0..18)),
            key("mtu", prop_oneof![number(570..9001), number(65515..65530)]),
            key("receive", limits()),
            key("transmit", limits()),
        ]);
        let cpu = table(vec![
            key("model", one(&["\"host\"", "\"x86-64-v1\"", "\"x86-64-v4\"", "\"pentium\""])),
            key("nested", flag()),
            key(
                "pins",
                prop::collection::vec(prop::collection::vec(0..1100u16, 0..3), 0..4)
                    .prop_map(|pins| format!("{pins:?}")),
            ),
        ]);
        let balloon = table(vec![
            key("target", one(&["\"16MiB\"", "\"65MiB\"", "\"1KiB\""])),
            key("deflate-on-oom", flag()),
            key("free-page-reporting", flag()),
        ]);
        let keys = vec![
            one(&["memory = \"64MiB\"", "memory = \"65MiB\"", "memory = \"4095TiB\""]).prop_map(Some).boxed(),
            key("vcpus", number(0..66)),
            key("cpu", cpu),
            key("pages", one(&["\"default\"", "\"transparent\"", "\"huge\""])),
            key("prefault", flag()),
            key("balloon", balloon),
            key("vsock", table(vec![key("cid", prop_oneof![number(0..10), number(u32::MAX - 2..u32::MAX)])])),
            key("commands", flag()),
            key("virtio-console", flag()),
            key("network", network),
            key("disk", disk()),
            key("role", one(&["\"db\"", "\"Db\""])),
            key(
                "environment",
                (0..70_000usize).prop_map(|length| format!("{{ A = \"{}\" }}", "x ".repeat(length / 2))),
            ),
        ];
        keys.prop_map(|keys| keys.into_iter().flatten().collect::<Vec<_>>().join("\n"))
    }

    proptest! {
        #[test]
        fn no_definition_that_passes_is_refused_by_its_vmm(keys in keys(), name in "[a-z0-9]{1,63}") {
            let text = definition(&[&keys]).replace("web1", &name);
            if let Ok(definition) = thimble_spec::definition::parse("a.toml", &text) {
                let appliance = definition.appliance;
                let config = config(&appliance.guests[0], jail(0, None)).unwrap();
                let refusal = thimble_vmm::guest::check(&config).map_err(|error| error.sentence());
                prop_assert_eq!(refusal, Ok(()), "{}", text);
            }
        }
    }
}
