//! One guest: put together from its description, then started, asked, held and ended.
//!
//! | file | what |
//! | --- | --- |
//! | `check` | what must hold of its description by itself |
//! | `devices` | its virtio devices, from their descriptions to their threads |
//! | `verbs` | what is asked of its devices while it runs |

mod check;
mod devices;
mod verbs;

pub use check::check;

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use kvm_ioctls::VcpuFd;
use thimble_spec::inside::Inside;
use thimble_spec::vmm::{
    AGENT_FREEZE, AGENT_LOOK, AGENT_SHUTDOWN, AGENT_THAW, AGENT_TIME, Discovery, ExitReason, GuestConfig, State, Status,
};
use vmm_sys_util::eventfd::EventFd;

use crate::acpi::power::Power;
use crate::agent::Agent;
use crate::bus::Bus;
use crate::console::{Console, Input};
use crate::error::{Error, Result};
use crate::exit::Ending;
use crate::jail::seccomp::Filters;
use crate::kvm::Machine;
use crate::phases::{self, Phase};
use crate::serial::{SerialPort, Sink};
use crate::sync::lock;
use crate::vcpu::gang::Gang;
use crate::vcpu::{affinity, cpuid, model, registers};
use crate::virtio::transport::Transport;
use crate::virtio::worker::Worker;
use crate::{boot, layout, memory};
use devices::{Devices, Handles};

/// A guest that runs. Dropped, it is no more, as by [`Guest::end`].
pub struct Guest {
    gang: Gang,
    workers: Vec<Worker>,
    parts: Parts,
    ending: Arc<Ending>,
    started: Instant,
    ready_s: Option<f64>,
    paused: bool,
    asked: bool,
    /// The number of the newest request to freeze its disk's file system, and whether its answer is still to come.
    freeze: (u32, bool),
    /// The number of the newest request to say what it is like.
    look: u32,
}

/// A guest that is put together and does not run yet: everything of the host that it needs is open.
pub struct Prepared {
    guest: Parts,
    vcpus: Vec<VcpuFd>,
    pins: Vec<Vec<u16>>,
    bus: Arc<Bus>,
}

/// What a guest is made of besides its threads.
struct Parts {
    handles: Handles,
    transports: Vec<Arc<Transport>>,
    machine: Machine,
    console: Arc<Console>,
    input: Arc<Input>,
    console_port: Arc<Mutex<SerialPort>>,
    agent: Arc<Agent>,
    agent_port: Arc<Mutex<SerialPort>>,
    power: Arc<Power>,
    status: Status,
}

impl Prepared {
    /// Puts the guest together that `config` describes. `pid` is the process by which others know its VMM.
    ///
    /// # Errors
    /// A file, an interface or KVM cannot be used, or the description makes no sense.
    pub fn new(config: &GuestConfig, pid: u32) -> Result<Self> {
        check(config)?;
        affinity::check(&config.cpu.pins, config.vcpus)?;
        let memory = memory::map(config.memory_mib, &config.memory)?;
        phases::mark(Phase::Memory);
        let console = Arc::new(Console::new()?);
        let input = Arc::new(Input::new(console.clone())?);
        let devices = Devices::open(config, &input)?;
        let cmdline = boot::cmdline::with_devices(&config.cmdline, devices.count(), config.discovery)?;
        let entry = boot::load(&memory, config, &cmdline, devices.count())?;
        phases::mark(Phase::Load);
        let machine = Machine::new(&memory, config.vcpus)?;
        phases::mark(Phase::Machine);

        let agent = Arc::new(Agent::new()?);
        let console_port = serial_port(&machine, layout::CONSOLE_IRQ, console.clone())?;
        let agent_port = serial_port(&machine, layout::AGENT_IRQ, agent.clone())?;

        let handles = devices.handles();
        let transports = devices.connect(&machine, &memory)?;

        phases::mark(Phase::Devices);
        let model = model::apply(&machine.cpuid()?, &config.cpu)?;
        let mut vcpus = Vec::new();
        for index in 0..config.vcpus {
            let vcpu = machine.add_vcpu(index)?;
            let cpuid = cpuid::for_vcpu(&model, index, config.vcpus, machine.has_tsc_deadline());
            vcpu.set_cpuid2(&cpuid).map_err(Error::kvm("set a vCPU's CPUID"))?;
            registers::set_common(&vcpu)?;
            if index == 0 {
                registers::set_entry(&vcpu, entry)?;
            }
            vcpus.push(vcpu);
        }
        phases::mark(Phase::Vcpus);
        let power = Arc::new(Power::new((config.discovery == Discovery::Acpi).then(|| machine.sci())));
        let bus = Arc::new(Bus::new(console_port.clone(), agent_port.clone(), power.clone(), transports.clone()));
        let status = Status {
            name: config.name.clone(),
            pid,
            state: State::Running,
            uptime_s: 0.0,
            ready_s: None,
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            host_cpus: std::thread::available_parallelism().map_or(0, |count| count.get() as u16),
            host_memory_mib: host_memory_mib(),
        };
        let guest =
            Parts { handles, transports, machine, console, input, console_port, agent, agent_port, power, status };
        Ok(Self { guest, vcpus, pins: config.cpu.pins.clone(), bus })
    }

