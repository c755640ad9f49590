//! The guests' kernel: compiled from the distribution's source package with our fragments over `make tinyconfig`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use thimble_spec::definition::Mistake;

use super::config::{self, Setting};
use crate::apt::{Apt, Package};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::library::Library;
use crate::nearest::hint;
use crate::place::{Source, refuse};
use crate::tool::Tool;

/// Changes when the same inputs would give another kernel.
const FORMAT: &str = "guest kernel 1";
/// Files that a kernel of our fragments compiles, as long as no earlier build has counted them.
const OBJECTS_GUESS: u64 = 1430;
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

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct GuestKernel {
    /// The source package.
    pub package: Package,
    /// Hash over source, configuration and compiler.
    pub hash: String,
    /// The kernel: ELF, stripped.
    pub vmlinux: PathBuf,
    /// Its whole configuration.
    pub config: PathBuf,
    /// Whether it was there before.
    pub reused: bool,
}

/// Reads and merges fragments. Names that have no file are mistakes of `definition`.
///
/// # Errors
/// A fragment cannot be read.
pub fn fragments(
    library: &Library,
    names: &[String],
    definition: &Source,
    mistakes: &mut Vec<Mistake>,
) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = library.fragment(name);
        if !path.is_file() {
            let (dir, leaf) = name.rsplit_once('/').map_or(("", name.as_str()), |(dir, leaf)| (dir, leaf));
            let known: Vec<String> = Library::siblings(&path)
                .into_iter()
                .map(|sibling| if dir.is_empty() { sibling } else { format!("{dir}/{sibling}") })
                .collect();
            let hint = hint(if dir.is_empty() { leaf } else { name }, known.iter().map(String::as_str));
            let message = format!("there is no fragment {name}: {} does not exist{hint}", path.display());
            mistakes.push(definition.mistake(&format!("kernel.guest.fragments[{index}]"), message));
            continue;
        }
        match config::parse(&path.display().to_string(), &files::read_text(&path)?) {
            Ok(parsed) => settings.extend(parsed),
            Err(wrong) => mistakes.extend(wrong),
        }
    }
    Ok(config::merge(settings))
}

/// The kernel, from the cache or compiled.
///
/// # Errors
/// The source cannot be fetched, an option does not survive, the compiler fails.
pub fn build(context: &Context, apt: &Apt<'_>, source: &str, settings: &[Setting]) -> Result<GuestKernel> {
    let package =
        apt.find(&[source])?.pop().ok_or_else(|| Error::Environment(format!("there is no source package {source}")))?;
    let compiler = [version(context, "gcc")?, version(context, "ld")?];
    let mut key = Key::new(FORMAT).with(&package.sha256).with(config::render("", settings));
    for line in &compiler {
        key = key.with(line);
    }
    let hash = key.finish();
    let entry = context.cache.dir_for("guest-kernel", &hash, |out| compile(context, apt, &package, settings, out))?;
    Ok(GuestKernel {
        package,
        hash,
        vmlinux: entry.path.join("vmlinux"),
        config: entry.path.join("config"),
        reused: entry.reused,
    })
}

/// A configuration that `make olddefconfig` has completed and that was checked, without a kernel: into `dir`.
///
/// # Errors
/// The source cannot be fetched, an option does not survive.
pub fn configure(context: &Context, tree: &Path, settings: &[Setting], dir: &Path) -> Result<String> {
    make(tree, dir).arg("tinyconfig").run(context)?;
    let path = dir.join(".config");
    let tiny = files::read_text(&path)?;
    files::write(&path, config::render(&tiny, settings).as_bytes())?;
    make(tree, dir).arg("olddefconfig").run(context)?;
    let result = files::read_text(&path)?;
    refuse(config::lost(settings, &result))?;
    Ok(result)
}

/// The pristine source tree.
///
/// # Errors
/// It cannot be fetched or unpacked.
pub fn source_tree(context: &Context, apt: &Apt<'_>, package: &Package) -> Result<PathBuf> {
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

fn compile(context: &Context, apt: &Apt<'_>, package: &Package, settings: &[Setting], out: &Path) -> Result<()> {
    let tree = source_tree(context, apt, package)?;
    let build = files::temp_dir_in(&context.cache.temp_dir(), "kernel-")?;
    let step = context.progress.step("guest kernel");
    step.message("configuring");
    let config = configure(context, &tree, settings, build.path())?;
    files::write(&out.join("config"), config.as_bytes())?;

    let counted = context.cache.root().join("guest-kernel/objects");
    let total = fs::read_to_string(&counted).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(OBJECTS_GUESS);
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut done = 0;
    make(&tree, build.path()).arg(format!("-j{jobs}")).arg("vmlinux").watch(context, |line| {
        if let Some(file) = target(line) {
            done += 1;
            step.position(done, total, file);
        }
    })?;
    // Only an estimate for the next bar: a cache that cannot be written shows where it matters.
    let _ = fs::write(&counted, done.to_string());

    step.message("stripping");
    let vmlinux = out.join("vmlinux");
    Tool::new("strip").arg("--strip-all").arg("-o").arg(&vmlinux).arg(build.path().join("vmlinux")).run(context)?;
    step.done();
    Ok(())
}

/// `make` in a world where nothing but the tree, the configuration and the compiler decide what comes out
/// (Documentation/kbuild/reproducible-builds.rst).
fn make(tree: &Path, dir: &Path) -> Tool {
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

/// The file that a line of kbuild's output is about: `  CC      kernel/fork.o`.
fn target(line: &str) -> Option<&str> {
    let line = line.strip_prefix("  ")?;
    let (verb, file) = line.split_once(char::is_whitespace)?;
    let is_verb = verb.len() > 1 && verb.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_verb.then_some(file.trim()).filter(|file| !file.is_empty())
}

/// First line of `program --version`.
fn version(context: &Context, program: &str) -> Result<String> {
    let output = Tool::new(program).arg("--version").output(context)?;
    Ok(String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_kbuild_name_a_file() {
        assert_eq!(target("  CC      kernel/fork.o"), Some("kernel/fork.o"));
        assert_eq!(target("  AR      built-in.a"), Some("built-in.a"));
        assert_eq!(target("make[1]: Entering directory"), None);
        assert_eq!(target("  scripts/kconfig: note"), None);
    }
}
