//! The host's kernel, compiled: what the distribution's has for machines that nobody here owns is left out.

use std::fs;
use std::path::Path;

use super::config::Setting;
use super::source::{self, Compiled, Recipe, Tree};
use crate::apt::Apt;
use crate::context::Context;
use crate::error::{Error, Result};

/// How it is compiled.
const RECIPE: Recipe<'_> = Recipe {
    kind: "host-kernel",
    title: "host kernel",
    format: "host kernel 1",
    targets: &["bzImage", "modules"],
    files_guess: 3000,
};
/// The kernel in the directory that stays.
pub const VMLINUZ: &str = "boot/vmlinuz-thimble";

/// The kernel and its modules as a package would have them, from the cache or compiled.
///
/// # Errors
/// The source cannot be fetched, an option does not survive, the compiler fails.
pub fn build(context: &Context, apt: &Apt<'_>, source: &str, settings: &[Setting]) -> Result<Compiled> {
    source::build(context, apt, RECIPE, source, settings, |tree, out| keep(context, tree, out))
}

fn keep(context: &Context, tree: &Tree<'_>, out: &Path) -> Result<()> {
    let vmlinuz = out.join(VMLINUZ);
    crate::files::make_dir(crate::files::parent(&vmlinuz))?;
    let made = tree.built.join("arch/x86/boot/bzImage");
    fs::copy(&made, &vmlinuz).map_err(Error::io("copy", &made))?;
    let mut path = std::ffi::OsString::from("INSTALL_MOD_PATH=");
    path.push(out);
    // Which module needs which stands in the modules themselves: no depmod.
    tree.make().arg("modules_install").arg(path).args(["INSTALL_MOD_STRIP=1", "DEPMOD=true"]).run(context)?;
    for release in crate::files::list(&out.join("lib/modules"))? {
        // A link to the tree that is removed in a moment.
        let link = release.join("build");
        if link.is_symlink() {
            fs::remove_file(&link).map_err(Error::io("remove", &link))?;
        }
    }
    Ok(())
}
