//! Between the node daemon and one VMM process: how a guest is described, what the control socket says, how it ended.
//!
//! # Files of a guest, in `/run/thimble/guests/NAME/`
//! | file | written by | what |
//! | --- | --- | --- |
//! | [`CONFIG_FILE`] | the daemon | a [`GuestConfig`] |
//! | [`CONTROL_FILE`] | the VMM | the control socket |
//! | [`READY_FILE`] | the daemon | nothing; it is there from the guest's ready line to the end of this life of it |
//! | [`EXIT_FILE`] | the VMM, as its last act | an [`Exit`]; whoever was not there learns the reason from it |
//!
//! # The control socket
//! A Unix stream socket. Each side writes lines of JSON of at most [`LINE_MAX`] bytes; a longer line, or one that is not
//! a [`Request`], gets an error [`Reply`] and the connection is closed. Requests are answered in order. After
//! [`Verb::Watch`] the VMM writes an [`Event`] a line until either side closes. After [`Verb::Console`] and its reply
//! the connection carries raw bytes: first what the ring holds, then what the guest writes; what the client writes is
//! the guest's input.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::console::{SENTENCE_MAX, one_line};
use crate::inside::Inside;
use crate::names::Mac;

/// Version of the control protocol; a request with another one is refused.
pub const VERSION: u32 = 1;

/// Longest line on the control socket, in bytes, its newline included.
pub const LINE_MAX: usize = 64 * 1024;

/// The guest's description in its run directory.
pub const CONFIG_FILE: &str = "config.json";
/// The control socket in its run directory.
pub const CONTROL_FILE: &str = "control.sock";
/// A sign that it is ready, in its run directory.
pub const READY_FILE: &str = "ready";
/// How it ended, in its run directory.
pub const EXIT_FILE: &str = "exit.json";

/// I/O port at which a guest powers itself off: where ACPI's PM1a control register stands on PCs since the PIIX4, so
/// that a guest with ACPI and one without take the same way.
pub const POWER_PORT: u16 = 0x604;
/// What a guest writes (16 bits) to [`POWER_PORT`] to power off: `SLP_EN` with sleep type 5 (ACPI 6.5, 4.8.3.2.1).
pub const POWER_OFF: u16 = (1 << 13) | (5 << 10);

/// Serial port of the guest, as its kernel names it, over which its PID 1 and the VMM talk in lines: the guest writes
/// `ready SECONDS`, `frozen NUMBER`, `thawed NUMBER` and `seen NUMBER ...`, the VMM writes `shutdown`, `freeze NUMBER`, `thaw`,
/// `look NUMBER` and `time MILLISECONDS`.
pub const AGENT_TTY: &str = "/dev/ttyS1";
/// The guest's word for "my services are ready"; behind it a space and the seconds since its kernel started.
pub const AGENT_READY: &str = "ready";
/// The VMM's word for "stop your services, unmount and power off".
pub const AGENT_SHUTDOWN: &str = "shutdown";
/// The VMM's word for "write out your disk's file system, and hold what would write to it"; behind it a space and a number.
pub const AGENT_FREEZE: &str = "freeze";
/// The VMM's word for "let what writes go on".
pub const AGENT_THAW: &str = "thaw";
/// The guest's answer to [`AGENT_FREEZE`], with its number: it is so.
pub const AGENT_FROZEN: &str = "frozen";
/// The guest's other answer, with the number: it is not so.
pub const AGENT_NOT_FROZEN: &str = "thawed";
/// The VMM's word for "say what the guest is like"; behind it a space and a number.
pub const AGENT_LOOK: &str = "look";
/// The guest's answer to [`AGENT_LOOK`]; behind it its number and an [`Inside`], with spaces between.
pub const AGENT_SEEN: &str = "seen";
/// The VMM's word for "it is so late": behind it a space and the milliseconds since 1970. It says so when the guest goes on
/// that was held, for whose clock no time has passed.
pub const AGENT_TIME: &str = "time";
/// Seconds after which a guest whose file system is frozen thaws it by itself: whoever asked may be gone.
pub const FREEZE_LIMIT_S: u64 = 60;

