//! Buffers of ours that stand in for the guest's: around the page cache only memory goes that is aligned as the host's
//! device needs it, and a driver may cut its requests as it likes.
//!
//! They are the only memory that a guest can have a disk take, so there is a bound on it: a request goes piece by piece
//! through one buffer, and where a lane has none left the next request waits until one before it is done.

use crate::virtio::buffers::Pinned;

/// Longest piece, in bytes.
pub const PIECE: u64 = 256 << 10;
/// Bytes of which buffers are made.
const PAGE: u64 = 4096;
/// Bytes for a disk, shared out among its lanes.
const TOTAL: u64 = 8 << 20;

/// A lane's share.
#[derive(Debug)]
pub struct Bounce {
    share: u64,
    used: u64,
}

impl Bounce {
    /// The share of one of `lanes`: a piece at least, so that each request goes when it is the only one.
    pub fn new(lanes: u16) -> Self {
        Self { share: (TOTAL / u64::from(lanes.max(1))).max(PIECE), used: 0 }
    }

    /// Whether there is a buffer for a request of `length` bytes. If not, those that use the others are on their way,
    /// and bring them back.
    pub fn has_room(&self, length: u64) -> bool {
        self.used + length.min(PIECE).next_multiple_of(PAGE) <= self.share
    }

    /// A buffer for the pieces of a request of `length` bytes.
    pub fn take(&mut self, length: u64) -> Pinned {
        let buffer = Pinned::zeroed(length.min(PIECE) as usize);
        self.used += buffer.room() as u64;
        buffer
    }

    /// A buffer comes back.
    pub fn give(&mut self, buffer: Pinned) {
        self.used = self.used.saturating_sub(buffer.room() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::thread;
    use std::time::Duration;

    use tempfile::TempDir;
    use thimble_spec::vmm::{Disk, DiskEngine};

    use super::*;
    use crate::virtio::block::Block;
    use crate::virtio::block::config::QUEUES_MAX;
    use crate::virtio::block::tests::{BUFFER, S_OK, request, used};
    use crate::virtio::testing::{DATA, Driver, MEMORY, WRITE};

    /// A file that can be used around the page cache.
    fn disk(length: u64) -> (PathBuf, TempDir) {
        // Where the tests' directory is memory, there is nothing to go around: the tree's own then.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("disk");
        File::create(&path).unwrap().set_len(length).unwrap();
        (path, directory)
    }

    fn started(path: PathBuf, engine: DiskEngine, queues: u8) -> Driver {
        let description = Disk { path, direct: true, engine, queues: Some(queues), ..Disk::default() };
        let driver = Driver::new(Block::open(&description, 0).unwrap());
        driver.start(0);
        driver
    }

    /// Bytes of which no two sectors have the same.
    fn pattern(length: u64) -> Vec<u8> {
        (0..length / 4).flat_map(|index| (index as u32).wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
    }

    #[test]
    fn any_buffer_goes_however_long_and_wherever_it_is() {
        const LENGTH: u64 = 2 * PIECE + 5 * 4096;
        for engine in [DiskEngine::Sync, DiskEngine::Uring] {
            let (path, _directory) = disk(1 << 20);
            let mut driver = started(path.clone(), engine, 1);
            let bytes = pattern(LENGTH);
            driver.put(BUFFER + 7, &bytes);
            let chain = [(BUFFER + 7, 96, 0), (BUFFER + 103, (LENGTH - 96) as u32, 0)];
            assert_eq!(request(&mut driver, 1, 8, &chain), (S_OK, 1));
            assert!(fs::read(&path).unwrap()[4096..].starts_with(&bytes));
            driver.put(BUFFER, &vec![0; LENGTH as usize + 7]);
            let read = request(&mut driver, 0, 8, &[(BUFFER + 1, LENGTH as u32, WRITE)]);
            assert_eq!(read, (S_OK, LENGTH as u32 + 1));
            assert_eq!(driver.bytes(BUFFER + 1, LENGTH as usize), bytes);
        }
    }

    #[test]
    fn a_request_for_which_there_is_no_buffer_waits() {
        const LENGTH: u64 = 60 * 4096;
        let (path, _directory) = disk(1 << 20);
        fs::write(&path, pattern(1 << 20)).unwrap();
        // A sixteenth of the total is for two of these at once.
        let mut driver = started(path.clone(), DiskEngine::Uring, QUEUES_MAX);
        let place = |index: u64| DATA + 0x1001 + index * LENGTH;
        assert!(place(3) < MEMORY);
        for index in 0..3 {
            let (header, sector) = (DATA + index * 0x20, index * LENGTH / 512);
            driver.put(header, &[&[0; 8][..], &sector.to_le_bytes()].concat());
            let chain = [(header, 16, 0), (place(index), LENGTH as u32, WRITE), (DATA + 0x200 + index, 1, WRITE)];
            driver.submit(0, &chain);
        }
        driver.kick(0);
        // Whatever was begun is done by now.
        thread::sleep(Duration::from_millis(300));
        driver.rouse(1);
        assert_eq!(driver.used(0).len(), 2);
        used(&mut driver, 1);
        let bytes = driver.bytes(place(0), 3 * LENGTH as usize);
        assert!(bytes == pattern(1 << 20)[..bytes.len()]);
    }

    #[test]
    fn all_lanes_together_stay_within_the_total() {
        for lanes in 1..=u16::from(QUEUES_MAX) {
            let mut bounces: Vec<Bounce> = (0..lanes).map(|_| Bounce::new(lanes)).collect();
            let mut taken = Vec::new();
            for (lane, bounce) in bounces.iter_mut().enumerate() {
                for length in (1u64..).map(|index| index * 99_999) {
                    if !bounce.has_room(length) {
                        break;
                    }
                    taken.push((lane, bounce.take(length)));
                }
            }
            assert!(taken.iter().map(|(_, buffer)| buffer.room() as u64).sum::<u64>() <= TOTAL);
            for (lane, buffer) in taken {
                bounces[lane].give(buffer);
            }
            assert!(bounces.iter().all(|bounce| bounce.used == 0 && bounce.has_room(u64::MAX)));
        }
    }
}
