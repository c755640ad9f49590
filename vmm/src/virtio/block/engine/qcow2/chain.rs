//! The files below a qcow2 image: the backing file that it names, the one that this names, and so on.
//!
//! An image may come from anywhere, and files are opened by a process that may open all of the host's. So the names in
//! it are followed here, and only into the directory that the guest's description gives; `imago` gets files that are
//! open, and no leave to open any.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thimble_spec::vmm::DiskFormat;

use super::header::{self, Backing};
use crate::virtio::block::lock::lock;

/// Most files below an image.
pub const DEPTH_MAX: usize = 16;

/// A file below an image.
#[derive(Debug)]
pub struct Layer {
    /// The file, read-only and locked.
    pub file: File,
    /// What it holds, as the image above states.
    pub format: DiskFormat,
}

/// Looks at the header of the image in `top` and opens the files below it, the nearest first. They must be in
/// `directory`, or in one below that; with none, there may be no such file.
///
/// # Errors
/// One sentence: an image has a header that cannot be used, or names a file that may not be, or cannot be used.
pub fn below(top: &File, path: &Path, directory: Option<&Path>) -> io::Result<Vec<Layer>> {
    let mut layers = Vec::new();
    let mut seen = vec![identity(top)?];
    let mut above = path.to_owned();
    let mut named = header::check(top)?;
    while let Some(backing) = named {
        let Some(directory) = directory else {
            return refuse(
                "it names a backing file: say in which directory it may be (`backing`), or give the guest an image \
                 that is whole",
            );
        };
        if layers.len() == DEPTH_MAX {
            return refuse(&format!("it has more than {DEPTH_MAX} images below it: merge some (qemu-img commit)"));
        }
        let name = Path::new(&backing.name);
        // Relative to the image that names it. A name that is absolute replaces what is before it.
        let path = above.parent().unwrap_or(Path::new("")).join(name);
        let (path, layer, next) = open(path, &backing, directory, &mut seen)
            .map_err(|error| io::Error::new(error.kind(), format!("its backing file {}: {error}", name.display())))?;
        layers.push(layer);
        above = path;
        named = next;
    }
    Ok(layers)
}

/// Opens one of them; says where it is, and what it names in turn.
fn open(
    path: PathBuf,
    backing: &Backing,
    directory: &Path,
    seen: &mut Vec<(u64, u64)>,
) -> io::Result<(PathBuf, Layer, Option<Backing>)> {
    let format = match backing.format.as_deref() {
        Some(b"raw") => DiskFormat::Raw,
        Some(b"qcow2") => DiskFormat::Qcow2,
        Some(_) => {
            return refuse("it is neither raw nor qcow2, as the image above says: convert it (qemu-img convert)");
        }
        None => {
            return refuse(
                "the image above does not say its format: state it (qemu-img rebase -u -F FORMAT -b FILE \
                 IMAGE)",
            );
        }
    };
    // Without links and `..`, so that it is where it seems to be.
    let path = fs::canonicalize(path)?;
    if !path.starts_with(fs::canonicalize(directory)?) {
        return refuse(&format!("it is not in {}, where the guest's backing files may be", directory.display()));
    }
    // A pipe must not keep us waiting.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return refuse("it is neither a file nor a block device");
    }
    let identity = identity(&file)?;
    if seen.contains(&identity) {
        return refuse("it is above itself: the images name each other in a circle");
    }
    seen.push(identity);
    lock(&file, true)?;
    let next = match format {
        DiskFormat::Raw => None,
        DiskFormat::Qcow2 => header::check(&file)?,
    };
    Ok((path, Layer { file, format }, next))
}

