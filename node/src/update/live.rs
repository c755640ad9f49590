//! The guests' kernel and initramfs alone, taken from an installed release while this one runs: guests keep what they were
//! started with, and the next start of each takes the new one.
//!
//! That can be when the new release differs from the running one in nothing else. What the two files must be is said by
//! the new release's own catalogue; both are in objects that its signature names.

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use cpio::NewcReader;
use liblzma::read::XzDecoder;
use sha2::{Digest, Sha256};
use thimble_spec::catalogue::{Catalogue, Shared as Listed};
use thimble_spec::paths;
use thimble_spec::release::{GUEST_PARTS, NODE_PART, Part, Release};
use thimble_store::{Device, Store};

use crate::shared::{Hashes, INITRD_FILE, KERNEL_FILE, Shared};

/// The part of the node alone is a few files of text.
const NODE_MAX: u64 = 4 << 20;
/// A packed part of the guests.
const GUEST_MAX: u64 = 64 << 20;
/// A kernel, and an initramfs.
const FILE_MAX: u64 = 128 << 20;

/// What differs, of two releases, besides the guests' parts and the node's own.
///
/// # Errors
/// A sentence that names it.
pub fn only_guests(running: &Release, new: &Release) -> Result<(), String> {
    let may_differ = |part: &Part| of_guests(part) || part.is_archive(NODE_PART);
    fn kept<'a>(release: &'a Release, may_differ: &dyn Fn(&Part) -> bool) -> Vec<&'a Part> {
        release.parts().filter(|part| !may_differ(part)).collect()
    }
    let (old_parts, new_parts) = (kept(running, &may_differ), kept(new, &may_differ));
    let changed = new_parts
        .iter()
        .find(|part| !old_parts.contains(part))
        .or(old_parts.iter().find(|part| !new_parts.contains(part)));
    if let Some(part) = changed {
        return Err(format!("it changes {} too", part.name));
    }
    if running.cmdline != new.cmdline {
        return Err("it changes the host's kernel command line too".to_owned());
    }
    Ok(())
}

fn of_guests(part: &Part) -> bool {
    GUEST_PARTS.iter().any(|name| part.is_archive(name))
}

/// Puts the guests' parts of `new`, which is installed in `store`, in place.
///
/// # Errors
/// It changes more than that; it is not what its catalogue says; there is no memory for it. Guests take what they took
/// before.
pub fn take<D: Device>(store: &Store<D>, new: &Release, shared: &Shared) -> Result<Hashes> {
    let node = new.initrd.iter().find(|part| part.is_archive(NODE_PART));
    let node = store.object(node.with_context(|| format!("the update has no part {NODE_PART}"))?, NODE_MAX)?;
    let appliance = fs::read(paths::APPLIANCE).with_context(|| format!("reading {}", paths::APPLIANCE))?;
    let catalogue = catalogue(&node, &appliance)?;
    let mut archives = Vec::new();
    for part in new.initrd.iter().filter(|part| of_guests(part)) {
        archives.push(unpacked(part, store.object(part, GUEST_MAX)?));
    }
    place(archives, &catalogue, shared)
}

fn unpacked(part: &Part, packed: Vec<u8>) -> Box<dyn Read> {
    let packed = Cursor::new(packed);
    if part.name.ends_with(".xz") { Box::new(XzDecoder::new(packed)) } else { Box::new(packed) }
}

/// The new catalogue, if the new release's own part says nothing else that is new.
fn catalogue(node: &[u8], appliance: &[u8]) -> Result<Catalogue> {
    let mut catalogue = None;
    each_file(Cursor::new(node), &mut |path, size, from| {
        ensure!(size <= NODE_MAX, "{path} is too large");
        let mut content = Vec::new();
        from.read_to_end(&mut content)?;
        match path {
            paths::APPLIANCE if content != appliance => {
                bail!("it changes the definition's network, guests or limits too")
            }
            paths::APPLIANCE | paths::END_MARKER => {}
            paths::CATALOGUE => {
                catalogue = Some(serde_json::from_slice(&content).with_context(|| format!("{path} is no catalogue"))?);
            }
            _ => bail!("it changes {path} too"),
        }
        Ok(())
    })?;
    catalogue.context("the update has no catalogue of what guests share")
}

