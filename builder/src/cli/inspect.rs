//! `thimble inspect`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thimble_spec::manifest::{Manifest, Object, Origin, Room};
use thimble_spec::paths::{self, DATA_PARTITION};

use crate::build::output::{FLASH, MANIFEST};
use crate::error::{Error, Result};
use crate::flash::read::{self, Image};
use crate::ledger::Space;
use crate::run::artefacts::{self, Artefacts};
use crate::slots::{self, Slots};
use crate::{compare, files, formats, ledger};

/// Where a flash disk has the objects; all other files on its boot partition are the boot loader's.
const OBJECTS: &str = "thimble/objects/";

/// Say who spends each byte of an appliance.
///
/// For a build's directory: what each part of the appliance and each of its objects takes of the budget, and which kernel
/// and initramfs each guest starts with; all artefacts are compared with the manifest. For a flash.img alone: its
/// partitions and boot files; all checksums of its tables are compared. Of both: what the disk's slots hold, what they share
/// and which is started; all that they load is compared with the hashes of their releases. For a thimble.iso: its files,
/// each compared with its sum. For a thimble.efi or another UEFI program: its sections and signatures, its checksum
/// compared.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 everything is as it should be, 1 something differs or is damaged.")]
pub struct Args {
    /// The output directory of `thimble build`, or a flash.img, thimble.iso or thimble.efi
    #[arg(value_name = "DIR|FILE", required_unless_present = "diff", conflicts_with = "diff")]
    what: Option<PathBuf>,
    /// Say what grew, shrank, came and went from one build to another: output directories, or their manifest.json
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    diff: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is said about a directory.
#[derive(Serialize)]
struct Report<'a> {
    budget: u64,
    rooms: Vec<RoomTotal>,
    spaces: &'a [Space],
    manifest: &'a Manifest,
    /// The slots of flash.img.
    slots: Option<Slots>,
    guests: Vec<Starts>,
    /// Artefacts that are not what the manifest says, a sentence each.
    differences: Vec<String>,
}

/// What a guest starts with.
#[derive(Serialize)]
struct Starts {
    guest: String,
    /// Package and version of the kernel's source.
    kernel: Option<String>,
    kernel_sha256: String,
    initrd_sha256: String,
}

#[derive(Serialize)]
struct RoomTotal {
    room: Room,
    bytes: u64,
}

/// Prints it.
///
/// # Errors
/// It is neither; it is damaged; an artefact differs from the manifest.
pub fn run(args: Args) -> Result<()> {
    let Some(what) = &args.what else { return diff(&args.diff, args.json) };
    if what.is_dir() {
        return directory(what, args.json);
    }
    if !what.exists() {
        return Err(Error::Usage(format!("{}: there is no such file or directory", what.display())));
    }
    if let Some(medium) = formats::read::open(what)? {
        print(&if args.json { json(&medium)? } else { medium.text() })?;
        return sound(medium.damage());
    }
    let image = read::open(what)?;
    let slots = slots::of_image(what, &image)?;
    let disk = Disk { image: &image, slots: slots.as_ref() };
    print(&if args.json { json(&disk)? } else { partitions(&image) + &slots_text(slots.as_ref()) })?;
    sound(damage(slots.as_ref()))
}

fn diff(builds: &[PathBuf], as_json: bool) -> Result<()> {
    let [old, new] = builds else {
        return Err(Error::Usage("--diff wants two builds: OLD and NEW".to_owned()));
    };
    let difference = compare::between(&manifest(old)?.objects, &manifest(new)?.objects);
    print(&if as_json { json(&difference)? } else { difference.text() })
}

/// The manifest of a build's directory, or that file itself.
fn manifest(path: &Path) -> Result<Manifest> {
    let named = path.file_name().is_some_and(|name| name == MANIFEST);
    artefacts::manifest(if named && path.is_file() { files::parent(path) } else { path })
}

/// What is said about an image.
#[derive(Serialize)]
struct Disk<'a> {
    #[serde(flatten)]
    image: &'a Image,
    slots: Option<&'a Slots>,
}

fn slots_text(slots: Option<&Slots>) -> String {
    slots.map(|slots| format!("\n{}", slots.text())).unwrap_or_default()
}

fn damage(slots: Option<&Slots>) -> Vec<String> {
    slots.map(Slots::damage).unwrap_or_default()
}

fn sound(wrong: Vec<String>) -> Result<()> {
    if wrong.is_empty() { Ok(()) } else { Err(Error::environment(wrong.join("\n"))) }
}

