//! GRUB's images, made by `grub-mkimage` from the modules of the distribution's packages.

use std::path::Path;

use super::grub::Platform;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::tool::Tool;

/// Makes the image of a platform with the configuration that it carries. `grub` has a directory of modules a platform.
///
/// # Errors
/// The modules are not there, `grub-mkimage` fails.
pub fn make(context: &Context, grub: &Path, platform: Platform, early: &str, out: &Path) -> Result<()> {
    let modules = grub.join(platform.name());
    if !modules.join("normal.mod").is_file() {
        let (dir, package) = (modules.display(), platform.package());
        return Err(Error::environment(format!("{dir} has no GRUB modules: install the package {package}")));
    }
    let config = out.with_extension("cfg");
    files::write(&config, early.as_bytes())?;
    Tool::new("grub-mkimage")
        .bare_environment()
        .args(["-O", platform.target(), "-p", "/thimble", "-d"])
        .arg(&modules)
        .arg("-c")
        .arg(&config)
        .arg("-o")
        .arg(out)
        .args(platform.modules())
        .run(context)
}
