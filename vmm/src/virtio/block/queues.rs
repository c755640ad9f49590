//! The request queue (virtio 1.2, section 5.2.6).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::config::{MAX_ERASE_SECTORS, SECTOR};
use crate::virtio::buffers::Buffers;
use crate::virtio::ring::{Chain, RingError};

/// Request types (section 5.2.6).
mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// `VIRTIO_BLK_S_OK` (section 5.2.6).
const S_OK: u8 = 0;
/// `VIRTIO_BLK_S_IOERR` (section 5.2.6).
const S_IOERR: u8 = 1;
/// `VIRTIO_BLK_S_UNSUPP` (section 5.2.6).
const S_UNSUPP: u8 = 2;

/// Bytes of a `GET_ID` answer (section 5.2.6).
const ID_BYTES: usize = 20;

/// What a request came to: how many bytes were written for the driver, and what it is told.
type Outcome = Result<usize, u8>;

/// The disk behind the queue.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    id: [u8; ID_BYTES],
}

impl Disk {
    /// A disk of `sectors` sectors in `file`; `id` is cut to 20 bytes.
    pub fn new(file: File, sectors: u64, read_only: bool, id: &str) -> Self {
        let mut bytes = [0; ID_BYTES];
        let count = id.len().min(ID_BYTES);
        bytes[..count].copy_from_slice(&id.as_bytes()[..count]);
        Self { file, sectors, read_only, id: bytes }
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Carries out one request; says how many bytes it wrote into the chain.
    ///
    /// # Errors
    /// The chain has no room for a header or a status: there is no way to answer.
    pub fn answer(&self, chain: &mut Chain<'_>) -> Result<u32, RingError> {
        let shape = || RingError::Shape(chain.head);
        let header: [u8; 16] = chain.readable.take().ok_or_else(shape)?;
        let room = chain.writable.len().checked_sub(1).ok_or_else(shape)?;
        let status = chain.writable.split_off(room).ok_or_else(shape)?;
        let outcome = self.carry_out(&header, &mut chain.readable, &mut chain.writable);
        status.fill(&[outcome.err().unwrap_or(S_OK)]);
        // The used length counts the status; a chain is at most 2^32 - 1 bytes long (section 2.7.5.2).
        Ok(u32::try_from(outcome.unwrap_or(0)).unwrap_or(u32::MAX).saturating_add(1))
    }

    fn carry_out(&self, header: &[u8; 16], readable: &mut Buffers<'_>, writable: &mut Buffers<'_>) -> Outcome {
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = *header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([k0, k1, k2, k3]) {
            request::IN => {
                let wanted = writable.len();
                let offset = self.position(sector, wanted)?;
                let count = writable.read_at(self.file.as_fd(), offset).map_err(failed)?;
                // Behind the end of an image that does not fill its last sector there are zeros.
                writable.split_off(count).ok_or(S_IOERR)?.clear();
                Ok(wanted)
            }
            request::OUT => {
                self.writable()?;
                let offset = self.position(sector, readable.len())?;
                let count = readable.write_at(self.file.as_fd(), offset).map_err(failed)?;
                if count == readable.len() { Ok(0) } else { Err(S_IOERR) }
            }
            request::FLUSH => self.file.sync_data().map(|()| 0).map_err(failed),
            request::GET_ID => Ok(writable.fill(&self.id)),
            request::DISCARD => self.erase(readable, libc::FALLOC_FL_PUNCH_HOLE),
            request::WRITE_ZEROES => self.erase(readable, libc::FALLOC_FL_ZERO_RANGE),
            _ => Err(S_UNSUPP),
        }
    }

    /// `struct virtio_blk_discard_write_zeroes` (section 5.2.6): one segment, as the configuration says.
    fn erase(&self, readable: &mut Buffers<'_>, mode: libc::c_int) -> Outcome {
        self.writable()?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = readable.take().ok_or(S_UNSUPP)?;
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        let may_unmap = flags == 1 && mode == libc::FALLOC_FL_ZERO_RANGE;
        if !readable.is_empty() || (flags != 0 && !may_unmap) || sectors > MAX_ERASE_SECTORS {
            return Err(S_UNSUPP);
        }
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let length = u64::from(sectors) * SECTOR;
        let offset = self.position(sector, length as usize)?;
        if length == 0 {
            return Ok(0);
        }
        // A hole reads as zeros too, and gives the host its space back.
        let mode = if may_unmap { libc::FALLOC_FL_PUNCH_HOLE } else { mode } | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: fallocate takes numbers only; the descriptor is open.
        match unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, length as i64) } {
            0 => Ok(0),
            _ => Err(failed(io::Error::last_os_error())),
        }
    }

    fn writable(&self) -> Result<(), u8> {
        if self.read_only { Err(S_IOERR) } else { Ok(()) }
    }

    /// The byte at which `sector` begins, if `length` bytes from there are whole sectors of the disk.
    fn position(&self, sector: u64, length: usize) -> Result<u64, u8> {
        let length = length as u64;
        let end = sector.checked_add(length / SECTOR);
        match end {
            Some(end) if end <= self.sectors && length.is_multiple_of(SECTOR) => Ok(sector * SECTOR),
            _ => Err(S_IOERR),
        }
    }
}

/// What the driver is told of an error on the host.
fn failed(error: io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => S_UNSUPP,
        _ => S_IOERR,
    }
}

#[cfg(test)]
mod tests;
