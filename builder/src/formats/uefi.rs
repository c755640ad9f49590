//! What UEFI firmware finds on a FAT and starts: GRUB made here, or the distribution's shim and signed GRUB.

use tempfile::TempDir;

use super::Contents;
use crate::context::Context;
use crate::efi::trust::{self, Trust};
use crate::error::Result;
use crate::files;
use crate::flash::esp::LOADER;
use crate::flash::grub::{self, Platform};
use crate::flash::mkimage;

/// What the shim starts, beside itself.
const SECOND: &str = "EFI/BOOT/GRUBX64.EFI";
/// What the distribution's GRUB reads first: where it looks is part of what was signed.
const SIGNED_CONFIG: &str = "EFI/debian/grub.cfg";

/// Files of a FAT.
#[derive(Clone, Debug)]
pub struct Loader {
    /// Directories, parents first.
    pub directories: &'static [&'static str],
    /// Each with its path.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

impl Loader {
    /// GRUB, which finds its configuration on the file system that `volume` names.
    ///
    /// # Errors
    /// A package does not have what it should, a tool fails.
    pub fn grub(
        contents: &Contents<'_>,
        platform: Platform,
        volume: &str,
        temp: &TempDir,
        context: &Context,
    ) -> Result<Self> {
        if *contents.trust == Trust::Debian {
            let file = |(package, path): (&str, &str)| files::read(&contents.loaders.file(package, path)?);
            return Ok(Self {
                directories: &["EFI", "EFI/BOOT", "EFI/debian"],
                files: vec![
                    (LOADER, file(trust::SHIM)?),
                    (SECOND, file(trust::GRUB)?),
                    (SIGNED_CONFIG, grub::signed_config(volume).into_bytes()),
                ],
            });
        }
        let image = temp.path().join("BOOTX64.EFI");
        mkimage::make(context, &contents.loaders.grub, platform, &grub::early_config(volume), &image)?;
        Ok(Self::program(files::read(&image)?))
    }

    /// One program.
    pub fn program(program: Vec<u8>) -> Self {
        Self { directories: &["EFI", "EFI/BOOT"], files: vec![(LOADER, program)] }
    }

    /// The files by reference.
    pub fn files(&self) -> Vec<(&'static str, &[u8])> {
        self.files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect()
    }
}
