//! A hostile driver: what it does to a device is read off the fuzzer's input.
//!
//! The device stands behind its real transport, in a memory of 1 MiB; only its threads are missing: the driver calls
//! the lanes itself, so that a run is deterministic. Nothing that it does may panic, hang, or touch what is not its.

use arbitrary::{Arbitrary, Unstructured};
use thimble_vmm::virtio::registers::offset;
use thimble_vmm::virtio::testing::{DATA, Driver, MEMORY, RING};

/// Most moves of a run: longer inputs teach nothing new and cost time.
const MOVES_MAX: usize = 200;

/// One thing that a driver, or somebody at the device's other end, does.
#[derive(Debug, Arbitrary)]
pub enum Move {
    /// Reads a register or the configuration space, in any width.
    Read { at: u16, width: u8 },
    /// Writes a register with four bytes.
    Register { register: u8, value: u32 },
    /// Writes anywhere in the window, in any width.
    Write { at: u16, bytes: Vec<u8> },
    /// Resets, negotiates these features and goes live.
    Start { features: u64 },
    /// Writes into a ring: its descriptors, available or used part.
    Ring { queue: u8, part: u8, at: u16, word: u64 },
    /// Makes a descriptor available that may be none.
    Offer { queue: u8, head: u16 },
    /// Puts bytes where buffers are.
    Put { at: u16, bytes: Vec<u8> },
    /// Makes a chain of sane shape available: lengths, and which part the device writes.
    Submit { queue: u8, at: u16, lengths: Vec<u16>, writable: u8 },
    /// The lane looks at its queue.
    Kick { queue: u8 },
    /// The lanes look at one of their sources.
    Rouse { source: u8 },
    /// Something arrives at the device's other end.
    Poke { bytes: Vec<u8> },
}

/// Lets the moves in `data` happen to the device behind `driver`; `poke` reaches its other end.
pub fn drive(data: &[u8], mut driver: Driver, mut poke: impl FnMut(&[u8])) {
    let mut input = Unstructured::new(data);
    driver.start(input.arbitrary().unwrap_or(0));
    for _ in 0..MOVES_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(step) = input.arbitrary() else { break };
        take(step, &mut driver, &mut poke);
    }
}

fn take(step: Move, driver: &mut Driver, poke: &mut impl FnMut(&[u8])) {
    let queues = driver.device.kicks().len();
    let queue = |number: u8| usize::from(number) % queues;
    match step {
        Move::Read { at, width } => driver.device.read(u64::from(at) % 0x1000, &mut vec![0; usize::from(width % 9)]),
        Move::Register { register, value } => driver.write(u64::from(register) * 4, value),
        Move::Write { at, bytes } => driver.device.write(u64::from(at) % 0x1000, &bytes[..bytes.len().min(8)]),
        Move::Start { features } => driver.start(features),
        Move::Ring { queue: number, part, at, word } => {
            let base = Driver::ring(queue(number))[usize::from(part % 3)];
            driver.put(base + u64::from(at % 0x200), &word.to_le_bytes());
        }
        Move::Offer { queue: number, head } => driver.offer(queue(number), head),
        Move::Put { at, bytes } => driver.put(DATA + u64::from(at), &bytes),
        Move::Submit { queue: number, at, lengths, writable } => {
            let mut address = DATA + u64::from(at);
            let mut chain = Vec::new();
            for (index, length) in lengths.iter().take(usize::from(RING) - 1).enumerate() {
                let flag = if index >= usize::from(writable % 8) { 2 } else { 0 };
                chain.push((address, u32::from(*length), flag));
                address = (address + u64::from(*length)).min(MEMORY - 1);
            }
            if !chain.is_empty() {
                driver.submit(queue(number), &chain);
                driver.kick(queue(number));
            }
        }
        Move::Kick { queue: number } => driver.kick(queue(number)),
        Move::Rouse { source } => driver.rouse(usize::from(source % 4)),
        Move::Poke { bytes } => poke(&bytes),
    }
    // Whatever happened, the device still says what it is.
    assert_eq!(driver.read(offset::MAGIC), u32::from_le_bytes(*b"virt"));
}
