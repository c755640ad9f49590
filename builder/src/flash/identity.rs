//! The identifiers of a flash image: all come from the seed of the build, so that the same inputs give the same bytes.

use sha2::{Digest, Sha256};

/// Identifiers that one seed gives. Each has a label of its own, so that none says anything about another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// GUID of the disk.
    pub disk: String,
    /// GUID of the BIOS boot partition.
    pub bios_boot: String,
    /// GUID of the EFI system partition.
    pub esp: String,
    /// GUID of the data partition.
    pub data: String,
    /// Volume id of the FAT file system.
    pub volume_id: u32,
    /// UUID of the ext4 file system.
    pub data_uuid: String,
    /// Seed of ext4's hashed directories.
    pub hash_seed: String,
}

impl Identity {
    /// The identifiers of `seed`.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let guid = |label| guid(digest(seed, label));
        let [a, b, c, d, ..] = digest(seed, "esp volume id");
        Self {
            disk: guid("disk"),
            bios_boot: guid("bios-boot"),
            esp: guid("esp"),
            data: guid("data"),
            volume_id: u32::from_be_bytes([a, b, c, d]),
            data_uuid: guid("data file system"),
            hash_seed: guid("data directory hash"),
        }
    }

    /// The volume id as GRUB's `search --fs-uuid` compares it: `XXXX-XXXX` (`grub_fat_uuid` in GRUB's `fs/fat.c`).
    pub fn volume_text(&self) -> String {
        format!("{:04X}-{:04X}", self.volume_id >> 16, self.volume_id & 0xffff)
    }
}

fn digest(seed: &[u8; 32], label: &str) -> [u8; 32] {
    Sha256::new().chain_update(seed).chain_update(label).finalize().into()
}

/// A UUID of version 8, whose content is free (RFC 9562, section 5.8).
fn guid(digest: [u8; 32]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_identity_and_another_seed_another() {
        let one = Identity::from_seed(&[1; 32]);
        assert_eq!(one, Identity::from_seed(&[1; 32]));
        let two = Identity::from_seed(&[2; 32]);
        assert_ne!(one.disk, two.disk);
        assert_ne!(one.volume_id, two.volume_id);
        assert_ne!(one.esp, one.data);
    }

    #[test]
    fn guids_say_their_version_and_variant() {
        let guid = Identity::from_seed(&[3; 32]).disk;
        assert_eq!(guid.len(), 36);
        assert_eq!(&guid[14..15], "8");
        assert!(matches!(&guid[19..20], "8" | "9" | "a" | "b"), "{guid}");
    }

    #[test]
    fn the_volume_id_is_written_as_grub_compares_it() {
        let identity = Identity { volume_id: 0x0a2b_00ff, ..Identity::from_seed(&[0; 32]) };
        assert_eq!(identity.volume_text(), "0A2B-00FF");
    }
}
