//! Directories: what is in them, and places for more.

use super::entry::{self, Record};
use super::{DIRECTORY_MAX, Dir, END, ENTRY, Entry, Fat, Name, SECTOR, reading};
use crate::device::Device;
use crate::error::{Error, Result};

impl<D: Device> Fat<D> {
    /// The files and directories in a directory, without `.` and `..`.
    ///
    /// # Errors
    /// The device, or a damaged chain.
    pub fn list(&self, dir: Dir) -> Result<Vec<Entry>> {
        let entries = self.records(dir)?.into_iter().filter_map(|(_, record)| match record {
            Record::Entry(entry) if !entry.name.is_dots() => Some(entry),
            _ => None,
        });
        Ok(entries.collect())
    }

    /// The file or directory of this name.
    ///
    /// # Errors
    /// As [`Fat::list`].
    pub fn find(&self, dir: Dir, name: Name) -> Result<Option<Entry>> {
        Ok(self.list(dir)?.into_iter().find(|entry| entry.name == name))
    }

    /// The runs of bytes that a directory lies in.
    fn runs(&self, dir: Dir) -> Result<Vec<(u64, u64)>> {
        match dir {
            Dir::Root => Ok(vec![(self.geometry.root, self.geometry.root_bytes)]),
            Dir::At(first) => {
                let most = DIRECTORY_MAX.div_ceil(self.geometry.cluster);
                let (chain, wrong) = self.follow(first, usize::try_from(most).unwrap_or(usize::MAX));
                match wrong {
                    Some(wrong) => Err(Error::damaged(format!("the chain of a directory {wrong}"))),
                    None => Ok(chain.into_iter().map(|at| (self.geometry.place(at), self.geometry.cluster)).collect()),
                }
            }
        }
    }

    /// All 32 bytes of a directory up to its end, with the end.
    fn records(&self, dir: Dir) -> Result<Vec<(u64, Record)>> {
        let mut records = Vec::new();
        for (start, length) in self.runs(dir)? {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            self.device.read_at(start, &mut bytes).map_err(reading)?;
            let (entries, _) = bytes.as_chunks::<ENTRY>();
            for (place, entry) in (start..).step_by(ENTRY).zip(entries) {
                let record = Record::read(entry, place);
                let end = record == Record::End;
                records.push((place, record));
                if end {
                    return Ok(records);
                }
            }
        }
        Ok(records)
    }

    /// Makes an empty directory.
    ///
    /// # Errors
    /// The device; there is no room; the directory above is full or damaged, or has something of this name.
    pub fn make_dir(&mut self, above: Dir, name: Name) -> Result<Dir> {
        if self.find(above, name)?.is_some() {
            return Err(Error::Wrong(format!("there is a {} already", name.letters())));
        }
        let room = self.room(self.geometry.cluster)?;
        let first = room.0.first().copied().unwrap_or(0);
        // The root directory is cluster 0 to those in it (section 6.5).
        let above_first = if let Dir::At(cluster) = above { cluster } else { 0 };
        let dots = [entry::of_dir(Name::DOT, first), entry::of_dir(Name::DOT_DOT, above_first)].concat();
        let mut rest = &dots[..];
        self.write_into(&room, self.geometry.cluster, &mut |buffer| {
            buffer.fill(0);
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            Ok(())
        })?;
        self.enter(above, entry::of_dir(name, first), &room)?;
        Ok(Dir::At(first))
    }

    /// Removes files from a directory, all at once; a power cut leaves any of them. Their clusters are free after the next
    /// [`Fat::reclaim`].
    ///
    /// # Errors
    /// The device, or a damaged directory.
    pub fn remove(&mut self, dir: Dir, which: &dyn Fn(&Entry) -> bool) -> Result<()> {
        let entries: Vec<Entry> = self.list(dir)?.into_iter().filter(which).collect();
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            self.change(entry.place, entry::free)?;
        }
        self.sync()
    }

    /// Changes a directory entry: one sector's write.
    pub(super) fn change(&mut self, place: u64, change: impl FnOnce(&mut [u8; ENTRY])) -> Result<()> {
        let within = usize::try_from(place % SECTOR as u64).unwrap_or(0);
        let start = place - within as u64;
        let mut sector = [0; SECTOR];
        self.device.read_at(start, &mut sector).map_err(reading)?;
        let (entries, _) = sector.as_chunks_mut::<ENTRY>();
        if let Some(entry) = entries.get_mut(within / ENTRY) {
            change(entry);
        }
        self.write(start, &sector)
    }

    /// A free place for an entry. A full directory gets another cluster; the root directory cannot.
    pub(super) fn vacancy(&mut self, dir: Dir) -> Result<u64> {
        let records = self.records(dir)?;
        if let Some((place, record)) = records.iter().find(|(_, record)| matches!(record, Record::Free | Record::End)) {
            if *record == Record::End {
                self.mark_end_behind(dir, *place)?;
            }
            return Ok(*place);
        }
        let Dir::At(first) = dir else {
            return Err(Error::damaged("its root directory is full"));
        };
        let most = usize::try_from(DIRECTORY_MAX / self.geometry.cluster).unwrap_or(0);
        let (chain, _) = self.follow(first, most);
        if chain.len() == most {
            return Err(Error::damaged("a directory is full"));
        }
        let room = self.room(self.geometry.cluster)?;
        let (Some(new), Some(last)) = (room.0.first().copied(), chain.last().copied()) else {
            return Err(Error::damaged("a directory has no clusters"));
        };
        self.write_into(&room, self.geometry.cluster, &mut |buffer| {
            buffer.fill(0);
            Ok(())
        })?;
        self.set(new, END);
        self.write_table()?;
        self.set(last, new);
        self.write_table()?;
        self.reached.insert(new);
        Ok(self.geometry.place(new))
    }

    /// The entry behind the one at `place` becomes a directory's end, where it is not: nobody promises that what stands
    /// behind the end is zero.
    fn mark_end_behind(&mut self, dir: Dir, place: u64) -> Result<()> {
        let runs = self.runs(dir)?;
        let Some(index) = runs.iter().position(|(start, length)| (*start..start + length).contains(&place)) else {
            return Ok(());
        };
        let (start, length) = runs[index];
        let behind = place + ENTRY as u64;
        let behind = if behind < start + length { Some(behind) } else { runs.get(index + 1).map(|(start, _)| *start) };
        let Some(behind) = behind else { return Ok(()) };
        let mut first = [0];
        self.device.read_at(behind, &mut first).map_err(reading)?;
        if first != [0] {
            self.change(behind, |entry| entry.fill(0))?;
            self.sync()?;
        }
        Ok(())
    }
}
