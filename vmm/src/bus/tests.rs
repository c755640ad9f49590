use super::*;
use crate::console::Console;
use crate::virtio::rng::Rng;
use proptest::prelude::*;
use thimble_spec::vmm::{POWER_OFF, POWER_PORT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

fn bus() -> (Bus, Arc<Console>) {
    let console = Arc::new(Console::new().unwrap());
    let port =
        |sink: Arc<Console>| Arc::new(Mutex::new(SerialPort::new(EventFd::new(libc::EFD_NONBLOCK).unwrap(), sink)));
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let device = Arc::new(Transport::new(Box::new(Rng), memory).unwrap());
    let power = Arc::new(Power::new(None));
    (Bus::new(port(console.clone()), port(Arc::new(Console::new().unwrap())), power, vec![device]), console)
}

#[test]
fn nobody_answers_with_ones() {
    let (bus, _) = bus();
    for port in [0x80, 0x3f7, 0x400, 0xcf8, POWER_PORT - 5, POWER_PORT + 2] {
        let mut data = [0; 4];
        bus.port_read(port, &mut data);
        assert_eq!(data, [0xff; 4], "{port:#x}");
    }
    for address in [VIRTIO_BASE - 1, VIRTIO_BASE + VIRTIO_SIZE, u64::MAX] {
        let mut data = [0; 8];
        bus.memory_read(address, &mut data);
        assert_eq!(data, [0xff; 8], "{address:#x}");
    }
    let mut magic = [0; 4];
    bus.memory_read(VIRTIO_BASE, &mut magic);
    assert_eq!(&magic, b"virt");
}

#[test]
fn a_guest_ends_itself_in_three_ways() {
    let (bus, _) = bus();
    assert_eq!(bus.port_write(POWER_PORT, &POWER_OFF.to_le_bytes()), Some(ExitReason::PowerOff));
    assert_eq!(bus.port_write(POWER_PORT, &[0, 0]), None);
    assert_eq!(bus.port_write(POWER_PORT, &[0x34]), None);
    assert_eq!(bus.port_write(0x64, &[0xfe]), Some(ExitReason::Reboot));
    assert_eq!(bus.port_write(0x64, &[0xd1]), None);
    // As Linux does: no reset yet, then one.
    assert_eq!(bus.port_write(0xcf9, &[2]), None);
    assert_eq!(bus.port_write(0xcf9, &[6]), Some(ExitReason::Reboot));
}

#[test]
fn the_first_serial_port_is_the_console() {
    let (bus, console) = bus();
    bus.port_write(0x3f8, b"x");
    bus.port_write(0x2f8, b"y");
    let mut bytes = [0; 4];
    assert_eq!(console.read(0, &mut bytes), (1, 1));
    assert_eq!(bytes[0], b'x');
}

proptest! {
    #[test]
    fn any_access_is_survived(port in any::<u16>(), address in any::<u64>(), mut data in prop::collection::vec(any::<u8>(), 1..9)) {
        let (bus, _) = bus();
        bus.port_write(port, &data);
        bus.port_read(port, &mut data);
        bus.memory_write(address, &data);
        bus.memory_read(address, &mut data);
        bus.memory_write(VIRTIO_BASE + address % (2 * VIRTIO_SIZE), &data);
    }
}
