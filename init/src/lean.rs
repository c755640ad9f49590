//! Functions of the C library that a guest's PID 1 brings itself, so that the linker leaves the C library's own out.
//!
//! glibc's translate their messages, for which it carries message catalogues, tables of character sets, what loads
//! converters for others from files, and all of `printf`: 480 KB of a static program that says nothing in any of these ways,
//! where all the rest has 800. Programs may replace them: the allocator as the chapter "Replacing malloc" of glibc's manual
//! has it, the others because a linker takes from an archive only what it still lacks. If a later glibc needs more of what
//! these stand for, the linker says that something is there twice, or the test of the guests' size says that it is back.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ffi::CStr;
use std::ptr::null_mut;

use libc::{c_char, c_int, c_long, c_uint, c_void, size_t};
use nix::errno::Errno;

/// Rust's memory, and C's.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Before what C is given stands its size. What is given is aligned as C expects it (`max_align_t` of the x86-64 ABI).
const HEADER: usize = 16;

/// The memory of an allocation of `size` bytes with its header; none if there is no such size.
fn layout(size: size_t) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(HEADER)?, HEADER).ok()
}

/// Writes the size before what C is given.
fn given(start: *mut u8, size: size_t) -> *mut c_void {
    if start.is_null() {
        return null_mut();
    }
    // SAFETY: the allocation has a header, which is as aligned as the allocation.
    unsafe {
        start.cast::<size_t>().write(size);
        start.add(HEADER).cast()
    }
}

/// malloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn malloc(size: size_t) -> *mut c_void {
    // SAFETY: the layout has the header's size at least.
    layout(size).map_or(null_mut(), |layout| given(unsafe { alloc(layout) }, size))
}

/// calloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn calloc(count: size_t, each: size_t) -> *mut c_void {
    let layout = count.checked_mul(each).and_then(layout);
    // SAFETY: as in `malloc`.
    layout.map_or(null_mut(), |layout| given(unsafe { alloc_zeroed(layout) }, layout.size() - HEADER))
}

/// free(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn free(pointer: *mut c_void) {
    if pointer.is_null() {
        return;
    }
    // SAFETY: C gives back what `given` gave, with its header before it, and the layout is that of the allocation.
    unsafe {
        let start = pointer.cast::<u8>().sub(HEADER);
        dealloc(start, Layout::from_size_align_unchecked(start.cast::<size_t>().read() + HEADER, HEADER));
    }
}

/// realloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn realloc(pointer: *mut c_void, size: size_t) -> *mut c_void {
    let larger = malloc(size);
    if !pointer.is_null() && !larger.is_null() {
        // SAFETY: both are ours and no two allocations overlap; the smaller of both sizes is in each.
        unsafe {
            let before = pointer.cast::<u8>().sub(HEADER).cast::<size_t>().read();
            pointer.cast::<u8>().copy_to_nonoverlapping(larger.cast(), before.min(size));
            free(pointer);
        }
    }
    larger
}

/// What a failed `assert` of the C library's calls (Linux Standard Base, `__assert_fail`).
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn __assert_fail(what: *const c_char, file: *const c_char, line: c_uint, _: *const c_char) -> ! {
    // SAFETY: the compiler made both texts.
    let [what, file] = [what, file].map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy());
    crate::console::error(&format!("the C library expected {what} ({file}, line {line})"));
    std::process::abort()
}

/// `strerror_r` as POSIX has it: the text of an error number, cut to what fits.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn __xpg_strerror_r(number: c_int, buffer: *mut c_char, size: size_t) -> c_int {
    let text = Errno::from_raw(number).desc();
    let Some(room) = size.checked_sub(1) else { return libc::ERANGE };
    let length = text.len().min(room);
    // SAFETY: the caller gives `size` bytes, and `length` and the final zero are no more.
    unsafe {
        text.as_ptr().copy_to_nonoverlapping(buffer.cast(), length);
        buffer.add(length).write(0);
    }
    if length == text.len() { 0 } else { libc::ERANGE }
}

/// `strerror_r` as GNU has it, by the name by which the C library calls it itself.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn __strerror_r(number: c_int, buffer: *mut c_char, size: size_t) -> *mut c_char {
    // SAFETY: as the caller's.
    unsafe { __xpg_strerror_r(number, buffer, size) };
    buffer
}

unsafe extern "C" {
    /// fork(3) without the C library's streams and what `pthread_atfork` was told (POSIX.1-2024).
    fn _Fork() -> libc::pid_t;
}

/// fork(3). Nobody here has streams of C's or something to do beside it.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn fork() -> libc::pid_t {
    // SAFETY: the caller's promise, which is the same.
    unsafe { _Fork() }
}

/// sysconf(3): the size of a page (of every x86-64); whatever else, there is no answer to.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn sysconf(name: c_int) -> c_long {
    if name == libc::_SC_PAGESIZE { 4096 } else { -1 }
}

/// The same, by the name by which the C library calls it itself.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __sysconf(name: c_int) -> c_long {
    sysconf(name)
}

/// What the C library's start calls to set up its classes of characters (`isalpha` and its like) for the thread. They are a
/// locale's, of which there is none: whatever asks for them brings the C library's own function, which the linker then
/// finds twice.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __ctype_init() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_keeps_its_bytes_and_is_aligned() {
        for size in [0, 1, 15, 16, 17, 4096, 1 << 20] {
            let zeroed = calloc(size, 1).cast::<u8>();
            assert!(zeroed.addr().is_multiple_of(HEADER));
            // SAFETY: each allocation has the size that is read and written, and is given back once.
            unsafe {
                assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0));
                zeroed.write_bytes(7, size);
                let moved = realloc(zeroed.cast(), 2 * size + 1).cast::<u8>();
                assert!(std::slice::from_raw_parts(moved, size).iter().all(|byte| *byte == 7));
                let less = realloc(moved.cast(), size / 2).cast::<u8>();
                assert!(std::slice::from_raw_parts(less, size / 2).iter().all(|byte| *byte == 7));
                free(less.cast());
            }
        }
        assert!(malloc(usize::MAX).is_null() && calloc(usize::MAX, 2).is_null());
        // SAFETY: nothing is an allocation of nothing.
        unsafe { free(null_mut()) };
    }

    #[test]
    fn errors_have_their_texts() {
        let mut text = [0x55; 64];
        // SAFETY: the buffers have the sizes that are told.
        unsafe {
            assert_eq!(__xpg_strerror_r(libc::ENOENT, text.as_mut_ptr(), text.len()), 0);
            assert_eq!(CStr::from_ptr(text.as_ptr()), c"No such file or directory");
            assert_eq!(__xpg_strerror_r(libc::ENOENT, text.as_mut_ptr(), 8), libc::ERANGE);
            assert_eq!(CStr::from_ptr(__strerror_r(libc::ENOENT, text.as_mut_ptr(), 3)), c"No");
            assert_eq!(__xpg_strerror_r(libc::ENOENT, null_mut(), 0), libc::ERANGE);
        }
    }

    #[test]
    fn a_child_is_one() {
        // SAFETY: the child only ends.
        let child = unsafe { fork() };
        if child == 0 {
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(7) };
        }
        let mut status = 0;
        // SAFETY: the status is ours to write to.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((libc::WEXITSTATUS(status), __sysconf(libc::_SC_PAGESIZE)), (7, 4096));
    }
}