fn directory(dir: &Path, as_json: bool) -> Result<()> {
    let artefacts = Artefacts::open(dir)?;
    let manifest = &artefacts.manifest;
    let flash = manifest.artefacts.iter().any(|artefact| artefact.name == FLASH);
    let image = if flash { Some(read::open(&artefacts.file(FLASH)?)?) } else { None };
    let slots = match &image {
        Some(image) => slots::of_image(&artefacts.file(FLASH)?, image)?,
        None => None,
    };
    let spaces = spaces(&manifest.objects, image.as_ref());
    let mut differences = differences(dir, &manifest.artefacts)?;
    differences.extend(damage(slots.as_ref()));
    let guests = starts(&artefacts);
    if as_json {
        let rooms = ledger::by_room(&spaces).into_iter().map(|(room, bytes)| RoomTotal { room, bytes }).collect();
        let report = Report {
            budget: manifest.budget,
            rooms,
            spaces: &spaces,
            manifest,
            slots,
            guests,
            differences: differences.clone(),
        };
        print(&json(&report)?)?;
    } else {
        let (name, budget) = (&manifest.appliance, manifest.budget);
        let mut text = match image {
            Some(_) => format!("{name}: flash.img takes {budget} bytes, and this is who spends them\n\n"),
            None => {
                format!("{name}: no flash.img was built; of its budget of {budget} bytes the objects would take\n\n")
            }
        };
        text.push_str(&ledger::table(&spaces, budget));
        text.push_str(&slots_text(slots.as_ref()));
        text.push_str(&starts_table(&guests));
        print(&text)?;
    }
    sound(differences)
}

/// What each guest starts with: all of them the same.
fn starts(artefacts: &Artefacts) -> Vec<Starts> {
    let object = |path: &str| artefacts.manifest.objects.iter().find(|object| object.name == path);
    let (Some(kernel), Some(initrd)) = (object(paths::GUEST_KERNEL), object(paths::GUEST_INITRD)) else {
        return Vec::new();
    };
    let version = match &kernel.origin {
        Origin::Source { package, version, .. } | Origin::Package { package, version } => {
            Some(format!("{package} {version}"))
        }
        _ => None,
    };
    let guests = artefacts.appliance.guests.iter().map(|guest| Starts {
        guest: guest.name.clone(),
        kernel: version.clone(),
        kernel_sha256: kernel.sha256.clone(),
        initrd_sha256: initrd.sha256.clone(),
    });
    guests.collect()
}

