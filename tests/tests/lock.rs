//! `thimble.lock`: builds use what it pins, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use thimble_tests::{demo, repository, thimble};

/// A directory with the demonstration's definition, whose library is the repository's.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        // What the demonstration needs is in the cache.
        demo();
        let dir = TempDir::new().expect("a temporary directory");
        fs::copy(repository().join("configs/demo.toml"), dir.path().join("demo.toml")).expect("the definition");
        Self { dir }
    }

    /// Adds to the definition.
    fn and(&self, more: &str) {
        let text = fs::read_to_string(self.path("demo.toml")).expect("the definition");
        fs::write(self.path("demo.toml"), text + more).expect("it may be written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, verb: &str, options: &[&str]) -> (Option<i32>, String, String) {
        let mut command = thimble();
        command.arg(verb).arg(self.path("demo.toml")).arg("--quiet").arg("--library").arg(repository()).args(options);
        ended(command)
    }

    fn build(&self, out: &str) -> (Option<i32>, String, String) {
        let out = self.path(out);
        self.run("build", &["--out", out.to_str().expect("UTF-8")])
    }

    fn change(&self, from: &str, to: &str) {
        let lock = fs::read_to_string(self.path("thimble.lock")).expect("it is locked");
        assert!(lock.contains(from), "{lock}");
        fs::write(self.path("thimble.lock"), lock.replacen(from, to, 1)).expect("it may be written");
    }
}

fn ended(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("thimble starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The entry of a package.
fn entry(lock: &Path, package: &str) -> String {
    let lock = fs::read_to_string(lock).expect("it is locked");
    let start = lock.find(&format!("[[package]]\nname = \"{package}\"")).expect(package);
    lock[start..].split_inclusive("\n\n").next().unwrap_or_default().to_owned()
}

#[test]
fn a_locked_build_is_the_same_and_asks_no_list() {
    let site = Site::new();
    // Given a lock of what the demonstration was built from,
    let (code, told, error) = site.run("lock", &[]);
    assert_eq!(code, Some(0), "{error}");
    assert!(told.contains("nginx ") && told.contains("linux-source-6.12 "), "{told}");
    let (code, told, _) = site.run("lock", &["--check"]);
    assert!(code == Some(0) && told.contains("nothing changes"), "{told}");
    let (code, _, error) = site.build("first");
    assert_eq!(code, Some(0), "{error}");

    // when apt can no longer be asked anything,
    let stubs = site.path("stubs");
    fs::create_dir(&stubs).unwrap();
    for name in ["apt-get", "apt-cache"] {
        fs::write(stubs.join(name), "#!/bin/sh\necho \"E: no apt today\" >&2\nexit 100\n").unwrap();
        fs::set_permissions(stubs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", stubs.display(), std::env::var("PATH").expect("there is one"));
    let mut build = thimble();
    build.arg("build").arg(site.path("demo.toml")).arg("--quiet").arg("--library").arg(repository());
    build.arg("--out").arg(site.path("out")).env("PATH", path);
    let (code, _, error) = ended(build);

    // then a build needs no answer, and gives the same bytes.
    assert_eq!(code, Some(0), "{error}");
    let bytes = |dir: &Path| fs::read(dir.join("flash.img")).expect("flash.img");
    assert!(bytes(&site.path("out")) == bytes(&site.path("first")), "a locked build differs");
}

#[test]
fn what_is_not_as_it_was_locked_is_refused() {
    let site = Site::new();
    // Given a lock of what the sources have at this moment,
    assert_eq!(site.run("lock", &["--update"]).0, Some(0));
    let nginx = entry(&site.path("thimble.lock"), "nginx");
    let line = |key: &str| nginx.lines().find(|line| line.starts_with(key)).expect(key);

    // then other content under the same version,
    site.change(line("sha256"), &format!("sha256 = \"{}\"", "0".repeat(64)));
    let (code, _, error) = site.build("out");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("nginx=") && error.contains("thimble.lock says 0000"), "{error}");

    // a version that is nowhere any more,
    site.change(
        &nginx.lines().take(3).collect::<Vec<_>>().join("\n"),
        "[[package]]\nname = \"nginx\"\nversion = \"0.1-1\"",
    );
    let (code, _, error) = site.build("out");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("thimble.lock pins nginx=0.1-1") && error.contains("thimble lock --update"), "{error}");

    // which an update shows,
    let (code, told, _) = site.run("lock", &["--update", "--check"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("0.1-1 -> ") && told.contains("not written"), "{told}");
    // and mends;
    let (code, _, error) = site.run("lock", &["--update", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let nginx = entry(&site.path("thimble.lock"), "nginx");
    assert!(!nginx.contains("0.1-1"), "{nginx}");

    // a package that the lock lacks,
    site.change(&nginx, "");
    let (code, _, error) = site.build("out");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("thimble.lock does not have the package nginx"), "{error}");
    // and a lock that is none.
    fs::write(site.path("thimble.lock"), "version = 1\n[[package]]\nname = \"-x\"\n").unwrap();
    let (code, _, error) = site.build("out");
    assert_eq!(code, Some(2), "{error}");
    assert!(!site.path("out").exists(), "nothing was built");
}

#[test]
fn another_source_of_a_compiled_program_is_refused() {
    // Given a guest with programs that are compiled, locked,
    let site = Site::new();
    site.and("\n[[guest]]\nname = \"shell1\"\nimage = \"minimal\"\nmemory = \"32MiB\"\n");
    let (code, told, error) = site.run("lock", &[]);
    assert_eq!(code, Some(0), "{error}");
    for package in ["src:bash ", "src:busybox ", "musl-dev ", "linux-libc-dev "] {
        assert!(told.contains(package), "{package}: {told}");
    }
    let (code, told, _) = site.run("lock", &["--check"]);
    assert!(code == Some(0) && told.contains("nothing changes"), "{told}");

    // then other content under the same version is refused,
    let bash = entry(&site.path("thimble.lock"), "src:bash");
    let line = |key: &str| bash.lines().find(|line| line.starts_with(key)).expect(key);
    site.change(line("sha256"), &format!("sha256 = \"{}\"", "0".repeat(64)));
    let (code, _, error) = site.build("out");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("src:bash=") && error.contains("thimble.lock says 0000"), "{error}");
    // and so is a version that is nowhere any more.
    site.change(line("version"), "version = \"0.1-1\"");
    let (code, _, error) = site.build("out");
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("thimble.lock pins src:bash=0.1-1") && error.contains("thimble lock --update"), "{error}");
}
