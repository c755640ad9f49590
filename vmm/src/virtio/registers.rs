//! The state behind a device's registers: feature negotiation, queue set-up, status, reset.

use std::sync::{Arc, Mutex};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::VirtioDevice;
use super::interrupt::Interrupt;
use super::lane::Work;
use crate::sync::lock;

/// Device status bits (virtio 1.2, section 2.1).
pub mod status {
    /// The driver knows how to drive the device.
    pub const DRIVER: u32 = 2;
    /// The driver is set up and ready.
    pub const DRIVER_OK: u32 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u32 = 8;
    /// The device has met an error from which it cannot recover.
    pub const NEEDS_RESET: u32 = 64;
}

/// Indirect descriptors (section 6).
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Event indices instead of notification flags (section 6).
pub const F_EVENT_IDX: u64 = 1 << 29;
/// This is not a legacy device (section 6).
pub const F_VERSION_1: u64 = 1 << 32;

/// Offsets of the registers (section 4.2.2).
pub mod offset {
    #![allow(missing_docs)]
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// `virt`, little-endian (section 4.2.2).
const MAGIC: u32 = 0x7472_6976;
/// The version of this transport (section 4.2.2).
const VERSION: u32 = 2;
/// `THMB`: who made the device. Drivers do not look at it.
const VENDOR: u32 = 0x424d_4854;

/// A device and what the driver has told it so far.
///
/// Locks are taken in one order: first the registers, then a lane.
pub struct Registers {
    pub(super) device: Box<dyn VirtioDevice>,
    lanes: Vec<Arc<Mutex<Work>>>,
    /// By queue: its lane, and its place among the lane's rings.
    places: Vec<(usize, usize)>,
    memory: GuestMemoryMmap,
    interrupt: Arc<Interrupt>,
    status: u32,
    generation: u32,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
}

impl Registers {
    /// A device after reset.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        lanes: Vec<Arc<Mutex<Work>>>,
        memory: GuestMemoryMmap,
        interrupt: Arc<Interrupt>,
    ) -> Self {
        let mut places = vec![(0, 0); device.queue_sizes().len()];
        for (lane, work) in lanes.iter().enumerate() {
            for (ring, queue) in lock(work).lane().queues().into_iter().enumerate() {
                places[queue] = (lane, ring);
            }
        }
        Self {
            device,
            lanes,
            places,
            memory,
            interrupt,
            status: 0,
            generation: 0,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
        }
    }

