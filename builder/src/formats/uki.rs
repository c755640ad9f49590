//! `thimble.efi`: a unified kernel image. systemd's stub, which UEFI firmware starts like any other program, with kernel,
//! initramfs and command line as sections of its own (UAPI group, "Unified Kernel Image"; systemd-stub(7)).
//!
//! It boots wherever firmware finds a program: as `EFI/BOOT/BOOTX64.EFI` of a FAT, over HTTP, from the UEFI shell. Without
//! Secure Boot the stub takes another command line from whoever starts it; with Secure Boot, its own alone.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::Contents;
use crate::context::Context;
use crate::efi::append;
use crate::efi::pe::{Checksum, Headers};
use crate::efi::read::Program;
use crate::efi::trust::Trust;
use crate::error::{Error, Result};
use crate::files;

/// The package with the stub, and the stub in it.
pub const PACKAGE: &str = "systemd-boot-efi";
/// See [`PACKAGE`].
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Where a section's content comes from.
enum Source<'a> {
    Text(String),
    Files(Vec<&'a Path>),
}

impl Source<'_> {
    fn size(&self) -> Result<u64> {
        match self {
            Self::Text(text) => Ok(text.len() as u64),
            Self::Files(paths) => paths.iter().map(|path| files::size(path)).sum(),
        }
    }

    fn copy(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self {
            Self::Text(text) => sink(text.as_bytes()),
            Self::Files(paths) => paths.iter().try_for_each(|path| files::copy(path, sink)),
        }
    }
}

/// Writes the image and reads it back.
///
/// # Errors
/// The stub is not one that can be extended, a file cannot be read, the disk is full.
pub fn write(out: &Path, contents: &Contents<'_>, context: &Context) -> Result<()> {
    make(out, &contents.loaders.file(PACKAGE, STUB)?, &sections(contents), context)?;
    if let Trust::Own(signer) = contents.trust {
        let temp = files::temp_dir_in(&context.cache.temp_dir(), "sign-")?;
        files::write(out, &signer.signed(context, out, temp.path())?)?;
    }
    Ok(())
}

fn make(out: &Path, stub_path: &Path, sources: &[(&str, Source<'_>)], context: &Context) -> Result<()> {
    let step = context.progress.step("unified kernel image");
    let stub = files::read(stub_path)?;
    let sizes =
        sources.iter().map(|(name, source)| Ok((*name, source.size()?))).collect::<Result<Vec<(&str, u64)>>>()?;
    let plan = append::plan(&stub, &sizes)
        .map_err(|reason| Error::environment(format!("{} {reason}", stub_path.display())))?;

    let file = NamedTempFile::new_in(files::parent(out)).map_err(Error::io("create a file beside", out))?;
    let io = || Error::io("write", out);
    file.as_file().set_len(plan.size).map_err(io())?;
    put(file.as_file(), 0, &plan.head).map_err(io())?;
    let mut hashes = Vec::new();
    for ((name, source), offset) in sources.iter().zip(&plan.offsets) {
        let (mut at, mut hash) = (*offset, Sha256::new());
        source.copy(&mut |chunk| {
            hash.update(chunk);
            put(file.as_file(), at, chunk).map_err(io())?;
            at += chunk.len() as u64;
            Ok(())
        })?;
        hashes.push((name, files::hex(&hash.finalize())));
    }
    write_checksum(file.as_file(), file.path(), &plan).map_err(|error| match error {
        Error::Io { source, .. } => Error::io("write", out)(source),
        other => other,
    })?;

    step.message("reading it back");
    let program = Program::open(file.path())?;
    if let Some((name, _)) = hashes.iter().find(|(name, hash)| program.section_sha256(name) != Some(hash)) {
        let out = out.display();
        return Err(Error::environment(format!("{out}: its section {name} is not what was written: the disk is bad")));
    }
    files::publish(file, out)?;
    step.done();
    Ok(())
}

/// The sections, by what reads them: boot menus the first and the third, the stub the rest. The kernel stands last, as
/// what starts it in place needs.
fn sections<'a>(contents: &Contents<'a>) -> [(&'static str, Source<'a>); 5] {
    let parts = contents.parts.iter().map(|part| part.path.as_path()).collect();
    [
        (".osrel", Source::Text(os_release(contents.name, &contents.envelope.release().manifest))),
        (".cmdline", Source::Text(contents.cmdline.to_owned())),
        (".uname", Source::Text(contents.kernel_release.to_owned())),
        (".initrd", Source::Files(parts)),
        (".linux", Source::Files(vec![contents.kernel])),
    ]
}

/// What boot menus show (os-release(5)). Names of appliances need no quotes.
fn os_release(name: &str, hash: &str) -> String {
    let version = hash.get(..12).unwrap_or(hash);
    format!(
        "ID=thimble\nNAME=Thimble\nPRETTY_NAME=\"{name} (Thimble)\"\nIMAGE_ID={name}\nIMAGE_VERSION={version}\n\
         VERSION_ID={version}\n"
    )
}

fn put(mut file: &File, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

fn write_checksum(file: &File, path: &Path, plan: &append::Plan) -> Result<()> {
    let headers = Headers::parse(&plan.head, plan.size).map_err(Error::environment)?;
    let field = headers.checksum_offset();
    let mut sum = Checksum::default();
    files::copy(path, &mut |chunk| {
        sum.push(chunk, field);
        Ok(())
    })?;
    put(file, field as u64, &sum.finish().to_le_bytes()).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::efi::testing::program;
    use crate::progress::Progress;

    fn written(dir: &Path, name: &str, stub: &[u8]) -> Result<Vec<u8>> {
        let context = Context { cache: Cache::open_at(&dir.join("cache")).unwrap(), progress: Progress::quiet() };
        let file = |name: &str, content: &[u8]| {
            files::write(&dir.join(name), content).unwrap();
            dir.join(name)
        };
        let (a, b, kernel) = (file("a", b"part a"), file("b", b"part b"), file("kernel", &[0x5a; 70_001]));
        let sources = [
            (".osrel", Source::Text(os_release("demo", "0123456789abcdef"))),
            (".initrd", Source::Files(vec![&a, &b])),
            (".linux", Source::Files(vec![&kernel])),
        ];
        make(&dir.join(name), &file("linuxx64.efi.stub", stub), &sources, &context)?;
        files::read(&dir.join(name))
    }

    #[test]
    fn the_image_holds_what_the_stub_looks_for_and_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let stub = program(&[(".text", b"stub"), (".sdmagic", b"magic")]);
        let bytes = written(dir.path(), "one.efi", &stub).unwrap();
        assert_eq!(bytes, written(dir.path(), "two.efi", &stub).unwrap());

        let headers = Headers::parse(&bytes, bytes.len() as u64).unwrap();
        let section = |name: &str| {
            let content = headers.section(name).unwrap().content();
            &bytes[content.start as usize..content.end as usize]
        };
        assert_eq!(section(".text"), b"stub");
        assert_eq!(section(".initrd"), b"part apart b");
        assert_eq!(section(".linux"), [0x5a; 70_001]);
        let release = String::from_utf8_lossy(section(".osrel"));
        assert!(release.contains("IMAGE_ID=demo\nIMAGE_VERSION=0123456789ab\n"), "{release}");
        assert_eq!(headers.sections.last().unwrap().name, ".linux");
    }

    #[test]
    fn a_stub_that_is_none_is_told_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let told = written(dir.path(), "one.efi", b"#!/bin/sh").unwrap_err().to_string();
        assert!(told.contains("linuxx64.efi.stub is no UEFI program"), "{told}");
        assert!(!dir.path().join("one.efi").exists());
    }
}
