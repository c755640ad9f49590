//! The same definition gives the same bytes: in another directory, from another copy of the library, on another day.
//!
//! `thimble` itself asks nobody for the date but to judge the age of package lists, and is static, so that no library
//! can lie to it; the programs that it runs are each started under a date of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use thimble_tests::{cache, demo, repository, thimble};

/// Programs that write something which a build packs.
const TOOLS: [&str; 11] = [
    "gcc",
    "mksquashfs",
    "mkfs.erofs",
    "mke2fs",
    "grub-mkimage",
    "grub-mkrescue",
    "xorriso",
    "mformat",
    "mcopy",
    "strip",
    "objcopy",
];
/// What is taken from the cache all the same: packages, the kernel's source, and the kernel, which takes minutes.
const KEPT: [&str; 6] = ["apt", "packages", "modules", "source", "guest-kernel", "locks"];

/// What recipes compile. It takes a minute and a half, so that one of the two builds has it from the cache, as it was made there.
const COMPILED: &str = "compiled";
/// A guest whose programs are compiled.
const MORE: &str = "\n[[guest]]\nname = \"shell1\"\nimage = \"minimal\"\nmemory = \"32MiB\"\n";

/// A build of everything, with a cache of its own that has nothing packed, from a library of its own.
struct Build {
    dir: TempDir,
}

impl Build {
    fn new(date: &str, kept: &[&str]) -> Self {
        // Beside the real cache, so that hard links do.
        let beside = cache().parent().expect("the cache has a parent").to_owned();
        let dir = TempDir::with_prefix_in("thimble-test-", beside).expect("a directory beside the cache");
        let build = Self { dir };
        fs::create_dir(build.path("cache")).expect("a directory");
        for kind in KEPT.iter().chain(kept).map(|kind| cache().join(kind)).filter(|kind| kind.is_dir()) {
            copy(&["-al"], &kind, &build.path("cache"));
        }
        fs::create_dir(build.path("library")).expect("a directory");
        for part in ["configs", "images"] {
            copy(&["-r"], &repository().join(part), &build.path("library"));
        }
        fs::create_dir(build.path("tools")).expect("a directory");
        // All formats: one of them wants a set of drivers more.
        let definition = build.path("library/configs/demo.toml");
        let text = fs::read_to_string(&definition).expect("the definition");
        let text = text.replace("hardware = [", "hardware = [\"nfs\", ") + MORE;
        fs::write(&definition, text).expect("the definition");
        for tool in TOOLS {
            let path = build.path("tools").join(tool);
            // The real one is the next on the path.
            let script = format!("#!/bin/sh\nPATH=${{PATH#*:}}\nexec faketime -f '{date}' {tool} \"$@\"\n");
            fs::write(&path, script).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        }
        build
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self) -> PathBuf {
        let out = self.path("out");
        let path = std::env::var("PATH").expect("there is one");
        let mut command = thimble();
        command.arg("build").arg(self.path("library/configs/demo.toml")).args(["--format", "all", "--quiet", "--out"]);
        command.arg(&out).env("THIMBLE_CACHE", self.path("cache"));
        // Some of the tools read it too.
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.path("tools").display()));
        let output = command.output().expect("thimble starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        out
    }
}

fn copy(options: &[&str], from: &Path, to: &Path) {
    assert!(Command::new("cp").args(options).arg(from).arg(to).status().expect("cp starts").success());
}

/// All files below a directory, by their path in it.
fn files(dir: &Path) -> Vec<String> {
    let output = Command::new("find").arg(".").args(["-type", "f"]).current_dir(dir).output().expect("find starts");
    let mut files: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    files.sort();
    files
}

#[test]
fn two_builds_in_two_directories_under_two_dates_give_the_same_bytes() {
    if Command::new("faketime").arg("--version").output().is_err() {
        println!("SKIPPED: faketime is missing (scripts/setup installs it)");
        return;
    }
    // Given everything that takes minutes,
    demo();
    // when all formats are built twice, with years between,
    let builds = [Build::new("@2001-02-03 04:05:06", &[COMPILED]), Build::new("@2031-12-30 23:59:59", &[])];
    let [one, other] = [builds[0].run(), builds[1].run()];
    // then nothing tells them apart.
    let names = files(&one);
    assert_eq!(names, files(&other));
    assert!(names.len() > 5, "{names:?}");
    for name in &names {
        let same = fs::read(one.join(name)).expect(name) == fs::read(other.join(name)).expect(name);
        assert!(same, "{name} differs between two days");
    }
    println!("{} files are the same", names.len());
}
