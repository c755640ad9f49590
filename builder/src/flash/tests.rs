//! An image as a whole: written, read back, compared.

use std::fs;
use std::io::Read;

use fatfs::{FileSystem, FsOptions};
use thimble_spec::paths::DATA_PARTITION;
use thimble_spec::release::{self, Release};
use thimble_spec::units::{ByteSize, MIB};
use thimble_store::{Envelope, Partition, State, Store, silent};

use super::window::Window;
use super::*;
use crate::cache::Cache;
use crate::efi::trust::Trust;
use crate::formats::loaders::Loaders;
use crate::initrd::parts::Part;
use crate::progress::Progress;

/// Where Debian's packages put GRUB's modules.
const GRUB_DIR: &str = "/usr/lib/grub";

struct Desk {
    dir: TempDir,
    context: Context,
}

impl Desk {
    fn new() -> Self {
        let there = [Platform::Bios, Platform::Uefi].iter().all(|at| Path::new(GRUB_DIR).join(at.name()).is_dir());
        assert!(there, "{GRUB_DIR} has no modules: install grub-pc-bin and grub-efi-amd64-bin (scripts/setup does)");
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_at(&dir.path().join("cache")).unwrap();
        fs::write(dir.path().join("kernel"), vec![0x5a; 3 << 20]).unwrap();
        fs::write(dir.path().join("host"), b"host part").unwrap();
        fs::write(dir.path().join("guest"), vec![7; 123_457]).unwrap();
        Self { dir, context: Context { cache, progress: Progress::quiet() } }
    }

    fn envelope(&self) -> Envelope {
        let part = |name: &str, file: &str| {
            let path = self.dir.path().join(file);
            let (size, sha256) = (files::size(&path).unwrap(), files::sha256_of(&path).unwrap());
            release::Part { name: name.to_owned(), size, sha256 }
        };
        let release = Release {
            version: release::VERSION,
            appliance: "demo".to_owned(),
            manifest: "0".repeat(64),
            cmdline: "console=ttyS0 quiet".to_owned(),
            tries: 3,
            key: None,
            kernel: part("vmlinuz", "kernel"),
            initrd: vec![part("host.cpio", "host"), part("guest.cpio", "guest")],
        };
        Envelope::seal(&release, None).unwrap()
    }

    fn write(&self, name: &str, budget: ByteSize, seed: u8) -> Result<(PathBuf, Vec<Space>)> {
        let path = |name: &str| self.dir.path().join(name);
        let contents = Contents {
            name: "demo",
            kernel: &path("kernel"),
            kernel_release: "6.1.0-1-amd64",
            parts: &["host", "guest"].map(|part| Part {
                name: format!("{part}.cpio"),
                path: path(part),
                objects: vec![],
                digests: vec![],
                reused: false,
            }),
            images: &[],
            cmdline: "console=ttyS0 quiet",
            envelope: &self.envelope(),
            room: layout::Room::Exactly(MIB),
            budget,
            seed: [seed; 32],
            trust: &Trust::None,
            loaders: &Loaders::with_grub(Path::new(GRUB_DIR)),
        };
        let out = path(name);
        write(&out, &contents, &self.context).map(|spaces| (out, spaces))
    }
}

