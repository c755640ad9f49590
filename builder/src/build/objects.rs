//! Phase 3: everything that the artefacts are made of, from the cache or made.

use std::fs;
use std::path::{Path, PathBuf};

use super::definition::Inputs;
use crate::apt::Apt;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::Key;
use crate::image::{self, Built};
use crate::kernel::guest::{self, GuestKernel};
use crate::kernel::host::{self, HostKernel};
use crate::kernel::modules::Selection;

/// GRUB's platforms, and the package of each.
const GRUB: [(&str, &str); 2] = [("i386-pc", "grub-pc-bin"), ("x86_64-efi", "grub-efi-amd64-bin")];

/// The objects of an appliance.
#[derive(Clone, Debug)]
pub struct Objects {
    /// The host's kernel.
    pub host: HostKernel,
    /// Its modules.
    pub modules: Selection,
    /// The guests' kernel.
    pub guest: GuestKernel,
    /// The guests' images.
    pub images: Vec<Built>,
    /// GRUB's modules.
    pub grub_dir: PathBuf,
}

/// Gets them all; what needs the compiler comes last, so that a missing file is known before that.
///
/// # Errors
/// A package, a module, a file is missing; a tool fails.
pub fn gather(context: &Context, inputs: &Inputs) -> Result<Objects> {
    let apt = Apt::open(context)?;
    let told = |name: String, reused: bool| {
        if reused {
            context.progress.reused(&name);
        }
    };
    let package = host::resolve(&apt, &inputs.appliance.host_kernel.package)?;
    let reused = context.cache.find("packages", &package.sha256).is_some();
    let host = host::fetch(context, &apt, package)?;
    told(format!("host kernel {}", host.package.version), reused);
    let modules = host::modules(&host, &inputs.sets)?;
    let grub_dir = grub(context, &apt)?;
    let mut images = Vec::new();
    for image in &inputs.images {
        let built = image::build(context, &apt, image)?;
        told(format!("image {}", built.name), built.reused);
        images.push(built);
    }
    let guest = guest::build(context, &apt, &inputs.appliance.guest_kernel.source, &inputs.settings)?;
    told(format!("guest kernel {}", guest.package.version), guest.reused);
    Ok(Objects { host, modules, guest, images, grub_dir })
}

/// GRUB's modules for BIOS and UEFI, in one directory.
fn grub(context: &Context, apt: &Apt<'_>) -> Result<PathBuf> {
    let packages = apt.find(&GRUB.map(|(_, package)| package))?;
    let key = packages.iter().fold(Key::new("grub 1"), |key, package| key.with(&package.sha256)).finish();
    let entry = context.cache.dir_for("grub", &key, |out| {
        for ((platform, _), package) in GRUB.iter().zip(&packages) {
            copy_flat(&apt.unpacked(package)?.join("usr/lib/grub").join(platform), &out.join(platform))?;
        }
        Ok(())
    })?;
    Ok(entry.path)
}

/// Copies a directory that holds files only.
fn copy_flat(from: &Path, to: &Path) -> Result<()> {
    crate::files::make_dir(to)?;
    for path in crate::files::list(from)? {
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            let target = to.join(name);
            fs::copy(&path, &target).map_err(Error::io("write", &target))?;
        }
    }
    Ok(())
}
