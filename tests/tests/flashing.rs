//! `thimble flash` onto a disk that can be taken: a loop device. Whoever has no root or no loop device skips this.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Output, Stdio};

use nix::mount::{MsFlags, mount, umount};
use thimble_tests::{Disk, demo, thimble};

/// What `thimble flash` makes of it: the exit code, what it tells, and all of it.
fn flash(disk: &Disk, image: &Path, options: &[&str]) -> (Option<i32>, String, Output) {
    let mut command = thimble();
    command.arg("flash").arg(image).arg(disk.device()).args(options).stdin(Stdio::null());
    let output = command.output().expect("thimble starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), output)
}

#[test]
fn an_image_is_written_where_it_may_be_and_refused_elsewhere() {
    let demo = demo();
    let image = fs::read(demo.join("flash.img")).expect("the demonstration has one");
    let Some(disk) = Disk::new(image.len() as u64 + (100 << 20)) else { return };
    let old = fs::read(disk.file()).expect("the disk");

    // Given a disk that is mounted, nothing helps,
    let place = disk.dir().join("mounted");
    fs::create_dir(&place).unwrap();
    mount(Some(disk.device()), &place, Some("ext4"), MsFlags::MS_RDONLY, None::<&str>).expect("root may mount");
    let (code, told, _) = flash(&disk, demo, &["--force", "--yes"]);
    umount(&place).expect("nobody uses it");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("is mounted at") && told.contains("unmount it"), "{told}");

    // nor for one that somebody else holds alone.
    let holder = File::options().read(true).custom_flags(nix::libc::O_EXCL).open(disk.device()).expect("it is free");
    let (code, told, _) = flash(&disk, demo, &["--force", "--yes"]);
    drop(holder);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("is in use"), "{told}");

    // One that is not removable wants --force, and a script has to say --yes.
    let (code, told, _) = flash(&disk, demo, &["--yes"]);
    assert!(code == Some(1) && told.contains("is a loop device: if it is the right one, say --force"), "{told}");
    let (code, told, _) = flash(&disk, demo, &["--force"]);
    assert!(code == Some(2) && told.contains("say --yes"), "{told}");

    // An image that is not what its manifest says is refused before that.
    let altered = disk.dir().join("altered");
    fs::create_dir(&altered).unwrap();
    for name in ["manifest.json", "flash.img"] {
        fs::copy(demo.join(name), altered.join(name)).expect(name);
    }
    let file = File::options().write(true).open(altered.join("flash.img")).unwrap();
    file.write_all_at(b"x", 40 << 20).unwrap();
    let (code, told, _) = flash(&disk, &altered, &["--force", "--yes"]);
    assert!(code == Some(1) && told.contains("is not what the manifest"), "{told}");
    assert!(fs::read(disk.file()).unwrap() == old, "nothing was written until now");

    // When all is right, then the disk holds the image, says what was lost,
    let (code, told, output) = flash(&disk, demo, &["--force", "--yes", "--json"]);
    assert_eq!(code, Some(0), "{told}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(report["lost"][0]["label"], "precious", "{report:#}");
    assert_eq!(report["unused"], 100 << 20);
    let written = fs::read(disk.file()).unwrap();
    // but for its partition tables: they know the disk's end,
    assert!(written[17 << 10..image.len() - (17 << 10)] == image[17 << 10..image.len() - (17 << 10)]);
    assert!(written[..440] == image[..440]);
    // and are sound.
    let inspected = thimble().arg("inspect").arg(disk.file()).output().expect("thimble starts");
    assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
    let told = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(told.contains("both tables sound") && told.contains("thimble-data"), "{told}");
}

#[test]
fn a_small_disk_and_what_is_no_disk_are_refused() {
    let demo = demo();
    let refused = |device: &Path, what: &str| {
        let output = thimble().arg("flash").arg(demo).arg(device).args(["--force", "--yes"]).output();
        let output = output.expect("thimble starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(what), "{told}");
    };
    refused(Path::new("/dev/null"), "is no disk");
    refused(&demo.join("flash.img"), "is a file, not a disk");
    if let Some(disk) = Disk::new(30 << 20) {
        refused(disk.device(), "too small");
    }
    let output = thimble().args(["flash", "--list", "--json"]).output().expect("thimble starts");
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert!(output.status.success() && list.is_array(), "{list}");
}