    /// Lets it run, each thread under its filter. `ending` is told when it is over.
    ///
    /// # Errors
    /// The host gives no threads.
    pub fn start(self, ending: Arc<Ending>, started: Instant, filters: &Filters) -> Result<Guest> {
        let mut workers = Vec::new();
        for transport in &self.guest.transports {
            for lane in 0..transport.lanes().len() {
                workers.push(Worker::start(transport.clone(), lane, filters)?);
            }
        }
        let gang = Gang::start(self.vcpus, &self.pins, &self.bus, &ending, filters)?;
        Ok(Guest {
            gang,
            workers,
            parts: self.guest,
            ending,
            started,
            ready_s: None,
            paused: false,
            asked: false,
            freeze: (0, false),
            look: 0,
        })
    }
}

impl Guest {
    /// Takes it down: first its vCPUs, then its devices, and with the last of them its memory. Nothing of it is left then
    /// but the machine, as KVM keeps it.
    pub fn end(self) -> Machine {
        let Self { gang, workers, parts, .. } = self;
        drop(gang);
        drop(workers);
        parts.machine
    }

    /// What it wrote to its console.
    pub fn console(&self) -> &Console {
        &self.parts.console
    }

    /// Number of bytes that [`Self::type_in`] would take now.
    pub fn input_room(&self) -> usize {
        self.parts.input.room().unwrap_or_else(|| lock(&self.parts.console_port).room())
    }

    /// Hands it input to its console: to the virtio console if a driver runs it, else to the serial port. What does
    /// not fit is lost.
    pub fn type_in(&self, bytes: &[u8]) {
        if self.parts.input.put(bytes).is_none() {
            lock(&self.parts.console_port).input(bytes);
        }
    }

    /// Who listens to its PID 1.
    pub fn agent(&self) -> &Agent {
        &self.parts.agent
    }

