//! A compressed kernel that unpacks itself (Linux `Documentation/arch/x86/boot.rst`).

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::image::{HEAD_BYTES, Kind, Piece, Plan, field};
use crate::layout;

/// Where the setup header begins, with the number of the setup's sectors.
const SETUP_HEADER: usize = 0x1f1;
/// `HdrS` at 0x202.
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// Boot protocol 2.12, the first with `xloadflags`.
const VERSION: u64 = 0x20c;
/// `XLF_KERNEL_64`: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u64 = 1;
/// Where the 64-bit entry is in the loaded image.
const ENTRY_64: u64 = 0x200;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// The setup's sectors where the header says 0.
const SETUP_SECTORS: u64 = 4;

/// Whether a file that begins with `head` is a `bzImage`.
pub(super) fn is_one(head: &[u8; HEAD_BYTES]) -> bool {
    head[MAGIC.0..].starts_with(MAGIC.1)
}

/// What becomes of the `bzImage` that begins with `head` and has `size` bytes.
pub(super) fn plan(size: u64, head: &[u8; HEAD_BYTES]) -> Result<Plan, String> {
    if field(head, 0x206, 2) < VERSION || field(head, 0x236, 2) & XLF_KERNEL_64 == 0 {
        return Err("it is a bzImage without a 64-bit entry: use one for x86-64, of Linux 3.8 or newer".to_owned());
    }
    let sectors = match field(head, SETUP_HEADER, 1) {
        0 => SETUP_SECTORS,
        sectors => sectors,
    };
    let offset = (sectors + 1) * SECTOR;
    let bytes = size.checked_sub(offset).filter(|bytes| *bytes > ENTRY_64).ok_or("it ends behind its setup")?;
    // Where it wants to be, and how much memory it needs there until it has found out how much there is.
    let (address, init_size) = (field(head, 0x258, 8), field(head, 0x260, 4));
    let end = address.checked_add(bytes.max(init_size)).filter(|_| address >= layout::HIGH_RAM);
    let end = end.ok_or("it is damaged: it asks for a place that a guest's memory does not have")?;
    let header = setup_header::from_slice(&head[SETUP_HEADER..][..size_of::<setup_header>()]);
    let header = *header.ok_or("its setup header is damaged")?;
    let kind = Kind::BzImage { header, entry: address + ENTRY_64 };
    Ok(Plan { kind, pieces: vec![Piece { offset, address, bytes, written: false }], end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::image::plan;
    use crate::boot::testing;

    fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut image = testing::bzimage();
        change(&mut image);
        plan(&image[..]).unwrap_err()
    }

    #[test]
    fn header_and_entry_are_found() {
        let image = testing::bzimage();
        let plan = plan(&image[..]).unwrap();
        let Kind::BzImage { header, entry } = plan.kind else { panic!("it is a bzImage") };
        assert_eq!(entry, 0x100_0200);
        assert_eq!({ header.pref_address }, 0x100_0000);
        let bytes = image.len() as u64 - 1024;
        assert_eq!(plan.pieces, [Piece { offset: 1024, address: 0x100_0000, bytes, written: false }]);
        assert_eq!(plan.end, 0x180_0000);
    }

    #[test]
    fn what_cannot_be_entered_is_refused() {
        assert!(refusal(|image| image[0x206] = 4).contains("without a 64-bit entry"));
        assert!(refusal(|image| image[0x236] = 0).contains("without a 64-bit entry"));
        assert!(refusal(|image| image.truncate(1024 + 512)).contains("ends behind its setup"));
        assert!(refusal(|image| image[0x258..0x260].fill(0xff)).contains("a place"));
        assert!(refusal(|image| image[0x258..0x260].fill(0)).contains("a place"));
    }
}
