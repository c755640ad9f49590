//! Compression in the forms that the host's kernel unpacks (`RD_ZSTD`, `RD_XZ`), the same bytes from the same content.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;

use super::archive::{ALIGNMENT, Archive};
use crate::error::{Error, Result};

/// zstd's strongest level that needs no more than 8 MiB to unpack.
const ZSTD_LEVEL: i32 = 19;
/// xz -9e.
const XZ_PRESET: u32 = 9 | (1 << 31);
/// Dictionaries of xz are as large as the content, within these bounds: the kernel allocates that much at boot.
const XZ_DICTIONARY: std::ops::RangeInclusive<u32> = (1 << 20)..=(64 << 20);

/// How a part is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    None,
    /// Quick to unpack.
    Zstd,
    /// Small.
    Xz,
}

impl Method {
    /// What a file packed so is called.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd => ".zst",
            Self::Xz => ".xz",
        }
    }
}

/// Writes an archive, padded to where the kernel looks for the next one.
///
/// # Errors
/// A file cannot be read, `path` cannot be written, the user interrupts.
pub fn write(archive: &Archive, method: Method, path: &Path) -> Result<()> {
    let file = File::create(path).map_err(Error::io("write", path))?;
    let buffered = BufWriter::new(file);
    let failed = || Error::io("write", path);
    let mut file = match method {
        Method::None => {
            let mut out = buffered;
            archive.write(&mut out)?;
            out
        }
        Method::Zstd => {
            let mut out = zstd::Encoder::new(buffered, ZSTD_LEVEL).map_err(failed())?;
            archive.write(&mut out)?;
            out.finish().map_err(failed())?
        }
        Method::Xz => {
            let content = archive.files().map(|(_, content)| content.size()).sum::<Result<u64>>()?;
            let mut out = XzEncoder::new_stream(buffered, xz(content).map_err(failed())?);
            archive.write(&mut out)?;
            out.finish().map_err(failed())?
        }
    };
    let pad = |file: &mut BufWriter<File>| -> io::Result<()> {
        file.flush()?;
        let length = file.get_ref().metadata()?.len();
        file.write_all(&vec![0; (length.next_multiple_of(ALIGNMENT) - length) as usize])?;
        file.flush()
    };
    pad(&mut file).map_err(failed())
}

/// x86 code is rewritten so that it compresses better. CRC32, because the kernel's decoder knows no other check.
fn xz(content: u64) -> io::Result<Stream> {
    let largest = *XZ_DICTIONARY.end();
    let dictionary = u32::try_from(content.next_power_of_two()).unwrap_or(largest);
    let mut options = LzmaOptions::new_preset(XZ_PRESET)?;
    options.dict_size(dictionary.clamp(*XZ_DICTIONARY.start(), largest));
    Ok(Stream::new_stream_encoder(Filters::new().x86().lzma2(&options), Check::Crc32)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initrd::archive::Content;
    use std::io::Read;

    #[test]
    fn what_was_packed_comes_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::default();
        archive.file("/a", 0o644, Content::Bytes(b"some text, some text\n".repeat(1000)));
        let mut plain = Vec::new();
        archive.write(&mut plain).unwrap();
        for method in [Method::None, Method::Zstd, Method::Xz] {
            let path = dir.path().join("part");
            write(&archive, method, &path).unwrap();
            let packed = std::fs::read(&path).unwrap();
            assert_eq!(packed.len() as u64 % ALIGNMENT, 0, "{method:?}");
            let mut unpacked = Vec::new();
            match method {
                Method::None => unpacked.clone_from(&packed),
                Method::Zstd => {
                    let mut decoder = zstd::Decoder::new(packed.as_slice()).unwrap().single_frame();
                    decoder.read_to_end(&mut unpacked).unwrap();
                }
                Method::Xz => {
                    assert_eq!(packed[7], 1, "CRC32, in the stream's flags");
                    liblzma::read::XzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
                }
            }
            assert_eq!(unpacked, plain, "{method:?}");
        }
    }
}
