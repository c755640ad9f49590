//! The memory of one descriptor chain, checked, as pieces of the VMM's address space.
//!
//! A driver may cut a request into descriptors as it likes (virtio 1.2, section 2.7.4.1), so that devices read their
//! headers from here byte by byte and hand the rest to the host's kernel as an I/O vector: no copy.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Most pieces in one call (`UIO_MAXIOV`, linux/uio.h).
pub const MAX_PIECES: usize = 1024;

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

    /// Whether each piece begins at a multiple of `begin` bytes and is a multiple of `length` bytes long.
    pub fn is_aligned(&self, begin: usize, length: usize) -> bool {
        let at = |piece: &VolatileSlice<'m>| piece.ptr_guard_mut().as_ptr().addr();
        self.pieces.iter().all(|piece| at(piece).is_multiple_of(begin) && piece.len().is_multiple_of(length))
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

    /// The same pieces without their lifetime.
    ///
    /// # Safety
    /// Whoever uses them holds the guest's memory meanwhile.
    pub unsafe fn pin(&self) -> Pinned {
        Pinned { vector: self.vector(), owned: None }
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

/// Pieces of memory that stay where they are, for operations that end later.
///
/// What is in guest memory may change at any time: it is copied from and to, and never looked at twice.
#[derive(Debug)]
pub struct Pinned {
    vector: Vec<libc::iovec>,
    /// The memory itself, if it is ours.
    owned: Option<Box<[Page]>>,
}

/// Memory that is aligned for every device.
#[derive(Clone, Debug)]
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "reached by the address of the page")] [u8; 4096]);

