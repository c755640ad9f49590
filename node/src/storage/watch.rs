//! What the kernel says of disks that come and go, and of arrays whose members fail.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

/// Group of the kernel's own announcements (udev's have another).
const KERNEL_GROUP: u32 = 1;
/// It can be read when something happened to an array (`mdstat_poll` in drivers/md/md.c).
const MDSTAT: &str = "/proc/mdstat";

/// What was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Disks came, went or changed.
    pub disks: bool,
}

/// Both ears.
pub struct Watch {
    uevents: OwnedFd,
    mdstat: Option<File>,
}

impl Watch {
    /// Begins to listen.
    ///
    /// # Errors
    /// There is no netlink.
    pub fn open() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let uevents = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol);
        let uevents = uevents.context("listening to the kernel's announcements")?;
        bind(uevents.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))
            .context("listening to the kernel's announcements")?;
        Ok(Self { uevents, mdstat: None })
    }

    /// Waits for something, not longer than `limit`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn wait(&mut self, limit: Duration) -> Result<Heard> {
        // Whoever has read it hears what comes after that; there is none as long as there is no array.
        self.mdstat = File::open(MDSTAT).ok().filter(|mut file| file.read_to_end(&mut Vec::new()).is_ok());
        let mut ears = vec![PollFd::new(self.uevents.as_fd(), PollFlags::POLLIN)];
        ears.extend(self.mdstat.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI)));
        match poll(&mut ears, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the kernel's announcements"),
        }
        let mut heard = Heard::default();
        let mut datagram = [0; 8192];
        loop {
            match recv(self.uevents.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                Ok(length) => heard.disks |= is_disk(&datagram[..length]),
                // Some were lost.
                Err(Errno::ENOBUFS) => heard.disks = true,
                Err(_) => return Ok(heard),
            }
        }
    }
}

/// Whether an announcement (`ACTION@DEVPATH`, then `KEY=VALUE`, each ended by a zero) is about a disk or a partition. Those
/// that are made here, of arrays and volumes, are not.
fn is_disk(datagram: &[u8]) -> bool {
    let mut fields = datagram.split(|byte| *byte == 0);
    let made_here = |path: &[u8]| path.windows(15).any(|part| part == b"/virtual/block/");
    !fields.next().is_none_or(made_here) && fields.any(|field| field == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_told_from_what_is_made_of_them() {
        assert!(is_disk(b"add@/devices/pci0000:00/virtio1/block/vdb\0ACTION=add\0SUBSYSTEM=block\0"));
        assert!(!is_disk(b"change@/devices/virtual/block/md127\0ACTION=change\0SUBSYSTEM=block\0"));
        assert!(!is_disk(b"add@/devices/pci0000:00/net/eth0\0SUBSYSTEM=net\0"));
        assert!(!is_disk(b""));
    }
}
