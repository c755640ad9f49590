//! Everything that is in a guest's memory before its first instruction.
//!
//! | file | what |
//! | --- | --- |
//! | [`image`] | which pieces of a kernel's file go where, told from its bytes: [`elf`] or [`bzimage`] |
//! | [`place`] | from files into memory, mapped or copied |
//! | [`pvh`] | the start info for a `vmlinux` |
//! | [`linux64`] | boot parameters, page tables and descriptors for a `bzImage` |
//! | [`mptable`] | the processors and interrupts, for a kernel without ACPI |
//! | [`cmdline`] | the words that name the devices |

mod bzimage;
pub mod cmdline;
mod elf;
pub mod image;
pub mod linux64;
pub mod mptable;
pub mod place;
pub mod pvh;
#[cfg(test)]
mod testing;

use std::fs::File;
use std::path::Path;

use thimble_spec::vmm::{Discovery, GuestConfig};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::{Error, Result};
use crate::vcpu::registers::Entry;
use crate::{acpi, layout, memory as ram};
use image::{Image, Kind, Piece, Plan};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Where an initrd lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// Its first byte.
    pub address: u64,
    /// Its length.
    pub size: u64,
}

/// What an area of the address space is: `E820_TYPE_` (Linux arch/x86/include/asm/e820/types.h) and
/// `XEN_HVM_MEMMAP_TYPE_` (Xen `public/arch-x86/hvm/start_info.h`) have the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaKind {
    /// RAM that the kernel may use.
    Ram = 1,
    /// RAM with ACPI's tables in it.
    Acpi = 3,
}

/// An area of the address space that the kernel is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Its first byte.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
    /// What it is.
    pub kind: AreaKind,
}

/// What the kernel is told of the guest's memory.
fn areas(config: &GuestConfig) -> Vec<Area> {
    let ram = ram::usable(config.memory_mib);
    let mut areas: Vec<Area> =
        ram.into_iter().map(|(address, bytes)| Area { address, bytes, kind: AreaKind::Ram }).collect();
    if config.discovery == Discovery::Acpi {
        areas.push(Area { address: layout::ACPI_TABLES, bytes: layout::ACPI_BYTES, kind: AreaKind::Acpi });
    }
    areas.sort_unstable_by_key(|area| area.address);
    areas
}

/// Writes the tables that tell of `devices` virtio devices, or of processors alone; where they begin, or 0.
fn write_tables(memory: &GuestMemoryMmap, config: &GuestConfig, devices: usize) -> Result<u64> {
    let (table, address, rsdp) = match config.discovery {
        Discovery::Acpi => (acpi::tables::build(config.vcpus, devices), layout::ACPI_TABLES, layout::ACPI_TABLES),
        Discovery::Cmdline => (mptable::build(config.vcpus), layout::MP_TABLE, 0),
    };
    memory
        .write_slice(&table, GuestAddress(address))
        .map_err(Error::memory("write the tables of processors and devices into"))?;
    Ok(rsdp)
}

/// Fills the memory of a guest of `devices` virtio devices, and says how its boot processor starts.
///
/// # Errors
/// A file cannot be read, is not what it should be, or does not fit.
pub fn load(memory: &GuestMemoryMmap, config: &GuestConfig, cmdline: &str, devices: usize) -> Result<Entry> {
    let kernel = load_kernel(memory, config)?;
    let initrd = config.initrd.as_deref().map(|path| load_initrd(memory, config, path, kernel.end)).transpose()?;
    memory
        .write_slice(&[cmdline.as_bytes(), &[0]].concat(), GuestAddress(layout::CMDLINE))
        .map_err(Error::memory("write the command line into"))?;
    let rsdp = write_tables(memory, config, devices)?;
    let areas = areas(config);
    match kernel.kind {
        Kind::Pvh { entry } => {
            pvh::write(memory, &areas, initrd, rsdp).map_err(Error::memory("write the start info into"))?;
            Ok(Entry::Pvh { at: entry })
        }
        Kind::BzImage { header, entry } => {
            linux64::write(memory, &areas, initrd, rsdp, &header, cmdline.len())
                .map_err(Error::memory("write the boot parameters into"))?;
            Ok(Entry::Linux64 { at: entry })
        }
    }
}

