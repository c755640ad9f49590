//! The kernel's announcements of devices: `ACTION@DEVPATH`, then `KEY=VALUE`, each ended by a zero
//! (lib/kobject_uevent.c in the kernel's tree).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;
use netlink_sys::{Socket, SocketAddr};

use crate::error::{Doing, Result};

/// Group of the kernel's own announcements (udev's have another).
const KERNEL_GROUP: u32 = 1;
/// Room for a burst: hundreds of devices are announced while modules load.
const RECEIVE_BUFFER: usize = 2 << 20;

/// One announcement, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind` and others.
    pub action: String,
    /// `block`, `net`, `input`, `pci` and others.
    pub subsystem: String,
    /// What the device is to a driver.
    pub modalias: Option<String>,
    /// Its node below /dev.
    pub device_name: Option<String>,
    /// Name of a network interface.
    pub interface: Option<String>,
}

impl Uevent {
    /// Reads a datagram; what is none of the kernel's announcements is `None`.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let mut fields = datagram.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        fields.next().filter(|head| head.contains('@'))?;
        let mut event = Self::default();
        for field in fields {
            match field.split_once('=') {
                Some(("ACTION", value)) => event.action = value.to_owned(),
                Some(("SUBSYSTEM", value)) => event.subsystem = value.to_owned(),
                Some(("MODALIAS", value)) => event.modalias = Some(value.to_owned()),
                Some(("INTERFACE", value)) => event.interface = Some(value.to_owned()),
                Some(("DEVNAME", value)) => event.device_name = Some(value.to_owned()),
                _ => {}
            }
        }
        (!event.action.is_empty()).then_some(event)
    }
}

/// The socket that hears them.
pub struct Uevents {
    socket: Socket,
}

/// What there is to hear.
pub enum Heard {
    /// An announcement.
    Event(Uevent),
    /// Some were lost: look at everything again.
    Lost,
}

impl Uevents {
    /// Starts to listen.
    pub fn listen() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
            socket.set_non_blocking(true)?;
            socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
            socket.bind(&SocketAddr::new(0, KERNEL_GROUP))?;
            Ok::<_, std::io::Error>(Self { socket })
        };
        open().doing(|| "listen to the kernel's device events".to_owned())
    }

    /// The next one, without waiting.
    pub fn next(&self) -> Option<Heard> {
        loop {
            let mut datagram = Vec::with_capacity(16 << 10);
            match self.socket.recv_from(&mut datagram, 0) {
                // Port 0 is the kernel: processes may send here too.
                Ok((_, from)) if from.port_number() == 0 => {
                    if let Some(event) = Uevent::parse(&datagram) {
                        return Some(Heard::Event(event));
                    }
                }
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Some(Heard::Lost),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.socket`, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_disk_is_announced() {
        let datagram = b"add@/devices/pci0000:00/virtio1/block/vda/vda1\0ACTION=add\0DEVPATH=/devices/x\0\
            SUBSYSTEM=block\0MAJOR=254\0DEVNAME=vda1\0DEVTYPE=partition\0PARTNAME=thimble-data\0SEQNUM=1200\0";
        let event = Uevent::parse(datagram).unwrap();
        assert_eq!((event.action.as_str(), event.subsystem.as_str()), ("add", "block"));
        assert_eq!(event.device_name.as_deref(), Some("vda1"));
        assert_eq!(event.modalias, None);
    }

    #[test]
    fn a_modalias_may_hold_equal_signs() {
        let event = Uevent::parse(b"add@/x\0ACTION=add\0MODALIAS=of:N=1\0").unwrap();
        assert_eq!(event.modalias.as_deref(), Some("of:N=1"));
    }

    #[test]
    fn udevs_own_messages_are_none() {
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe\0ACTION=add\0"), None);
        assert_eq!(Uevent::parse(b""), None);
        assert_eq!(Uevent::parse(b"add@/x\0"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in any::<Vec<u8>>()) {
            Uevent::parse(&bytes);
        }
    }
}
