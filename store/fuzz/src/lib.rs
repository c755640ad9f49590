//! A boot partition in memory with a release in it, for the targets to damage or to update.

use std::io::{self, Cursor};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use thimble_spec::release::{Part, Release, VERSION};
use thimble_spec::slot::Slot;
use thimble_store::fat::{Dir, Fat, Name, SECTOR};
use thimble_store::{Device, Envelope, Key, Signer, Store, silent};

/// The smallest FAT16 with clusters of one sector, and some.
const SIZE: usize = 4600 * SECTOR;
/// What the good slot starts.
const CONTENTS: [&[u8]; 3] = [&[1; 3000], &[2; 700], &[3; 513]];
/// The appliance whose partition it is.
pub const APPLIANCE: &str = "demo";

/// Bytes.
#[derive(Clone)]
pub struct Memory(pub Vec<u8>);

impl Memory {
    fn place(&self, offset: u64, length: usize) -> io::Result<std::ops::Range<usize>> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(length).filter(|end| *end <= self.0.len());
        Ok(start..end.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}

impl Device for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.0[self.place(offset, buffer.len())?]);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let place = self.place(offset, bytes.len())?;
        self.0[place].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Who signs.
pub fn signer() -> Signer {
    Signer::from_seed([7; 32]).expect("a seed is a key")
}

/// Whom the partition's updates are verified with.
pub fn key() -> Key {
    signer().key()
}

fn part(index: usize, content: &[u8]) -> Part {
    let sha256 = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let name = if index == 0 { "vmlinuz".to_owned() } else { format!("part{index}") };
    Part { name, size: content.len() as u64, sha256 }
}

/// A release of these, of which none is empty.
pub fn release(contents: &[&[u8]]) -> Envelope {
    let mut parts = contents.iter().enumerate().map(|(index, content)| part(index, content));
    let release = Release {
        version: VERSION,
        appliance: APPLIANCE.to_owned(),
        manifest: "0".repeat(64),
        cmdline: "console=ttyS0 quiet".to_owned(),
        tries: 3,
        key: None,
        kernel: parts.next().expect("there is a kernel"),
        initrd: parts.collect(),
    };
    Envelope::seal(&release, Some(&signer())).expect("a good release")
}

/// A whole partition.
pub fn partition() -> Memory {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    Memory(MADE.get_or_init(|| make().expect("a good partition")).clone())
}

fn make() -> thimble_store::Result<Vec<u8>> {
    let mut bytes = vec![0; SIZE];
    let options = fatfs::FormatVolumeOptions::new().bytes_per_cluster(512).fat_type(fatfs::FatType::Fat16);
    fatfs::format_volume(Cursor::new(&mut bytes[..]), options).expect("a FAT16 of that size");
    let memory = Memory(bytes);
    let path = std::env::temp_dir().join(format!("thimble-fuzz-{}", std::process::id()));
    // The store keeps its device: what it wrote is read back from a file, once a process.
    std::fs::write(&path, &memory.0).expect("a temporary file");
    let open = || thimble_store::Partition::open(&path).expect("a temporary file");
    let mut fat = Fat::open(open())?;
    let thimble = fat.make_dir(Dir::Root, Name::new("thimble").expect("a name"))?;
    fat.make_dir(thimble, Name::new("objects").expect("a name"))?;
    drop(fat);
    let mut store = Store::create(open(), Slot::A, 3)?;
    let envelope = release(&CONTENTS);
    for (part, content) in envelope.release().parts().zip(CONTENTS) {
        store.add_object(part, &mut &content[..], &mut silent)?;
    }
    store.install(Slot::A, &envelope)?;
    drop(store);
    let bytes = std::fs::read(&path).expect("a temporary file");
    // Nobody else knows its name.
    let _ = std::fs::remove_file(&path);
    Ok(bytes)
}