/// What dosfstools say of the EFI system partition.
fn fsck(path: &Path, esp: &read::Part) {
    let whole = fs::read(path).unwrap();
    let start = usize::try_from(esp.start).unwrap();
    let mut copy = NamedTempFile::new().unwrap();
    copy.write_all(&whole[start..start + usize::try_from(esp.bytes).unwrap()]).unwrap();
    let said = std::process::Command::new("fsck.fat").args(["-n", "-v"]).arg(copy.path()).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

#[test]
fn an_image_can_be_read_back_and_every_byte_has_its_line() {
    let desk = Desk::new();
    let (path, spaces) = desk.write("flash.img", ByteSize::mib(24), 1).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 24 * MIB);
    assert_eq!(spaces.iter().map(|space| space.bytes).sum::<u64>(), 24 * MIB, "{spaces:#?}");

    let image = read::open(&path).unwrap();
    let names: Vec<&str> = image.partitions.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["bios-boot", "esp", DATA_PARTITION]);
    let esp = &image.partitions[1];
    let files: Vec<&str> = esp.files.iter().flatten().map(|file| file.path.as_str()).collect();
    let envelope = desk.envelope();
    let objects: Vec<String> =
        envelope.release().parts().map(|part| script::object_path(part)[1..].to_owned()).collect();
    let mut expected = vec!["EFI/BOOT/BOOTX64.EFI"];
    expected.extend(objects.iter().map(String::as_str));
    expected.extend(["thimble/grub.cfg", "thimble/state", "thimble/a.rel", "thimble/a.sum", "thimble/a.cfg"]);
    assert_eq!(files, expected);

    let file = File::open(&path).unwrap();
    let fat = FileSystem::new(Window::new(&file, esp.start, esp.bytes), FsOptions::new()).unwrap();
    assert_eq!(fat.fat_type(), fatfs::FatType::Fat16);
    for (on_disk, source) in objects.iter().zip(["kernel", "host", "guest"]) {
        let mut content = Vec::new();
        fat.root_dir().open_file(on_disk).unwrap().read_to_end(&mut content).unwrap();
        assert!(content == fs::read(desk.dir.path().join(source)).unwrap(), "{on_disk}");
    }
    let part = || Partition::of_file(file.try_clone().unwrap(), esp.start, esp.bytes);
    let store = Store::open(part()).unwrap();
    assert_eq!(store.verify(Slot::A, &mut silent).unwrap().release(), envelope.release());
    assert_eq!(store.state().unwrap(), State::new(Slot::A, 3));
    assert!(store.free().unwrap() >= MIB);
    let free = spaces.iter().find(|space| space.name.contains("free for updates")).unwrap();
    assert_eq!(store.free().unwrap(), free.bytes);
    fsck(&path, esp);
    // The super block's magic number: 1024 bytes into the file system, 0x38 into the block (ext4 documentation).
    let whole = fs::read(&path).unwrap();
    let magic = usize::try_from(image.partitions[2].start).unwrap() + 1024 + 0x38;
    assert_eq!(whole[magic..magic + 2], [0x53, 0xef]);
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let desk = Desk::new();
    let image = |name, seed| fs::read(desk.write(name, ByteSize::mib(24), seed).unwrap().0).unwrap();
    let first = image("a.img", 1);
    // FAT and ext4 keep times in whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(first == image("b.img", 1));
    assert!(first != image("c.img", 2));
}

#[test]
fn a_budget_that_is_too_small_is_told_with_the_ledger() {
    let desk = Desk::new();
    let error = desk.write("flash.img", ByteSize::mib(12), 1).unwrap_err();
    let text = error.to_string();
    let Error::Budget { budget, needed, .. } = error else { panic!("{text}") };
    assert_eq!(budget, ByteSize::mib(12));
    assert!((12 * MIB..16 * MIB).contains(&needed), "{needed}");
    assert!(text.contains("thimble/objects/vmlinuz"), "{text}");
    assert!(!desk.dir.path().join("flash.img").exists());
}

#[test]
fn damage_is_told_in_a_sentence() {
    let desk = Desk::new();
    let (path, _) = desk.write("flash.img", ByteSize::mib(24), 1).unwrap();
    let whole = fs::read(&path).unwrap();
    let told = |bytes: &[u8]| {
        let path = desk.dir.path().join("damaged.img");
        fs::write(&path, bytes).unwrap();
        read::open(&path).unwrap_err().to_string()
    };
    assert!(told(&whole[..whole.len() - 512]).contains("truncated or damaged"));
    assert!(told(b"hello").contains("no flash image"));
    let mut flipped = whole.clone();
    flipped[1024] ^= 1;
    assert!(told(&flipped).contains("truncated or damaged"), "{}", told(&flipped));
    let mut flipped = whole.clone();
    let backup_entries = flipped.len() - 33 * 512;
    flipped[backup_entries] ^= 1;
    assert!(told(&flipped).contains("backup"), "{}", told(&flipped));
    // A guest of the FAT: the boot sector of the EFI system partition.
    let mut flipped = whole;
    flipped[256 << 10] ^= 0xff;
    flipped[(256 << 10) + 11] ^= 0xff;
    assert!(told(&flipped).contains("FAT"), "{}", told(&flipped));
}
