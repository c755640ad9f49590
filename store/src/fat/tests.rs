//! The FAT by itself: what an independent reader and fsck.fat say of it.

use std::io::{Cursor, Read, Write};
use std::process::Command;

use super::*;
use crate::testing::Disk;

impl Fat<Disk> {
    /// Whether every chain that a directory names is sound, has the file's length and is nobody else's, as fsck.fat would
    /// see it. Clusters that belong to nobody are allowed.
    pub fn check(&self) -> std::result::Result<(), String> {
        let mut owned = BTreeSet::new();
        let mut directories = vec![Dir::Root];
        while let Some(dir) = directories.pop() {
            if let Dir::At(first) = dir {
                let (chain, wrong) = self.follow(first, 100);
                let shared = chain.iter().any(|cluster| !owned.insert(*cluster));
                if shared || wrong.is_some() {
                    return Err(format!("directory at {first}: {wrong:?}, shared: {shared}"));
                }
            }
            for entry in self.list(dir).map_err(|error| error.to_string())? {
                if entry.directory {
                    directories.push(Dir::At(entry.cluster));
                    continue;
                }
                let clusters = u64::from(entry.size).div_ceil(self.cluster());
                let (chain, wrong) = self.follow(entry.cluster, 5000);
                let shared = chain.iter().any(|cluster| !owned.insert(*cluster));
                if shared || wrong.is_some() || chain.len() as u64 != clusters {
                    return Err(format!("{entry:?}: {wrong:?}, shared: {shared}, {} clusters", chain.len()));
                }
            }
        }
        Ok(())
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn add(fat: &mut Fat<Disk>, dir: Dir, file: &str, content: &[u8]) {
    fat.add(dir, name(file), content).unwrap();
}

fn store(fat: &Fat<Disk>) -> (Dir, Dir) {
    let at = |above, dir| Dir::At(fat.find(above, name(dir)).unwrap().unwrap().cluster);
    let thimble = at(Dir::Root, "thimble");
    (thimble, at(thimble, "objects"))
}

#[test]
fn others_read_what_was_written() {
    let disk = Disk::formatted();
    let mut fat = Fat::open(disk.clone()).unwrap();
    let (thimble, objects) = store(&fat);
    // More than the directory's first cluster holds: it grows.
    for index in 0..40u8 {
        add(&mut fat, objects, &format!("{index:08}.abc"), &vec![index; 100 * usize::from(index) + 1]);
    }
    fat.remove(objects, &|entry| entry.name.letters().starts_with("0000000")).unwrap();
    fat.reclaim().unwrap();
    add(&mut fat, thimble, "a.cfg", &[b'x'; 30_000]);
    add(&mut fat, thimble, "a.cfg", b"replaced");
    fat.reclaim().unwrap();

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&disk.bytes()).unwrap();
    let said = Command::new("fsck.fat")
        .args(["-n", "-v"])
        .arg(file.path())
        .output()
        .expect("dosfstools: scripts/setup installs it");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{text}");
    assert!(!text.contains("differences"), "{text}");

    let mut bytes = disk.bytes();
    let other = fatfs::FileSystem::new(Cursor::new(&mut bytes[..]), fatfs::FsOptions::new()).unwrap();
    let root = other.root_dir();
    let mut text = String::new();
    root.open_file("thimble/a.cfg").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "replaced");
    let names: Vec<String> =
        root.open_dir("thimble/objects").unwrap().iter().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2 + 30, "{names:?}");
    assert_eq!(names[2], "00000010.abc");
    for index in 10..40u8 {
        let mut content = Vec::new();
        let path = format!("thimble/objects/{index:08}.abc");
        root.open_file(&path).unwrap().read_to_end(&mut content).unwrap();
        assert!(content == vec![index; 100 * usize::from(index) + 1], "{path}");
    }
}

#[test]
fn names_have_eight_letters_and_three() {
    assert_eq!(name("state"), name("STATE"));
    assert_eq!(name("0123abcd.ef0").letters(), "0123abcdef0");
    for text in ["", ".abc", "123456789", "a.abcd", "a b", "a.b.c", "\u{e9}"] {
        assert_eq!(Name::new(text), None, "{text}");
    }
}
