//! GRUB without its installer: the two images are made by `grub-mkimage`, and the few bytes that `grub-bios-setup` would
//! write on a disk are written into the image file (GRUB 2.06, `util/setup.c`, `include/grub/i386/pc/boot.h`).

use super::layout::{Extent, SECTOR};

/// Bytes of the master boot record that hold code; disk signature and partition table follow (UEFI 2.10, 5.2.1).
pub const BOOT_CODE: usize = 440;
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: where boot.img looks for the LBA of core.img, 64 bits.
const KERNEL_SECTOR: usize = 0x5c;
/// `GRUB_BOOT_MACHINE_BOOT_DRIVE`: 0xff is the drive that the BIOS started from.
const BOOT_DRIVE: usize = 0x64;
/// `GRUB_BOOT_MACHINE_DRIVE_CHECK`: a jump over the workaround for BIOSes that pass a wrong drive number. Two `nop` in
/// its place switch the workaround on, as `grub-bios-setup` does for hard disks.
const DRIVE_CHECK: usize = 0x66;
/// What boot.img has at [`DRIVE_CHECK`]: `jmp` over five bytes.
const JUMP: [u8; 2] = [0xeb, 0x05];
/// `nop` twice.
const NOPS: [u8; 2] = [0x90, 0x90];
/// `GRUB_BOOT_MACHINE_LIST_SIZE`: a block list at the end of core.img's first sector: start (64 bits), number of sectors
/// (16), segment to load to (16).
const LIST_SIZE: usize = 12;
/// Behind core.img's first sector, which boot.img puts at segment 0x800 (`GRUB_BOOT_I386_PC_KERNEL_SEG`).
const LOAD_SEGMENT: u16 = 0x820;

/// Modules of all images: what finds the file system and loads a kernel from it, and says so when it can't.
const MODULES: [&str; 7] = ["normal", "linux", "search_fs_uuid", "serial", "terminal", "echo", "sleep"];
/// Modules for the flash disk: what finds its partition and chooses a slot: reads and counts in thimble/state, and checks
/// what the last boot may have stumbled over.
const SLOT_MODULES: [&str; 7] = ["part_gpt", "fat", "configfile", "loadenv", "test", "hashsum", "gcry_sha256"];

/// One of GRUB's platforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// core.img, started by boot.img.
    Bios,
    /// BOOTX64.EFI.
    Uefi,
    /// What a BIOS starts from a CD, or boot_hybrid.img from the same on a disk.
    BiosCd,
    /// BOOTX64.EFI beside a CD.
    UefiCd,
}

impl Platform {
    /// The name of the directory with its modules.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios | Self::BiosCd => "i386-pc",
            Self::Uefi | Self::UefiCd => "x86_64-efi",
        }
    }

    /// The name that `grub-mkimage` has for its images.
    pub fn target(self) -> &'static str {
        match self {
            Self::BiosCd => "i386-pc-eltorito",
            other => other.name(),
        }
    }

    /// The package with its modules.
    pub fn package(self) -> &'static str {
        match self {
            Self::Bios | Self::BiosCd => "grub-pc-bin",
            Self::Uefi | Self::UefiCd => "grub-efi-amd64-bin",
        }
    }

    /// The modules of its image.
    pub fn modules(self) -> impl Iterator<Item = &'static str> {
        let own: &[&str] = match self {
            Self::Bios | Self::BiosCd => &["biosdisk", "reboot"],
            // Without a video driver, Linux has no screen until its own driver is loaded.
            Self::Uefi | Self::UefiCd => &["efi_gop", "reboot"],
        };
        let of_medium: &[&str] = match self {
            Self::Bios | Self::Uefi => &SLOT_MODULES,
            Self::BiosCd | Self::UefiCd => &["iso9660"],
        };
        MODULES.iter().chain(of_medium).chain(own).copied()
    }
}

/// The configuration inside the images: finds the partition by its volume id, and there grub.cfg.
pub fn early_config(volume: &str) -> String {
    format!("search.fs_uuid {volume} root\nset prefix=($root)/thimble\n")
}

