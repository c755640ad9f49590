//! Small bare-metal guests on the host's KVM. Where `/dev/kvm` does not open, they say so and are skipped.

// Helpers of tests are tests too; clippy knows it only of functions marked so.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state};
use kvm_ioctls::VcpuFd;
use thimble_spec::vmm::{ExitReason, Memory};
use thimble_vmm::acpi::power::Power;
use thimble_vmm::bus::Bus;
use thimble_vmm::console::Console;
use thimble_vmm::exit::Ending;
use thimble_vmm::jail::seccomp::Filters;
use thimble_vmm::kvm::Machine;
use thimble_vmm::layout::{CONSOLE_IRQ, VIRTIO_BASE, VIRTIO_IRQS};
use thimble_vmm::serial::{SerialPort, Sink};
use thimble_vmm::vcpu::gang::Gang;
use thimble_vmm::vcpu::registers::{Entry, set_entry};
use thimble_vmm::virtio::registers::offset;
use thimble_vmm::virtio::rng::Rng;
use thimble_vmm::virtio::transport::Transport;
use thimble_vmm::virtio::worker::Worker;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Where a vCPU's code begins; each has a page.
const CODE: u64 = 0x1_0000;
/// A counter in the guest's memory.
const COUNTER: u64 = 0x2000;
/// How long a payload may take: the host may interpret it.
const PATIENCE: Duration = Duration::from_secs(20);

/// 32-bit code, as bytes.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `mov dx, port; mov al, value; out dx, al`
    fn out8(self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.bytes(&[0x66, 0xba, low, high, 0xb0, value, 0xee])
    }

    /// `mov dx, 0x604; mov ax, 0x3400; out dx, ax`
    fn power_off(self) -> Self {
        self.bytes(&[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef])
    }

    /// `hlt; jmp $-1`
    fn halt(self) -> Self {
        self.bytes(&[0xf4, 0xeb, 0xfd])
    }

    /// `mov dword [address], value`
    fn store(self, address: u64, value: u32) -> Self {
        self.bytes(&[0xc7, 0x05]).bytes(&(address as u32).to_le_bytes()).bytes(&value.to_le_bytes())
    }
}

/// A guest of a few bytes.
struct Payload {
    // In the order in which they have to go.
    gang: Option<Gang>,
    _worker: Worker,
    vcpus: Vec<VcpuFd>,
    _machine: Machine,
    memory: GuestMemoryMmap,
    bus: Arc<Bus>,
    power: Arc<Power>,
    console: Arc<Console>,
    device: Arc<Transport>,
    ending: Arc<Ending>,
}

