//! `thimble.iso`: one file that boots as a CD and from a USB stick, by BIOS and by UEFI.
//!
//! ```text
//! MBR      GRUB's boot_hybrid.img, which loads bios.img from a stick; a protective partition
//! GPT      a partition that is esp.img; the others are what lies before and behind it
//! ISO 9660 SHA256SUMS, and thimble/ with kernel, initramfs, grub.cfg, and
//!          bios.img, which a BIOS starts from a CD (El Torito 1.0, section 2)
//!          esp.img, a FAT with BOOTX64.EFI, which UEFI starts: from a CD as its second boot image, from a stick as a
//!          partition
//! ```
//! xorriso puts all of it together. Whatever it would take from the clock or from chance comes from the build's seed.

pub mod read;

use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};
use thimble_store::script;

use super::uefi::Loader;
use super::{Contents, uki};
use crate::context::Context;
use crate::efi::trust::Trust;
use crate::error::{Error, Result};
use crate::files;
use crate::flash::grub::{self, Platform};
use crate::flash::identity::Identity;
use crate::flash::{mkimage, volume};
use crate::tool::Tool;

/// The label of the CD.
const LABEL: &str = "THIMBLE";
/// GRUB's image for a BIOS, on the CD.
const BIOS_IMAGE: &str = "thimble/bios.img";
/// The EFI system partition, on the CD.
const ESP_IMAGE: &str = "thimble/esp.img";
/// What `sha256sum --check` takes, from the CD's root.
pub const SUMS: &str = "SHA256SUMS";

/// Writes the image.
///
/// # Errors
/// A file or a tool is missing, the disk is full.
pub fn write(out: &Path, contents: &Contents<'_>, context: &Context) -> Result<()> {
    let step = context.progress.step("ISO image");
    let identity = Identity::from_seed(&contents.seed);
    let stamp = Stamp::from_seed(&contents.seed);
    let temp = files::temp_dir_in(&context.cache.temp_dir(), "iso-")?;
    step.message("making the boot loader");
    let early = grub::early_config(&stamp.as_uuid());
    let bios = temp.path().join("bios.img");
    mkimage::make(context, &contents.loaders.grub, Platform::BiosCd, &early, &bios)?;
    let loader = match contents.trust {
        // GRUB would start what nobody has signed; the unified kernel image holds all of it.
        Trust::Own(_) => {
            let image = temp.path().join("thimble.efi");
            uki::write(&image, contents, context)?;
            Loader::program(files::read(&image)?)
        }
        _ => Loader::grub(contents, Platform::UefiCd, &stamp.as_uuid(), &temp, context)?,
    };
    let esp = esp_image(&temp, &loader, &identity)?;
    let config = temp.path().join("grub.cfg");
    let text = script(contents).map_err(|error| Error::environment(error.to_string()))?;
    files::write(&config, text.as_bytes())?;

    let mut tree = vec![
        ("thimble/grub.cfg".to_owned(), config.as_path()),
        (ESP_IMAGE.to_owned(), esp.as_path()),
        ("thimble/vmlinuz".to_owned(), contents.kernel),
    ];
    tree.extend(contents.parts.iter().map(|part| (format!("thimble/{}", part.name), part.path.as_path())));
    let mark = temp.path().join("info");
    if *contents.trust == Trust::Debian {
        // What the signed GRUB looks for, on a CD where it does not see the file system that it came from.
        files::write(&mark, format!("{} (Thimble)\n", contents.name).as_bytes())?;
        tree.push((".disk/info".to_owned(), &mark));
        tree.push(("boot/grub/grub.cfg".to_owned(), &config));
    }
    let sums = temp.path().join(SUMS);
    let lines = tree.iter().map(|(name, path)| Ok(format!("{}  {name}\n", files::sha256_of(path)?)));
    files::write(&sums, lines.collect::<Result<String>>()?.as_bytes())?;
    tree.push((SUMS.to_owned(), &sums));
    // It gets the places of its own blocks written into it, and so is not among those with a sum.
    tree.push((BIOS_IMAGE.to_owned(), &bios));
    step.message("putting it together");
    let made = NamedTempFile::new_in(files::parent(out)).map_err(Error::io("create a file beside", out))?;
    let hybrid = contents.loaders.grub.join(Platform::Bios.name()).join("boot_hybrid.img");
    let mut xorriso = Tool::new("xorriso")
        .bare_environment()
        // Without the files that could change its mind.
        .args(["-no_rc", "-as", "mkisofs", "-quiet", "-o"])
        .arg(made.path())
        .args(["-V", LABEL, "-r", "--gpt_disk_guid", &identity.disk])
        .args([format!("--modification-date={}", stamp.digits()), "--set_all_file_dates".to_owned(), stamp.digits()])
        .args(["-b", BIOS_IMAGE, "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info"])
        .arg("--grub2-mbr")
        .arg(&hybrid)
        .args(["--efi-boot", ESP_IMAGE, "-efi-boot-part", "--efi-boot-image", "--protective-msdos-label"])
        .arg("-graft-points");
    for (name, source) in tree {
        xorriso = xorriso.arg(format!("{name}={}", escaped(source)));
    }
    xorriso.run(context)?;
    files::publish(made, out)?;
    step.done();
    Ok(())
}

