//! Clusters that belong to nobody: what interrupted runs and removed files leave behind.

use std::collections::BTreeSet;

use super::geometry::FIRST;
use super::{BAD, DIRECTORIES_MAX, Dir, Entry, Fat, TABLE_ENTRIES};
use crate::device::Device;
use crate::error::{Error, Result};

impl<D: Device> Fat<D> {
    /// Bytes in free clusters, were everything reclaimed that is not reached when the files for which `keep` says no
    /// are gone.
    ///
    /// # Errors
    /// As [`Fat::list`].
    pub fn free_without(&self, keep: &dyn Fn(Dir, &Entry) -> bool) -> Result<u64> {
        let reached = self.reach(keep)?;
        let free = u64::from(self.geometry.end - FIRST) - reached.len() as u64;
        Ok(free * self.geometry.cluster)
    }

    /// The clusters that files and directories reach. Chains that are not sound are followed as far as they go.
    fn reach(&self, keep: &dyn Fn(Dir, &Entry) -> bool) -> Result<BTreeSet<u16>> {
        let mut reached = BTreeSet::new();
        let mut directories = vec![Dir::Root];
        let mut seen = 0;
        while let Some(dir) = directories.pop() {
            seen += 1;
            if seen > DIRECTORIES_MAX {
                return Err(Error::damaged("it has more directories than anybody makes"));
            }
            let entries = match (dir, self.list(dir)) {
                (_, Ok(entries)) => entries,
                // Its clusters are kept; what is in it cannot be known.
                (Dir::At(_), Err(Error::Damaged(_))) => Vec::new(),
                (_, Err(error)) => return Err(error),
            };
            for entry in entries.iter().filter(|entry| keep(dir, entry)) {
                if !self.geometry.holds(entry.cluster) {
                    continue;
                }
                // A directory that was seen already is not entered again: each is entered once at most.
                if entry.directory && !reached.contains(&entry.cluster) {
                    directories.push(Dir::At(entry.cluster));
                }
                let mut cluster = entry.cluster;
                while self.geometry.holds(cluster) && reached.insert(cluster) {
                    cluster = self.next(cluster);
                }
            }
        }
        reached.extend((FIRST..self.geometry.end).filter(|cluster| self.next(*cluster) == BAD));
        Ok(reached)
    }

    /// Frees all clusters that no file reaches, and makes the copies of the table the same. Called before anything is
    /// added.
    ///
    /// # Errors
    /// The device, or a damaged root directory.
    pub fn reclaim(&mut self) -> Result<()> {
        for copy in 1..self.geometry.copies {
            let other = self.read_table(copy)?;
            for (index, (one, other)) in self.table.iter().zip(&other).enumerate() {
                if one != other {
                    self.dirty.insert(index / TABLE_ENTRIES);
                }
            }
        }
        self.reached = self.reach(&|_, _| true)?;
        for cluster in FIRST..self.geometry.end {
            if self.next(cluster) != 0 && !self.reached.contains(&cluster) {
                self.set(cluster, 0);
            }
        }
        self.write_table()
    }
}
