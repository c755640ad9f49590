//! qcow2 images, by the `imago` crate, which QEMU's block maintainers keep.
//!
//! A guest writes into its image, and an image may come from anywhere: it is as hostile as a guest. [`header`] looks at
//! the first cluster before `imago` sees the file, and refuses what would make the VMM do work without bound; [`chain`]
//! opens the files that images name, if they may.

pub mod chain;
pub mod header;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use imago::file::File as Storage;
use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use thimble_spec::vmm::DiskFormat;

use super::super::request::{Kind, Operation};
use super::{Begun, Engine};
use crate::virtio::buffers::Pinned;

/// Bytes that go through a buffer of ours at a time: `imago` works on memory that nobody else changes meanwhile.
const CHUNK: usize = 256 * 1024;

/// An open image, shared by its lanes.
#[derive(Clone)]
pub struct Image {
    access: Arc<FormatAccess<Storage>>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("size", &self.access.size()).finish()
    }
}

impl Image {
    /// Opens the image in `file`, which is at `path`. The files that it names are opened too, if they are in the
    /// directory `backing`.
    ///
    /// # Errors
    /// It is no image, is one that cannot be used, or names a file that may not be.
    pub fn open(file: File, path: &Path, read_only: bool, backing: Option<&Path>) -> io::Result<Self> {
        let layers = chain::below(&file, path, backing)?;
        let lowest_first = layers.into_iter().rev();
        let below = lowest_first
            .map(|layer| (layer.file, layer.format))
            .try_fold(None, |below, (file, format)| access(file, format, false, below).map(Some))?;
        Ok(Self { access: Arc::new(access(file, DiskFormat::Qcow2, !read_only, below)?) })
    }

    /// Size of the disk in it, in bytes.
    pub fn size(&self) -> u64 {
        self.access.size()
    }

    /// Gives the disk in it another size, which is not smaller.
    ///
    /// # Errors
    /// What the image or the host says.
    pub fn grow(&self, bytes: u64) -> io::Result<()> {
        self.access.resize_grow(bytes, PreallocateMode::None)?;
        self.flush()
    }

    fn flush(&self) -> io::Result<()> {
        self.access.flush()?;
        self.access.sync()
    }

    fn read(&self, buffers: &Pinned, offset: u64, length: u64) -> io::Result<u64> {
        let mut chunk = vec![0; CHUNK.min(length as usize)];
        let mut done = 0;
        while done < length {
            let count = chunk.len().min((length - done) as usize);
            self.access.read(&mut chunk[..count], offset + done)?;
            buffers.put(done as usize, &chunk[..count]);
            done += count as u64;
        }
        Ok(done)
    }

    fn write(&self, buffers: &Pinned, offset: u64, length: u64) -> io::Result<u64> {
        let mut chunk = vec![0; CHUNK.min(length as usize)];
        let mut done = 0;
        while done < length {
            let count = chunk.len().min((length - done) as usize);
            buffers.get(done as usize, &mut chunk[..count]);
            self.access.write(&chunk[..count], offset + done)?;
            done += count as u64;
        }
        Ok(done)
    }
}

/// The disk in `file`, over the one `below`. Nothing else is opened, whatever the file says.
fn access(
    file: File,
    format: DiskFormat,
    write: bool,
    below: Option<FormatAccess<Storage>>,
) -> io::Result<FormatAccess<Storage>> {
    let (storage, gate) = (Storage::try_from(file)?, DenyImplicitOpenGate::default());
    Ok(match format {
        DiskFormat::Raw => FormatAccess::new(Raw::builder(storage).write(write).open(gate)?),
        DiskFormat::Qcow2 => {
            let image = Qcow2::<Storage>::builder(storage).write(write).backing(below).data_file(None);
            FormatAccess::new(image.open(gate)?)
        }
    })
}

impl Engine for Image {
    fn begin(&mut self, _tag: u16, operation: Operation, buffers: &Pinned, durable: bool) -> Begun {
        let Operation { kind, offset, length } = operation;
        let result = match kind {
            Kind::Read => self.read(buffers, offset, length),
            Kind::Write => self.write(buffers, offset, length),
            Kind::Flush => self.flush().map(|()| 0),
            // A discard that reads as zeros is one too.
            Kind::Discard | Kind::WriteZeroes { .. } => self.access.write_zeroes(offset, length).map(|()| 0),
        };
        let changes = !matches!(kind, Kind::Read | Kind::Flush);
        Begun::Done(result.and_then(|moved| if durable && changes { self.flush().map(|()| moved) } else { Ok(moved) }))
    }
}
