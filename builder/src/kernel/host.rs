//! The host's kernel: the distribution's own signed package, or one that is compiled ([`super::compiled`]); and its modules.

use std::fs;
use std::path::{Path, PathBuf};

use thimble_spec::appliance::HostKernelSource;
use thimble_spec::manifest::Origin;

use super::compiled::{self, VMLINUZ};
use super::config::Setting;
use super::hardware::Set;
use super::modinfo::{self, canonical};
use super::modules::{Catalog, Known, Selection, select};
use crate::apt::{Apt, Package};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::interrupt;

/// How many packages may stand between the one that the definition names and the kernel.
const META_DEPTH: usize = 4;
/// Changes when [`Catalog`] does.
const CATALOG_FORMAT: &str = "module catalog 1";

/// A kernel with its modules.
#[derive(Clone, Debug)]
pub struct HostKernel {
    /// The package that holds the kernel, or its source.
    pub package: Package,
    /// If it is compiled.
    pub compiled: Option<OwnWork>,
    /// Whether it was there before.
    pub reused: bool,
    /// The kernel.
    pub vmlinuz: PathBuf,
    /// `lib/modules/RELEASE` of the package.
    pub modules_dir: PathBuf,
    /// All that it has.
    pub catalog: Catalog,
}

/// What is known of a compiled kernel.
#[derive(Clone, Debug)]
pub struct OwnWork {
    /// Hash over source, configuration and compiler.
    pub hash: String,
    /// Its whole configuration.
    pub config: PathBuf,
}

impl HostKernel {
    /// For the manifest.
    pub fn origin(&self) -> Origin {
        let (package, version) = (self.package.name.clone(), self.package.version.clone());
        match &self.compiled {
            None => Origin::Package { package, version },
            Some(OwnWork { hash, .. }) => Origin::Source { package, version, hash: hash.clone() },
        }
    }

