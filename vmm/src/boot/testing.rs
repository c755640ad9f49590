//! Kernel images in miniature.

use super::image::Piece;

/// Where the program headers of [`vmlinux`] are.
pub const PROGRAM_HEADERS: usize = 64;
/// Where its notes are: one of somebody else, then the one that counts.
pub const NOTES: usize = 0x200;
/// Its PVH entry.
pub const ENTRY: u64 = 0x20_0010;
/// Its segments: congruent to pages, with a part of a page at the end; and not congruent.
pub const PIECES: [Piece; 2] = [
    Piece { offset: 0x1000, address: 0x20_0000, bytes: 0x1800, written: false },
    Piece { offset: 0x2800, address: 0x30_0000, bytes: 0x100, written: true },
];
/// Its end: the second segment is longer in memory than in the file.
pub const END: u64 = 0x30_4000;

/// An ELF file whose bytes in segments tell where they are from.
pub fn vmlinux() -> Vec<u8> {
    let mut image: Vec<u8> = (0..0x2900u32).map(|at| (at / 16) as u8 | 1).collect();
    image[..0x400].fill(0);
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0]);
    put(32, &(PROGRAM_HEADERS as u64).to_le_bytes());
    put(54, &[56, 0, 3, 0]);
    let headers = [
        (1u32, PIECES[0], 0x1800u64),
        (4, Piece { offset: NOTES as u64, address: 0, bytes: 44, written: false }, 44),
        (1, PIECES[1], 0x4000),
    ];
    for (index, (kind, piece, in_memory)) in headers.into_iter().enumerate() {
        let at = PROGRAM_HEADERS + index * 56;
        put(at, &kind.to_le_bytes());
        put(at + 4, &(4 | u32::from(piece.written) << 1).to_le_bytes());
        put(at + 8, &piece.offset.to_le_bytes());
        put(at + 24, &piece.address.to_le_bytes());
        put(at + 32, &piece.bytes.to_le_bytes());
        put(at + 40, &in_memory.to_le_bytes());
    }
    put(NOTES, b"\x05\0\0\0\x01\0\0\0\x12\0\0\0Else\0\0\0\0\x01\0\0\0");
    put(NOTES + 24, b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0");
    put(NOTES + 40, &(ENTRY as u32).to_le_bytes());
    image
}

/// A `bzImage` of one setup sector, preferably at 16 MiB.
pub fn bzimage() -> Vec<u8> {
    let mut image = vec![0x90; 0x2000];
    image[..1024].fill(0);
    image[0x1f1] = 1;
    image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    image[0x236] = 1;
    image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x80_0000u32.to_le_bytes());
    image
}
