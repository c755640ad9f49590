//! What makes a guest itself, and no copy of another: its machine id, and the files that its image names (`identity` in a
//! recipe), such as its host keys.
//!
//! A guest that is started from a copied disk is told a word, which its disk does not know yet (`identity` in its
//! definition). It forgets these files then, and writes the word down: from the next start on, it is itself.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use thimble_spec::json::Json;
use thimble_spec::paths::{MACHINE_ID, SERVICES};
use thimble_spec::service::Services;

use crate::console;
use crate::error::{Doing, Error, Result};

/// On the guest's own disk: the word that it was told last.
const WORD: &str = "identity";

/// Forgets what makes the guest itself, if `word` is not the one that the disk at `data` remembers. What its image at
/// `image` names goes from `upper`, where what was written over the image is.
///
/// The word is written last, behind a flush of everything else, so that a start that is cut short is made good by the next.
pub fn renew(word: &str, data: &Path, upper: &Path, image: &Path) -> Result<()> {
    let seen = data.join(WORD);
    if fs::read_to_string(&seen).is_ok_and(|seen| seen == word) {
        return Ok(());
    }
    let path = below(image, SERVICES);
    let text = fs::read(&path).doing(|| format!("read {SERVICES} in the guest's image"))?;
    let services =
        Services::from_json(&text).map_err(|error| Error::Said(format!("{SERVICES} in the guest's image: {error}")))?;
    for name in services.identity.iter().map(String::as_str).chain([MACHINE_ID]) {
        forget(&below(upper, name)).doing(|| format!("forget {name}"))?;
    }
    nix::unistd::sync();
    put(&seen, word, 0o600).doing(|| "write down the guest's identity".to_owned())?;
    console::notice("a guest of its own from now on: host keys and machine id are new");
    Ok(())
}

/// Makes a machine id (machine-id(5)), if there is none below `root`.
pub fn machine_id(root: &Path) -> Result<()> {
    let path = below(root, MACHINE_ID);
    if fs::read_to_string(&path).is_ok_and(|id| !id.trim().is_empty()) {
        return Ok(());
    }
    let mut bytes = [0; 16];
    let made = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes)).and_then(|()| {
        // A random UUID's (RFC 9562, section 5.4), as systemd has it.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        put(&path, &format!("{:032x}\n", u128::from_be_bytes(bytes)), 0o444)
    });
    made.doing(|| format!("make {MACHINE_ID}"))
}

/// Replaces a file; whoever reads it sees the old or the new one.
fn put(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Removes a file, or all that is in a directory.
fn forget(path: &Path) -> io::Result<()> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.is_dir() {
        return fs::remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

/// An absolute path of the guest's, below a directory.
fn below(directory: &Path, path: &str) -> std::path::PathBuf {
    directory.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with keys and an id in a temporary directory, and an image that names the keys.
    fn disk() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let (upper, image) = (place.path().join("upper"), place.path().join("image"));
        for directory in ["upper/var/lib/keys/deep", "upper/etc", "upper/var/lib/db", "image/etc/thimble"] {
            fs::create_dir_all(place.path().join(directory)).unwrap();
        }
        for file in ["var/lib/keys/rsa", "var/lib/keys/deep/x", "etc/machine-id", "var/lib/db/rows", "etc/one"] {
            fs::write(upper.join(file), "old\n").unwrap();
        }
        let identity = ["/var/lib/keys", "/etc/one", "/never/there"].map(str::to_owned).to_vec();
        let services = Services { identity, ..Services::default() };
        fs::write(below(&image, SERVICES), serde_json::to_vec(&services).unwrap()).unwrap();
        place
    }

    fn start(place: &Path, word: &str) -> Vec<&'static str> {
        let upper = place.join("upper");
        renew(word, place, &upper, &place.join("image")).unwrap();
        machine_id(&upper).unwrap();
        ["var/lib/keys/rsa", "var/lib/keys/deep", "etc/one", "var/lib/db/rows"]
            .into_iter()
            .filter(|path| upper.join(path).exists())
            .collect()
    }

    #[test]
    fn a_word_that_is_new_to_the_disk_makes_another_guest_once() {
        let place = disk();
        let id = || fs::read_to_string(place.path().join("upper/etc/machine-id")).unwrap();
        // Given a disk that was copied, when its guest is told a word, then it forgets its keys and nothing else,
        assert_eq!(start(place.path(), "a"), ["var/lib/db/rows"]);
        let first = id();
        assert!(first.len() == 33 && first.trim().bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
        assert_eq!((&first[12..13], fs::read_to_string(place.path().join("identity")).unwrap()), ("4", "a".to_owned()));
        // and at the next start, told the same, it keeps the new ones.
        fs::write(place.path().join("upper/var/lib/keys/rsa"), "new").unwrap();
        assert_eq!(start(place.path(), "a"), ["var/lib/keys/rsa", "var/lib/db/rows"]);
        assert_eq!(id(), first);
        // Told another one, it is another one again.
        assert_eq!(start(place.path(), "b"), ["var/lib/db/rows"]);
        assert_ne!(id(), first);
    }

    #[test]
    fn a_link_is_removed_and_not_followed() {
        let place = disk();
        let keys = place.path().join("upper/var/lib/keys");
        std::os::unix::fs::symlink(place.path().join("upper/var/lib/db"), keys.join("link")).unwrap();
        assert_eq!(start(place.path(), "a"), ["var/lib/db/rows"]);
        assert!(!keys.join("link").exists());
    }

    #[test]
    fn a_start_that_was_cut_short_is_made_good() {
        let place = disk();
        // The image cannot be read: nothing is forgotten, and the word is not written down.
        fs::rename(place.path().join("image"), place.path().join("away")).unwrap();
        let upper = place.path().join("upper");
        assert!(renew("a", place.path(), &upper, &place.path().join("image")).is_err());
        assert!(upper.join("var/lib/keys/rsa").exists() && !place.path().join("identity").exists());
        fs::rename(place.path().join("away"), place.path().join("image")).unwrap();
        assert_eq!(start(place.path(), "a"), ["var/lib/db/rows"]);
    }
}