/// One guest, as its VMM is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// The guest.
    pub name: String,
    /// Number of vCPUs, at least 1.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// An ELF `vmlinux` with a PVH note, or a `bzImage`.
    pub kernel: PathBuf,
    /// Its initramfs.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Kernel command line; the VMM adds what names its devices.
    pub cmdline: String,
    /// How its kernel learns of processors and devices.
    #[serde(default)]
    pub discovery: Discovery,
    /// What its processors are like and where they run.
    #[serde(default)]
    pub cpu: Cpu,
    /// What its memory is made of.
    #[serde(default)]
    pub memory: Memory,
    /// Block devices: the first is `/dev/vda` in the guest.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Network interfaces: the first is `eth0` in the guest.
    #[serde(default)]
    pub nets: Vec<Net>,
    /// A virtio console, `/dev/hvc0` in the guest, beside its serial port; both write to the same ring.
    #[serde(default)]
    pub virtio_console: bool,
    /// A memory balloon.
    #[serde(default)]
    pub balloon: Option<Balloon>,
    /// A socket device between guest and host.
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// What holds the VMM; none for a developer who wants none.
    #[serde(default)]
    pub jail: Option<Jail>,
}

/// How a guest's kernel learns of processors and devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discovery {
    /// An MP table, and devices as words of the command line: for a kernel without ACPI, such as ours.
    #[default]
    Cmdline,
    /// ACPI tables, and nothing added to the command line: for distributions' kernels.
    Acpi,
}

/// A guest's processors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Cpu {
    /// What they can do.
    pub model: CpuModel,
    /// The guest may run guests of its own (VMX or SVM), if the host's KVM can nest.
    pub nested: bool,
    /// The host processors that each vCPU may run on, by its index; an empty list, or none, is all of them.
    pub pins: Vec<Vec<u16>>,
}

/// A CPU model: the host's, or the least that a level of the x86-64 psABI asks for, so that a guest finds the same
/// processor on different hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum CpuModel {
    /// All that the host's processor and KVM can do.
    #[default]
    #[serde(rename = "host")]
    Host,
    /// The baseline: SSE2.
    #[serde(rename = "x86-64-v1")]
    V1,
    /// With SSE4.2, POPCNT and CMPXCHG16B.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// With AVX2, BMI2, FMA and MOVBE.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// With AVX-512 (F, BW, CD, DQ, VL).
    #[serde(rename = "x86-64-v4")]
    V4,
}

/// What a guest's memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Its pages.
    pub pages: Pages,
    /// All of it is taken at the start: what lacks is missed then, and not later.
    pub prefault: bool,
}

/// The host's pages behind guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Pages {
    /// 4 KiB, or, from 128 MiB of memory on, what the host does on its own; the kernel and the initrd are shared between guests.
    #[default]
    Default,
    /// Transparent huge pages, where the host has some at hand.
    Transparent,
    /// Huge pages of 2 MiB from the host's pool (`vm.nr_hugepages`), all of them reserved at the start.
    Huge,
}

/// Bytes of a disk's serial number (virtio 1.2, section 5.2.6).
pub const DISK_SERIAL_MAX: usize = 20;

/// A block device of a guest: a file or a block device of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Where it is on the host.
    pub path: PathBuf,
    /// What it holds. Never guessed: a guest could write another format's header into its raw disk.
    #[serde(default)]
    pub format: DiskFormat,
    /// The directory in which a qcow2 image's backing file may be, or below which; none: an image that names one is
    /// refused. Each image states what the file below it holds, raw or qcow2; 16 may lie below a disk. They are only
    /// read, by as many guests as want to, and none of them may be a disk that a guest writes.
    #[serde(default)]
    pub backing: Option<PathBuf>,
    /// What the guest reads as its serial number, [`DISK_SERIAL_MAX`] bytes at most; none given is `disk` and its position.
    #[serde(default)]
    pub serial: Option<String>,
    /// Writes are refused.
    #[serde(default)]
    pub read_only: bool,
    /// Around the host's page cache (`O_DIRECT`); what is no whole block of the host's, such as the end of a file,
    /// goes through it all the same. Not for qcow2 images.
    #[serde(default)]
    pub direct: bool,
    /// How requests reach the host's kernel.
    #[serde(default)]
    pub engine: DiskEngine,
    /// Request queues, each with a thread of its own; none given is one.
    #[serde(default)]
    pub queues: Option<u8>,
    /// How fast it may be.
    #[serde(default)]
    pub limits: Limits,
}

/// What a disk's file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// The disk, byte by byte.
    #[default]
    Raw,
    /// A QEMU copy-on-write image, version 2 or 3.
    Qcow2,
}

/// How a disk's requests reach the host's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DiskEngine {
    /// io_uring where the host has it, else one call after the other.
    #[default]
    Auto,
    /// io_uring, or no start. Not for qcow2 images, which are used by calls.
    Uring,
    /// One call after the other.
    Sync,
}

