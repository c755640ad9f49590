//! Keys that sign updates: files in PEM, as `openssl genpkey -algorithm ed25519` writes them too.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ed25519_compact::{KeyPair, PublicKey, Seed};
use thimble_store::{Key, Signer};

use crate::error::{Error, Result};
use crate::files;

/// Ending of the public key's file beside the private one's.
const PUBLIC: &str = "pub";
/// A key file has some 120 bytes.
const KEY_FILE_MAX: u64 = 64 << 10;

/// Reads a private key.
///
/// # Errors
/// There is no such file, or no unencrypted ed25519 private key in it.
pub fn signer(path: &Path) -> Result<Signer> {
    let wrong = || {
        Error::Usage(format!(
            "{}: that is no ed25519 private key in PEM without a pass phrase: `thimble key FILE` makes one",
            path.display()
        ))
    };
    let text = text(path).map_err(|_| Error::Usage(format!("{}: this private key cannot be read", path.display())))?;
    let pair = KeyPair::from_pem(&text).map_err(|_| wrong())?;
    Signer::from_seed(*pair.sk.seed()).map_err(|_| wrong())
}

/// The public key that a definition names: 64 hexadecimal digits, or a file below `dir` that holds those or PEM.
///
/// # Errors
/// A sentence about it.
pub fn public_key(name: &str, dir: &Path) -> Result<Key, String> {
    if let Ok(key) = Key::from_hex(name) {
        return Ok(key);
    }
    let path = dir.join(name);
    let shown = path.display();
    let text = text(&path).map_err(|error| format!("the public key {shown} cannot be read: {error}"))?;
    let from_pem = || PublicKey::from_pem(&text).ok().and_then(|key| Key::from_bytes(*key).ok());
    let key = Key::from_hex(text.trim()).ok().or_else(from_pem);
    key.ok_or_else(|| {
        format!(
            "{shown} holds no ed25519 public key, neither as PEM nor as 64 hexadecimal digits: `thimble key` makes one"
        )
    })
}

/// A text of key length; never a device's endless one.
fn text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(KEY_FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Makes a key pair: `path`, for its owner only, and the public half beside it, whose path is returned.
///
/// # Errors
/// Either file is there already, or cannot be written.
pub fn make(path: &Path) -> Result<(PathBuf, Key)> {
    let public = path.with_extension(PUBLIC);
    if public == path {
        return Err(Error::Usage(format!(
            "{}: that is the name for the public half: name the private one, such as {}",
            path.display(),
            path.with_extension("key").display()
        )));
    }
    for path in [path, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(there_already(path));
        }
    }
    let mut seed = [0; Seed::BYTES];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut seed))
        .map_err(Error::io("read", "/dev/urandom"))?;
    let pair = KeyPair::try_from_seed(Seed::new(seed)).map_err(|_| Error::environment("/dev/urandom gives zeros"))?;
    let key = Key::from_bytes(*pair.pk).map_err(|error| Error::environment(error.to_string()))?;
    create(path, 0o600, &pair.sk.to_pem())?;
    create(&public, 0o644, &pair.pk.to_pem()).inspect_err(|_| {
        // Half a pair is none.
        let _ = fs::remove_file(path);
    })?;
    files::sync_dir(files::parent(path))?;
    Ok((public, key))
}

fn create(path: &Path, mode: u32, text: &str) -> Result<()> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => there_already(path),
            _ => Error::io("write", path)(error),
        })?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}

fn there_already(path: &Path) -> Error {
    Error::Usage(format!("{}: that file is there already, and a key is never overwritten", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pair_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo.key");
        let (public, key) = make(&path).unwrap();
        assert_eq!(public, dir.path().join("demo.pub"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(signer(&path).unwrap().key(), key);
        assert_eq!(public_key("demo.pub", dir.path()).unwrap(), key);
        assert_eq!(public_key(&key.to_string(), dir.path()).unwrap(), key);

        let before = fs::read(&path).unwrap();
        assert!(make(&path).unwrap_err().to_string().contains("never overwritten"));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert!(make(&dir.path().join("demo.pub")).is_err());
        let (_, other) = make(&dir.path().join("other.key")).unwrap();
        assert_ne!(other, key);
    }

    #[test]
    fn keys_of_openssl_are_keys() {
        // Made with `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout`.
        const PRIVATE: &str = include_str!("testdata/openssl.key");
        const PUBLIC: &str = include_str!("testdata/openssl.pub");
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.key"), PRIVATE).unwrap();
        fs::write(dir.path().join("a.pub"), PUBLIC).unwrap();
        let signer = signer(&dir.path().join("a.key")).unwrap();
        assert_eq!(signer.key(), public_key("a.pub", dir.path()).unwrap());
    }

    #[test]
    fn what_is_no_key_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.pub"), "hello").unwrap();
        assert!(public_key("a.pub", dir.path()).unwrap_err().contains("holds no ed25519 public key"));
        assert!(public_key("b.pub", dir.path()).unwrap_err().contains("cannot be read"));
        assert!(signer(&dir.path().join("a.pub")).unwrap_err().to_string().contains("no ed25519 private key"));
        assert_eq!(signer(&dir.path().join("none")).unwrap_err().exit_code(), 2);
    }
}
