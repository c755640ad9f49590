//! Writing an image, and reading it back past the cache.
//!
//! The first mebibyte, with boot sector and partition table, is cleared first and written last: a disk that was left in the
//! middle neither boots nor shows partitions that are half there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use super::disk::size;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::Step;

/// What is cleared first and written last; and what is cleared at the end, where old backup tables are.
const HEAD: u64 = 1 << 20;
/// How much is written or read at once.
const CHUNK: usize = 4 << 20;
/// What reading past the cache wants buffers, places and lengths to be multiples of: no disk has larger sectors.
const ALIGN: usize = 4096;

/// How far something is: bytes done and in all.
pub type Report<'a> = &'a mut dyn FnMut(u64, u64);

/// Tells `step` how far it is, how fast it goes and how long it will take.
pub fn reporter(step: &Step) -> impl FnMut(u64, u64) {
    let started = Instant::now();
    move |done, total| {
        let seconds = started.elapsed().as_secs_f64();
        let speed = done as f64 / seconds.max(0.001);
        let left = (total - done.min(total)) as f64 / speed.max(1.0);
        let message = format!("{} of {}, {}/s, {left:.0} s left", size(done), size(total), size(speed as u64));
        step.position(done, total, &message);
    }
}

/// Writes the first `bytes` of `image` to `device`, whose size is `room`, and waits until they are on the medium.
///
/// # Errors
/// Reading or writing fails, the user interrupts.
pub fn write(image: &File, device: &File, path: &Path, bytes: u64, room: u64, report: Report<'_>) -> Result<()> {
    let failed = |error| Error::io("write", path)(error);
    let mut buffer = vec![0; CHUNK];
    let zeros = vec![0; HEAD as usize];
    let clear = |from: u64, to: u64| device.write_all_at(&zeros[..(to - from) as usize], from);
    clear(0, HEAD.min(room)).map_err(failed)?;
    if room > bytes {
        clear(room.saturating_sub(HEAD).max(bytes), room).map_err(failed)?;
    }
    device.sync_all().map_err(failed)?;
    let head = HEAD.min(bytes);
    let mut copy = |from: u64, to: u64, report: Report<'_>| -> Result<()> {
        let mut at = from;
        while at < to {
            interrupt::check()?;
            let length = (to - at).min(CHUNK as u64) as usize;
            let chunk = &mut buffer[..length];
            image.read_exact_at(chunk, at).map_err(|source| truncated("the image", source))?;
            device.write_all_at(chunk, at).map_err(failed)?;
            // Otherwise memory takes the whole image at once, and the bar stands at 100% for a minute.
            device.sync_data().map_err(failed)?;
            at += length as u64;
            report(if from == 0 { bytes } else { at - head }, bytes);
        }
        Ok(())
    };
    copy(head, bytes, report)?;
    copy(0, head, report)?;
    device.sync_all().map_err(failed)
}

/// Reads `bytes` of the device at `path` past the cache and compares them with `image`.
///
/// # Errors
/// They differ; reading fails; the user interrupts.
pub fn verify(image: &File, path: &Path, bytes: u64, report: Report<'_>) -> Result<()> {
    let failed = |error| Error::io("read back", path)(error);
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    let device = match direct {
        // Some file systems and drivers have no way past the cache.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        other => other,
    };
    let device = device.map_err(failed)?;
    // Where the descriptor does not bypass the cache, this empties it of what is on the medium already.
    forget(&device);
    let (mut wanted, mut space) = (vec![0; CHUNK], vec![0; CHUNK + ALIGN]);
    let skip = space.as_ptr().align_offset(ALIGN);
    let found = &mut space[skip..skip + CHUNK];
    let mut at = 0;
    while at < bytes {
        interrupt::check()?;
        let length = (bytes - at).min(CHUNK as u64) as usize;
        // An image that ends within a block is followed by more disk.
        read_up_to(&device, found, length, at).map_err(failed)?;
        image.read_exact_at(&mut wanted[..length], at).map_err(|source| truncated("the image", source))?;
        if let Some(offset) = differ(&wanted[..length], &found[..length]) {
            return Err(Error::environment(format!(
                "{} does not hold what was written: byte {} differs: the disk is worn out or counterfeit, take another one",
                path.display(),
                at + offset as u64
            )));
        }
        at += length as u64;
        report(at, bytes);
    }
    Ok(())
}