    fn offered(&self) -> u64 {
        self.device.features() | F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    /// Whether the driver runs the device and the device is well.
    pub fn is_live(&self) -> bool {
        self.has(status::DRIVER_OK) && !self.has(status::NEEDS_RESET)
    }

    /// Visits the queue that the driver has selected, if there is one.
    fn with_queue<T>(&self, visit: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        let (lane, ring) = *self.places.get(self.queue_sel as usize)?;
        Some(visit(&mut lock(&self.lanes[lane]).rings_mut()[ring].queue))
    }

    /// A 32-bit register as the driver reads it. Registers that do not exist, or are written only, read as zero.
    pub fn read(&self, register: u64) -> u32 {
        match register {
            offset::MAGIC => MAGIC,
            offset::VERSION => VERSION,
            offset::DEVICE_ID => self.device.device_type(),
            offset::VENDOR_ID => VENDOR,
            offset::DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            offset::QUEUE_NUM_MAX => self.with_queue(|queue| queue.max_size().into()).unwrap_or(0),
            offset::QUEUE_READY => self.with_queue(|queue| queue.ready().into()).unwrap_or(0),
            offset::STATUS => self.status,
            // No shared memory region exists: its length and its address read as -1 (section 4.2.2).
            offset::SHM_LEN_LOW..=offset::SHM_BASE_HIGH => u32::MAX,
            offset::CONFIG_GENERATION => self.generation,
            _ => 0,
        }
    }

    /// The driver writes a 32-bit register. What it may not write now, or at all, is ignored.
    pub fn write(&mut self, register: u64, value: u32) {
        match register {
            offset::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            offset::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            offset::DRIVER_FEATURES if self.has(status::DRIVER) && !self.has(status::FEATURES_OK) => {
                set_half(&mut self.driver_features, self.driver_features_sel, value);
            }
            offset::QUEUE_SEL => self.queue_sel = value,
            offset::STATUS => self.write_status(value),
            _ if self.has(status::FEATURES_OK) && !self.has(status::DRIVER_OK) => self.write_queue(register, value),
            _ => {}
        }
    }

    /// Queues are set up between `FEATURES_OK` and `DRIVER_OK` (section 3.1.1), and not touched once they are ready
    /// (section 4.2.2.2).
    fn write_queue(&mut self, register: u64, value: u32) {
        let memory = &self.memory;
        let valid = self.with_queue(|queue| set_queue(queue, memory, register, value));
        if valid == Some(false) {
            self.needs_reset();
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let new = value & !self.status & !status::NEEDS_RESET;
        if new & status::FEATURES_OK != 0 {
            let known = self.driver_features & !self.offered() == 0;
            if !known || self.driver_features & F_VERSION_1 == 0 {
                // The driver reads the status back to learn that its choice was refused (section 3.1.1).
                self.status |= new & !(status::FEATURES_OK | status::DRIVER_OK);
                return;
            }
            let event_idx = self.driver_features & F_EVENT_IDX != 0;
            for lane in &self.lanes {
                lock(lane).rings_mut().iter_mut().for_each(|ring| ring.queue.set_event_idx(event_idx));
            }
        }
        self.status |= new & !status::DRIVER_OK;
        if new & status::DRIVER_OK != 0 && self.has(status::FEATURES_OK) {
            self.status |= status::DRIVER_OK;
            if !self.lanes.iter().all(|lane| lock(lane).start(self.driver_features).is_ok()) {
                self.fail();
            }
        }
    }

    fn reset(&mut self) {
        for lane in &self.lanes {
            let mut lane = lock(lane);
            lane.stop();
            lane.rings_mut().iter_mut().for_each(|ring| ring.queue.reset());
        }
        self.interrupt.reset();
        self.status = 0;
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
    }

    fn needs_reset(&mut self) {
        self.status |= status::NEEDS_RESET;
        if self.has(status::DRIVER_OK) {
            self.interrupt.config_changed();
        }
    }

    /// A lane failed, by the driver's fault or the host's: the device is out of service until the driver resets it.
    pub fn fail(&mut self) {
        self.lanes.iter().for_each(|lane| lock(lane).stop());
        self.needs_reset();
    }

    /// The configuration space changed: the driver is told, if it drives the device.
    pub fn config_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.has(status::DRIVER_OK) {
            self.interrupt.config_changed();
        }
    }
}

/// Writes a register of a queue that is not live; false if the driver placed the queue where it cannot be.
fn set_queue(queue: &mut Queue, memory: &GuestMemoryMmap, register: u64, value: u32) -> bool {
    if queue.ready() {
        if register == offset::QUEUE_READY && value == 0 {
            queue.set_ready(false);
        }
        return true;
    }
    match register {
        // A size that is no power of two, or too large, leaves the one before.
        offset::QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
        offset::QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
        offset::QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
        offset::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
        offset::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
        offset::QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
        offset::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
        offset::QUEUE_READY if value == 1 => {
            queue.set_ready(true);
            // Rings outside the guest's memory: checked here, once, for memory does not change.
            if !queue.is_valid(memory) {
                queue.set_ready(false);
                return false;
            }
        }
        _ => {}
    }
    true
}

/// The half of a 64-bit value that a selector register selects (section 4.2.2); there is nothing above bit 63.
fn half(value: u64, selector: u32) -> u32 {
    match selector {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, selector: u32, half: u32) {
    match selector {
        0 => *value = (*value & !u64::from(u32::MAX)) | u64::from(half),
        1 => *value = (*value & u64::from(u32::MAX)) | (u64::from(half) << 32),
        _ => {}
    }
}
