//! The memory of one descriptor chain, checked, as pieces of the VMM's address space.
//!
//! A driver may cut a request into descriptors as it likes (virtio 1.2, section 2.7.4.1), so that devices read their
//! headers from here byte by byte and hand the rest to the host's kernel as an I/O vector: no copy.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Most pieces in one call (`UIO_MAXIOV`, linux/uio.h).
const MAX_PIECES: usize = 1024;

/// A sequence of pieces of guest memory.
#[derive(Debug, Default)]
pub struct Buffers<'m> {
    pieces: Vec<VolatileSlice<'m>>,
}

impl<'m> Buffers<'m> {
    /// Adds a piece behind the others.
    pub fn push(&mut self, piece: VolatileSlice<'m>) {
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(VolatileSlice::len).sum()
    }

    /// The pieces, in their order.
    pub fn pieces(&self) -> &[VolatileSlice<'m>] {
        &self.pieces
    }

    /// The first bytes once more: at most `most`, and not more pieces than one call takes.
    pub fn first(&self, most: usize) -> Self {
        let mut first = Self { pieces: self.pieces.iter().take(MAX_PIECES).copied().collect() };
        first.split_off(most);
        first
    }

    /// Cuts off what lies behind the first `count` bytes and returns it; `None` if there are fewer.
    pub fn split_off(&mut self, count: usize) -> Option<Self> {
        let mut left = count;
        for index in 0..self.pieces.len() {
            let length = self.pieces[index].len();
            if left < length {
                let mut tail = self.pieces.split_off(index);
                if left > 0 {
                    let (front, back) = tail[0].split_at(left).ok()?;
                    self.pieces.push(front);
                    tail[0] = back;
                }
                return Some(Self { pieces: tail });
            }
            left -= length;
        }
        (left == 0).then(Self::default)
    }