/// Fills the first `length` bytes of an aligned buffer; asks in whole blocks.
fn read_up_to(device: &File, buffer: &mut [u8], length: usize, at: u64) -> io::Result<()> {
    let whole = length.next_multiple_of(ALIGN).min(buffer.len());
    let mut filled = 0;
    while filled < length {
        match device.read_at(&mut buffer[filled..whole], at + filled as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn differ(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other { None } else { one.iter().zip(other).position(|(a, b)| a != b) }
}

fn forget(file: &File) {
    // A hint: where it is not taken, the comparison is with what the kernel has.
    let _ = nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn truncated(what: &'static str, source: io::Error) -> Error {
    Error::Io { doing: "read", path: what.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Bench {
        dir: tempfile::TempDir,
        content: Vec<u8>,
    }

    impl Bench {
        /// An image whose size is no multiple of anything, and a disk full of old bytes.
        fn new(bytes: usize) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            std::fs::write(dir.path().join("image"), &content).unwrap();
            std::fs::write(dir.path().join("disk"), vec![0xee; bytes + (3 << 20)]).unwrap();
            Self { dir, content }
        }

        fn disk(&self) -> std::path::PathBuf {
            self.dir.path().join("disk")
        }

        fn image(&self) -> File {
            File::open(self.dir.path().join("image")).unwrap()
        }

        fn write(&self, reports: &mut Vec<u64>) -> Result<()> {
            let device = OpenOptions::new().write(true).open(self.disk()).unwrap();
            let (bytes, room) = (self.content.len() as u64, std::fs::metadata(self.disk()).unwrap().len());
            write(&self.image(), &device, &self.disk(), bytes, room, &mut |done, total| {
                assert!(done <= total);
                reports.push(done);
            })
        }
    }

    #[test]
    fn the_disk_holds_the_image_and_nothing_old_at_its_end() {
        let bench = Bench::new((9 << 20) + 777);
        let mut reports = Vec::new();
        bench.write(&mut reports).unwrap();
        let disk = std::fs::read(bench.disk()).unwrap();
        assert!(disk[..bench.content.len()] == bench.content[..]);
        assert!(disk[disk.len() - (1 << 20)..].iter().all(|byte| *byte == 0));
        assert!(reports.is_sorted() && *reports.last().unwrap() == bench.content.len() as u64, "{reports:?}");
        verify(&bench.image(), &bench.disk(), bench.content.len() as u64, &mut |_, _| {}).unwrap();
    }

    #[test]
    fn an_image_as_large_as_the_disk_and_a_tiny_one_are_written() {
        for bytes in [1, 512, 1 << 20, (1 << 20) + 1] {
            let bench = Bench::new(bytes);
            File::options().write(true).open(bench.disk()).unwrap().set_len(bytes as u64).unwrap();
            bench.write(&mut Vec::new()).unwrap();
            assert!(std::fs::read(bench.disk()).unwrap() == bench.content, "{bytes}");
        }
    }

    #[test]
    fn a_disk_that_forgets_is_found_out() {
        let bench = Bench::new(6 << 20);
        bench.write(&mut Vec::new()).unwrap();
        let disk = OpenOptions::new().write(true).open(bench.disk()).unwrap();
        disk.write_all_at(&[1], (5 << 20) + 3).unwrap();
        (&disk).flush().unwrap();
        let told = verify(&bench.image(), &bench.disk(), 6 << 20, &mut |_, _| {}).unwrap_err().to_string();
        assert!(told.contains(&format!("byte {} differs", (5 << 20) + 3)), "{told}");
    }

    #[test]
    fn a_write_that_fails_leaves_no_partition_table() {
        let bench = Bench::new(6 << 20);
        // The image ends before its time, as if its disk had failed.
        File::options().write(true).open(bench.dir.path().join("image")).unwrap().set_len(3 << 20).unwrap();
        assert!(bench.write(&mut Vec::new()).is_err());
        assert!(std::fs::read(bench.disk()).unwrap()[..1 << 20].iter().all(|byte| *byte == 0));
    }
}
