//! Phase 3: everything that the artefacts are made of, from the cache or made.

use thimble_spec::appliance::HostKernelSource;

use super::definition::Inputs;
use crate::apt::{Apt, Pins};
use crate::context::Context;
use crate::error::Result;
use crate::formats::Format;
use crate::formats::loaders::Loaders;
use crate::host::tools::{self, Tools};
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
    /// Programs of the host's features.
    pub tools: Vec<Tools>,
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
    let from = &inputs.appliance.host_kernel.from;
    let host = || -> Result<(HostKernel, Selection)> {
        let host = host::get(context, &apt, from, &inputs.host_settings)?;
        told(format!("host kernel {}", host.package.version), host.reused);
        let modules = host::modules(&host, &inputs.sets)?;
        Ok((host, modules))
    };
    let packaged = matches!(from, HostKernelSource::Package(_)).then(host).transpose()?;
    let loaders = Loaders::fetch(context, &apt, formats, &inputs.trust)?;
    let mut gathered = Vec::new();
    for feature in &inputs.features {
        if let Some(tools) = tools::build(context, &apt, feature)? {
            told(format!("host feature {}", tools.name), tools.reused);
            gathered.push(tools);
        }
    }
    let mut images = Vec::new();
    for image in &inputs.images {
        let built = image::build(context, &apt, image)?;
        told(format!("image {}", built.name), built.reused);
        images.push(built);
    }
    let (host, modules) = packaged.map_or_else(host, Ok)?;
    let guest = guest::build(context, &apt, &inputs.appliance.guest_kernel.source, &inputs.settings)?;
    told(format!("guest kernel {}", guest.package.version), guest.reused);
    Ok(Objects { host, modules, guest, tools: gathered, images, loaders })
}
