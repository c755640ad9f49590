//! The artefacts, all from the same objects: a format a file, each with what it needs of this machine and of the
//! distribution.
//!
//! | module | makes |
//! | --- | --- |
//! | [`crate::flash`] | `flash.img` |
//! | [`netboot`] | `netboot/` |
//! | [`nfs`] | `nfs/` |
//! | [`update`] | `thimble.update`, where somebody signs |
//! | [`iso`] | `thimble.iso` |
//! | [`uki`] | `thimble.efi` |
//! | [`uefi`] | nothing: what UEFI firmware finds on a FAT |
//! | [`read`] | nothing: takes `thimble.iso` and `thimble.efi` apart |
//! | [`loaders`] | nothing: fetches the boot loaders that the others put in place |

pub mod iso;
pub mod loaders;
pub mod netboot;
pub mod nfs;
pub mod read;
pub mod uefi;
pub mod uki;
pub mod update;

use std::path::Path;

use clap::builder::PossibleValuesParser;
pub use thimble_spec::format::Format;
use thimble_spec::release;
use thimble_spec::units::ByteSize;
use thimble_store::Envelope;

use crate::build::output::{self, Output};
use crate::context::Context;
use crate::efi::trust::Trust;
use crate::error::{Error, Result};
use crate::flash::{self, layout::Room};
use crate::image::Built;
use crate::initrd::parts::Part;
use crate::ledger::Space;
use loaders::Loaders;

/// What every format packs.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The appliance.
    pub name: &'a str,
    /// The host's kernel.
    pub kernel: &'a Path,
    /// Its release, as `uname -r` says it.
    pub kernel_release: &'a str,
    /// The parts of its initramfs in the order in which they are loaded.
    pub parts: &'a [Part],
    /// The guests' images, which are also in one of the parts.
    pub images: &'a [Built],
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The release that all of this is, signed if somebody signs.
    pub envelope: &'a Envelope,
    /// What the flash disk keeps free for updates.
    pub room: Room,
    /// Size of the flash disk.
    pub budget: ByteSize,
    /// What all GUIDs and volume ids come from.
    pub seed: [u8; 32],
    /// Who has to have signed what firmware starts.
    pub trust: &'a Trust,
    /// Boot loaders, from their packages.
    pub loaders: &'a Loaders,
}

impl<'a> Contents<'a> {
    /// The file of an object of the release.
    ///
    /// # Errors
    /// The release was not made of these files.
    pub fn object(&self, part: &release::Part) -> Result<&'a Path> {
        let named = self.parts.iter().find(|file| file.name == part.name).map(|file| file.path.as_path());
        let kernel = (part == &self.envelope.release().kernel).then_some(self.kernel);
        kernel.or(named).ok_or_else(|| Error::environment(format!("there is no object {}", part.name)))
    }
}

/// The word for all of them.
const ALL: &str = "all";

/// The words that a command line may use.
pub fn words() -> PossibleValuesParser {
    Format::ALL.iter().map(|format| format.name()).chain([ALL]).collect::<Vec<_>>().into()
}

/// What those words name, in the order in which they are made; nothing for none.
pub fn named(words: &[String]) -> Option<Vec<Format>> {
    let wanted = |format: &Format| words.iter().any(|word| word == format.name() || word == ALL);
    if words.is_empty() { None } else { Some(Format::ALL.iter().copied().filter(wanted).collect()) }
}

/// Programs of this machine that a format's build runs.
pub fn tools(format: Format) -> &'static [&'static str] {
    match format {
        Format::Flash => &["grub-mkimage", "mke2fs"],
        Format::Netboot => &["grub-mkimage"],
        Format::Iso => &["grub-mkimage", "xorriso"],
        Format::Nfs | Format::Uki => &[],
    }
}

/// The distribution's packages with the boot loaders of a format.
pub fn packages(format: Format) -> &'static [&'static str] {
    match format {
        Format::Flash | Format::Iso => &["grub-pc-bin", "grub-efi-amd64-bin"],
        Format::Netboot => netboot::PACKAGES,
        Format::Nfs => &[],
        Format::Uki => &[uki::PACKAGE],
    }
}

/// Hardware sets without which a node that boots from the format does not find what it needs.
pub fn hardware(format: Format) -> &'static [&'static str] {
    match format {
        Format::Flash | Format::Netboot | Format::Iso | Format::Uki => &[],
        Format::Nfs => &["nfs"],
    }
}

/// Makes an artefact. Returns who spends the bytes of the flash disk, if it is that.
///
/// # Errors
/// A file or a tool is missing, the disk is full, the budget is exceeded, the user interrupts.
pub fn write(format: Format, contents: &Contents<'_>, output: &Output<'_>, context: &Context) -> Result<Vec<Space>> {
    match format {
        Format::Flash => flash::write(&output.path(output::FLASH), contents, context),
        Format::Netboot => netboot::write(contents, output, context).map(|()| Vec::new()),
        Format::Nfs => nfs::write(contents, output).map(|()| Vec::new()),
        Format::Iso => iso::write(&output.path(output::ISO), contents, context).map(|()| Vec::new()),
        Format::Uki => uki::write(&output.path(output::UKI), contents, context).map(|()| Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_formats_in_the_order_of_making() {
        let named = |words: &[&str]| named(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(named(&[]), None);
        assert_eq!(named(&["netboot", "flash", "flash"]), Some(vec![Format::Flash, Format::Netboot]));
        assert_eq!(named(&["all"]).as_deref(), Some(Format::ALL));
    }
}
