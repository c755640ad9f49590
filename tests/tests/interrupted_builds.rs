//! A build that cannot go on, or is told to stop, leaves nothing half-written, and the next one starts clean.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;
use thimble_tests::{cache, demo, media, thimble};

fn build_demo(out: &Path) -> Command {
    let mut command = thimble();
    command.args(["build", "configs/demo.toml", "--out"]).arg(out);
    command
}

#[test]
fn an_interrupted_build_leaves_nothing_and_the_next_one_gives_the_same_bytes() {
    // Given a cache with everything but the packed parts, beside the real one so that hard links do,
    let demo = demo();
    let beside = cache().parent().expect("the cache has a parent").to_owned();
    let copy = TempDir::with_prefix_in("thimble-test-", beside).expect("a directory beside the cache");
    let root = copy.path().join("cache");
    fs::create_dir(&root).expect("a directory");
    for entry in fs::read_dir(cache()).expect("the cache") {
        // What others are about to make there is theirs.
        let entry = entry.expect("the cache").path();
        if !["parts", "tests", "tmp"].iter().any(|name| entry.ends_with(name)) {
            let copied = Command::new("cp").arg("-al").arg(&entry).arg(&root).status().expect("cp starts");
            assert!(copied.success(), "{}", entry.display());
        }
    }
    let out = copy.path().join("out");

    // when a build is interrupted while it packs them,
    let mut build =
        build_demo(&out).env("THIMBLE_CACHE", &root).stderr(Stdio::piped()).spawn().expect("thimble starts");
    let stderr = BufReader::new(build.stderr.take().expect("it is piped"));
    let mut said = Vec::new();
    for line in stderr.lines().map_while(Result::ok) {
        if line.contains("modules.cpio.zst: started") {
            kill(Pid::from_raw(build.id().cast_signed()), Signal::SIGINT).expect("it runs");
        }
        said.push(line);
    }

    // then it says so and leaves nothing,
    assert_eq!(build.wait().expect("it is our child").code(), Some(130), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("interrupted")), "{said:#?}");
    assert!(!out.exists());
    let left: Vec<PathBuf> =
        fs::read_dir(root.join("tmp")).expect("the cache").map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");

    // and the next build, in another directory, gives the very bytes of the first one.
    let all = ["--quiet", "--format", "flash,netboot,iso,uki"];
    let status = build_demo(&out).args(all).env("THIMBLE_CACHE", &root).status().expect("thimble starts");
    assert!(status.success());
    let media = media();
    let both = ["flash.img", "netboot/initrd", "netboot/vmlinuz", "appliance.json"].map(|file| (file, demo));
    for (file, first) in both.into_iter().chain(["thimble.iso", "thimble.efi"].map(|file| (file, media))) {
        let same = fs::read(out.join(file)).expect(file) == fs::read(first.join(file)).expect(file);
        assert!(same, "{file} differs between two builds of one definition");
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_half_written() {
    if !geteuid().is_root() {
        println!("SKIPPED: a small file system to fill needs root");
        return;
    }
    demo();
    let small = TempDir::new().expect("a temporary directory");
    mount(Some("tmpfs"), small.path(), Some("tmpfs"), MsFlags::empty(), Some("size=16m")).expect("root may mount");
    let out = small.path().join("out");
    let output = build_demo(&out).output();
    let left: Vec<PathBuf> =
        fs::read_dir(small.path()).expect("it is there").map(|entry| entry.unwrap().path()).collect();
    umount(small.path()).expect("nobody uses it");

    let output = output.expect("thimble starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("No space left on device") && told.contains("flash.img"), "{told}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_missing_tool_is_told_with_its_package_before_anything_is_done() {
    let programs = TempDir::new().expect("a temporary directory");
    for directory in ["/usr/bin", "/usr/sbin"] {
        for entry in fs::read_dir(directory).expect("Debian has it").flatten() {
            if entry.file_name() != "mkfs.erofs" {
                let _ = symlink(entry.path(), programs.path().join(entry.file_name()));
            }
        }
    }
    let out = programs.path().join("out");
    let output = build_demo(&out).env("PATH", programs.path()).output().expect("thimble starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("mkfs.erofs") && told.contains("erofs-utils"), "{told}");
    assert!(!out.exists());
}
