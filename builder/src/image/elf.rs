//! What an ELF file needs in order to run.

use object::elf::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PT_DYNAMIC, PT_INTERP,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, StringTable};

/// First bytes of an ELF file.
pub const MAGIC: &[u8] = b"\x7fELF";

/// What one file needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The dynamic loader.
    pub interpreter: Option<String>,
    /// Names of libraries.
    pub libraries: Vec<String>,
    /// Directories that the file wants searched first.
    pub run_paths: Vec<String>,
    /// The name by which programs ask for it, if it is a library.
    pub soname: Option<String>,
}

impl Needs {
    /// Whether the file runs without any other.
    pub fn is_static(&self) -> bool {
        self.interpreter.is_none() && self.libraries.is_empty()
    }
}

/// Reads a 64-bit x86 program or library; `None` for anything else, relocatable objects included.
pub fn needs(file: &[u8]) -> Option<Needs> {
    if !file.starts_with(MAGIC) {
        return None;
    }
    let header = FileHeader64::<Endianness>::parse(file).ok()?;
    let endian = header.endian().ok()?;
    if header.e_machine(endian) != EM_X86_64 || ![ET_DYN, ET_EXEC].contains(&header.e_type(endian)) {
        return None;
    }
    let segments = header.program_headers(endian, file).ok()?;
    let mut needs = Needs::default();
    for segment in segments {
        if segment.p_type(endian) == PT_INTERP {
            let path = segment.data(endian, file).ok()?;
            needs.interpreter = Some(String::from_utf8_lossy(path).trim_end_matches('\0').to_owned());
        }
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.p_type(endian) == PT_DYNAMIC) else {
        return Some(needs);
    };
    let entries = dynamic.dynamic(endian, file).ok().flatten()?;
    let value = |tag| entries.iter().find(|entry| entry.d_tag(endian) == tag).map(|entry| entry.d_val(endian));
    let (Some(address), Some(size)) = (value(object::elf::DT_STRTAB), value(object::elf::DT_STRSZ)) else {
        return Some(needs);
    };
    // The string table is given by its address in memory.
    let start = segments.iter().find_map(|segment| {
        let begin = segment.p_vaddr(endian);
        let inside = segment.p_type(endian) == object::elf::PT_LOAD
            && (begin..begin.checked_add(segment.p_filesz(endian))?).contains(&address);
        inside.then(|| segment.p_offset(endian).checked_add(address - begin)).flatten()
    })?;
    let strings = StringTable::new(file, start, start.checked_add(size)?);
    for entry in entries {
        let text = || {
            let bytes = strings.get(u32::try_from(entry.d_val(endian)).ok()?).ok()?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        match entry.d_tag(endian) {
            DT_NEEDED => needs.libraries.extend(text()),
            DT_SONAME => needs.soname = text(),
            DT_RUNPATH | DT_RPATH => {
                needs.run_paths.extend(text().unwrap_or_default().split(':').map(str::to_owned));
            }
            _ => {}
        }
    }
    Some(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_loader_and_libraries() {
        let needs = needs(&std::fs::read("/bin/sh").unwrap()).unwrap();
        assert!(needs.interpreter.as_deref().is_some_and(|path| path.contains("ld-linux")), "{needs:?}");
        assert!(needs.libraries.contains(&"libc.so.6".to_owned()), "{needs:?}");
        assert!(!needs.is_static());
    }

    #[test]
    fn anything_else_needs_nothing() {
        assert_eq!(needs(b"#!/bin/sh\n"), None);
        assert_eq!(needs(b"\x7fELF"), None);
        assert_eq!(needs(&[b"\x7fELF".as_slice(), &[2, 1, 1, 0, 0xff, 0xff, 0xff]].concat()), None);
    }
}
