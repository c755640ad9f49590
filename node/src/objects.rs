//! What the guests share: the kernel, the initramfs, the images. Most nodes carry all of it; one that was started from an
//! NFS server carries the list alone, and gets what is missing from there.
//!
//! An object that comes from elsewhere is compared with its hash before a guest sees it, and gets its name on the node in
//! one step: a name that is there leads to something whole.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use thimble_spec::catalogue::{Catalogue, Shared};
use thimble_spec::cmdline::Cmdline;
use thimble_spec::export::{Export, NFS, OBJECTS_DIR, TO_RAM};
use thimble_spec::paths;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::{export, say};

/// Time between two looks at an object that the export has not, or has damaged.
const AGAIN: Duration = Duration::from_secs(30);
/// Bytes that are read and written at once.
const CHUNK: usize = 256 << 10;

/// What of the catalogue is on this node.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Turns true when nothing is missing any more; a change before that says that something came.
    whole: watch::Receiver<bool>,
}

impl Objects {
    /// Looks at what is there, and begins to get the rest. Where that cannot be, it says so, and whoever needs what is
    /// missing waits: the others are not kept from starting.
    pub fn open(cmdline: &Cmdline) -> Self {
        let catalogue = read(Path::new(paths::CATALOGUE)).unwrap_or_else(|error| {
            say::error(&format!("{error:#}: build the image again"));
            Catalogue::default()
        });
        let missing: Vec<Shared> =
            catalogue.objects.into_iter().filter(|object| !Path::new(&object.path).exists()).collect();
        let (tell, whole) = watch::channel(missing.is_empty());
        let Some(first) = missing.first() else { return Self { whole } };
        match export(cmdline) {
            Ok(export) => drop(tokio::spawn(get_all(export, missing, cmdline.has(TO_RAM), tell))),
            Err(reason) => {
                say::error(&format!("{} is not on this node, and {reason}; guests that need it wait", first.path));
                tokio::spawn(async move {
                    let _waited_for = tell;
                    std::future::pending::<()>().await;
                });
            }
        }
        Self { whole }
    }