/// Unpacks the two files beside those in use, and has them taken from now on.
fn place(archives: Vec<impl Read>, catalogue: &Catalogue, shared: &Shared) -> Result<Hashes> {
    let listed = |path| catalogue.at(path).with_context(|| format!("the update's catalogue does not list {path}"));
    let (kernel, initrd) = (listed(paths::GUEST_KERNEL)?, listed(paths::GUEST_INITRD)?);
    let hashes = Hashes { kernel: kernel.sha256.clone(), initrd: initrd.sha256.clone() };
    shared.put(&hashes, |directory| {
        let mut missing = vec![(kernel, KERNEL_FILE), (initrd, INITRD_FILE)];
        for archive in archives {
            each_file(archive, &mut |path, _, from| {
                let Some(index) = missing.iter().position(|(object, _)| object.path == path) else {
                    bail!("it has {path}, which is nothing of guests");
                };
                let (object, name) = missing.remove(index);
                write(object, from, &directory.join(name))
            })?;
        }
        match missing.first() {
            Some((object, _)) => bail!("{} is not in the update", object.path),
            None => Ok(()),
        }
    })?;
    Ok(hashes)
}

fn write(object: &Listed, from: &mut dyn Read, to: &Path) -> Result<()> {
    ensure!(object.size <= FILE_MAX, "{} is too large", object.path);
    let (mut file, mut hash) = (File::create(to)?, Sha256::new());
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        size += count as u64;
        ensure!(size <= object.size, "{} is longer than the catalogue says", object.path);
        hash.update(&buffer[..count]);
        file.write_all(&buffer[..count]).with_context(|| format!("writing {}", to.display()))?;
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(size == object.size && found == object.sha256, "{} is not what the catalogue says", object.path);
    Ok(())
}

/// What is done with a file: its absolute path, its size, its content.
type Each<'a> = dyn FnMut(&str, u64, &mut dyn Read) -> Result<()> + 'a;

