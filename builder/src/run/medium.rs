//! What the machine boots from, if not its flash disk: an artefact as it is, or a stick that carries it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::Boot;
use super::artefacts::Artefacts;
use super::qemu::Device;
use crate::build::output::{ISO, UKI};
use crate::error::{Error, Result};
use crate::files;
use crate::flash::esp::LOADER;
use crate::flash::volume;

/// The volume id of a stick, which nothing looks for.
const STICK_ID: u32 = 0x7468_696d;

/// A medium.
#[derive(Debug)]
pub enum Medium {
    /// A CD.
    Cd(PathBuf),
    /// The artefact written to a USB stick.
    Usb(PathBuf),
    /// A USB stick with one program for the firmware. The file has no name: it goes away with us, however we end.
    Stick(File),
}

impl Medium {
    /// What a way to boot takes; nothing where that is the flash disk or QEMU itself.
    ///
    /// # Errors
    /// The artefact was not built, or the stick cannot be made.
    pub fn of(artefacts: &Artefacts, boot: Boot) -> Result<Option<Self>> {
        Ok(match boot {
            Boot::FlashBios | Boot::FlashUefi | Boot::Direct | Boot::Nfs | Boot::PxeBios | Boot::PxeUefi => None,
            Boot::IsoBios | Boot::IsoUefi => Some(Self::Cd(artefacts.file(ISO)?)),
            Boot::UsbBios | Boot::UsbUefi => Some(Self::Usb(artefacts.file(ISO)?)),
            Boot::Uki => Some(Self::Stick(stick(&artefacts.file(UKI)?)?)),
        })
    }

    /// It as a device.
    pub fn device(&self) -> Device {
        match self {
            Self::Cd(path) => Device::Cd(path.clone()),
            Self::Usb(path) => Device::Usb(path.clone()),
            // A file without a name is opened by way of its descriptor here, which lives as long as QEMU.
            Self::Stick(file) => Device::Usb(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()),
        }
    }
}

/// A FAT whose only file is what firmware starts.
fn stick(program: &Path) -> Result<File> {
    let dir = std::env::temp_dir();
    let file = tempfile::tempfile_in(&dir).map_err(Error::io("create a file in", &dir))?;
    volume::write(&file, program, STICK_ID, &["EFI", "EFI/BOOT"], &[(LOADER, &files::read(program)?)])?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fatfs::{FileSystem, FsOptions};
    use std::io::Read;

    #[test]
    fn a_stick_holds_the_program_where_firmware_looks() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("thimble.efi");
        std::fs::write(&program, vec![0x5a; 300_000]).unwrap();
        let medium = Medium::Stick(stick(&program).unwrap());
        let Device::Usb(path) = medium.device() else { panic!("no stick") };
        let fat =
            FileSystem::new(File::options().read(true).write(true).open(path).unwrap(), FsOptions::new()).unwrap();
        let mut found = Vec::new();
        fat.root_dir().open_file("efi/boot/bootx64.efi").unwrap().read_to_end(&mut found).unwrap();
        assert!(found == vec![0x5a; 300_000]);
    }
}
