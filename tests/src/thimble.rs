//! The `thimble` command and what it builds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::Definition;

/// The top of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The command, as `make programs` compiled it.
pub fn thimble() -> Command {
    let binary = repository().join("target/x86_64-unknown-linux-gnu/release/thimble");
    assert!(binary.exists(), "{} is missing: run `make programs`", binary.display());
    let mut command = Command::new(binary);
    command.current_dir(repository());
    command
}

/// The output directory of `configs/demo.toml`, built once a process.
pub fn demo() -> &'static Path {
    static DEMO: OnceLock<PathBuf> = OnceLock::new();
    DEMO.get_or_init(|| build("demo", &[]))
}

/// The same with `thimble.iso` and `thimble.efi` besides the flash disk.
pub fn media() -> &'static Path {
    static MEDIA: OnceLock<PathBuf> = OnceLock::new();
    MEDIA.get_or_init(|| build("media", &["--format", "flash,iso,uki"]))
}

/// A host for virtual machines alone, with one guest of 64 MiB: the demonstration with less.
pub fn small() -> &'static Path {
    static SMALL: OnceLock<PathBuf> = OnceLock::new();
    SMALL.get_or_init(|| one_guest("small", "package = \"linux-image-amd64\""))
}

/// The same with a kernel that is compiled for it, which takes ten minutes and more the first time.
pub fn compiled() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| one_guest("compiled", "source = \"linux-source-6.12\""))
}

fn one_guest(name: &str, kernel: &str) -> PathBuf {
    let changes = [
        ("package = \"linux-image-amd64\"", kernel),
        ("\"virtio\", \"raid\", \"nic-server\", \"usb\"", "\"virtio\""),
        ("memory = \"768MiB\"", "memory = \"256MiB\""),
        ("memory = \"96MiB\"", "memory = \"64MiB\""),
    ];
    let definition = Definition::read("configs/demo.toml").named(name).up_to("[[guest]]\nname = \"web2\"");
    definition.with(&changes).build(&repository().join("target"), [""; 0])
}

/// Builds the demonstration into `target/NAME`.
fn build(name: &str, more: &[&str]) -> PathBuf {
    let out = repository().join("target").join(name);
    let built = thimble().args(["build", "configs/demo.toml", "--quiet", "--out"]).arg(&out).args(more).output();
    let built = built.expect("thimble starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
}

/// Where `thimble` keeps what it made before: as it decides itself.
pub fn cache() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("THIMBLE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|home| home.join("thimble")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/thimble")))
        .expect("HOME is set")
}