    /// Its release, as `uname -r` says it: the name of the directory with its modules.
    pub fn release(&self) -> String {
        self.modules_dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The package with the kernel: `name` itself or one that it depends on.
///
/// # Errors
/// No source has it.
pub fn resolve(apt: &Apt<'_>, name: &str) -> Result<Package> {
    let chain = chain(apt, name)?;
    chain.into_iter().last().ok_or_else(|| Error::Environment(format!("there is no package {name}")))
}

/// The packages from `name` to the one with the kernel.
///
/// # Errors
/// No source has one of them.
pub fn chain(apt: &Apt<'_>, name: &str) -> Result<Vec<Package>> {
    let mut chain = vec![one(apt, name)?];
    for _ in 0..META_DEPTH {
        let mut depends = chain.iter().last().into_iter().flat_map(|package| package.depends.iter().flatten());
        let next = depends.find(|depends| depends.starts_with("linux-image-")).cloned();
        match next {
            Some(next) => chain.push(one(apt, &next)?),
            None => return Ok(chain),
        }
    }
    Err(Error::Environment(format!("the package {name} leads to no kernel: name one such as linux-image-amd64")))
}

fn one(apt: &Apt<'_>, name: &str) -> Result<Package> {
    apt.find(&[name])?.pop().ok_or_else(|| Error::Environment(format!("there is no package {name}")))
}

/// The kernel that a definition asks for; `settings` are those of its fragments.
///
/// # Errors
/// It cannot be fetched or compiled, or it is no kernel.
pub fn get(context: &Context, apt: &Apt<'_>, from: &HostKernelSource, settings: &[Setting]) -> Result<HostKernel> {
    match from {
        HostKernelSource::Package(name) => fetch(context, apt, resolve(apt, name)?),
        HostKernelSource::Source { source, .. } => compile(context, apt, source, settings),
    }
}

/// Fetches and unpacks a kernel package, and reads what its modules say of themselves.
///
/// # Errors
/// It cannot be fetched, or it is no kernel.
pub fn fetch(context: &Context, apt: &Apt<'_>, package: Package) -> Result<HostKernel> {
    let reused = context.cache.find("packages", &package.sha256).is_some();
    let tree = apt.unpacked(&package)?;
    let strange = |what: &str| {
        Error::Environment(format!(
            "the package {} is no kernel: {what}; name one such as linux-image-amd64",
            package.name
        ))
    };
    let vmlinuz = only(&tree.join("boot"), "vmlinuz-").ok_or_else(|| strange("it has no /boot/vmlinuz-*"))?;
    let modules_dir = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|dir| only(&tree.join(dir), ""))
        .ok_or_else(|| strange("it has no /lib/modules"))?;
    let catalog = read(context, &package.sha256, &modules_dir)?;
    Ok(HostKernel { package, compiled: None, reused, vmlinuz, modules_dir, catalog })
}

fn compile(context: &Context, apt: &Apt<'_>, source: &str, settings: &[Setting]) -> Result<HostKernel> {
    let made = compiled::build(context, apt, source, settings)?;
    let modules_dir = only(&made.dir.join("lib/modules"), "")
        .ok_or_else(|| Error::Environment(format!("{} holds no modules: remove it", made.dir.display())))?;
    let catalog = read(context, &made.hash, &modules_dir)?;
    Ok(HostKernel {
        vmlinuz: made.dir.join(VMLINUZ),
        modules_dir,
        catalog,
        reused: made.reused,
        compiled: Some(OwnWork { config: made.config(), hash: made.hash }),
        package: made.package,
    })
}

/// The catalogue of a kernel's modules, from the cache or read; `hash` stands for the kernel.
fn read(context: &Context, hash: &str, modules_dir: &Path) -> Result<Catalog> {
    let damaged = |error: serde_json::Error| {
        Error::Environment(format!("the catalogue of {} is damaged: {error}", modules_dir.display()))
    };
    let key = Key::new(CATALOG_FORMAT).with(hash).finish();
    let entry = context.cache.dir_for("modules", &key, |tmp| {
        let step = context.progress.step("reading the host kernel's modules");
        let json = serde_json::to_vec(&catalog(modules_dir)?).map_err(damaged)?;
        files::write(&tmp.join("catalog.json"), &json)?;
        step.done();
        Ok(())
    })?;
    serde_json::from_slice(&files::read(&entry.path.join("catalog.json"))?).map_err(damaged)
}

/// The modules of the sets, with all that they need.
///
/// # Errors
/// A set names a module that the kernel does not have.
pub fn modules(kernel: &HostKernel, sets: &[Set]) -> Result<Selection> {
    let name = &kernel.package.name;
    let whose = match kernel.compiled {
        None => format!("the package {name}"),
        Some(_) => format!("the kernel compiled from {name}"),
    };
    select(&kernel.catalog, sets, &whose).map_err(|mistakes| Error::Definition(mistakes.into()))
}

/// The first entry of a directory with this prefix.
fn only(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let starts = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    files::list(dir).ok()?.into_iter().find(starts)
}

/// Reads all modules of a package.
fn catalog(dir: &Path) -> Result<Catalog> {
    let mut catalog = Catalog {
        release: dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        ..Catalog::default()
    };
    let builtin = dir.join("modules.builtin");
    for line in files::read_text(&builtin)?.lines() {
        let file = line.rsplit('/').next().unwrap_or(line);
        catalog.builtin.insert(canonical(file.trim_end_matches(".ko")));
    }
    let mut todo = vec![dir.join("kernel")];
    while let Some(dir_now) = todo.pop() {
        interrupt::check()?;
        for path in files::list(&dir_now)? {
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let Some(name) = module_name(&path) else { continue };
            let content = content(&path)?;
            let info = modinfo::read(&content).ok_or_else(|| {
                Error::Environment(format!("{} is no kernel module: unpack the package again", path.display()))
            })?;
            let path = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            catalog.modules.insert(name, Known { path, info });
        }
    }
    Ok(catalog)
}

/// `e1000e` of `.../e1000e.ko` or `.../e1000e.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    Some(canonical(name))
}

/// A module's content; newer distributions compress them, and PID 1 loads them plain.
///
/// # Errors
/// It cannot be read.
pub fn content(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return files::read(path);
    }
    let file = fs::File::open(path).map_err(Error::io("read", path))?;
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut liblzma::read::XzDecoder::new(file), &mut plain)
        .map_err(Error::io("unpack", path))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_as_the_kernel_names_them() {
        assert_eq!(module_name(Path::new("/a/hid-generic.ko")), Some("hid_generic".to_owned()));
        assert_eq!(module_name(Path::new("/a/md-mod.ko.xz")), Some("md_mod".to_owned()));
        assert_eq!(module_name(Path::new("/a/modules.order")), None);
    }
}