    /// Waits until a file of the catalogue is there.
    pub async fn wait_for(&mut self, path: &Path) {
        while !path.exists() {
            // The other end lives until all is there.
            if *self.whole.borrow_and_update() || self.whole.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The export on the command line.
fn export(cmdline: &Cmdline) -> Result<Export, String> {
    let value = cmdline
        .get(NFS)
        .ok_or_else(|| format!("the kernel command line names no export that has it: boot with {NFS}=SERVER:/PATH"))?;
    value.parse().map_err(|reason| format!("{NFS}={value} on the kernel command line is wrong: {reason}"))
}

/// The catalogue. A node without one carries all that it needs.
fn read(path: &Path) -> Result<Catalogue> {
    match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json).with_context(|| format!("{} is no catalogue", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Catalogue::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Gets everything, one after the other; what cannot be had now is tried again behind the others.
async fn get_all(export: Export, mut missing: Vec<Shared>, to_ram: bool, tell: watch::Sender<bool>) {
    export::mounted(&export).await;
    let export = Arc::new(export);
    while !missing.is_empty() {
        let mut failed = Vec::new();
        for object in missing {
            let (wanted, from) = (object.clone(), Arc::clone(&export));
            let done = spawn_blocking(move || get(&wanted, &from, to_ram)).await;
            match done.map_err(anyhow::Error::from).and_then(|done| done) {
                Ok(()) => tell.send_modify(|_| ()),
                Err(error) => {
                    let seconds = AGAIN.as_secs();
                    say::error(&format!("{error:#}; guests that need it wait, trying again in {seconds} s"));
                    failed.push(object);
                }
            }
        }
        missing = failed;
        if !missing.is_empty() {
            sleep(AGAIN).await;
        }
    }
    // Receivers are the guests' keepers; the daemon may be at its end.
    let _ = tell.send(true);
}

/// Gets one object from the mounted export: a link to it, or a copy in memory.
fn get(object: &Shared, export: &Export, to_ram: bool) -> Result<()> {
    let source = Path::new(paths::EXPORT_DIR).join(OBJECTS_DIR).join(&object.sha256);
    fetch(object, &source, to_ram).with_context(|| format!("getting {} from {export}", object.path))
}

fn fetch(object: &Shared, source: &Path, to_ram: bool) -> Result<()> {
    let target = Path::new(&object.path);
    let beside = target.with_extension("new");
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let made = if to_ram {
        File::create(&beside).map_err(anyhow::Error::from).and_then(|mut copy| check(object, source, &mut copy))
    } else {
        // Read as a whole once, which leaves it in the page cache.
        check(object, source, &mut io::sink())
            .and_then(|()| symlink(source, &beside).with_context(|| format!("making {}", beside.display())))
    };
    made.inspect_err(|_| drop(fs::remove_file(&beside)))?;
    fs::rename(&beside, target).with_context(|| format!("making {}", target.display()))
}

/// Reads the source to its end, into `copy`, and compares it with what the catalogue says.
fn check(object: &Shared, source: &Path, copy: &mut dyn Write) -> Result<()> {
    let place = || format!("{}/{}", OBJECTS_DIR, object.sha256);
    let mut file = File::open(source).with_context(|| format!("{} cannot be opened", place()))?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                size += count as u64;
                ensure!(size <= object.size, "{} is larger than the {} bytes of the catalogue", place(), object.size);
                hash.update(&chunk[..count]);
                copy.write_all(&chunk[..count]).with_context(|| format!("copying {}", place()))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", place())),
        }
    }
    ensure!(size == object.size, "{} has {size} bytes, and the catalogue says {}", place(), object.size);
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == object.sha256, "{} is damaged: its SHA-256 is {found}", place());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(dir: &Path, content: &[u8]) -> Shared {
        let sha256 = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        Shared { path: dir.join("images/web.erofs").display().to_string(), size: content.len() as u64, sha256 }
    }

    #[test]
    fn an_object_is_linked_or_copied_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let wanted = object(dir.path(), b"an image");
        fs::write(&source, b"an image").unwrap();
        fetch(&wanted, &source, false).unwrap();
        assert_eq!(fs::read_link(&wanted.path).unwrap(), source);
        fetch(&wanted, &source, true).unwrap();
        assert!(!Path::new(&wanted.path).is_symlink());
        assert_eq!(fs::read(&wanted.path).unwrap(), b"an image");
    }

    #[test]
    fn one_that_is_not_what_the_catalogue_says_is_named_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let wanted = object(dir.path(), b"an image");
        let told = |to_ram: bool| format!("{:#}", fetch(&wanted, &source, to_ram).unwrap_err());
        assert!(told(true).contains("cannot be opened"), "{}", told(true));
        for (content, why) in [
            (&b"an imagf"[..], "is damaged: its SHA-256 is "),
            (b"an im", "has 5 bytes, and the catalogue says 8"),
            (b"an image and more", "is larger than the 8 bytes of the catalogue"),
        ] {
            fs::write(&source, content).unwrap();
            for to_ram in [false, true] {
                assert!(told(to_ram).contains(why), "{}", told(to_ram));
                assert!(told(to_ram).contains(&format!("objects/{}", wanted.sha256)));
            }
        }
        assert_eq!(fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_its_object_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let (tell, whole) = watch::channel(false);
        let mut objects = Objects { whole };
        let waiting = {
            let one = one.clone();
            tokio::spawn(async move {
                objects.wait_for(&one).await;
                one.exists()
            })
        };
        fs::write(&two, "").unwrap();
        tell.send_modify(|_| ());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        fs::write(&one, "").unwrap();
        tell.send(true).unwrap();
        assert!(waiting.await.unwrap());
    }
}
