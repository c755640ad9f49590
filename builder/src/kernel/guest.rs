//! The guests' kernel: compiled from the distribution's source package.

use std::path::PathBuf;

use super::config::Setting;
use super::source::{self, Recipe};
use crate::apt::{Apt, Package};
use crate::context::Context;
use crate::error::Result;
use crate::tool::Tool;

/// How it is compiled.
const RECIPE: Recipe<'_> = Recipe {
    kind: "guest-kernel",
    title: "guest kernel",
    format: "guest kernel 1",
    targets: &["vmlinux"],
    files_guess: 1430,
};

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

/// The kernel, from the cache or compiled.
///
/// # Errors
/// The source cannot be fetched, an option does not survive, the compiler fails.
pub fn build(context: &Context, apt: &Apt<'_>, source: &str, settings: &[Setting]) -> Result<GuestKernel> {
    let compiled = source::build(context, apt, RECIPE, source, settings, |tree, out| {
        let strip = Tool::new("strip").arg("--strip-all").arg("-o").arg(out.join("vmlinux"));
        strip.arg(tree.built.join("vmlinux")).run(context)
    })?;
    Ok(GuestKernel {
        vmlinux: compiled.dir.join("vmlinux"),
        config: compiled.config(),
        package: compiled.package,
        hash: compiled.hash,
        reused: compiled.reused,
    })
}
