//! The guest's root: the shared image below, the guest's own disk above, and the move into it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use nix::unistd::{chdir, chroot};
use thimble_spec::cmdline::GuestParams;
use thimble_spec::paths::{DATA_DIR, DISK_TEMPLATE};
use thimble_spec::service::Directory;

use super::{disk, identity};
use crate::clock::wait_until;
use crate::console;
use crate::early::make_directory;
use crate::error::{Doing, Error, Result};
use crate::power;

/// Where the image is mounted before it is the root.
const IMAGE_DIR: &str = "/image";
/// On the guest's own disk: what is written over the image.
const UPPER: &str = "upper";
/// Where the two are put together.
const ROOT_DIR: &str = "/root";
/// How long a block device may take to appear.
pub const DEVICE_LIMIT: Duration = Duration::from_secs(10);
/// Mounts of the early boot that the new root keeps.
const KEPT: [&str; 5] = ["/dev", "/proc", "/sys", "/run", "/tmp"];

/// The same for a system that has its own; its /tmp is its own matter.
const KEPT_FOR_OTHERS: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// The root once it is in place.
pub struct Root {
    /// The guest's own file system, which has no path any more; none if it lives in memory.
    own: Option<File>,
}

/// Mounts the root from what the command line names, and moves into it.
pub fn enter(params: &GuestParams) -> Result<Root> {
    for path in [IMAGE_DIR, DATA_DIR, ROOT_DIR] {
        make_directory(path, 0o755)?;
    }
    let image = device(&params.image, "image")?;
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME;
    let kind = kind(&image)?;
    mount(Some(&image), IMAGE_DIR, Some(kind), read_only, None::<&str>)
        .doing(|| format!("mount the guest's image {} as {kind}", image.display()))?;
    let own = match &params.disk {
        Some(name) => {
            let template = fs::read(DISK_TEMPLATE).doing(|| format!("read {DISK_TEMPLATE}"))?;
            disk::mount_own(&device(name, "disk")?, Path::new(DATA_DIR), &template)?;
            Some(File::open(DATA_DIR).doing(|| format!("open {DATA_DIR}"))?)
        }
        None => {
            let flags = MsFlags::MS_NOATIME;
            mount(Some("tmpfs"), DATA_DIR, Some("tmpfs"), flags, Some("mode=755"))
                .doing(|| format!("mount a tmpfs at {DATA_DIR}"))?;
            None
        }
    };
    if let Some(word) = &params.parameters.identity {
        identity::renew(word, Path::new(DATA_DIR), &Path::new(DATA_DIR).join(UPPER), Path::new(IMAGE_DIR))?;
    }
    // The upper directory becomes the root directory: its mode is the root's.
    make_directory(format!("{DATA_DIR}/{UPPER}"), 0o755)?;
    make_directory(format!("{DATA_DIR}/work"), 0o755)?;
    let options = format!("lowerdir={IMAGE_DIR},upperdir={DATA_DIR}/{UPPER},workdir={DATA_DIR}/work");
    mount(Some("overlay"), ROOT_DIR, Some("overlay"), MsFlags::MS_NOATIME, Some(options.as_str()))
        .doing(|| "put the guest's root together with overlayfs".to_owned())?;
    switch(&KEPT)?;
    Ok(Root { own })
}

/// Mounts the root that a disk has, itself or its first partition with an ext4 file system, and moves into it.
pub fn enter_own(name: &str) -> Result<()> {
    make_directory(ROOT_DIR, 0o755)?;
    let disk = device(name, "disk")?;
    let found = std::iter::once(disk.clone()).chain(partitions(&disk)).find(|path| disk::has_ext4(path));
    let found = found.ok_or_else(|| {
        Error::Said(format!("neither {name} nor a partition of it is ext4: put a system onto the guest's disk"))
    })?;
    mount(Some(&found), ROOT_DIR, Some("ext4"), MsFlags::empty(), None::<&str>)
        .doing(|| format!("mount the guest's root {}", found.display()))?;
    umount("/tmp").doing(|| "unmount /tmp".to_owned())?;
    switch(&KEPT_FOR_OTHERS)
}