    /// Removes the first bytes and copies them into `bytes`; `None`, and nothing removed, if there are fewer.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.len() >= N).then(|| self.drain(&mut bytes))?;
        Some(bytes)
    }

    /// Removes as many of the first bytes as `bytes` takes and copies them there; says how many.
    pub fn drain(&mut self, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.len());
        let rest = self.split_off(count).unwrap_or_default();
        let mut done = 0;
        for piece in &self.pieces {
            done += piece.copy_to(&mut bytes[done..count]);
        }
        *self = rest;
        done
    }

    /// A copy of all bytes. For short ones only, whose length was looked at.
    pub fn copy(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        let mut done = 0;
        for piece in &self.pieces {
            done += piece.copy_to(&mut bytes[done..]);
        }
        bytes
    }

    /// Copies as much of `bytes` as there is room for, from the beginning; says how much.
    pub fn fill(&self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for piece in &self.pieces {
            if done == bytes.len() {
                break;
            }
            let count = piece.len().min(bytes.len() - done);
            piece.copy_from(&bytes[done..done + count]);
            done += count;
        }
        done
    }

    /// Writes zeros everywhere.
    pub fn clear(&self) {
        for piece in &self.pieces {
            // SAFETY: the guard points at `len` bytes of guest memory that stay mapped while the slice lives; a guest
            // that races with us reads one value or the other.
            unsafe { std::ptr::write_bytes(piece.ptr_guard_mut().as_ptr(), 0, piece.len()) };
        }
    }

    /// Reads from `file` at `offset` until the buffers are full or the file ends; says how many bytes came.
    ///
    /// # Errors
    /// What the host's kernel says.
    pub fn read_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        self.each_vector(offset, |vector, offset| {
            // SAFETY: the vector describes guest memory that stays mapped while `self` lives.
            unsafe { libc::preadv(file.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int, offset) }
        })
    }

    /// Writes all of the buffers to `file` at `offset`; says how many bytes went.
    ///
    /// # Errors
    /// What the host's kernel says.
    pub fn write_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        self.each_vector(offset, |vector, offset| {
            // SAFETY: the vector describes guest memory that stays mapped while `self` lives.
            unsafe { libc::pwritev(file.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int, offset) }
        })
    }

    /// Hands the pieces, from `offset` on, to `transfer` until all is done or it moves nothing.
    fn each_vector(
        &self,
        offset: u64,
        mut transfer: impl FnMut(&[libc::iovec], libc::off_t) -> isize,
    ) -> io::Result<usize> {
        let mut vector = self.vector();
        let mut rest = vector.as_mut_slice();
        let mut done = 0;
        while !rest.is_empty() {
            let position = offset.checked_add(done as u64).and_then(|at| libc::off_t::try_from(at).ok());
            let position = position.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
            match transfer(&rest[..rest.len().min(MAX_PIECES)], position) {
                0 => break,
                count if count > 0 => {
                    done += count as usize;
                    rest = advance(rest, count as usize);
                }
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(done)
    }

    /// Receives one message, such as a packet of a tap.
    ///
    /// # Errors
    /// What the host's kernel says; too many pieces for one call.
    pub fn receive(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        self.one_call(|vector| {
            // SAFETY: the vector describes guest memory that stays mapped while `self` lives.
            unsafe { libc::readv(file.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int) }
        })
    }

    /// Sends all as one message.
    ///
    /// # Errors
    /// What the host's kernel says; too many pieces for one call.
    pub fn send(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        self.one_call(|vector| {
            // SAFETY: the vector describes guest memory that stays mapped while `self` lives.
            unsafe { libc::writev(file.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int) }
        })
    }

    fn one_call(&self, call: impl FnOnce(&[libc::iovec]) -> isize) -> io::Result<usize> {
        if self.pieces.len() > MAX_PIECES {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        usize::try_from(call(&self.vector())).map_err(|_| io::Error::last_os_error())
    }

    fn vector(&self) -> Vec<libc::iovec> {
        let entry = |piece: &VolatileSlice<'_>| libc::iovec {
            iov_base: piece.ptr_guard_mut().as_ptr().cast(),
            iov_len: piece.len(),
        };
        self.pieces.iter().map(entry).collect()
    }
}

/// The part of an I/O vector behind its first `count` bytes.
fn advance(mut vector: &mut [libc::iovec], mut count: usize) -> &mut [libc::iovec] {
    while let Some(first) = vector.first_mut() {
        if count < first.iov_len {
            first.iov_base = first.iov_base.wrapping_byte_add(count);
            first.iov_len -= count;
            break;
        }
        count -= first.iov_len;
        vector = &mut vector[1..];
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap()
    }

    fn buffers<'m>(memory: &'m GuestMemoryMmap, pieces: &[(u64, usize)]) -> Buffers<'m> {
        let mut buffers = Buffers::default();
        for (address, length) in pieces {
            for slice in memory.get_slices(GuestAddress(*address), *length, Permissions::ReadWrite).unwrap() {
                buffers.push(slice.unwrap());
            }
        }
        buffers
    }

    #[test]
    fn a_file_goes_through_scattered_pieces() {
        let memory = memory();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&(0..=255).collect::<Vec<u8>>()).unwrap();
        let ends_early = buffers(&memory, &[(0x100, 3), (0x200, 100), (0x400, 1000)]);
        assert_eq!(ends_early.read_at(file.as_fd(), 10).unwrap(), 246);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x102)).unwrap(), 12);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x200)).unwrap(), 13);
        let out: File = tempfile::tempfile().unwrap();
        assert_eq!(buffers(&memory, &[(0x100, 3), (0x200, 2)]).write_at(out.as_fd(), 4).unwrap(), 5);
        assert_eq!(out.metadata().unwrap().len(), 9);
        assert!(buffers(&memory, &[(0, 1)]).read_at(file.as_fd(), u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn splitting_keeps_every_byte(lengths in prop::collection::vec(0usize..20, 0..6), at in 0usize..120) {
            let memory = memory();
            let pieces: Vec<_> = lengths.iter().enumerate().map(|(i, length)| (i as u64 * 32, *length)).collect();
            let mut front = buffers(&memory, &pieces);
            let total = front.len();
            match front.split_off(at) {
                Some(back) => {
                    prop_assert_eq!(front.len(), at);
                    prop_assert_eq!(back.len(), total - at);
                }
                None => prop_assert!(at > total && front.len() == total),
            }
        }
    }
}