/// For people, in a table's lines: as many digits of a hash as `thimble-node guests` shows.
fn starts_table(guests: &[Starts]) -> String {
    let mut text = String::new();
    for Starts { guest, kernel, kernel_sha256, initrd_sha256 } in guests {
        let version = kernel.as_deref().unwrap_or("a kernel");
        // Writing to a string does not fail.
        let _ = writeln!(text, "guest {guest} starts with {version} ({kernel_sha256:.12}) initrd {initrd_sha256:.12}");
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

/// Who spends each byte of the disk: the objects of the manifest, and what the disk itself has around them.
fn spaces(objects: &[Object], image: Option<&Image>) -> Vec<Space> {
    let space = |room, name: &str, bytes| Space { room, name: name.to_owned(), bytes };
    let on_flash = objects.iter().filter(|object| object.room != Room::Artefact && object.packed > 0);
    let mut spaces: Vec<Space> = on_flash.map(|object| space(object.room, &object.name, object.packed)).collect();
    let of_objects: u64 = spaces.iter().map(|space| space.bytes).sum();

    let Some(image) = image else { return spaces };
    let (mut in_partitions, mut payload) = (0, 0);
    for part in &image.partitions {
        in_partitions += part.bytes;
        let Some(files) = &part.files else {
            let room = if part.name == DATA_PARTITION { Room::Data } else { Room::Boot };
            spaces.push(space(room, &format!("partition {}", part.name), part.bytes));
            continue;
        };
        let (boot, rest): (Vec<_>, Vec<_>) = files.iter().partition(|file| !file.path.starts_with(OBJECTS));
        spaces.extend(boot.iter().map(|file| space(Room::Boot, &file.path, file.bytes)));
        payload += rest.iter().map(|file| file.bytes).sum::<u64>();
        let free = part.bytes - files.iter().map(|file| file.bytes).sum::<u64>();
        spaces.push(space(Room::Boot, &format!("partition {}: FAT, ends of clusters, free", part.name), free));
    }
    spaces.push(space(Room::Boot, "MBR, GPT and its backup", image.bytes - in_partitions));
    // The objects of an archive are counted without what holds them together.
    spaces.push(space(
        Room::Host,
        "initramfs: headers and padding of its archives",
        payload.saturating_sub(of_objects),
    ));
    spaces
}

fn differences(dir: &Path, artefacts: &[Object]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for artefact in artefacts {
        let path = dir.join(&artefact.name);
        let name = path.display();
        if !path.is_file() {
            found.push(format!("{name} is missing"));
            continue;
        }
        let size = files::size(&path)?;
        if size != artefact.size {
            found.push(format!("{name} has {size} bytes, and the manifest says {}", artefact.size));
        } else if files::sha256_of(&path)? != artefact.sha256 {
            found.push(format!("{name} is not what the manifest says: its SHA-256 differs"));
        }
    }
    Ok(found)
}

fn partitions(image: &Image) -> String {
    let mut text = format!("a GPT disk of {} bytes, both tables sound\n\n", image.bytes);
    text.push_str("       start         bytes  partition\n");
    for part in &image.partitions {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:>12}  {:>12}  {}", part.start, part.bytes, part.name);
        for file in part.files.iter().flatten() {
            let _ = writeln!(text, "{:>12}  {:>12}    {}", "", file.bytes, file.path);
        }
    }
    text
}

fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::environment(error.to_string()))?;
    Ok(text + "\n")
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write", "standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artefact(name: &str, content: &[u8]) -> Object {
        Object {
            name: name.to_owned(),
            room: Room::Artefact,
            size: content.len() as u64,
            packed: 0,
            sha256: files::sha256(content),
            origin: Origin::Thimble,
        }
    }

    #[test]
    fn a_guest_has_a_line_with_its_kernel_and_its_initramfs() {
        let starts = Starts {
            guest: "web1".to_owned(),
            kernel: Some("linux-source-6.12 6.12.9-1".to_owned()),
            kernel_sha256: "a".repeat(64),
            initrd_sha256: "b".repeat(64),
        };
        let line = "\nguest web1 starts with linux-source-6.12 6.12.9-1 (aaaaaaaaaaaa) initrd bbbbbbbbbbbb\n";
        assert_eq!(starts_table(&[starts]), line);
        assert_eq!(starts_table(&[]), "");
    }

    #[test]
    fn artefacts_that_differ_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["same", "longer", "other"] {
            std::fs::write(dir.path().join(name), b"content").unwrap();
        }
        let artefacts = [
            artefact("same", b"content"),
            artefact("longer", b"con"),
            artefact("other", b"CONTENT"),
            artefact("gone", b""),
        ];
        let found = differences(dir.path(), &artefacts).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("longer has 7 bytes, and the manifest says 3"));
        assert!(found[1].contains("other is not what the manifest says"));
        assert!(found[2].contains("gone is missing"));
    }

    #[test]
    fn every_byte_of_the_disk_has_its_line() {
        let part = |name: &str, bytes, files| read::Part {
            name: name.to_owned(),
            guid: String::new(),
            start: 0,
            bytes,
            files,
        };
        let file = |path: &str, bytes| read::FoundFile { path: path.to_owned(), bytes };
        let files = vec![
            file("EFI/X", 10),
            file("thimble/b.rel", 1),
            file("thimble/objects/1", 100),
            file("thimble/objects/2", 60),
        ];
        let partitions =
            vec![part("bios-boot", 50, None), part("esp", 200, Some(files)), part(DATA_PARTITION, 700, None)];
        let image = Image { bytes: 1000, guid: String::new(), partitions };
        let object = |name: &str, room, packed| Object { room, packed, ..artefact(name, b"") };
        let objects =
            [object("vmlinuz", Room::HostKernel, 100), object("init", Room::Host, 55), artefact("flash.img", b"x")];
        let spaces = spaces(&objects, Some(&image));
        let rooms = ledger::by_room(&spaces);
        assert_eq!(rooms.values().sum::<u64>(), 1000, "{spaces:#?}");
        assert_eq!((rooms[&Room::Data], rooms[&Room::Boot], rooms[&Room::Host]), (700, 140, 60));
    }

    #[test]
    fn a_partition_table_is_shown_with_its_files() {
        let part = |name: &str, files| read::Part {
            name: name.to_owned(),
            guid: String::new(),
            start: 512,
            bytes: 4096,
            files,
        };
        let kernel = read::FoundFile { path: "thimble/vmlinuz".to_owned(), bytes: 42 };
        let image = Image {
            bytes: 8192,
            guid: String::new(),
            partitions: vec![part("esp", Some(vec![kernel])), part("d", None)],
        };
        assert_eq!(
            partitions(&image),
            "a GPT disk of 8192 bytes, both tables sound\n\n\
             \x20      start         bytes  partition\n\
             \x20        512          4096  esp\n\
             \x20                       42    thimble/vmlinuz\n\
             \x20        512          4096  d\n"
        );
    }
}
