//! A FAT16 that is written so that a power cut at any moment leaves at most clusters that belong to nobody.
//!
//! Linux's driver gives no order to its writes: a file may have its name before it has its content. Here each change is
//! one sector's write, and stands behind everything that it needs:
//!
//! | to | first, synced | then, synced |
//! | --- | --- | --- |
//! | add a file | its content, into free clusters, and its chain in all copies of the table | its directory entry |
//! | replace one | the same of the new content | the entry, in place |
//! | remove one | its directory entry | |
//! | lengthen a directory | the new cluster, zeroed, and its end mark in the table | the link to it |
//! | free clusters that no kept file reaches | their entries of the table | |
//!
//! Clusters are freed in one way only: [`Fat::reclaim`] keeps what the directories reach. So nothing is ever freed by
//! following a chain that may be damaged, and nothing that an interrupted run left is lost.
//!
//! The first copy of the table is the one that counts, as for GRUB and Linux; the others follow it.
//!
//! Everything read is taken for hostile: places are checked against [`geometry`], and every walk ends.

mod directory;
mod entry;
pub mod geometry;
mod reclaim;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;

use entry::Record;
pub use entry::{Entry, Name};
use geometry::{FIRST, Geometry};
use thimble_spec::slot::VolumeId;

use crate::device::Device;
use crate::error::{Error, Result};

/// Bytes of a sector: what is written whole or not at all.
pub const SECTOR: usize = 512;
/// Bytes of a directory entry.
pub const ENTRY: usize = 32;
/// From this number on, an entry of the table ends a chain (section 4 of the document in [`geometry`]).
const END_FROM: u16 = 0xfff8;
/// A cluster that is marked as bad is never used.
const BAD: u16 = 0xfff7;
/// The end mark that is written.
const END: u16 = 0xffff;
/// A directory has at most so many bytes. Section 6.2 allows sixteen times as much; a boot partition has nothing like it,
/// and what is damaged is found out sooner.
const DIRECTORY_MAX: u64 = 128 << 10;
/// There are at most so many directories, for the same reason.
const DIRECTORIES_MAX: usize = 1024;
/// Bytes of a table's sector that are entries.
const TABLE_ENTRIES: usize = SECTOR / 2;
/// Bytes that are read or written at a time.
const CHUNK: usize = 64 << 10;

/// A directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// The first one.
    Root,
    /// Another, by its first cluster.
    At(u16),
}

/// Free clusters that were chosen for a file.
#[derive(Debug)]
pub struct Room(Vec<u16>);

/// A FAT16 on a device.
#[derive(Debug)]
pub struct Fat<D> {
    device: D,
    geometry: Geometry,
    /// The first copy of the table, up to the last cluster's entry.
    table: Vec<u16>,
    /// Sectors of the table that are to be written.
    dirty: BTreeSet<usize>,
    /// Clusters that some file reaches: not to be written, whatever the table says.
    reached: BTreeSet<u16>,
}

impl<D: Device> Fat<D> {
    /// Opens it. Nothing is written.
    ///
    /// # Errors
    /// The device cannot be read, or holds no sound FAT16.
    pub fn open(device: D) -> Result<Self> {
        let mut boot = [0; SECTOR];
        device.read_at(0, &mut boot).map_err(reading)?;
        let geometry = Geometry::read(&boot, device.size())?;
        let mut fat = Self { device, geometry, table: Vec::new(), dirty: BTreeSet::new(), reached: BTreeSet::new() };
        fat.table = fat.read_table(0)?;
        Ok(fat)
    }

    /// The volume's number.
    pub fn volume(&self) -> VolumeId {
        self.geometry.volume
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        self.geometry.cluster
    }

