//! Requests as a driver makes them, one at a time, to be measured: from the chain in the ring to its answer.

use std::fs::File;
use std::os::unix::net::UnixDatagram;

use thimble_spec::vmm::DiskEngine;

use super::{DATA, Driver, WRITE, block, net};

/// Bytes of a block request's data.
const BLOCK: u32 = 4096;
/// Bytes of a packet, its virtio header included: a full Ethernet frame.
const PACKET: usize = 12 + 1514;
/// `VIRTIO_BLK_T_IN` and `VIRTIO_BLK_T_OUT` (virtio 1.2, section 5.2.6).
const KINDS: [u8; 2] = [0, 1];

/// A device, its driver and its other end.
pub struct Load {
    /// What is measured.
    pub name: &'static str,
    driver: Driver,
    step: fn(&mut Driver, Option<&UnixDatagram>),
    wire: Option<UnixDatagram>,
    _file: Option<File>,
}

impl Load {
    /// All that there are.
    pub fn all() -> Vec<Self> {
        let disk = |name, kind: u8, step| {
            let (device, file) = block(false, DiskEngine::Sync);
            let driver = Driver::new(device);
            driver.start(0);
            driver.put(DATA, &[&[kind][..], &[0; 15]].concat());
            Self { name, driver, step, wire: None, _file: Some(file) }
        };
        let wire = |name, step| {
            let (device, wire) = net();
            let driver = Driver::new(device);
            driver.start(0);
            Self { name, driver, step, wire: Some(wire), _file: None }
        };
        vec![
            disk("block, read 4 KiB", KINDS[0], read),
            disk("block, write 4 KiB", KINDS[1], write),
            wire("net, send 1514 bytes", send),
            wire("net, receive 1514 bytes", receive),
        ]
    }

    /// One request, from the driver's side to its answer.
    pub fn step(&mut self) {
        (self.step)(&mut self.driver, self.wire.as_ref());
    }
}

fn read(driver: &mut Driver, _: Option<&UnixDatagram>) {
    driver.submit(0, &[(DATA, 16, 0), (DATA + 0x1000, BLOCK, WRITE), (DATA + 0x800, 1, WRITE)]);
    finish(driver, 0);
}

fn write(driver: &mut Driver, _: Option<&UnixDatagram>) {
    driver.submit(0, &[(DATA, 16, 0), (DATA + 0x1000, BLOCK, 0), (DATA + 0x800, 1, WRITE)]);
    finish(driver, 0);
}

fn send(driver: &mut Driver, wire: Option<&UnixDatagram>) {
    driver.submit(1, &[(DATA, PACKET as u32, 0)]);
    finish(driver, 1);
    take(wire);
}

fn receive(driver: &mut Driver, wire: Option<&UnixDatagram>) {
    driver.submit(0, &[(DATA, 2048, WRITE)]);
    wire.unwrap().send(&[0; PACKET]).unwrap();
    driver.rouse(0);
    finish(driver, 0);
}

/// Empties the wire: part of the cost, but a constant one.
fn take(wire: Option<&UnixDatagram>) {
    let mut packet = [0; PACKET];
    assert_eq!(wire.unwrap().recv(&mut packet).unwrap(), PACKET);
}

/// Lets the device work until it has used the chain; an engine that works in the kernel takes a few looks.
fn finish(driver: &mut Driver, queue: usize) {
    driver.kick(queue);
    while driver.used(queue).is_empty() {
        driver.rouse(0);
    }
}