/// How fast a device may be. Both hold at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes.
    pub bandwidth: Option<Rate>,
    /// Requests, or packets.
    pub operations: Option<Rate>,
}

/// A token bucket: it fills by `per_second`, holds `burst`, and is full at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// What may go in a second in the long run; at least 1.
    pub per_second: u64,
    /// What may go at once after a rest; none given is a tenth of a second's worth.
    #[serde(default)]
    pub burst: Option<u64>,
}

/// A network interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// A tap interface of the host, made beforehand and up.
    pub tap: String,
    /// The guest's Ethernet address.
    pub mac: Mac,
    /// Who moves the packets.
    #[serde(default)]
    pub backend: NetBackend,
    /// Pairs of queues, each with a thread of its own, 16 at most; none given is one. More need a tap that was made for
    /// several.
    #[serde(default)]
    pub queue_pairs: Option<u8>,
    /// The largest packet that the network takes, in bytes, 68 or more; none given leaves it to the guest. The tap's own
    /// MTU is whoever's made it.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// How fast it may receive.
    #[serde(default)]
    pub receive: Limits,
    /// How fast it may send.
    #[serde(default)]
    pub transmit: Limits,
}

impl Net {
    /// An interface on `tap` with nothing special about it.
    pub fn new(tap: impl Into<String>, mac: Mac) -> Self {
        Self {
            tap: tap.into(),
            mac,
            backend: NetBackend::default(),
            queue_pairs: None,
            mtu: None,
            receive: Limits::default(),
            transmit: Limits::default(),
        }
    }
}

/// Who moves a network interface's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetBackend {
    /// The host's kernel where `/dev/vhost-net` opens and nothing is limited, else the VMM.
    #[default]
    Auto,
    /// The host's kernel (vhost-net), or no start; nothing can be limited then.
    Vhost,
    /// The VMM.
    User,
}

/// A memory balloon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Balloon {
    /// MiB that the guest is to give back at the start.
    pub target_mib: u32,
    /// The guest takes from the balloon rather than kill a process for want of memory.
    pub deflate_on_oom: bool,
    /// The guest reports pages that it has freed, and the host takes them until they are used again.
    pub free_page_reporting: bool,
}

/// A socket device. A program of the host connects to [`Self::path`] and writes `CONNECT PORT` and a newline; the VMM
/// answers `OK HOST_PORT` and a newline when the guest accepts, and passes bytes from then on. A guest that connects to
/// port N of CID 2 reaches whoever listens on the host at the path followed by `_N`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's context identifier: 3 or more.
    pub cid: u32,
    /// Unix socket of the host side, in a directory that holds nothing else of worth: the VMM keeps access to it.
    pub path: PathBuf,
}

/// What holds a VMM, beside what it gives up without being told (see `vmm/THREAT_MODEL.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jail {
    /// User that it becomes; not 0, and no other process's.
    pub uid: u32,
    /// Group that it becomes.
    pub gid: u32,
    /// An existing directory of the unified cgroup hierarchy, limits set, that it joins.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
}

/// What a client asks, a line of JSON: `{"v":1,"verb":"status"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What to do.
    #[serde(flatten)]
    pub verb: Verb,
}

/// The verbs of the control socket. Each may be refused with an error of one sentence; those that name a disk or a net
/// by its index are, where there is none of that index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// Replies with a [`Status`].
    Status,
    /// Replies with [`Stats`].
    Stats,
    /// Asks the guest's PID 1 to stop its services and power off. The reply says only that the guest was asked.
    Shutdown,
    /// Presses the ACPI power button. An error without [`Discovery::Acpi`].
    PowerButton,
    /// Resets the guest as its reset button would: the VMM ends with [`ExitReason::Reboot`], and whoever started it
    /// starts it again.
    Reset,
    /// Ends the guest at once, as if its power were cut; the reply comes before the end.
    Kill,
    /// Stops the vCPUs between two instructions. Paused twice is paused.
    Pause,
    /// Lets them run again.
    Resume,
    /// Asks the guest's PID 1 to freeze the file system of its disk, until [`Verb::Thaw`] or for [`FREEZE_LIMIT_S`]. The reply
    /// says only that the guest was asked; its own answer is an [`Event::Frozen`], which never comes from a guest that does not
    /// understand. An error where the guest was not ready yet: nobody would hear it.
    Freeze,
    /// Asks the guest's PID 1 to thaw it again.
    Thaw,
    /// Asks the guest's PID 1 what the guest is like. Its answer is an [`Event::Seen`]; errors are those of [`Verb::Freeze`].
    Look,
    /// Tells the guest how many MiB to give back. An error without a [`Balloon`], or beyond the guest's memory.
    Balloon {
        /// The MiB that the balloon is to hold.
        target_mib: u32,
    },
    /// Gives a disk another size. An error for one that would shrink, or is read-only, or whose host refuses.
    ResizeDisk {
        /// The disk's index.
        disk: u8,
        /// Its new size in bytes, a multiple of 512; none takes the size that its file or block device has now.
        bytes: Option<u64>,
    },
    /// Replaces a disk's limits.
    LimitDisk {
        /// The disk's index.
        disk: u8,
        /// The limits from now on.
        limits: Limits,
    },
    /// Replaces a network interface's limits. An error where the host's kernel moves the packets.
    LimitNet {
        /// The interface's index.
        net: u8,
        /// The limits from now on for what it receives.
        receive: Limits,
        /// The limits from now on for what it sends.
        transmit: Limits,
    },
    /// Streams [`Event`]s, the current state first.
    Watch,
    /// Turns the connection into the guest's console.
    Console,
}

