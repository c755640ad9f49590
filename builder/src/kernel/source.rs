//! Kernels from source: the tree, a configuration of fragments over `make tinyconfig`, and the compiler.

use std::path::{Path, PathBuf};

use super::config::{self, Setting};
use crate::apt::{Apt, Package};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::make;
use crate::place::refuse;
use crate::tool::Tool;

/// What the kernel's make and its scripts run.
pub const TOOLS: &[&str] = &[
    "tar",
    "xz",
    "make",
    "gcc",
    "/usr/include/stdio.h",
    "ld",
    "strip",
    "flex",
    "bison",
    "bc",
    "perl",
    "/usr/include/libelf.h",
];

/// A kernel to compile.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// What it is called in the cache: `guest-kernel`.
    pub kind: &'a str,
    /// What it is called in messages: `guest kernel`.
    pub title: &'a str,
    /// Changes when the same inputs would give another kernel.
    pub format: &'a str,
    /// What `make` is told to make.
    pub targets: &'a [&'a str],
    /// Files that it compiles, as long as no earlier build has counted them.
    pub files_guess: u64,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The source package.
    pub package: Package,
    /// Hash over source, configuration and compiler.
    pub hash: String,
    /// The directory with what `keep` of [`build`] kept, and with the whole configuration.
    pub dir: PathBuf,
    /// Whether it was there before.
    pub reused: bool,
}

impl Compiled {
    /// Its whole configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }
}

/// A tree in which a kernel was compiled.
#[derive(Debug)]
pub struct Tree<'a> {
    source: &'a Path,
    /// What was compiled.
    pub built: &'a Path,
}

impl Tree<'_> {
    /// `make` once more.
    pub fn make(&self) -> Tool {
        bare_make(self.source, self.built)
    }
}

/// The kernel, from the cache or compiled; `keep` takes what is needed of it into the directory that stays.
///
/// # Errors
/// The source cannot be fetched, an option does not survive, the compiler fails.
pub fn build(
    context: &Context,
    apt: &Apt<'_>,
    recipe: Recipe<'_>,
    source: &str,
    settings: &[Setting],
    keep: impl FnOnce(&Tree<'_>, &Path) -> Result<()>,
) -> Result<Compiled> {
    let package = package(apt, source)?;
    let compiler = [make::version(context, "gcc")?, make::version(context, "ld")?];
    let mut key = Key::new(recipe.format).with(&package.sha256).with(config::render("", settings));
    for line in &compiler {
        key = key.with(line);
    }
    let hash = key.finish();
    let entry = context.cache.dir_for(recipe.kind, &hash, |out| {
        let source = tree(context, apt, &package)?;
        let built = files::temp_dir_in(&context.cache.temp_dir(), "kernel-")?;
        compile(context, recipe, settings, &Tree { source: &source, built: built.path() }, out, keep)
    })?;
    Ok(Compiled { package, hash, dir: entry.path, reused: entry.reused })
}

/// The package of a source.
///
/// # Errors
/// There is none.
pub fn package(apt: &Apt<'_>, name: &str) -> Result<Package> {
    apt.find(&[name])?.pop().ok_or_else(|| Error::Environment(format!("there is no source package {name}")))
}

/// A configuration that `make olddefconfig` has completed and that was checked, without a kernel.
///
/// # Errors
/// The source cannot be fetched, an option does not survive.
pub fn configuration(context: &Context, apt: &Apt<'_>, source: &str, settings: &[Setting]) -> Result<String> {
    let source = tree(context, apt, &package(apt, source)?)?;
    let dir = files::temp_dir_in(&context.cache.temp_dir(), "config-")?;
    configure(context, &source, settings, dir.path())
}

fn configure(context: &Context, tree: &Path, settings: &[Setting], dir: &Path) -> Result<String> {
    bare_make(tree, dir).arg("tinyconfig").run(context)?;
    let path = dir.join(".config");
    let tiny = files::read_text(&path)?;
    files::write(&path, config::render(&tiny, settings).as_bytes())?;
    bare_make(tree, dir).arg("olddefconfig").run(context)?;
    let result = files::read_text(&path)?;
    refuse(config::lost(settings, &result, "make olddefconfig"))?;
    Ok(result)
}

/// The pristine source tree.
///
/// # Errors
/// It cannot be fetched or unpacked.
fn tree(context: &Context, apt: &Apt<'_>, package: &Package) -> Result<PathBuf> {
    let entry = context.cache.dir_for("source", &package.sha256, |tmp| {
        let unpacked = files::temp_dir_in(&context.cache.temp_dir(), "source-")?;
        apt.unpack_into(package, unpacked.path())?;
        let archives = files::list(&unpacked.path().join("usr/src"))?;
        let archive = archives.iter().find(|path| path.to_string_lossy().contains(".tar.")).ok_or_else(|| {
            let name = &package.name;
            Error::Environment(format!("the package {name} holds no source: name one such as linux-source-6.12"))
        })?;
        let step = context.progress.step("unpacking the kernel's source");
        Tool::new("tar")
            .args(["--no-same-owner", "--strip-components=1", "-C"])
            .arg(tmp)
            .arg("-xf")
            .arg(archive)
            .run(context)?;
        step.done();
        Ok(())
    })?;
    Ok(entry.path)
}

fn compile(
    context: &Context,
    recipe: Recipe<'_>,
    settings: &[Setting],
    tree: &Tree<'_>,
    out: &Path,
    keep: impl FnOnce(&Tree<'_>, &Path) -> Result<()>,
) -> Result<()> {
    let step = context.progress.step(recipe.title.to_owned());
    step.message("configuring");
    let config = configure(context, tree.source, settings, tree.built)?;
    files::write(&out.join("config"), config.as_bytes())?;

    make::run(context, tree.make().args(recipe.targets), recipe.kind, recipe.files_guess, &step)?;

    step.message("stripping");
    keep(tree, out)?;
    step.done();
    Ok(())
}

/// `make` in a world where nothing but the tree, the configuration and the compiler decide what comes out
/// (Documentation/kbuild/reproducible-builds.rst).
fn bare_make(tree: &Path, dir: &Path) -> Tool {
    let assignment = |name: &str, path: &Path| {
        let mut text = std::ffi::OsString::from(name);
        text.push("=");
        text.push(path);
        text
    };
    Tool::new("make")
        .bare_environment()
        .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970")
        .env("KBUILD_BUILD_USER", "thimble")
        .env("KBUILD_BUILD_HOST", "thimble")
        .env("KBUILD_BUILD_VERSION", "1")
        .dir(tree)
        .arg(assignment("O", dir))
        .arg("ARCH=x86_64")
}
