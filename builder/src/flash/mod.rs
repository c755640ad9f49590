//! `flash.img`: a raw GPT disk that boots by BIOS and by UEFI, made without root, loop devices or containers.
//!
//! | module | what |
//! | --- | --- |
//! | [`layout`] | where everything lies: arithmetic |
//! | [`identity`] | GUIDs and volume ids, from the build's seed |
//! | [`grub`] | the boot loader's configuration, and where its images lie |
//! | [`mkimage`] | those images |
//! | [`table`] | MBR and GPT |
//! | [`esp`] | the FAT with the boot loader and the first slot |
//! | [`volume`] | a FAT16, made and filled |
//! | [`data`] | the ext4 that the node writes |
//! | [`read`] | an image taken apart again |

pub mod data;
pub mod esp;
pub mod grub;
pub mod identity;
pub mod layout;
pub mod mkimage;
pub mod read;
pub mod table;
pub mod volume;
pub mod window;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};
use thimble_spec::manifest::Room;
use thimble_spec::slot::{Slot, VolumeId};
use thimble_store::{script, state};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::formats::{Contents, uefi};
use crate::ledger::Space;
use crate::{files, ledger};
use grub::Platform;
use identity::Identity;
use layout::{BACKUP, FIRST_USABLE, Layout, Misfit, SECTOR};

/// Writes the disk. Returns who spends each of its bytes: the sum is the budget.
///
/// # Errors
/// A tool or a file is missing, the disk of the workstation is full, or, with the ledger, the budget is too small.
pub fn write(out: &Path, contents: &Contents<'_>, context: &Context) -> Result<Vec<Space>> {
    let step = context.progress.step("flash image");
    let identity = Identity::from_seed(&contents.seed);
    let temp = files::temp_dir_in(&context.cache.temp_dir(), "flash-")?;
    step.message("making the boot loader");
    let loader = Loader::make(contents, &identity, &temp, context)?;
    let config = grub::config(contents.name);
    let items = items(contents, &identity, &loader, &config)?;

    let sizes: Vec<u64> = items.iter().map(|item| item.bytes).collect();
    let budget = contents.budget.bytes();
    let directories = loader.uefi.directories.len() + esp::DIRECTORIES.len();
    let layout = layout::plan(budget, loader.core.len() as u64, &sizes, directories as u64, contents.room)
        .map_err(|misfit| misfit_error(&misfit, contents, &loader, &items))?;

    let file = NamedTempFile::new_in(files::parent(out)).map_err(Error::io("create a file beside", out))?;
    file.as_file().set_len(budget).map_err(Error::io("write", out))?;
    let code = grub::boot_code(&loader.boot, layout.bios_boot)
        .map_err(|reason| Error::environment(format!("{} {reason}", loader.boot_path.display())))?;
    table::write(file.as_file(), out, &layout, &identity, code)?;
    write_core(file.as_file(), out, &layout, loader.core.clone())?;
    step.message("copying kernel and initramfs");
    let objects =
        contents.envelope.release().objects().into_iter().map(|part| contents.object(part).map(Path::to_owned));
    let content = esp::Content {
        loader: &loader.uefi,
        config: &config,
        envelope: contents.envelope,
        objects: &objects.collect::<Result<Vec<_>>>()?,
    };
    let free = esp::write(file.as_file(), out, &layout, &identity, &content)?;
    step.message("making the data partition");
    data::write(file.path(), layout.data, &identity, context)?;
    files::publish(file, out)?;
    step.done();
    Ok(account(budget, &layout, &loader, &items, free))
}

/// GRUB, ready to be put in place.
struct Loader {
    boot_path: PathBuf,
    boot: Vec<u8>,
    core: Vec<u8>,
    uefi: uefi::Loader,
}

impl Loader {
    fn make(contents: &Contents<'_>, identity: &Identity, temp: &TempDir, context: &Context) -> Result<Self> {
        let boot_path = contents.loaders.grub.join(Platform::Bios.name()).join("boot.img");
        let early = grub::early_config(&identity.volume_text());
        let core = temp.path().join("core.img");
        mkimage::make(context, &contents.loaders.grub, Platform::Bios, &early, &core)?;
        Ok(Self {
            boot: files::read(&boot_path)?,
            boot_path,
            core: files::read(&core)?,
            uefi: uefi::Loader::grub(contents, Platform::Uefi, &identity.volume_text(), temp, context)?,
        })
    }
}

