//! Everything that is in a guest's memory before its first instruction.
//!
//! | file | what |
//! | --- | --- |
//! | [`kernel`] | tells a `vmlinux` from a `bzImage` and loads it |
//! | [`pvh`] | the start info for the former |
//! | [`linux64`] | boot parameters, page tables and descriptors for the latter |
//! | [`mptable`] | the processors and interrupts, for a kernel without ACPI |
//! | [`cmdline`] | the words that name the devices |

pub mod cmdline;
pub mod kernel;
pub mod linux64;
pub mod mptable;
pub mod pvh;

use std::fs::File;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::{Error, Result};
use crate::vcpu::registers::Entry;
use crate::{layout, memory as ram};
use kernel::Kind;

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

/// Fills the guest's memory, and says how its boot processor starts.
///
/// # Errors
/// A file cannot be read, is not what it should be, or does not fit.
pub fn load(
    memory: &GuestMemoryMmap,
    memory_mib: u32,
    vcpus: u8,
    kernel: &Path,
    initrd: Option<&Path>,
    cmdline: &str,
) -> Result<Entry> {
    let kernel = kernel::load(memory, kernel)?;
    let initrd = initrd.map(|path| load_initrd(memory, memory_mib, path, kernel.end)).transpose()?;
    memory
        .write_slice(&[cmdline.as_bytes(), &[0]].concat(), GuestAddress(layout::CMDLINE))
        .map_err(Error::memory("write the command line into"))?;
    let table = mptable::build(vcpus);
    memory.write_slice(&table, GuestAddress(layout::MP_TABLE)).map_err(Error::memory("write the MP table into"))?;
    let usable = ram::usable(memory_mib);
    match kernel.kind {
        Kind::Pvh { entry } => {
            pvh::write(memory, &usable, initrd).map_err(Error::memory("write the start info into"))?;
            Ok(Entry::Pvh { at: entry })
        }
        Kind::BzImage { header, entry } => {
            linux64::write(memory, &usable, initrd, &header, cmdline.len())
                .map_err(Error::memory("write the boot parameters into"))?;
            Ok(Entry::Linux64 { at: entry })
        }
    }
}

/// Loads an initrd as high as every kernel can take it: far from where kernels grow.
fn load_initrd(memory: &GuestMemoryMmap, memory_mib: u32, path: &Path, kernel_end: u64) -> Result<Initrd> {
    let error = |action| move |source| Error::File { action, path: path.to_owned(), source };
    let mut file = File::open(path).map_err(error("open the initrd"))?;
    let size = file.metadata().map_err(error("measure the initrd"))?.len();
    let limit = ram::low_end(memory_mib).min(layout::INITRD_LIMIT);
    let address = limit.checked_sub(size).map(|address| address & !(PAGE - 1)).filter(|address| *address >= kernel_end);
    let Some(address) = address else {
        return Err(Error::Config(format!(
            "the initrd {} of {size} bytes does not fit beside the kernel in {memory_mib} MiB of memory: give more",
            path.display()
        )));
    };
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, size as usize)
        .map_err(Error::memory("read the initrd into"))?;
    Ok(Initrd { address, size })
}