// SAFETY: the pieces are in guest memory, which whoever pinned them holds, or in memory that goes with them; neither
// belongs to a thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// `length` bytes of our own, aligned for every device, zero.
    pub fn zeroed(length: usize) -> Self {
        let mut pages = vec![Page([0; 4096]); length.div_ceil(size_of::<Page>())].into_boxed_slice();
        let piece = libc::iovec { iov_base: pages.as_mut_ptr().cast(), iov_len: length };
        Self { vector: vec![piece], owned: Some(pages) }
    }

    /// The pieces.
    pub fn vector(&self) -> &[libc::iovec] {
        &self.vector
    }

    /// The bytes, if the memory is ours; else none.
    pub fn bytes(&self) -> &[u8] {
        match (&self.owned, &self.vector[..]) {
            // SAFETY: the piece is the memory that `owned` keeps, of which `iov_len` bytes were made.
            (Some(_), [piece]) => unsafe { std::slice::from_raw_parts(piece.iov_base.cast(), piece.iov_len) },
            _ => &[],
        }
    }

    /// How many bytes the memory has, if it is ours.
    pub fn room(&self) -> usize {
        self.owned.as_ref().map_or(0, |pages| pages.len() * size_of::<Page>())
    }

    /// Our memory from now on, to be filled: its first `length` bytes, or as many as there are.
    pub fn own(&mut self, length: usize) -> &mut [u8] {
        let length = length.min(self.room());
        match &mut self.vector[..] {
            [piece] if self.owned.is_some() => {
                piece.iov_len = length;
                // SAFETY: the piece is the memory that `owned` keeps, of which `room` bytes were made; nobody else has
                // it while `self` is borrowed.
                unsafe { std::slice::from_raw_parts_mut(piece.iov_base.cast(), length) }
            }
            _ => &mut [],
        }
    }

    /// Visits the pieces of the range from `skip` on, at most `length` bytes: where, and how many bytes.
    fn each(&self, mut skip: usize, mut length: usize, mut visit: impl FnMut(*mut u8, usize)) {
        for piece in &self.vector {
            let from = skip.min(piece.iov_len);
            let count = length.min(piece.iov_len - from);
            skip -= from;
            length -= count;
            if count > 0 {
                visit(piece.iov_base.cast::<u8>().wrapping_add(from), count);
            }
        }
    }

    /// Copies `bytes` to `at`; what does not fit is left out.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        let mut done = 0;
        self.each(at, bytes.len(), |to, count| {
            // SAFETY: the piece has `count` bytes from `to` on, which are held; `bytes` has as many from `done` on.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().add(done), to, count) };
            done += count;
        });
    }

    /// Copies from `at` to `bytes`, as much as there is.
    pub fn get(&self, at: usize, bytes: &mut [u8]) {
        let mut done = 0;
        self.each(at, bytes.len(), |from, count| {
            // SAFETY: as in `put`, the other way round.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr().add(done), count) };
            done += count;
        });
    }

    /// Writes zeros behind the first `count` bytes.
    pub fn clear_from(&self, count: usize) {
        self.each(count, usize::MAX, |to, count| {
            // SAFETY: the piece has `count` bytes from `to` on, which are held.
            unsafe { std::ptr::write_bytes(to, 0, count) };
        });
    }

    /// Reads from `file` at `offset` until the pieces are full or the file ends; says how many bytes came.
    ///
    /// # Errors
    /// What the host's kernel says.
    pub fn read_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<u64> {
        self.each_vector(offset, |vector, offset| {
            // SAFETY: the vector describes memory that is held.
            unsafe { libc::preadv(file.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int, offset) }
        })
    }

    /// Writes all of the pieces to `file` at `offset`; says how many bytes went.
    ///
    /// # Errors
    /// What the host's kernel says.
    pub fn write_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<u64> {
        self.each_vector(offset, |vector, offset| {
            // SAFETY: the vector describes memory that is held.
            unsafe { libc::pwritev(file.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int, offset) }
        })
    }

    /// Hands the pieces, from `offset` on, to `transfer` until all is done or it moves nothing.
    fn each_vector(
        &self,
        offset: u64,
        mut transfer: impl FnMut(&[libc::iovec], libc::off_t) -> isize,
    ) -> io::Result<u64> {
        let mut vector = self.vector.clone();
        let mut rest = vector.as_mut_slice();
        let mut done = 0;
        while !rest.is_empty() {
            let position = offset.checked_add(done).and_then(|at| libc::off_t::try_from(at).ok());
            let position = position.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
            match transfer(&rest[..rest.len().min(MAX_PIECES)], position) {
                0 => break,
                count if count > 0 => {
                    done += count as u64;
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
}

/// The part of an I/O vector behind its first `count` bytes.
pub fn advance(mut vector: &mut [libc::iovec], mut count: usize) -> &mut [libc::iovec] {
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
        // SAFETY: `memory` lives to the end of the test.
        let pin = |buffers: &Buffers<'_>| unsafe { buffers.pin() };
        assert_eq!(pin(&ends_early).read_at(file.as_fd(), 10).unwrap(), 246);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x102)).unwrap(), 12);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x200)).unwrap(), 13);
        let out: File = tempfile::tempfile().unwrap();
        assert_eq!(pin(&buffers(&memory, &[(0x100, 3), (0x200, 2)])).write_at(out.as_fd(), 4).unwrap(), 5);
        assert_eq!(out.metadata().unwrap().len(), 9);
        assert!(pin(&buffers(&memory, &[(0, 1)])).read_at(file.as_fd(), u64::MAX).is_err());
    }

    #[test]
    fn our_own_memory_is_as_long_as_is_asked_for() {
        let mut ours = Pinned::zeroed(5000);
        assert_eq!((ours.bytes().len(), ours.room()), (5000, 8192));
        ours.own(8192).fill(7);
        ours.own(100)[0] = 8;
        assert_eq!((ours.bytes(), ours.vector()[0].iov_len), (&[&[8][..], &[7; 99]].concat()[..], 100));
        assert_eq!(ours.own(10_000)[8191], 7);
    }

    proptest! {
        #[test]
        fn pinned_pieces_take_and_give_what_fits(
            lengths in prop::collection::vec(0usize..20, 0..6), at in 0usize..60, bytes in prop::collection::vec(1u8.., 0..60),
        ) {
            let memory = memory();
            let pieces: Vec<_> = lengths.iter().enumerate().map(|(i, length)| (i as u64 * 32, *length)).collect();
            let total: usize = lengths.iter().sum();
            // SAFETY: `memory` lives to the end of the test.
            let pinned = unsafe { buffers(&memory, &pieces).pin() };
            pinned.put(at, &bytes);
            let mut expected = vec![0; total];
            for (to, from) in expected.iter_mut().skip(at).zip(&bytes) {
                *to = *from;
            }
            let mut back = vec![0; total];
            pinned.get(0, &mut back);
            prop_assert_eq!(&back, &expected);
            pinned.clear_from(at);
            pinned.get(0, &mut back);
            prop_assert!(back.iter().all(|byte| *byte == 0));
        }

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
