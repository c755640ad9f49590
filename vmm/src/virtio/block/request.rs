//! A request as the driver writes it (virtio 1.2, section 5.2.6), checked, as an operation on the disk.

use super::config::{MAX_ERASE_SECTORS, SECTOR};
use crate::virtio::buffers::Buffers;
use crate::virtio::ring::{Chain, RingError};

/// Request types (section 5.2.6).
mod code {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Bytes of a `GET_ID` answer (section 5.2.6).
pub const ID_BYTES: usize = thimble_spec::vmm::DISK_SERIAL_MAX;

/// What the driver is told (section 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// `VIRTIO_BLK_S_OK`
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`
    Error = 1,
    /// `VIRTIO_BLK_S_UNSUPP`
    Unsupported = 2,
}

/// What a disk can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fill the buffers.
    Read,
    /// Take what is in the buffers.
    Write,
    /// Make all that was answered durable.
    Flush,
    /// Nothing there is needed any more.
    Discard,
    /// What is there shall read as zeros.
    WriteZeroes {
        /// The space may be given back.
        unmap: bool,
    },
}

/// An operation whose range is within the disk and made of whole sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What to do.
    pub kind: Kind,
    /// First byte of the disk.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// What a chain asks for.
#[derive(Debug)]
pub enum Request {
    /// Something of the disk; read and write have their buffers in the chain.
    Disk(Operation),
    /// The disk's name.
    Id,
    /// Nothing that can be done: this is the answer.
    Refused(Status),
}

/// Takes the header and the place of the status off the chain, and says what it asks of a disk of `sectors`.
///
/// # Errors
/// The chain has no room for a header or a status: there is no way to answer.
pub fn parse<'m>(chain: &mut Chain<'m>, sectors: u64, read_only: bool) -> Result<(Request, Buffers<'m>), RingError> {
    let shape = || RingError::Shape(chain.head);
    let header: [u8; 16] = chain.readable.take().ok_or_else(shape)?;
    let room = chain.writable.len().checked_sub(1).ok_or_else(shape)?;
    let status = chain.writable.split_off(room).ok_or_else(shape)?;
    let request = understand(&header, chain, sectors, read_only).unwrap_or_else(Request::Refused);
    Ok((request, status))
}

fn understand(header: &[u8; 16], chain: &mut Chain<'_>, sectors: u64, read_only: bool) -> Result<Request, Status> {
    let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = *header;
    let sector = u64::from_le_bytes(sector);
    let code = u32::from_le_bytes([k0, k1, k2, k3]);
    if read_only && matches!(code, code::OUT | code::DISCARD | code::WRITE_ZEROES) {
        return Err(Status::Error);
    }
    let operation = match code {
        code::IN => range(Kind::Read, sector, chain.writable.len() as u64, sectors)?,
        code::OUT => range(Kind::Write, sector, chain.readable.len() as u64, sectors)?,
        code::FLUSH => Operation { kind: Kind::Flush, offset: 0, length: 0 },
        code::DISCARD | code::WRITE_ZEROES => segment(code, &mut chain.readable, sectors)?,
        code::GET_ID => return Ok(Request::Id),
        _ => return Err(Status::Unsupported),
    };
    Ok(Request::Disk(operation))
}

/// `struct virtio_blk_discard_write_zeroes` (section 5.2.6): one segment, as the configuration says.
fn segment(code: u32, readable: &mut Buffers<'_>, sectors: u64) -> Result<Operation, Status> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] =
        readable.take().ok_or(Status::Unsupported)?;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let count = u32::from_le_bytes([n0, n1, n2, n3]);
    let kind = match (code, u32::from_le_bytes([f0, f1, f2, f3])) {
        (code::DISCARD, 0) => Kind::Discard,
        (code::WRITE_ZEROES, flags @ (0 | 1)) => Kind::WriteZeroes { unmap: flags == 1 },
        // Flags that do not exist, or that a discard does not have, are unsupported (section 5.2.6.2).
        _ => return Err(Status::Unsupported),
    };
    if !readable.is_empty() || count > MAX_ERASE_SECTORS {
        return Err(Status::Unsupported);
    }
    range(kind, sector, u64::from(count) * SECTOR, sectors)
}

/// The operation on `length` bytes from `sector` on, if these are whole sectors of the disk.
fn range(kind: Kind, sector: u64, length: u64, sectors: u64) -> Result<Operation, Status> {
    match sector.checked_add(length / SECTOR) {
        Some(end) if end <= sectors && length.is_multiple_of(SECTOR) => {
            Ok(Operation { kind, offset: sector * SECTOR, length })
        }
        _ => Err(Status::Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_is_within_the_disk(sector in any::<u64>(), length in any::<u64>(), sectors in 0u64..1 << 54) {
            if let Ok(operation) = range(Kind::Read, sector, length, sectors) {
                prop_assert!(operation.offset.checked_add(operation.length).unwrap() <= sectors * SECTOR);
                prop_assert_eq!((operation.offset % SECTOR, operation.length % SECTOR), (0, 0));
            }
        }
    }
}