/// The answer to a [`Request`].
pub type Reply = crate::reply::Reply<Answer>;

/// What came of a request.
pub type Outcome = crate::reply::Outcome<Answer>;

/// What a successful request gives back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing but that it was done.
    Done,
    /// To [`Verb::Status`].
    Status(Status),
    /// To [`Verb::Stats`].
    Stats(Stats),
}

/// What a guest did so far, in counts from the VMM's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// By index.
    pub vcpus: Vec<VcpuStats>,
    /// By index.
    pub disks: Vec<DiskStats>,
    /// By index.
    pub nets: Vec<NetStats>,
    /// If it has a balloon.
    pub balloon: Option<BalloonStats>,
    /// If it has a socket device.
    pub vsock: Option<VsockStats>,
    /// What its start took.
    pub phases: Box<Phases>,
}

/// When a start, and the end, reached what: microseconds from the beginning of the VMM's program. What was not reached
/// is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phases {
    /// The process that runs the guest begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin_us: Option<u64>,
    /// The guest's memory is mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_us: Option<u64>,
    /// Kernel, initrd and tables are in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_us: Option<u64>,
    /// KVM has its virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_us: Option<u64>,
    /// The devices are connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices_us: Option<u64>,
    /// The vCPUs are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus_us: Option<u64>,
    /// The VMM is in its jail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jail_us: Option<u64>,
    /// A vCPU enters the guest for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enter_us: Option<u64>,
    /// It left it for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave_us: Option<u64>,
    /// The guest wrote to its console for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_us: Option<u64>,
    /// Its end is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_us: Option<u64>,
    /// Nothing of it is left: its threads, devices and memory are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone_us: Option<u64>,
}

/// What a vCPU did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStats {
    /// Times that it left the guest for the VMM.
    pub exits: u64,
}

/// What a disk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiskStats {
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads that succeeded.
    pub reads: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discards and write-zeroes that succeeded.
    pub erases: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Times that a limit made a request wait.
    pub throttled: u64,
    /// Requests that wait now, for the host has no room for them.
    #[serde(default)]
    pub waiting: u64,
}

/// What a network interface did, as the guest sees it. All zero where the host's kernel moves the packets: the tap's own
/// counters tell then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetStats {
    /// The host's kernel moves the packets.
    pub vhost: bool,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets lost: filtered, refused by the host, or too large.
    pub dropped: u64,
    /// Times that a limit made a packet wait.
    pub throttled: u64,
}

/// What a balloon holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BalloonStats {
    /// MiB that it is to hold.
    pub target_mib: u32,
    /// MiB that the guest says it holds.
    pub actual_mib: u32,
    /// Bytes that the guest has reported as free, each time that it did.
    pub reported_bytes: u64,
}

/// What a socket device did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockStats {
    /// Connections that are open.
    pub connections: u64,
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Bytes that the guest sent.
    pub sent_bytes: u64,
}

/// How a guest does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The guest.
    pub name: String,
    /// Process id of the VMM.
    pub pid: u32,
    /// What it does.
    pub state: State,
    /// Seconds since the VMM started.
    pub uptime_s: f64,
    /// Seconds from the VMM's start to the guest's word that its services are ready.
    pub ready_s: Option<f64>,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Processors of the host that the VMM may use: fewer than [`Self::vcpus`] is an overcommitment.
    pub host_cpus: u16,
    /// Memory of the host in MiB; less than [`Self::memory_mib`] is an overcommitment.
    pub host_memory_mib: u32,
}

