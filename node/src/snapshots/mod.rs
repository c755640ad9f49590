//! Snapshots of guests' disks: of files, by copies of them ([`files`]), and of thin volumes, by LVM ([`volumes`]). They are the
//! disk's, whoever has it.

mod files;
mod volumes;

use std::path::Path;

use anyhow::Result;
use thimble_spec::api::snapshot::{Moment, Snapshot};
use thimble_spec::appliance::{DiskSource, Guest};

use crate::copy;
use crate::definitions::Book;
use crate::storage::clear_up as clear_up_storage;
pub use files::Files;
use volumes::Volume;

/// A disk of which snapshots are made.
#[derive(Clone, Debug)]
pub enum Disk {
    /// In a file.
    File(Files),
    /// On a thin volume.
    Volume(Volume),
}

/// A snapshot that is to be. Dropped before it is whole, nothing is left of it.
#[derive(Debug)]
pub enum Part {
    /// Of a file: nothing is there before it is copied.
    File(Files, String, Option<copy::Part>),
    /// Of a volume.
    Volume(volumes::Part),
}

impl Disk {
    /// That of a guest.
    ///
    /// # Errors
    /// It has none of which any are made: one sentence.
    pub fn of(book: &Book, guest: &Guest) -> Result<Self, String> {
        let name = &guest.name;
        let Some(disk) = &guest.disk else { return Err(format!("guest {name} has no disk")) };
        let storage = &book.appliance.storage;
        match &disk.source {
            DiskSource::Size(_) => Ok(Self::File(Files::made(&book.disks, name))),
            DiskSource::File(path) if storage.is_remote(path) => {
                Err(format!("the disk of guest {name} is {path}, on a server: make snapshots there"))
            }
            DiskSource::File(path) => Ok(Self::File(Files::named(Path::new(path), disk.format))),
            DiskSource::Device(path) => match Volume::at(&book.appliance, path) {
                Some(volume) => Ok(Self::Volume(volume)),
                None => Err(format!("the disk of guest {name} is {path}, which is no declared thin volume")),
            },
        }
    }

    /// Its snapshots, oldest first.
    ///
    /// # Errors
    /// LVM does not tell.
    pub fn list(&self) -> Result<Vec<Snapshot>> {
        match self {
            Self::File(files) => Ok(files.list()),
            Self::Volume(volume) => volume.list(),
        }
    }

    /// All that can take long and can be done before a guest stands still.
    ///
    /// # Errors
    /// There is no room; somebody else changes the host's storage; it was given up.
    pub fn prepare(&self, name: &str, goes_on: &dyn Fn() -> bool) -> Result<Part> {
        match self {
            Self::File(files) => {
                // The file system may not have been there yet when the daemon started.
                files.clear_up();
                Ok(Part::File(files.clone(), name.to_owned(), None))
            }
            Self::Volume(volume) => Ok(Part::Volume(volume.prepare(name, goes_on)?)),
        }
    }

    /// It is what it was; the snapshot stays. Nobody has the disk open.
    ///
    /// # Errors
    /// There is no room; it was given up. The disk is as it is now then.
    pub fn revert(&self, name: &str, goes_on: &dyn Fn(u64) -> bool) -> Result<()> {
        match self {
            Self::File(files) => {
                files.clear_up();
                files.revert(name, goes_on)
            }
            Self::Volume(volume) => volume.revert(name, &|| goes_on(0)),
        }
    }

    /// Takes one away.
    ///
    /// # Errors
    /// It stays.
    pub fn remove(&self, name: &str) -> Result<()> {
        match self {
            Self::File(files) => files.remove(name),
            Self::Volume(volume) => volume.remove(name),
        }
    }
}

impl Part {
    /// Keeps the disk as it is now. `goes_on` is asked as often as a piece is copied, with the share that is done, of 100.
    ///
    /// # Errors
    /// There is no disk or no room; it was given up.
    pub fn fill(&mut self, moment: Moment, goes_on: &dyn Fn(u64) -> bool) -> Result<()> {
        match self {
            Self::File(files, name, part) => *part = Some(files.copy(name, moment, goes_on)?),
            Self::Volume(part) => part.fill(moment)?,
        }
        Ok(())
    }

    /// It is whole, and is there from now on.
    ///
    /// # Errors
    /// It cannot be written out.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::File(_, _, part) => part.map_or(Ok(()), copy::Part::finish),
            Self::Volume(part) => part.finish(),
        }
    }
}

/// What a daemon that was killed has left half made, of the disks of these guests.
pub fn clear_up(book: &Book, guests: &[Guest]) {
    copy::clear_up(&book.disks);
    for disk in guests.iter().filter_map(|guest| Disk::of(book, guest).ok()) {
        if let Disk::File(files) = disk {
            files.clear_up();
        }
    }
    // It may take its time, and waits for nobody.
    let appliance = book.appliance.clone();
    tokio::task::spawn_blocking(move || clear_up_storage(&appliance.storage));
}