/// Calls `each` for each file of a newc archive.
fn each_file(mut archive: impl Read, each: &mut Each<'_>) -> Result<()> {
    loop {
        let mut reader = NewcReader::new(archive)?;
        if reader.entry().is_trailer() {
            return Ok(());
        }
        // The kind of a file is in the mode's upper bits (S_IFMT, S_IFREG).
        if reader.entry().mode() & 0o170_000 == 0o100_000 {
            let path = format!("/{}", reader.entry().name());
            let size = u64::from(reader.entry().file_size());
            each(&path, size, &mut reader)?;
            io::copy(&mut reader, &mut io::sink())?;
        }
        archive = reader.finish()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::{Builder, ModeFileType, trailer};

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let directory = Builder::new("thimble").mode(0o755).set_mode_file_type(ModeFileType::Directory);
        directory.write(&mut out, 0).finish().unwrap();
        for (path, content) in files {
            let entry =
                Builder::new(path.trim_start_matches('/')).mode(0o444).set_mode_file_type(ModeFileType::Regular);
            let mut writer = entry.write(&mut out, u32::try_from(content.len()).unwrap());
            writer.write_all(content).unwrap();
            writer.finish().unwrap();
        }
        trailer(out).unwrap()
    }

    fn hash(content: &[u8]) -> String {
        Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn listing(kernel: &[u8], initrd: &[u8]) -> Catalogue {
        let object = |path: &str, content: &[u8]| Listed {
            path: path.to_owned(),
            size: content.len() as u64,
            sha256: hash(content),
        };
        Catalogue { objects: vec![object(paths::GUEST_INITRD, initrd), object(paths::GUEST_KERNEL, kernel)] }
    }

    #[test]
    fn both_files_are_put_in_place_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Shared::at(dir.path());
        let files = [(paths::GUEST_KERNEL, &b"kernel"[..]), (paths::GUEST_INITRD, b"initrd")];
        let good = archive(&files);
        let told = |archive: &[u8], catalogue: &Catalogue| {
            let error = place(vec![Cursor::new(archive)], catalogue, &shared).unwrap_err();
            assert_eq!(shared.next().kernel, Path::new(paths::GUEST_KERNEL), "{error:#}");
            format!("{error:#}")
        };
        assert!(told(&good, &listing(b"kernfl", b"initrd")).contains("vmlinux is not what the catalogue says"));
        assert!(told(&good, &listing(b"kern", b"initrd")).contains("vmlinux is longer than the catalogue says"));
        assert!(told(&good, &Catalogue::default()).contains("does not list"));
        assert!(told(&archive(&files[..1]), &listing(b"kernel", b"initrd")).contains("initrd is not in the update"));
        let more = archive(&[files[0], ("/bin/sh", b"x"), files[1]]);
        assert!(told(&more, &listing(b"kernel", b"initrd")).contains("/bin/sh, which is nothing of guests"));
        told(&good[..good.len() / 2], &listing(b"kernel", b"initrd"));

        // An archive each, one of them packed.
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(Cursor::new(archive(&files[..1])), 1).read_to_end(&mut packed).unwrap();
        let part = |name: &str| Part { name: name.into(), size: 7, sha256: "a".repeat(64) };
        let archives =
            vec![unpacked(&part("guest.cpio.xz"), packed), unpacked(&part("guest-init.cpio"), archive(&files[1..]))];
        let hashes = place(archives, &listing(b"kernel", b"initrd"), &shared).unwrap();
        assert_eq!(hashes, Hashes { kernel: hash(b"kernel"), initrd: hash(b"initrd") });
        let next = shared.next();
        assert_eq!(
            (fs::read(next.kernel).unwrap(), fs::read(next.initrd).unwrap()),
            (b"kernel".into(), b"initrd".into())
        );
        assert_eq!(next.hashes, Some(hashes));
    }

    #[test]
    fn a_release_that_changes_more_is_told_by_name() {
        let part = |name: &str, digit: &str| Part { name: name.into(), size: 7, sha256: digit.repeat(64) };
        let release = Release {
            version: thimble_spec::release::VERSION,
            appliance: "demo".into(),
            manifest: "0".repeat(64),
            cmdline: "quiet".into(),
            tries: 3,
            key: None,
            kernel: part("vmlinuz", "a"),
            initrd: vec![part("modules.cpio.zst", "b"), part("guest.cpio.xz", "c"), part("node.cpio", "d")],
        };
        let change = |change: &dyn Fn(&mut Release)| {
            let mut new = release.clone();
            change(&mut new);
            only_guests(&release, &new)
        };
        assert_eq!(change(&|new| new.initrd[1] = part("guest.cpio.xz", "e")), Ok(()));
        assert_eq!(change(&|new| new.initrd[2] = part("node.cpio", "e")), Ok(()));
        assert_eq!(change(&|new| new.initrd.push(part("guest-init.cpio.xz", "e"))), Ok(()));
        let told = |result: Result<(), String>| result.unwrap_err();
        assert_eq!(
            told(change(&|new| new.initrd[0] = part("modules.cpio.zst", "e"))),
            "it changes modules.cpio.zst too"
        );
        assert_eq!(told(change(&|new| drop(new.initrd.remove(0)))), "it changes modules.cpio.zst too");
        assert_eq!(told(change(&|new| new.kernel = part("vmlinuz", "e"))), "it changes vmlinuz too");
        assert!(told(change(&|new| new.cmdline.push_str(" x"))).contains("command line"));
    }

    #[test]
    fn a_changed_definition_is_no_change_of_guests_alone() {
        let listed = serde_json::to_vec(&listing(b"k", b"i")).unwrap();
        let node = |appliance: &[u8], more: &[(&str, &[u8])]| {
            archive(&[&[(paths::APPLIANCE, appliance), (paths::CATALOGUE, &listed)], more].concat())
        };
        let end: (&str, &[u8]) = (paths::END_MARKER, b"hash\n");
        assert_eq!(catalogue(&node(b"{}", &[end]), b"{}").unwrap(), listing(b"k", b"i"));
        assert!(catalogue(&node(b"{ }", &[end]), b"{}").unwrap_err().to_string().contains("definition's network"));
        assert!(catalogue(&node(b"{}", &[("/etc/x", b"")]), b"{}").unwrap_err().to_string().contains("changes /etc/x"));
        assert!(catalogue(&archive(&[(paths::APPLIANCE, b"{}")]), b"{}").is_err());
    }
}