impl Payload {
    /// A guest with a vCPU for each of `codes` and an entropy device; `None`, and a word why, where there is no KVM.
    fn new(codes: &[Code]) -> Option<Self> {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            eprintln!("SKIPPED: /dev/kvm does not open: {error}");
            return None;
        }
        let memory = thimble_vmm::memory::map(2, &Memory::default()).unwrap();
        let machine = Machine::new(&memory, codes.len() as u8).unwrap();
        let device = Arc::new(Transport::new(Box::new(Rng), memory.clone()).unwrap());
        machine.connect(&device, VIRTIO_BASE, VIRTIO_IRQS[0]).unwrap();
        let worker = Worker::start(device.clone(), 0, &Filters::default()).unwrap();
        let console = Arc::new(Console::new().unwrap());
        let port = |sink: Arc<dyn Sink>| {
            let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
            Arc::new(Mutex::new(SerialPort::new(line, sink)))
        };
        machine.connect_irq(&EventFd::new(libc::EFD_NONBLOCK).unwrap(), CONSOLE_IRQ).unwrap();
        let power = Arc::new(Power::new(Some(machine.sci())));
        let agent = port(Arc::new(Console::new().unwrap()));
        let bus = Bus::new(port(console.clone()), agent, power.clone(), vec![device.clone()]);
        let mut vcpus = Vec::new();
        for (index, code) in codes.iter().enumerate() {
            let at = CODE + index as u64 * 0x1000;
            memory.write_slice(&code.0, GuestAddress(at)).unwrap();
            let vcpu = machine.add_vcpu(index as u8).unwrap();
            set_entry(&vcpu, Entry::Pvh { at }).unwrap();
            // There is no kernel to wake the others.
            vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE }).unwrap();
            vcpus.push(vcpu);
        }
        let (bus, ending) = (Arc::new(bus), Arc::new(Ending::new().unwrap()));
        Some(Self {
            gang: None,
            _worker: worker,
            vcpus,
            _machine: machine,
            memory,
            bus,
            power,
            console,
            device,
            ending,
        })
    }

    fn start(&mut self) -> &Gang {
        let vcpus = std::mem::take(&mut self.vcpus);
        self.gang.insert(Gang::start(vcpus, &[], &self.bus, &self.ending, &Filters::default()).unwrap())
    }

    /// Runs the guest to its end.
    fn end(&mut self) -> ExitReason {
        self.start();
        let mut wanted = libc::pollfd { fd: self.ending.event().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd is given, and told of.
        let count = unsafe { libc::poll(&raw mut wanted, 1, PATIENCE.as_millis() as i32) };
        assert_eq!(count, 1, "the guest does not end; it wrote {:?}", self.output());
        self.ending.reason().unwrap().clone()
    }

    fn output(&self) -> String {
        let mut bytes = [0; 256];
        let (_, count) = self.console.read(0, &mut bytes);
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    fn counter(&self) -> u32 {
        self.memory.read_obj(GuestAddress(COUNTER)).unwrap()
    }

    /// Waits until `done` says so.
    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// `inc dword [COUNTER]; jmp $-6`: counts for ever.
fn counting() -> Code {
    Code::default().bytes(&[0xff, 0x05, 0x00, 0x20, 0x00, 0x00, 0xeb, 0xf8])
}

#[test]
fn ports_reach_the_console_and_the_power() {
    let code = Code::default().out8(0x3f8, b'h').out8(0x3f8, b'i').power_off().halt();
    let Some(mut guest) = Payload::new(&[code]) else { return };
    assert_eq!(guest.end(), ExitReason::PowerOff);
    assert_eq!(guest.output(), "hi");
}

#[test]
fn a_reset_is_a_reboot() {
    let Some(mut guest) = Payload::new(&[Code::default().out8(0x64, 0xfe).halt()]) else { return };
    assert_eq!(guest.end(), ExitReason::Reboot);
}

#[test]
fn a_reset_as_acpi_says_is_a_reboot() {
    // mov dx, 0xcf9; mov al, 6; out dx, al
    let Some(mut guest) = Payload::new(&[Code::default().out8(0xcf9, 6).halt()]) else { return };
    assert_eq!(guest.end(), ExitReason::Reboot);
}

#[test]
fn a_pressed_power_button_is_seen() {
    // mov dx, 0x602; mov ax, 0x100; out dx, ax: it is to interrupt.
    let enable = [0x66, 0xba, 0x02, 0x06, 0x66, 0xb8, 0x00, 0x01, 0x66, 0xef];
    // Until it was pressed: mov dx, 0x600; in ax, dx; test ah, 1; je $-9
    let wait = [0x66, 0xba, 0x00, 0x06, 0x66, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf5];
    let code = Code::default().bytes(&enable).out8(0x3f8, b'.').bytes(&wait).power_off().halt();
    let Some(mut guest) = Payload::new(&[code]) else { return };
    let power = guest.power.clone();
    let console = guest.console.clone();
    let presser = std::thread::spawn(move || {
        while console.read(0, &mut [0]).1 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        power.press()
    });
    assert_eq!(guest.end(), ExitReason::PowerOff);
    assert!(presser.join().unwrap());
}

#[test]
fn memory_without_ram_reaches_the_devices() {
    // mov eax, [VIRTIO_BASE]; mov dx, 0x3f8; four times: out dx, al; shr eax, 8
    let mut code = Code::default().bytes(&[0xa1, 0x00, 0x00, 0x00, 0xd0, 0x66, 0xba, 0xf8, 0x03]);
    for _ in 0..4 {
        code = code.bytes(&[0xee, 0xc1, 0xe8, 0x08]);
    }
    let Some(mut guest) = Payload::new(&[code.power_off().halt()]) else { return };
    assert_eq!(guest.end(), ExitReason::PowerOff);
    assert_eq!(guest.output(), "virt");
}

#[test]
fn several_vcpus_share_memory() {
    // lock inc dword [COUNTER]
    let others = || Code::default().bytes(&[0xf0, 0xff, 0x05, 0x00, 0x20, 0x00, 0x00]).halt();
    // cmp dword [COUNTER], 3; jne $-7
    let first = Code::default().bytes(&[0x83, 0x3d, 0x00, 0x20, 0x00, 0x00, 0x03, 0x75, 0xf7]).power_off().halt();
    let Some(mut guest) = Payload::new(&[first, others(), others(), others()]) else { return };
    assert_eq!(guest.end(), ExitReason::PowerOff);
    assert_eq!(guest.counter(), 3);
}

#[test]
fn a_guest_without_handlers_faults_three_times() {
    // lidt [COUNTER] (a table of no length); ud2
    let code = Code::default().bytes(&[0x0f, 0x01, 0x1d, 0x00, 0x20, 0x00, 0x00, 0x0f, 0x0b]);
    let Some(mut guest) = Payload::new(&[code]) else { return };
    assert_eq!(guest.end(), ExitReason::TripleFault);
}

#[test]
fn a_halted_guest_can_be_ended() {
    let Some(mut guest) = Payload::new(&[Code::default().halt(), Code::default().halt()]) else { return };
    guest.start();
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    guest.gang = None;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(guest.ending.reason(), None);
}

#[test]
fn a_guest_is_held_and_goes_on() {
    let Some(mut guest) = Payload::new(&[counting()]) else { return };
    guest.start();
    guest.wait("the guest counts", |guest| guest.counter() > 0);
    for _ in 0..20 {
        guest.gang.as_ref().unwrap().hold();
        std::thread::sleep(Duration::from_millis(20));
        let held = guest.counter();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(guest.counter(), held, "a held guest stands still");
        guest.gang.as_ref().unwrap().release();
        guest.wait("the guest goes on", |guest| guest.counter() != held);
    }
    guest.gang.as_ref().unwrap().hold();
    // It never left the guest but when it was kicked.
    assert!(guest.gang.as_ref().unwrap().exits()[0] >= 20);
    guest.gang = None;
}

/// Negotiates with the entropy device and gives its queue these addresses.
fn set_up_queue(rings: [u64; 3]) -> Code {
    let mut code = Code::default();
    let mut store = |register: u64, value: u32| {
        code = std::mem::take(&mut code).store(VIRTIO_BASE + register, value);
    };
    for status in [1, 3] {
        store(offset::STATUS, status);
    }
    store(offset::DRIVER_FEATURES_SEL, 1);
    store(offset::DRIVER_FEATURES, 1);
    store(offset::STATUS, 11);
    store(offset::QUEUE_SEL, 0);
    store(offset::QUEUE_NUM, 8);
    let registers = [offset::QUEUE_DESC_LOW, offset::QUEUE_DRIVER_LOW, offset::QUEUE_DEVICE_LOW];
    for (register, address) in registers.into_iter().zip(rings) {
        store(register, address as u32);
        store(register + 4, (address >> 32) as u32);
    }
    store(offset::QUEUE_READY, 1);
    store(offset::STATUS, 15);
    store(offset::QUEUE_NOTIFY, 0);
    code
}

/// Rings of the guest below.
const RINGS: [u64; 3] = [0x3000, 0x4000, 0x5000];

/// A chain of one descriptor in those rings.
fn submit(guest: &Payload, address: u64, length: u32, available: u16) {
    let write = |value: u64, at: u64| guest.memory.write_obj(value, GuestAddress(at)).unwrap();
    write(address, RINGS[0]);
    write(u64::from(length) | 2 << 32, RINGS[0] + 8);
    write(u64::from(available) << 16, RINGS[1]);
}

#[test]
fn a_guest_gets_random_numbers() {
    // Until the used index is 1: cmp word [RINGS[2] + 2], 1; jne $-8
    let code =
        set_up_queue(RINGS).bytes(&[0x66, 0x83, 0x3d, 0x02, 0x50, 0x00, 0x00, 0x01, 0x75, 0xf6]).power_off().halt();
    let Some(mut guest) = Payload::new(&[code]) else { return };
    submit(&guest, 0x6000, 64, 1);
    assert_eq!(guest.end(), ExitReason::PowerOff);
    assert_ne!(guest.memory.read_obj::<u128>(GuestAddress(0x6000)).unwrap(), 0);
}

#[test]
fn a_guest_with_wild_queues_loses_the_device_and_nothing_else() {
    let wild: [([u64; 3], u64, u16); 4] = [
        ([0xffff_ffff_ffff_f000, RINGS[1], RINGS[2]], 0x6000, 1),
        ([RINGS[0], 0xd000_0000, RINGS[2]], 0x6000, 1),
        (RINGS, 0x7fff_ffff_0000, 1),
        (RINGS, 0x6000, 0x7000),
    ];
    for (rings, address, available) in wild {
        // Until NEEDS_RESET: mov eax, [VIRTIO_BASE + STATUS]; test al, 64; je $-9
        let code =
            set_up_queue(rings).bytes(&[0xa1, 0x70, 0x00, 0x00, 0xd0, 0xa8, 0x40, 0x74, 0xf7]).power_off().halt();
        let Some(mut guest) = Payload::new(&[code]) else { return };
        submit(&guest, address, 64, available);
        assert_eq!(guest.end(), ExitReason::PowerOff);
        let mut status = [0; 4];
        guest.device.read(offset::STATUS, &mut status);
        assert_eq!(status[0] & 64, 64);
    }
}