/// The partitions of a disk, in their order.
fn partitions(disk: &Path) -> Vec<PathBuf> {
    let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let number = |entry: fs::DirEntry| -> Option<u32> { entry.file_name().to_str()?.strip_prefix(&name)?.parse().ok() };
    let entries = fs::read_dir(Path::new("/sys/block").join(&name)).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries.filter_map(number).collect();
    numbers.sort_unstable();
    numbers.iter().map(|number| PathBuf::from(format!("{}{number}", disk.display()))).collect()
}

/// The file system that an image has.
fn kind(image: &Path) -> Result<&'static str> {
    /// SquashFS's magic number stands first (Documentation/filesystems/squashfs.rst, 3); EROFS leaves its first 1024 bytes
    /// to others.
    const SQUASHFS: &[u8] = b"hsqs";
    let mut head = [0; SQUASHFS.len()];
    let read = File::open(image).and_then(|mut file| file.read_exact(&mut head));
    read.doing(|| format!("read the guest's image {}", image.display()))?;
    Ok(if head == SQUASHFS { "squashfs" } else { "erofs" })
}

/// Makes each of `writable` a mount of its own and everything else of the root read-only. Both are the same file system:
/// the guest's own disk holds what is written, as before.
pub fn close(writable: &[Directory]) -> Result<()> {
    for Directory { path, .. } in writable {
        mount(Some(path.as_str()), path.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .doing(|| format!("keep {path} writable"))?;
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOATIME;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).doing(|| "make the root read-only".to_owned())
}

/// Waits for the node of a block device.
fn device(name: &str, what: &str) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    if wait_until(DEVICE_LIMIT, || path.exists()) {
        return Ok(path);
    }
    Err(Error::Said(format!("{name} did not appear in {} s: give the guest its {what}", DEVICE_LIMIT.as_secs())))
}

/// Makes the file system at [`ROOT_DIR`] the root of this process: what switch_root(8) does, without the exec.
fn switch(kept: &[&str]) -> Result<()> {
    for path in kept {
        let target = format!("{ROOT_DIR}{path}");
        if !Path::new(&target).is_dir() {
            make_directory(&target, 0o755)?;
        }
        mount(Some(*path), target.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .doing(|| format!("move {path} to the new root"))?;
    }
    free(Path::new("/"));
    chdir(ROOT_DIR)
        .and_then(|()| mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>))
        .and_then(|()| chroot("."))
        .and_then(|()| chdir("/"))
        .doing(|| "move into the new root".to_owned())
}

/// Removes the initramfs's files, which only take memory now. Mounted file systems are left alone: they are on other
/// devices. What cannot be removed stays.
fn free(root: &Path) {
    let Ok(device) = fs::metadata(root).map(|metadata| metadata.dev()) else { return };
    remove(root, device, 0);
}

fn remove(directory: &Path, device: u64, depth: usize) {
    /// The initramfs is three levels deep.
    const DEEPEST: usize = 16;
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        if metadata.dev() != device || depth > DEEPEST || entry.file_name() == OsStr::new("..") {
            continue;
        }
        if metadata.is_dir() {
            remove(&entry.path(), device, depth + 1);
            let _ = fs::remove_dir(entry.path());
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Root {
    /// The guest's own file system, if it has a disk.
    pub fn own(&self) -> Option<&File> {
        self.own.as_ref()
    }

    /// Makes everything that is on a disk consistent and read-only: the overlay first, the disk below it then.
    pub fn settle(&self) {
        let overlay = power::remount_read_only(Path::new("/"));
        let own = self.own.as_ref().map_or(Ok(()), power::remount_read_only_by);
        for error in [overlay, own].into_iter().filter_map(Result::err) {
            console::failed(&error);
        }
    }
}
