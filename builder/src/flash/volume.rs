//! A FAT16 of an image file: made empty, then filled with directories and small files.

use std::fs::File;
use std::io;
use std::path::Path;

use fatfs::{FatType, FormatVolumeOptions};
use thimble_store::fat::{Dir, Fat, Name};
use thimble_store::{Device, Partition};

use super::layout::{Extent, ROOT_ENTRIES, SECTOR, fat_size};
use super::window::Window;
use crate::error::{Error, Result};

/// Label of the volume, 11 bytes.
const LABEL: [u8; 11] = *b"THIMBLE    ";

/// Nobody boots from an image that is being made: it is synced as a whole when it is done.
#[derive(Debug)]
pub struct Unsynced(pub Partition);

impl Device for Unsynced {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The empty FAT, in `place` of an image.
///
/// # Errors
/// It is too large, or the image cannot be written.
pub fn format(image: &File, path: &Path, place: Extent, cluster: u64, id: u32) -> Result<()> {
    // The plan keeps clusters to a few KiB and blocks to 32 bits.
    let too_large = || Error::environment(format!("the EFI system partition of {} is too large", path.display()));
    let cluster = u32::try_from(cluster).map_err(|_| too_large())?;
    let sectors = u32::try_from(place.count).map_err(|_| too_large())?;
    let options = FormatVolumeOptions::new()
        .bytes_per_cluster(cluster)
        .total_sectors(sectors)
        .fat_type(FatType::Fat16)
        .max_root_dir_entries(ROOT_ENTRIES)
        .volume_id(id)
        .volume_label(LABEL);
    fatfs::format_volume(Window::new(image, place.start(), place.bytes()), options)
        .map_err(Error::io("make the FAT file system of", path))
}

/// Makes directories, parents first, and files in them.
///
/// # Errors
/// The device; a name that is not of 8 and 3 letters and digits; a directory that was not made.
pub fn fill(device: Unsynced, directories: &[&str], files: &[(&str, &[u8])]) -> thimble_store::Result<()> {
    let mut fat = Fat::open(device)?;
    let mut known: Vec<(&str, Dir)> = vec![("", Dir::Root)];
    let place = |path: &str, known: &[(&str, Dir)]| -> thimble_store::Result<(Dir, Name)> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = known.iter().find(|(dir, _)| *dir == above).map(|(_, dir)| *dir);
        let unknown = || thimble_store::Error::Wrong(format!("{path} has no place on a FAT"));
        above.zip(Name::new(name)).ok_or_else(unknown)
    };
    for path in directories {
        let (above, name) = place(path, &known)?;
        known.push((path, fat.make_dir(above, name)?));
    }
    for (path, bytes) in files {
        let (above, name) = place(path, &known)?;
        fat.add(above, name, bytes)?;
    }
    Ok(())
}

/// Makes the whole of a file a FAT with these directories and files.
///
/// # Errors
/// They are too large for a FAT16; as [`format()`] and [`fill`].
pub fn write(image: &File, path: &Path, id: u32, directories: &[&str], files: &[(&str, &[u8])]) -> Result<()> {
    let sizes: Vec<u64> = files.iter().map(|(_, bytes)| bytes.len() as u64).collect();
    let (cluster, bytes) = fat_size(&sizes, directories.len() as u64, 0)
        .ok_or_else(|| Error::environment(format!("{} would be too large for a FAT16", path.display())))?;
    let place = Extent { first: 0, count: bytes.div_ceil(SECTOR) };
    image.set_len(place.bytes()).map_err(Error::io("write", path))?;
    format(image, path, place, cluster, id)?;
    let device = image.try_clone().map_err(Error::io("write", path))?;
    fill(Unsynced(Partition::of_file(device, 0, place.bytes())), directories, files)
        .map_err(|error| Error::environment(format!("cannot make the FAT of {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fatfs::{FileSystem, FsOptions};
    use std::io::Read;

    #[test]
    fn a_file_becomes_a_fat_and_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = dir.path().join(name);
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            let files: [(&str, &[u8]); 2] = [("EFI/BOOT/BOOTX64.EFI", &[0x5a; 300_000]), ("EFI/GRUB.CFG", b"boot")];
            write(&file, &path, 7, &["EFI", "EFI/BOOT"], &files).unwrap();
            std::fs::read(path).unwrap()
        };
        let bytes = made("one");
        assert!(bytes == made("two"));
        let fat = FileSystem::new(std::io::Cursor::new(bytes), FsOptions::new()).unwrap();
        let mut found = Vec::new();
        fat.root_dir().open_file("efi/boot/bootx64.efi").unwrap().read_to_end(&mut found).unwrap();
        assert!(found == [0x5a; 300_000]);
        assert_eq!(fat.volume_id(), 7);
    }
}
