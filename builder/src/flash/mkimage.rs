//! GRUB's images, made by `grub-mkimage` from the modules of the distribution's packages.

use std::path::Path;

use super::grub::Platform;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::tool::Tool;

/// An image of GRUB.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// `grub-mkimage`'s name of the format.
    pub format: &'a str,
    /// The directory with its modules.
    pub platform: &'a str,
    /// The package that has them.
    pub package: &'a str,
    /// Where it looks for what it does not carry; nothing is where it came from.
    pub prefix: &'a str,
    /// The configuration that it carries.
    pub early: Option<&'a str>,
}

/// Makes an image of these modules. `grub` has a directory of modules a platform.
///
/// # Errors
/// The modules are not there, `grub-mkimage` fails.
pub fn link<'a>(
    context: &Context,
    grub: &Path,
    image: Image<'_>,
    modules: impl IntoIterator<Item = &'a str>,
    out: &Path,
) -> Result<()> {
    let dir = grub.join(image.platform);
    if !dir.join("normal.mod").is_file() {
        let (dir, package) = (dir.display(), image.package);
        return Err(Error::environment(format!("{dir} has no GRUB modules: install the package {package}")));
    }
    let mut tool =
        Tool::new("grub-mkimage").bare_environment().args(["-O", image.format, "-p", image.prefix, "-d"]).arg(dir);
    if let Some(early) = image.early {
        let config = out.with_extension("cfg");
        files::write(&config, early.as_bytes())?;
        tool = tool.arg("-c").arg(config);
    }
    tool.arg("-o").arg(out).args(modules).run(context)
}

/// Makes the image of a platform with the configuration that it carries, for a disk.
///
/// # Errors
/// As [`link`].
pub fn make(context: &Context, grub: &Path, platform: Platform, early: &str, out: &Path) -> Result<()> {
    let image = Image {
        format: platform.target(),
        platform: platform.name(),
        package: platform.package(),
        prefix: "/thimble",
        early: Some(early),
    };
    link(context, grub, image, platform.modules(), out)
}