/// The files of the EFI system partition, each with who pays for it. An object is called as the build calls it, not by its
/// hash; which of the appliance's parts are in an initramfs is the caller's to say, here it is the host's.
fn items(contents: &Contents<'_>, identity: &Identity, loader: &Loader, config: &str) -> Result<Vec<Space>> {
    let release = contents.envelope.release();
    let script = script::script(release, Slot::A, VolumeId(identity.volume_id))
        .map_err(|error| Error::environment(error.to_string()))?;
    let sums = script::sums(release, Slot::A, &script);
    let boot = [
        (esp::CONFIG, config.len()),
        ("thimble/state", state::BYTES),
        ("thimble/a.rel", contents.envelope.bytes().len()),
        ("thimble/a.sum", sums.len()),
        ("thimble/a.cfg", script.len()),
    ];
    let of_loader = loader.uefi.files.iter().map(|(path, bytes)| (*path, bytes.len()));
    let mut items: Vec<Space> =
        of_loader.chain(boot).map(|(name, bytes)| Space::new(Room::Boot, name, bytes as u64)).collect();
    for part in release.objects() {
        let room = if *part == release.kernel { Room::HostKernel } else { Room::Host };
        items.push(Space::new(room, format!("thimble/objects/{}", part.name), part.size));
    }
    Ok(items)
}

fn write_core(mut file: &File, out: &Path, layout: &Layout, mut core: Vec<u8>) -> Result<()> {
    grub::point_core(&mut core, layout.bios_boot)
        .map_err(|reason| Error::environment(format!("what grub-mkimage made {reason}")))?;
    file.seek(SeekFrom::Start(layout.bios_boot.start()))
        .and_then(|_| file.write_all(&core))
        .map_err(Error::io("write", out))
}

fn account(budget: u64, layout: &Layout, loader: &Loader, items: &[Space], free: u64) -> Vec<Space> {
    let core = loader.core.len() as u64;
    let mut spaces = vec![
        Space::new(Room::Boot, "MBR and GPT", FIRST_USABLE * SECTOR),
        Space::new(Room::Boot, "GRUB for BIOS", core),
        Space::new(Room::Boot, "BIOS boot partition, unused", layout.bios_boot.bytes() - core),
    ];
    spaces.extend_from_slice(items);
    let files: u64 = items.iter().map(|item| item.bytes).sum();
    spaces.extend([
        Space::new(
            Room::Boot,
            "EFI system partition: FAT, directories, ends of clusters",
            layout.esp.bytes() - files - free,
        ),
        Space::new(Room::Boot, "EFI system partition, free for updates", free),
        Space::new(Room::Data, "data partition", layout.data.bytes()),
        Space::new(Room::Boot, "backup GPT", BACKUP * SECTOR + budget % SECTOR),
    ]);
    spaces
}

fn misfit_error(misfit: &Misfit, contents: &Contents<'_>, loader: &Loader, items: &[Space]) -> Error {
    let missing = match misfit {
        Misfit::OverBudget { missing } => *missing,
        Misfit::TooLargeForFat => {
            return Error::environment("kernel and initramfs have more than 2 GiB, which no FAT16 holds");
        }
    };
    let needed = contents.budget.bytes() + missing;
    let mut spaces = items.to_vec();
    if let layout::Room::Exactly(room @ 1..) = contents.room {
        spaces.push(Space::new(Room::Boot, "EFI system partition, room for updates", room));
    }
    spaces.push(Space::new(Room::Boot, "GRUB for BIOS", loader.core.len() as u64));
    spaces.push(Space::new(Room::Data, "data partition, at least", layout::DATA_MIN));
    let counted: u64 = spaces.iter().map(|space| space.bytes).sum();
    spaces.push(Space::new(Room::Boot, "partition tables, FAT, alignment", needed.saturating_sub(counted)));
    Error::Budget {
        place: contents.name.to_owned(),
        budget: contents.budget,
        needed,
        ledger: ledger::table(&spaces, contents.budget.bytes()),
    }
}

#[cfg(test)]
mod tests;
