//! What a definition needs: every package that goes into an artefact or is compiled for one.

use std::collections::BTreeMap;

use thimble_spec::appliance::HostKernelSource;

use crate::apt::{Apt, Package};
use crate::build::definition::Inputs;
use crate::context::Context;
use crate::efi::trust;
use crate::error::Result;
use crate::formats::{self, Format};
use crate::host::tools;
use crate::image;
use crate::kernel::host;

/// Asks for all of them, sorted by name. Which libraries an image needs is known only when it is made, so that it is made.
///
/// # Errors
/// A package or a file is missing, a tool fails.
pub fn needed(context: &Context, apt: &Apt<'_>, inputs: &Inputs) -> Result<Vec<Package>> {
    let mut needed: BTreeMap<String, Package> = BTreeMap::new();
    let mut add = |packages: Vec<Package>| needed.extend(packages.into_iter().map(|one| (one.name.clone(), one)));
    add(match &inputs.appliance.host_kernel.from {
        HostKernelSource::Package(name) => host::chain(apt, name)?,
        HostKernelSource::Source { source, .. } => apt.find(&[source])?,
    });
    add(apt.find(&[&inputs.appliance.guest_kernel.source])?);
    // All formats: a build may be told to make others than the definition names.
    let loaders: Vec<&str> =
        Format::ALL.iter().flat_map(|format| formats::packages(*format)).chain(trust::PACKAGES).copied().collect();
    add(apt.find(&loaders)?);
    let mut exact = Vec::new();
    for feature in &inputs.features {
        exact.extend(tools::build(context, apt, feature)?.map(|tools| tools.inventory.exact()));
    }
    for image in &inputs.images {
        exact.push(image::build(context, apt, image)?.packages);
    }
    for packages in exact {
        let names = packages.iter().filter_map(|exact| Some(exact.split_once('=')?.0));
        add(apt.find(&names.collect::<Vec<_>>())?);
    }
    Ok(needed.into_values().collect())
}