    /// How it does.
    pub fn status(&self) -> Status {
        Status {
            state: self.state(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            ready_s: self.ready_s,
            ..self.parts.status.clone()
        }
    }

    /// What it does.
    pub fn state(&self) -> State {
        match (self.paused, self.asked) {
            (true, _) => State::Paused,
            (false, true) => State::ShuttingDown,
            (false, false) => State::Running,
        }
    }

    /// Seconds from the start to its first word that it is ready.
    pub fn ready_s(&self) -> Option<f64> {
        self.ready_s
    }

    /// Its PID 1 says that it is ready; the seconds, if this is news.
    pub fn mark_ready(&mut self) -> Option<f64> {
        if self.asked {
            // The first request may have come before anybody listened.
            self.tell_shutdown();
        }
        if self.ready_s.is_some() {
            return None;
        }
        self.ready_s = Some(self.started.elapsed().as_secs_f64());
        self.ready_s
    }

    /// Asks its PID 1 to power off, and presses its power button if it has one. A guest that is held is let go, for it cannot hear otherwise.
    pub fn shutdown(&mut self) {
        self.asked = true;
        self.tell_shutdown();
        self.parts.power.press();
        self.resume();
    }

    fn tell_shutdown(&self) {
        self.tell(AGENT_SHUTDOWN);
    }

    fn tell(&self, words: &str) {
        lock(&self.parts.agent_port).input(format!("{words}\n").as_bytes());
    }

    /// Whether its PID 1 would hear something.
    fn hears(&self) -> std::result::Result<(), String> {
        match (self.ready_s, self.paused) {
            (None, _) => Err("this guest is not ready, and hears nothing yet".to_owned()),
            (_, true) => Err("this guest is paused, and hears nothing now".to_owned()),
            _ => Ok(()),
        }
    }

    /// Asks its PID 1 what it is like.
    ///
    /// # Errors
    /// It hears nothing.
    pub fn look(&mut self) -> std::result::Result<(), String> {
        self.hears()?;
        self.look = self.look.wrapping_add(1);
        self.tell(&format!("{AGENT_LOOK} {}", self.look));
        Ok(())
    }

    /// Its PID 1 says what it is like: gives that back, if it answers the newest request.
    pub fn seen(&self, number: u32, inside: Inside) -> Option<Inside> {
        (number == self.look).then_some(inside)
    }

    /// Asks its PID 1 to freeze the file system of its disk.
    ///
    /// # Errors
    /// It has never said that it is ready: nobody would hear it.
    pub fn freeze(&mut self) -> std::result::Result<(), String> {
        self.hears()?;
        let number = self.freeze.0.wrapping_add(1);
        self.freeze = (number, true);
        self.tell(&format!("{AGENT_FREEZE} {number}"));
        Ok(())
    }

    /// Asks it to thaw it again.
    pub fn thaw(&mut self) {
        self.freeze.1 = false;
        self.tell(AGENT_THAW);
    }

    /// Its PID 1 answers a request to freeze: gives back whether it was done, if that is news.
    pub fn answers(&mut self, number: u32, done: bool) -> Option<bool> {
        let awaited = self.freeze == (number, true);
        if awaited {
            self.freeze.1 = false;
        }
        awaited.then_some(done)
    }

    /// Whether it was asked to power off.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Resets it.
    pub fn reset(&self) {
        self.ending.end(ExitReason::Reboot);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.ending.end(ExitReason::Killed);
    }

    /// Holds its vCPUs.
    pub fn pause(&mut self) {
        if !std::mem::replace(&mut self.paused, true) {
            self.gang.hold();
        }
    }

    /// Lets its vCPUs go on.
    pub fn resume(&mut self) {
        if std::mem::replace(&mut self.paused, false) {
            if self.ready_s.is_some() {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                self.tell(&format!("{AGENT_TIME} {}", now.as_millis()));
            }
            self.gang.release();
        }
    }
}

/// Memory of the host in MiB.
fn host_memory_mib() -> u32 {
    // SAFETY: an all-zero `sysinfo` is one, and the call fills it.
    let info = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        libc::sysinfo(&raw mut info);
        info
    };
    u32::try_from((info.totalram * u64::from(info.mem_unit)) >> 20).unwrap_or(u32::MAX)
}

fn serial_port(machine: &Machine, irq: u32, sink: Arc<dyn Sink>) -> Result<Arc<Mutex<SerialPort>>> {
    let line =
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::host("make a serial port's eventfd"))?;
    machine.connect_irq(&line, irq)?;
    Ok(Arc::new(Mutex::new(SerialPort::new(line, sink))))
}