/// The states of a running VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The vCPUs run.
    Running,
    /// They are stopped and can go on.
    Paused,
    /// The guest was asked to power off.
    ShuttingDown,
}

/// A line that the VMM writes after [`Verb::Watch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It is in this state now.
    State {
        /// Which.
        state: State,
    },
    /// The guest's services are ready.
    Ready {
        /// Seconds since the VMM started.
        seconds: f64,
    },
    /// What the guest's PID 1 answers to the newest [`Verb::Freeze`].
    Frozen {
        /// Whether it was done.
        done: bool,
    },
    /// What the guest's PID 1 answers to the newest [`Verb::Look`].
    Seen {
        /// What the guest is like.
        inside: Inside,
    },
    /// It ends; the connection is closed behind this.
    Exited {
        /// Why.
        exit: Exit,
    },
}

/// What a VMM leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Why it ended.
    pub reason: ExitReason,
    /// How long it ran, in seconds.
    pub after_s: f64,
    /// What its start and its end took.
    #[serde(default)]
    pub phases: Box<Phases>,
}

impl Exit {
    /// The end of a VMM that cannot say what its start took.
    #[must_use]
    pub fn new(reason: ExitReason, after_s: f64) -> Self {
        Self { reason, after_s, phases: Box::default() }
    }
}

/// Most tasks of the host's kernel that work for one request queue of a disk (io_uring). They count as threads of the
/// VMM: whoever limits those leaves room for them.
pub const DISK_WORKERS: u32 = 4;

/// Why a guest is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "detail", rename_all = "kebab-case")]
pub enum ExitReason {
    /// It powered itself off.
    PowerOff,
    /// It asked for a reset.
    Reboot,
    /// A fault in the handling of a fault in the handling of a fault (Intel SDM volume 3, 6.15): a real machine resets.
    TripleFault,
    /// Somebody ended it through the control socket or by a signal.
    Killed,
    /// The VMM could not go on: one sentence.
    Error(String),
    /// The VMM vanished without a word.
    Lost,
}

impl ExitReason {
    /// The same by somebody who is not believed blindly: its sentence is one line, and no longer than a sentence needs
    /// to be (see [`one_line`]).
    #[must_use]
    pub fn tamed(self) -> Self {
        match self {
            Self::Error(sentence) => Self::Error(one_line(&sentence, SENTENCE_MAX)),
            reason => reason,
        }
    }

    /// Exit code of the VMM's process.
    pub fn code(&self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Error(_) | Self::Lost => 1,
            Self::Reboot => 10,
            Self::TripleFault => 11,
            Self::Killed => 12,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("power-off"),
            Self::Reboot => f.write_str("reboot"),
            Self::TripleFault => f.write_str("triple-fault"),
            Self::Killed => f.write_str("killed"),
            Self::Error(sentence) => write!(f, "error: {}", one_line(sentence, SENTENCE_MAX)),
            Self::Lost => f.write_str("lost"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_a_contract() {
        let reply = Reply { v: VERSION, outcome: Outcome::Ok(Answer::Done) };
        let error = Reply { v: VERSION, outcome: Outcome::Error("no".to_owned()) };
        let exit = Event::Exited { exit: Exit::new(ExitReason::TripleFault, 1.5) };
        for (json, text) in [
            (serde_json::to_string(&Request { v: VERSION, verb: Verb::Status }), r#"{"v":1,"verb":"status"}"#),
            (serde_json::to_string(&reply), r#"{"v":1,"ok":"done"}"#),
            (serde_json::to_string(&error), r#"{"v":1,"error":"no"}"#),
            (
                serde_json::to_string(&exit),
                r#"{"event":"exited","exit":{"reason":{"kind":"triple-fault"},"after_s":1.5,"phases":{}}}"#,
            ),
        ] {
            assert_eq!(json.unwrap(), text);
        }
        let request: Request = serde_json::from_str(r#"{"v":1,"verb":"shutdown"}"#).unwrap();
        assert_eq!(request.verb, Verb::Shutdown);
        assert!(serde_json::from_str::<Request>(r#"{"v":1,"verb":"explode"}"#).is_err());
        assert_eq!(serde_json::from_str::<Reply>(r#"{"v":1,"ok":"done"}"#).unwrap(), reply);
    }
}