/// The FAT with the loader for UEFI.
fn esp_image(temp: &TempDir, loader: &Loader, identity: &Identity) -> Result<PathBuf> {
    let path = temp.path().join("esp.img");
    let file =
        File::options().read(true).write(true).create_new(true).open(&path).map_err(Error::io("write", &path))?;
    volume::write(&file, &path, identity.volume_id, loader.directories, &loader.files())?;
    Ok(path)
}

/// `thimble/grub.cfg`. Scripts run on behind a command that fails, so that the last lines are reached only if the kernel
/// was not started.
fn script(contents: &Contents<'_>) -> thimble_store::Result<String> {
    let name = contents.name;
    let words = script::words(contents.cmdline)?;
    let initrd: String = contents.parts.iter().map(|part| format!(" /thimble/{}", part.name)).collect();
    Ok(format!(
        "# {name}: starts at once, without a menu.\n\
         serial --unit=0 --speed=115200\n\
         terminal_output console serial\n\
         linux /thimble/vmlinuz{words}\n\
         initrd{initrd}\n\
         boot\n\
         echo \"{name}: the system on this medium could not be loaded; starting again in 10 seconds.\"\n\
         sleep 10\n\
         reboot\n"
    ))
}

/// A path as xorriso reads it behind a `=`.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace('=', "\\=")
}

/// When the file system says that it was made. GRUB finds it by that (`grub_iso9660_uuid` in GRUB's `fs/iso9660.c`), so
/// it is no time but a number that looks like one, another for every build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    year: u16,
    /// Month, day, hour, minute, second and hundredth.
    rest: [u8; 6],
}

impl Stamp {
    fn from_seed(seed: &[u8; 32]) -> Self {
        let digest = Sha256::new().chain_update(seed).chain_update("iso 9660 modification date").finalize();
        // The last day that every month has is the 28th.
        let below = |index: usize, first: u8, count: u8| first + digest[index] % count;
        Self {
            year: 2000 + u16::from(digest[0] % 100),
            rest: [
                below(1, 1, 12),
                below(2, 1, 28),
                below(3, 0, 24),
                below(4, 0, 60),
                below(5, 0, 60),
                below(6, 0, 100),
            ],
        }
    }

    /// As ECMA-119 writes it (section 8.4.26.1).
    fn digits(self) -> String {
        self.rest.iter().fold(format!("{:04}", self.year), |text, value| text + &format!("{value:02}"))
    }

    /// As GRUB compares it.
    fn as_uuid(self) -> String {
        self.rest.iter().fold(format!("{:04}", self.year), |text, value| text + &format!("-{value:02}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_a_date_and_the_seeds_own() {
        let stamp = Stamp { year: 2031, rest: [5, 6, 7, 8, 9, 10] };
        assert_eq!((stamp.digits().as_str(), stamp.as_uuid().as_str()), ("2031050607080910", "2031-05-06-07-08-09-10"));
        let one = Stamp::from_seed(&[1; 32]);
        assert_eq!(one, Stamp::from_seed(&[1; 32]));
        assert_ne!(one, Stamp::from_seed(&[2; 32]));
        for seed in 0..=255 {
            let [month, day, hour, minute, second, hundredth] = Stamp::from_seed(&[seed; 32]).rest;
            assert!((1..=12).contains(&month) && (1..=28).contains(&day), "{month} {day}");
            assert!(hour < 24 && minute < 60 && second < 60 && hundredth < 100);
        }
    }

    #[test]
    fn names_in_paths_are_not_taken_for_separators() {
        assert_eq!(escaped(Path::new("/a=b/c\\d")), "/a\\=b/c\\\\d");
    }
}
