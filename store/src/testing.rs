//! What this crate's tests share.

use std::cell::RefCell;
use std::io::{self, Cursor};
use std::rc::Rc;

use fatfs::FormatVolumeOptions;
use thimble_spec::release::{Part, Release, VERSION};
use thimble_spec::slot::Slot;

use crate::device::Device;
use crate::envelope::{Envelope, Signer};
use crate::fat::{Dir, Fat, Name, SECTOR};
use crate::hash;
use crate::store::{Store, silent};

/// The part that holds `content`.
pub fn part(name: &str, content: &[u8]) -> Part {
    Part { name: name.to_owned(), size: content.len() as u64, sha256: hash::hex(content) }
}

/// The release of the appliance `demo` that starts these: the kernel first.
pub fn release(contents: &[&[u8]]) -> Release {
    let name = |index: usize| if index == 0 { "vmlinuz".to_owned() } else { format!("part{index}") };
    let mut parts = contents.iter().enumerate().map(|(index, content)| part(&name(index), content));
    Release {
        version: VERSION,
        appliance: "demo".to_owned(),
        manifest: hash::hex(&contents.concat()),
        cmdline: "console=ttyS0 quiet".to_owned(),
        tries: 3,
        key: None,
        kernel: parts.next().unwrap(),
        initrd: parts.collect(),
    }
}

/// Bytes of a test's disk: the smallest FAT16 with clusters of one sector, and some.
pub const DISK: usize = 4600 * 512;

/// A disk that remembers what was written since the last sync, and whose power can fail.
#[derive(Clone, Debug, Default)]
pub struct Disk(Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// What survives a power cut.
    medium: Vec<u8>,
    /// What a running system sees.
    seen: Vec<u8>,
    /// Sectors written since the last sync, in order.
    pending: Vec<(usize, [u8; SECTOR])>,
    /// Sectors written in all.
    written: usize,
    /// The power fails when so many were written.
    fails_at: Option<usize>,
}

impl Disk {
    /// A disk that holds this.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self(Rc::new(RefCell::new(Inner { medium: bytes.clone(), seen: bytes, ..Inner::default() })))
    }

    /// A disk with an empty FAT16, with the directories of a store.
    pub fn formatted() -> Self {
        let mut bytes = vec![0; DISK];
        let options =
            FormatVolumeOptions::new().bytes_per_cluster(512).fat_type(fatfs::FatType::Fat16).volume_id(0x0a2b_00ff);
        fatfs::format_volume(Cursor::new(&mut bytes[..]), options).unwrap();
        let disk = Self::of(bytes);
        let mut fat = Fat::open(disk.clone()).unwrap();
        let thimble = fat.make_dir(Dir::Root, Name::new("thimble").unwrap()).unwrap();
        fat.make_dir(thimble, Name::new("objects").unwrap()).unwrap();
        disk
    }

    /// What a running system sees.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.borrow().seen.clone()
    }

    /// Sectors written since the disk was made.
    pub fn written(&self) -> usize {
        self.0.borrow().written
    }

    /// The power fails with the sector write of this number.
    pub fn fail_at(&self, count: usize) {
        self.0.borrow_mut().fails_at = Some(count);
    }

    /// What the medium holds after the cut: everything synced, and of the rest what `survives` says.
    pub fn after_cut(&self, survives: &mut dyn FnMut(usize) -> bool) -> Self {
        let inner = self.0.borrow();
        let mut medium = inner.medium.clone();
        for (index, (place, sector)) in inner.pending.iter().enumerate() {
            if survives(index) {
                medium[*place..place + SECTOR].copy_from_slice(sector);
            }
        }
        Self::of(medium)
    }
}

impl Device for Disk {
    fn size(&self) -> u64 {
        self.0.borrow().seen.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let inner = self.0.borrow();
        let bytes = inner.seen.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let (sectors, rest) = bytes.as_chunks::<SECTOR>();
        assert!(start.is_multiple_of(SECTOR) && rest.is_empty(), "part of a sector is written");
        let inner = &mut *self.0.borrow_mut();
        for (place, sector) in (start..).step_by(SECTOR).zip(sectors) {
            if inner.fails_at.is_some_and(|last| inner.written >= last) {
                return Err(io::Error::other("the power failed"));
            }
            inner.written += 1;
            inner.seen.get_mut(place..place + SECTOR).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(sector);
            inner.pending.push((place, *sector));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let inner = &mut *self.0.borrow_mut();
        if inner.fails_at.is_some_and(|last| inner.written >= last) {
            return Err(io::Error::other("the power failed"));
        }
        for (place, sector) in inner.pending.drain(..) {
            inner.medium[place..place + SECTOR].copy_from_slice(&sector);
        }
        Ok(())
    }
}

/// Who signs in tests.
pub fn signer() -> Signer {
    Signer::from_seed([7; 32]).unwrap()
}

/// An update file with these objects, each of which is there once.
pub fn update(contents: &[&[u8]]) -> Vec<u8> {
    let envelope = Envelope::seal(&release(contents), Some(&signer())).unwrap();
    [envelope.bytes(), &contents.concat()].concat()
}

/// A disk whose good slot a starts these.
pub fn installed(contents: &[&[u8]]) -> Disk {
    let disk = Disk::formatted();
    let mut store = Store::create(disk.clone(), Slot::A, 3).unwrap();
    let envelope = Envelope::seal(&release(contents), Some(&signer())).unwrap();
    for (part, content) in envelope.release().parts().zip(contents) {
        store.add_object(part, &mut &content[..], &mut silent).unwrap();
    }
    store.install(Slot::A, &envelope).unwrap();
    disk
}