    fn read_table(&self, copy: u64) -> Result<Vec<u16>> {
        let mut bytes = vec![0; usize::from(self.geometry.end) * 2];
        let place = self.geometry.table + copy * self.geometry.table_bytes;
        self.device.read_at(place, &mut bytes).map_err(reading)?;
        Ok(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
    }

    fn next(&self, cluster: u16) -> u16 {
        self.table.get(usize::from(cluster)).copied().unwrap_or(END)
    }

    fn set(&mut self, cluster: u16, value: u16) {
        if let Some(entry) = self.table.get_mut(usize::from(cluster)) {
            *entry = value;
            self.dirty.insert(usize::from(cluster) / TABLE_ENTRIES);
        }
    }

    /// Writes the changed sectors of the table to all its copies, and syncs.
    fn write_table(&mut self) -> Result<()> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        for index in std::mem::take(&mut self.dirty) {
            let place = self.geometry.table + (index * SECTOR) as u64;
            // What stands behind the last cluster's entry stays as it is.
            let mut sector = [0; SECTOR];
            self.device.read_at(place, &mut sector).map_err(reading)?;
            for (bytes, entry) in sector.chunks_exact_mut(2).zip(&self.table[index * TABLE_ENTRIES..]) {
                bytes.copy_from_slice(&entry.to_le_bytes());
            }
            for copy in 0..self.geometry.copies {
                self.write(place + copy * self.geometry.table_bytes, &sector)?;
            }
        }
        self.sync()
    }

    fn write(&mut self, place: u64, bytes: &[u8]) -> Result<()> {
        self.device.write_at(place, bytes).map_err(writing)
    }

    /// Returns when everything written is on the medium.
    fn sync(&mut self) -> Result<()> {
        self.device.sync().map_err(writing)
    }

    /// The clusters of a chain. `most` bounds it, so that a ring ends too; what is wrong with it is said, and the sound
    /// part is given.
    fn follow(&self, first: u16, most: usize) -> (Vec<u16>, Option<&'static str>) {
        let mut chain = Vec::new();
        let mut cluster = first;
        while cluster < END_FROM || chain.is_empty() {
            if !self.geometry.holds(cluster) {
                return (chain, Some("leads out of the disk or into a free cluster"));
            }
            if chain.len() == most {
                return (chain, Some("is too long or a ring"));
            }
            chain.push(cluster);
            cluster = self.next(cluster);
        }
        (chain, None)
    }

    /// Where a file's bytes lie: runs of place and length, in order.
    fn pieces(&self, entry: &Entry) -> Result<Vec<(u64, u64)>> {
        let damaged = |wrong: &str| Error::damaged(format!("the chain of {} {wrong}", entry.name.letters()));
        let clusters = u64::from(entry.size).div_ceil(self.geometry.cluster);
        let clusters = usize::try_from(clusters).unwrap_or(usize::MAX);
        if entry.directory {
            return Err(Error::damaged(format!("{} is a directory", entry.name.letters())));
        }
        if clusters == 0 {
            return Ok(Vec::new());
        }
        let (chain, wrong) = self.follow(entry.cluster, clusters);
        if let Some(wrong) = wrong {
            return Err(damaged(wrong));
        }
        if chain.len() < clusters {
            return Err(damaged("is shorter than its size says"));
        }
        Ok(pieces(&self.geometry, &chain, u64::from(entry.size)))
    }