/// By this a file is the same whatever its name is.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn refuse<T>(sentence: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, sentence))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::thread;

    use thimble_spec::vmm::Disk;

    use super::*;
    use crate::sync::STACK_BYTES;
    use crate::virtio::block::Block;
    use crate::virtio::block::tests::{BUFFER, S_OK, make_qcow2, request};
    use crate::virtio::testing::{Driver, WRITE};

    /// The files below `top`, which must be beside it or in a directory there.
    fn layers(top: &Path) -> io::Result<Vec<Layer>> {
        below(&File::open(top).unwrap(), top, top.parent())
    }

    fn refused(top: &Path, words: &str) {
        let sentence = layers(top).unwrap_err().to_string();
        assert!(sentence.contains(words), "{sentence}");
    }

    /// Changes the image at `path`: what it says where `from` stood.
    fn patch(path: &Path, from: &[u8], to: &[u8]) {
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn names_are_followed_within_the_directory_only() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("images/deep")).unwrap();
        fs::write(at("images/deep/base"), [7; 700]).unwrap();
        make_qcow2(&at("images/middle"), Some(("deep/base", "raw")));
        make_qcow2(&at("images/top"), Some(("middle", "qcow2")));
        let found = layers(&at("images/top")).unwrap();
        let formats: Vec<DiskFormat> = found.iter().map(|layer| layer.format).collect();
        assert_eq!(formats, [DiskFormat::Qcow2, DiskFormat::Raw]);
        // Absolute, and by a link: what counts is where the file is.
        make_qcow2(&at("images/absolute"), Some((at("images/deep/base").to_str().unwrap(), "raw")));
        symlink("deep/base", at("images/link")).unwrap();
        make_qcow2(&at("images/linked"), Some(("link", "raw")));
        assert!(layers(&at("images/absolute")).is_ok() && layers(&at("images/linked")).is_ok());

        fs::write(at("secret"), [1; 512]).unwrap();
        symlink("../secret", at("images/way-out")).unwrap();
        for (index, name) in ["../secret", at("secret").to_str().unwrap(), "way-out"].into_iter().enumerate() {
            let image = at(&format!("images/escape{index}"));
            make_qcow2(&image, Some((name, "raw")));
            refused(&image, "is not in ");
        }
        let top = File::open(at("images/top")).unwrap();
        let sentence = below(&top, &at("images/top"), None).unwrap_err().to_string();
        assert!(sentence.contains("say in which directory"), "{sentence}");
    }

    #[test]
    fn each_image_of_the_chain_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("raw"), [7; 512]).unwrap();
        for (name, backing, words) in [
            ("gone", ("nothing", "raw"), "its backing file nothing: No such file"),
            ("directory", (".", "raw"), "neither a file nor"),
            ("vmdk", ("raw", "vmdk"), "neither raw nor qcow2"),
            ("no-qcow2", ("raw", "qcow2"), "not a qcow2 image"),
        ] {
            make_qcow2(&at(name), Some(backing));
            refused(&at(name), words);
        }
        make_qcow2(&at("unsaid"), Some(("raw", "raw")));
        patch(&at("unsaid"), &0xe279_2aca_u32.to_be_bytes(), &[0x77]);
        refused(&at("unsaid"), "does not say its format");
        // A pipe that nobody writes to keeps nobody waiting.
        let pipe = std::ffi::CString::new(at("pipe").to_str().unwrap()).unwrap();
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        make_qcow2(&at("over-pipe"), Some(("pipe", "raw")));
        refused(&at("over-pipe"), "neither a file nor");
        // Two below the top: data in another file, encryption. The fields are those of the header (offsets 72 and 32).
        for (field, value, words) in [(72 + 7, 4, "another file"), (32 + 3, 1, "encrypted")] {
            let (lowest, middle, top) = (at(&format!("l{field}")), at(&format!("m{field}")), at(&format!("t{field}")));
            make_qcow2(&lowest, None);
            make_qcow2(&middle, Some((lowest.to_str().unwrap(), "qcow2")));
            make_qcow2(&top, Some((middle.to_str().unwrap(), "qcow2")));
            assert_eq!(layers(&top).unwrap().len(), 2);
            let mut bytes = fs::read(&lowest).unwrap();
            bytes[field] = value;
            fs::write(&lowest, bytes).unwrap();
            refused(&top, words);
        }
    }

    #[test]
    fn a_circle_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, backing) in [("own", "own"), ("first", "second"), ("second", "third"), ("third", "second")] {
            make_qcow2(&at(name), Some((backing, "qcow2")));
        }
        refused(&at("own"), "in a circle");
        refused(&at("first"), "in a circle");
    }

    #[test]
    fn a_file_below_is_read_by_many_and_written_by_none() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        make_qcow2(&at("base"), None);
        for name in ["one", "two"] {
            make_qcow2(&at(name), Some(("base", "qcow2")));
        }
        let disk = |name: &str| Disk {
            path: at(name),
            format: DiskFormat::Qcow2,
            backing: Some(directory.path().into()),
            ..Disk::default()
        };
        let both = (Block::open(&disk("one"), 0).unwrap(), Block::open(&disk("two"), 0).unwrap());
        let refused = |name| Block::open(&disk(name), 0).err().unwrap().sentence();
        assert!(refused("base").contains("used by another guest"));
        assert!(refused("one").contains("used by another guest"));
        drop(both);
        let _writer = Block::open(&disk("base"), 0).unwrap();
        assert!(refused("one").contains("its backing file base: it is used by another guest"));
    }

    #[test]
    fn as_many_layers_as_are_allowed_can_be_read_on_a_small_stack() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: usize| directory.path().join(name.to_string());
        // It ends within a sector.
        File::create(at(0)).unwrap().write_all(&[7; 700]).unwrap();
        for index in 1..=DEPTH_MAX + 1 {
            let format = if index == 1 { "raw" } else { "qcow2" };
            make_qcow2(&at(index), Some((&(index - 1).to_string(), format)));
        }
        refused(&at(DEPTH_MAX + 1), "more than 16 images below it");
        let description = Disk {
            path: at(DEPTH_MAX),
            format: DiskFormat::Qcow2,
            backing: Some(directory.path().into()),
            ..Disk::default()
        };
        let mut driver = Driver::new(Block::open(&description, 0).unwrap());
        driver.start(0);
        let work = move || {
            assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 1536, WRITE)]), (S_OK, 1537));
            assert_eq!(driver.bytes(BUFFER, 1536), [vec![7; 700], vec![0; 836]].concat());
            driver.put(BUFFER, &[8; 512]);
            assert_eq!(request(&mut driver, 1, 0, &[(BUFFER, 512, 0)]), (S_OK, 1));
            assert_eq!(request(&mut driver, 0, 0, &[(BUFFER, 1536, WRITE)]), (S_OK, 1537));
            assert_eq!(driver.bytes(BUFFER, 1536), [vec![8; 512], vec![7; 188], vec![0; 836]].concat());
        };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap();
        assert_eq!(fs::read(at(0)).unwrap(), [7; 700], "what is below is not written");
    }
}
