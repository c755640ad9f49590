//! Phase 3: everything that the artefacts are made of, from the cache or made.

use super::definition::Inputs;
use crate::apt::{Apt, Pins};
use crate::context::Context;
use crate::error::Result;
use crate::formats::Format;
use crate::formats::loaders::Loaders;
use crate::image::{self, Built};
use crate::kernel::guest::{self, GuestKernel};
use crate::kernel::host::{self, HostKernel};
use crate::kernel::modules::Selection;

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
    /// Boot loaders.
    pub loaders: Loaders,
}

/// Gets them all; what needs the compiler comes last, so that a missing file is known before that.
///
/// # Errors
/// A package, a module, a file is missing; a tool fails.
pub fn gather(context: &Context, inputs: &Inputs, formats: &[Format]) -> Result<Objects> {
    let apt = Apt::open(context, Pins::of(inputs.lock.as_ref()))?;
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
    let loaders = Loaders::fetch(context, &apt, formats, &inputs.trust)?;
    let mut images = Vec::new();
    for image in &inputs.images {
        let built = image::build(context, &apt, image)?;
        told(format!("image {}", built.name), built.reused);
        images.push(built);
    }
    let guest = guest::build(context, &apt, &inputs.appliance.guest_kernel.source, &inputs.settings)?;
    told(format!("guest kernel {}", guest.package.version), guest.reused);
    Ok(Objects { host, modules, guest, images, loaders })
}