    /// Hands a file's content to `take`, piece by piece.
    ///
    /// # Errors
    /// The device, a damaged chain, whatever `take` returns.
    pub fn read(&self, entry: &Entry, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        for (mut place, mut left) in self.pieces(entry)? {
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                self.device.read_at(place, &mut buffer[..count]).map_err(reading)?;
                take(&buffer[..count])?;
                place += count as u64;
                left -= count as u64;
            }
        }
        Ok(())
    }

    /// A small file's whole content.
    ///
    /// # Errors
    /// As [`Fat::read`]; it has more than `most` bytes.
    pub fn read_small(&self, entry: &Entry, most: usize) -> Result<Vec<u8>> {
        if entry.size as usize > most {
            return Err(Error::damaged(format!("{} is larger than it ever is", entry.name.letters())));
        }
        let mut content = Vec::new();
        self.read(entry, &mut |bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(content)
    }

    /// Overwrites a file's first sector in place: one write.
    ///
    /// # Errors
    /// The device, a damaged chain, a file without a whole sector.
    pub fn write_first_sector(&mut self, entry: &Entry, sector: &[u8; SECTOR]) -> Result<()> {
        match self.pieces(entry)?.first() {
            Some((place, length)) if *length >= SECTOR as u64 => {
                self.write(*place, sector)?;
                self.sync()
            }
            _ => Err(Error::damaged(format!("{} is too short", entry.name.letters()))),
        }
    }

    /// Chooses free clusters for `size` bytes, the first ones.
    ///
    /// # Errors
    /// There are not enough.
    pub fn room(&self, size: u64) -> Result<Room> {
        let wanted = usize::try_from(size.div_ceil(self.geometry.cluster)).unwrap_or(usize::MAX);
        let free = |cluster: &u16| self.next(*cluster) == 0 && !self.reached.contains(cluster);
        let chosen: Vec<u16> = (FIRST..self.geometry.end).filter(free).take(wanted).collect();
        if chosen.len() < wanted {
            let free = chosen.len() as u64 * self.geometry.cluster;
            return Err(Error::Full { needed: wanted as u64 * self.geometry.cluster, free });
        }
        Ok(Room(chosen))
    }

    /// Writes `size` bytes into the room, as `fill` gives them: it fills the buffer that it gets. Nothing refers to them.
    ///
    /// # Errors
    /// The device, whatever `fill` returns.
    pub fn write_into(&mut self, room: &Room, size: u64, fill: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        for (mut place, mut left) in pieces(&self.geometry, &room.0, size) {
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                fill(&mut buffer[..count])?;
                // Whole sectors only: the last one is filled up with zeros.
                let whole = count.next_multiple_of(SECTOR);
                buffer[count..whole].fill(0);
                self.write(place, &buffer[..whole])?;
                place += count as u64;
                left -= count as u64;
            }
        }
        Ok(())
    }

    /// Gives what was written into the room a name: a new one, or that of a file that is there, whose old content becomes
    /// free with the next [`Fat::reclaim`].
    ///
    /// # Errors
    /// The device; the directory is full or damaged.
    pub fn name(&mut self, dir: Dir, name: Name, room: Room, size: u32) -> Result<()> {
        self.enter(dir, entry::of_file(name, room.0.first().copied().unwrap_or(0), size), &room)
    }

    /// Chains what was written into the room, and puts an entry for it into a directory.
    fn enter(&mut self, dir: Dir, bytes: [u8; ENTRY], room: &Room) -> Result<()> {
        for pair in room.0.windows(2) {
            self.set(pair[0], pair[1]);
        }
        if let Some(last) = room.0.last() {
            self.set(*last, END);
        }
        self.write_table()?;
        self.reached.extend(&room.0);
        let place = match Record::read(&bytes, 0) {
            Record::Entry(new) => self.find(dir, new.name)?.map(|old| old.place),
            _ => None,
        };
        let place = match place {
            Some(place) => place,
            None => self.vacancy(dir)?,
        };
        self.change(place, |entry| *entry = bytes)?;
        self.sync()
    }

    /// Writes a small file, or replaces one.
    ///
    /// # Errors
    /// As [`Fat::name`]; there is no room.
    pub fn add(&mut self, dir: Dir, name: Name, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| Error::Wrong(format!("{} is too large for a FAT", name.letters())))?;
        let room = self.room(u64::from(size))?;
        let mut rest = content;
        self.write_into(&room, u64::from(size), &mut |buffer| {
            let (now, later) = rest.split_at(buffer.len().min(rest.len()));
            buffer[..now.len()].copy_from_slice(now);
            rest = later;
            Ok(())
        })?;
        self.name(dir, name, room, size)
    }
}

/// Runs of place and length that hold `size` bytes in a chain.
fn pieces(geometry: &Geometry, chain: &[u16], size: u64) -> Vec<(u64, u64)> {
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    let mut left = size;
    for cluster in chain {
        let (place, length) = (geometry.place(*cluster), geometry.cluster.min(left));
        match pieces.last_mut() {
            Some((start, so_far)) if *start + *so_far == place => *so_far += length,
            _ => pieces.push((place, length)),
        }
        left -= length;
    }
    pieces
}

fn reading(error: io::Error) -> Error {
    Error::Device("read", error)
}

fn writing(error: io::Error) -> Error {
    Error::Device("written", error)
}