fn load_kernel(memory: &GuestMemoryMmap, config: &GuestConfig) -> Result<Plan> {
    let path = &config.kernel;
    let error = |source| Error::File { action: "read the kernel", path: path.clone(), source };
    let refuse = |reason| Error::Kernel { path: path.clone(), reason };
    let file = File::open(path).map_err(error)?;
    let plan = image::plan(&file).map_err(refuse)?;
    if plan.end > ram::low_end(config.memory_mib) {
        let need = plan.end.div_ceil(ram::MIB);
        let given = config.memory_mib;
        return Err(refuse(format!(
            "it needs {need} MiB of memory to start, and the guest has {given} MiB: give more"
        )));
    }
    let share = ram::is_shared(&config.memory);
    for piece in &plan.pieces {
        place::place(memory, &file, *piece, share).map_err(|reason| refuse(reason.to_string()))?;
    }
    Ok(plan)
}

/// Loads an initrd as high as every kernel can take it: far from where kernels grow. It begins with a page, as it does
/// in its file.
fn load_initrd(memory: &GuestMemoryMmap, config: &GuestConfig, path: &Path, kernel_end: u64) -> Result<Initrd> {
    let error = |action| move |source| Error::File { action, path: path.to_owned(), source };
    let file = File::open(path).map_err(error("open the initrd"))?;
    let size = file.size().map_err(error("measure the initrd"))?;
    let limit = ram::low_end(config.memory_mib).min(layout::INITRD_LIMIT);
    let address = limit.checked_sub(size).map(|address| address & !(PAGE - 1)).filter(|address| *address >= kernel_end);
    let Some(address) = address else {
        return Err(Error::Config(format!(
            "the initrd {} of {size} bytes does not fit beside the kernel in {} MiB of memory: give more",
            path.display(),
            config.memory_mib
        )));
    };
    // When a kernel is done with its initrd it fills the memory with a pattern (free_reserved_area() of Linux).
    let piece = Piece { offset: 0, address, bytes: size, written: true };
    place::place(memory, &file, piece, ram::is_shared(&config.memory))
        .map_err(Error::memory("read the initrd into"))?;
    Ok(Initrd { address, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use thimble_spec::vmm::{Memory, Pages};

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// The memory of a guest with this kernel and an initrd of 5000 bytes, and its entry.
    fn loaded(kernel: &[u8], memory_mib: u32, pages: Pages) -> Result<(GuestMemoryMmap, Entry)> {
        let (kernel, initrd) = (file(kernel), file(&[0x11; 5000]));
        let config = GuestConfig {
            vcpus: 1,
            memory_mib,
            kernel: kernel.path().to_owned(),
            initrd: Some(initrd.path().to_owned()),
            memory: Memory { pages, prefault: false },
            ..GuestConfig::default()
        };
        let memory = ram::map(memory_mib, &Memory::default()).unwrap();
        let entry = load(&memory, &config, "quiet", 1)?;
        Ok((memory, entry))
    }

    #[test]
    fn a_vmlinux_is_loaded_mapped_and_copied() {
        let image = testing::vmlinux();
        for pages in [Pages::Default, Pages::Transparent] {
            let (memory, entry) = loaded(&image, 16, pages).unwrap();
            assert_eq!(entry, Entry::Pvh { at: testing::ENTRY });
            for piece in testing::PIECES {
                let mut bytes = vec![0; piece.bytes as usize + 16];
                memory.read_slice(&mut bytes, GuestAddress(piece.address)).unwrap();
                let (start, end) = (piece.offset as usize, (piece.offset + piece.bytes) as usize);
                assert_eq!(bytes[..bytes.len() - 16], image[start..end]);
                assert_eq!(bytes[bytes.len() - 16..], [0; 16], "what is behind a segment is zero");
            }
            // Two pages below 16 MiB.
            let mut initrd = vec![0; 8192];
            memory.read_slice(&mut initrd, GuestAddress((16 << 20) - 8192)).unwrap();
            assert!(initrd[..5000].iter().all(|byte| *byte == 0x11) && initrd[5000..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_bzimage_is_loaded() {
        let (memory, entry) = loaded(&testing::bzimage(), 32, Pages::Default).unwrap();
        assert_eq!(entry, Entry::Linux64 { at: 0x100_0200 });
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x100_0000)).unwrap(), 0x90);
    }

    #[test]
    fn a_guest_too_small_is_told_so() {
        let sentence = |kernel: &[u8], mib| loaded(kernel, mib, Pages::Default).err().unwrap().sentence();
        assert!(
            sentence(&testing::bzimage(), 23)
                .ends_with("it needs 24 MiB of memory to start, and the guest has 23 MiB: give more")
        );
        assert!(sentence(&testing::bzimage(), 24).contains("does not fit beside the kernel"));
        assert!(sentence(b"#!/bin/sh", 24).ends_with("it is neither an ELF vmlinux nor a bzImage"));
    }
}