/// The same for the distribution's signed GRUB, which has a place for it of its own and no modules but those that were
/// signed with it.
pub fn signed_config(volume: &str) -> String {
    format!("{}set signed=yes\nsource $prefix/grub.cfg\n", early_config(volume))
}

/// `thimble/grub.cfg`: which slot is started. The slots' own scripts (`thimble_store::script`) load it.
///
/// The same for every release, so that no update has to touch it. GRUB's scripts count no numbers, and run on behind a
/// command that fails.
pub fn config(name: &str) -> String {
    include_str!("grub.cfg").replace("@NAME@", name)
}

/// boot.img, made to load core.img from `core`: the first [`BOOT_CODE`] bytes of the disk.
///
/// # Errors
/// A sentence's end, if this is no boot.img that we know.
pub fn boot_code(image: &[u8], core: Extent) -> Result<[u8; BOOT_CODE], &'static str> {
    let signed = image.len() as u64 == SECTOR && image.ends_with(&[0x55, 0xaa]);
    if !signed || image[DRIVE_CHECK..DRIVE_CHECK + 2] != JUMP {
        return Err("is not the boot.img of a GRUB 2: one sector that ends with 55 aa and jumps at 0x66");
    }
    let mut code = [0; BOOT_CODE];
    code.copy_from_slice(&image[..BOOT_CODE]);
    code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&core.first.to_le_bytes());
    code[BOOT_DRIVE] = 0xff;
    code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&NOPS);
    Ok(code)
}

/// Tells core.img's first sector where the others lie: all in one run behind it.
///
/// # Errors
/// A sentence's end, if it is no core.img or does not fit.
pub fn point_core(image: &mut [u8], place: Extent) -> Result<(), &'static str> {
    let sectors = (image.len() as u64).div_ceil(SECTOR);
    if image.len() as u64 <= SECTOR || sectors > place.count {
        return Err("is no core.img that fits into the BIOS boot partition");
    }
    let list = SECTOR as usize - LIST_SIZE;
    if image[SECTOR as usize - 2..SECTOR as usize] != LOAD_SEGMENT.to_le_bytes() {
        return Err("is no core.img: its first sector has no block list");
    }
    let count = u16::try_from(sectors - 1).map_err(|_| "is too large for one block list")?;
    image[list..list + 8].copy_from_slice(&(place.first + 1).to_le_bytes());
    image[list + 8..list + 10].copy_from_slice(&count.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Extent = Extent { first: 34, count: 478 };

    #[test]
    fn the_configuration_is_one_that_grub_reads() {
        assert_eq!(early_config("0A2B-00FF"), "search.fs_uuid 0A2B-00FF root\nset prefix=($root)/thimble\n");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grub.cfg");
        std::fs::write(&path, config("demo")).unwrap();
        let said = std::process::Command::new("grub-script-check").arg(&path).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert!(!config("demo").contains('@'));
    }

    #[test]
    fn boot_img_learns_where_core_img_lies() {
        let mut image = [0x11; 512];
        image[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&JUMP);
        image[510..].copy_from_slice(&[0x55, 0xaa]);
        let code = boot_code(&image, PLACE).unwrap();
        assert_eq!(code[0x5c..0x64], [34, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(code[0x64..0x69], [0xff, 0x11, 0x90, 0x90, 0x11]);
        assert!(boot_code(&image[..511], PLACE).is_err());
        image[DRIVE_CHECK] = 0;
        assert!(boot_code(&image, PLACE).is_err());
    }

    #[test]
    fn core_img_learns_where_its_rest_lies() {
        let mut image = vec![0; 1300];
        image[510..512].copy_from_slice(&[0x20, 0x08]);
        point_core(&mut image, PLACE).unwrap();
        assert_eq!(image[500..512], [35, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 0x08]);
        assert!(point_core(&mut image, Extent { first: 34, count: 2 }).is_err());
        assert!(point_core(&mut [0; 1300], PLACE).is_err());
        assert!(point_core(&mut [0; 12], PLACE).is_err());
    }
}
