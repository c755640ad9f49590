//! A program or library without the symbols that nobody asks for.
//!
//! What is linked with `-rdynamic` for plugins, or is a library, exports all its symbols: a tenth of MariaDB's server as
//! it is packed. A name that no other file of the image mentions, neither to use it nor to define it too, is found by
//! nobody but by `dlsym`. Such symbols are overwritten with zeros where they stand, which pack into nothing; addresses,
//! indexes and sizes stay what they are (System V ABI, "Symbol Table"; the hash table of GNU is described in glibc's
//! elf/dl-lookup.c: a Bloom filter, buckets with the first symbol of each, and a chain of hashes whose lowest bit ends it).

use std::collections::BTreeSet;

use object::elf::{
    DT_AUXILIARY, DT_FILTER, DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, FileHeader64, SHF_ALLOC, SHT_DYNAMIC,
    SHT_DYNSYM, SHT_GNU_HASH, SHT_GNU_VERSYM, SHT_RELA, SectionHeader64, SectionType, Sym64,
};
use object::read::elf::{Dyn, FileHeader, SectionHeader, Sym};
use object::{Endianness, SectionIndex};

/// A symbol (`Elf64_Sym`).
const SYMBOL: usize = 24;
/// Number of buckets, index of the first symbol that is hashed, words of the filter, shift of its second hash.
const HASH_HEAD: usize = 16;

/// The names of all symbols that a file defines or wants from others; none if it is no dynamic ELF file.
pub fn names(file: &[u8]) -> BTreeSet<Vec<u8>> {
    let read = || {
        let header = FileHeader64::<Endianness>::parse(file).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, file).ok()?;
        let table = sections.symbols(endian, file, SHT_DYNSYM).ok()?;
        let name = |symbol: &Sym64<Endianness>| symbol.name(endian, table.strings()).ok().map(<[u8]>::to_vec);
        table.iter().map(name).collect::<Option<_>>()
    };
    read().unwrap_or_default()
}

/// Takes out the symbols that the file defines and that are not `wanted`. `None` if the file has no such tables, or broken
/// ones; it is as it was then.
pub fn localize(file: &mut [u8], wanted: &dyn Fn(&[u8]) -> bool) -> Option<()> {
    let plan = Plan::read(file, wanted)?;
    plan.carry_out(file)
}

/// Where a section stands in the file.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    size: usize,
}

impl Place {
    fn of(section: &SectionHeader64<Endianness>, endian: Endianness, file: &[u8]) -> Option<Self> {
        let start = usize::try_from(section.sh_offset(endian)).ok()?;
        let size = usize::try_from(section.sh_size(endian)).ok()?;
        (start.checked_add(size)? <= file.len()).then_some(Self { start, size })
    }

    fn bytes<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        &file[self.start..self.start + self.size]
    }

    fn bytes_mut<'a>(&self, file: &'a mut [u8]) -> &'a mut [u8] {
        &mut file[self.start..self.start + self.size]
    }
}

struct Plan {
    symbols: Place,
    strings: Place,
    versions: Option<Place>,
    hash: Place,
    /// Of each symbol, whether it stays.
    stays: Vec<bool>,
    /// Bytes of the string table that are still read.
    read: Vec<bool>,
}

impl Plan {
    fn read(file: &[u8], wanted: &dyn Fn(&[u8]) -> bool) -> Option<Self> {
        let header = FileHeader64::<Endianness>::parse(file).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, file).ok()?;
        let place = |kind: SectionType| {
            let section = sections.iter().find(|section| section.sh_type(endian) == kind)?;
            Place::of(section, endian, file)
        };
        let table = sections.symbols(endian, file, SHT_DYNSYM).ok()?;
        let strings = Place::of(sections.section(table.string_section()).ok()?, endian, file)?;
        // A symbol that a relocation names is looked up by its name, in this file too.
        let mut related = vec![false; table.len()];
        for section in sections.iter() {
            if section.sh_type(endian) == SHT_RELA && section.sh_flags(endian).contains(SHF_ALLOC) {
                for entry in section.rela(endian, file).ok()??.0 {
                    *related.get_mut(usize::try_from(entry.r_sym(endian, false)).ok()?)? = true;
                }
            }
        }
        let mut stays = vec![true; table.len()];
        let mut read = vec![false; strings.size];
        // The empty name stands first.
        *read.first_mut()? = true;
        for (index, symbol) in table.enumerate() {
            let name = symbol.name(endian, table.strings()).ok()?;
            let stay = symbol.is_undefined(endian) || symbol.is_local() || related[index.0] || wanted(name);
            stays[index.0] = stay;
            if stay {
                mark(&mut read, symbol.st_name(endian), strings.bytes(file))?;
            }
        }
        Self::other_strings(file, endian, &sections, table.string_section(), &mut read, strings)?;
        Some(Self {
            symbols: place(SHT_DYNSYM)?,
            strings,
            versions: place(SHT_GNU_VERSYM),
            hash: place(SHT_GNU_HASH)?,
            stays,
            read,
        })
    }

    /// Marks what is not the name of a symbol: of libraries, directories and versions.
    fn other_strings(
        file: &[u8],
        endian: Endianness,
        sections: &object::read::elf::SectionTable<'_, FileHeader64<Endianness>>,
        table: SectionIndex,
        read: &mut [bool],
        strings: Place,
    ) -> Option<()> {
        let bytes = strings.bytes(file);
        let mut found = Vec::new();
        for section in sections.iter().filter(|section| section.sh_type(endian) == SHT_DYNAMIC) {
            for entry in section.dynamic(endian, file).ok()??.0 {
                if [DT_NEEDED, DT_SONAME, DT_RPATH, DT_RUNPATH, DT_AUXILIARY, DT_FILTER].contains(&entry.d_tag(endian))
                {
                    found.push(u32::try_from(entry.d_val(endian)).ok()?);
                }
            }
        }
        if let Some((mut needs, link)) = sections.gnu_verneed(endian, file).ok()?
            && link == table
        {
            while let Some((need, mut versions)) = needs.next().ok()? {
                found.push(need.vn_file.get(endian));
                while let Some(version) = versions.next().ok()? {
                    found.push(version.vna_name.get(endian));
                }
            }
        }
        if let Some((mut definitions, link)) = sections.gnu_verdef(endian, file).ok()?
            && link == table
        {
            while let Some((_, mut names)) = definitions.next().ok()? {
                while let Some(name) = names.next().ok()? {
                    found.push(name.vda_name.get(endian));
                }
            }
        }
        found.into_iter().try_for_each(|offset| mark(read, offset, bytes))
    }

    fn carry_out(&self, file: &mut [u8]) -> Option<()> {
        let hash = Hash::read(self.hash.bytes(file), self.stays.len())?.without(&self.stays, |index| {
            let symbol = &self.symbols.bytes(file)[index * SYMBOL..];
            let offset = u32::from_le_bytes([symbol[0], symbol[1], symbol[2], symbol[3]]) as usize;
            let name = self.strings.bytes(file).get(offset..)?;
            Some(gnu_hash(&name[..name.iter().position(|byte| *byte == 0)?]))
        })?;
        hash.write(self.hash.bytes_mut(file));
        for index in (0..self.stays.len()).filter(|index| !self.stays[*index]) {
            self.symbols.bytes_mut(file)[index * SYMBOL..][..SYMBOL].fill(0);
            if let Some(versions) = self.versions {
                versions.bytes_mut(file).get_mut(index * 2..index * 2 + 2)?.fill(0);
            }
        }
        for (byte, read) in self.strings.bytes_mut(file).iter_mut().zip(&self.read) {
            if !read {
                *byte = 0;
            }
        }
        Some(())
    }
}

/// Marks a string and its end.
fn mark(read: &mut [bool], offset: u32, strings: &[u8]) -> Option<()> {
    let start = usize::try_from(offset).ok()?;
    let length = strings.get(start..)?.iter().position(|byte| *byte == 0)?;
    read.get_mut(start..=start + length)?.fill(true);
    Some(())
}

/// The hash of a name (glibc's elf/dl-hash.h, `_dl_new_hash`).
fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381, |hash: u32, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)))
}

/// A `DT_GNU_HASH` table.
struct Hash {
    head: [u32; 4],
    filter: Vec<u64>,
    buckets: Vec<u32>,
    chains: Vec<u32>,
}

impl Hash {
    fn read(bytes: &[u8], symbols: usize) -> Option<Self> {
        let long = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let head = [long(0)?, long(4)?, long(8)?, long(12)?];
        let [buckets, first, words, _] = head.map(|value| value as usize);
        let chains = symbols.checked_sub(first)?;
        let filter_at = HASH_HEAD;
        let buckets_at = words.checked_mul(8)?.checked_add(filter_at)?;
        let chains_at = buckets.checked_mul(4)?.checked_add(buckets_at)?;
        // The linker's table for no symbol at all has one of each that is none.
        if words == 0 || buckets == 0 || bytes.len() < chains.checked_mul(4)?.checked_add(chains_at)? {
            return None;
        }
        let longs = |start: usize, count: usize| -> Option<Vec<u32>> {
            (0..count).map(|index| long(start + index * 4)).collect()
        };
        Some(Self {
            head,
            filter: (0..words)
                .map(|index| Some(u64::from_le_bytes(*bytes.get(filter_at + index * 8..)?.first_chunk()?)))
                .collect::<Option<_>>()?,
            buckets: longs(buckets_at, buckets)?,
            chains: longs(chains_at, chains)?,
        })
    }

    /// The same with only those symbols in it that stay.
    fn without(mut self, stays: &[bool], hash_of: impl Fn(usize) -> Option<u32>) -> Option<Self> {
        let (first, shift) = (self.head[1], self.head[3]);
        let old = std::mem::take(&mut self.chains);
        self.chains = vec![0; old.len()];
        self.filter.fill(0);
        for bucket in self.buckets.iter_mut().filter(|bucket| **bucket != 0) {
            let start = usize::try_from(bucket.checked_sub(first)?).ok()?;
            let end = start + old.get(start..)?.iter().position(|value| value & 1 != 0)?;
            *bucket = 0;
            let mut last = None;
            for at in (start..=end).filter(|at| stays[at + first as usize]) {
                let index = at + first as usize;
                if last.is_none() {
                    *bucket = u32::try_from(index).ok()?;
                }
                self.chains[at] = old[at] & !1;
                last = Some(at);
                let hash = hash_of(index)?;
                let words = self.filter.len();
                let second = hash.checked_shr(shift)?;
                self.filter[hash as usize / 64 % words] |= 1 << (hash % 64) | 1 << (second % 64);
            }
            if let Some(last) = last {
                self.chains[last] |= 1;
            }
        }
        Some(self)
    }

    fn write(&self, bytes: &mut [u8]) {
        let longs = |longs: &[u32]| longs.iter().flat_map(|long| long.to_le_bytes()).collect::<Vec<u8>>();
        let filter = self.filter.iter().flat_map(|word| word.to_le_bytes()).collect();
        let all = [longs(&self.head), filter, longs(&self.buckets), longs(&self.chains)].concat();
        bytes[..all.len()].copy_from_slice(&all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    /// A program that exports its symbols for what it may load.
    const PROGRAM: &str = "/bin/bash";

    #[test]
    fn a_program_without_its_names_runs() {
        let mut file = fs::read(PROGRAM).unwrap();
        let before = names(&file);
        let one = b"array_insert".to_vec();
        assert!(before.len() > 1000 && before.contains(&one) && before.contains(b"regcomp".as_slice()));
        // Given bash, when all go but one that it defines,
        localize(&mut file, &|name| name == one).unwrap();
        // then this one is left and what it wants from others, and it does what it did.
        let after = names(&file);
        assert!(after.len() < before.len() / 2);
        assert!(after.contains(&one) && after.contains(b"regcomp".as_slice()));
        assert!(!after.contains(b"array_create".as_slice()));
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("bash");
        fs::write(&program, &file).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let script = "a=(1 2 3); printf '%s\\n' \"${#a[@]}\" \"${HOME@Q}\"; type -t printf";
        let output = Command::new(&program).args(["-c", script]).env("HOME", "/x").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n'/x'\nbuiltin\n", "{output:?}");
        // A second time there is nothing left to take.
        let again = file.clone();
        localize(&mut file, &|name| name == one).unwrap();
        assert!(file == again);
    }

    /// `libone.so` defines `kept` and `gone`; a program calls the first.
    #[test]
    fn a_library_is_found_by_the_names_that_stay() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("one.c"), "int kept(void) { return 7; }\nint gone(void) { return 8; }\n").unwrap();
        fs::write(path("main.c"), "int kept(void);\nint main(void) { return kept(); }\n").unwrap();
        let cc = |arguments: &[&str]| {
            let done = Command::new("cc").args(arguments).current_dir(place.path()).status().unwrap();
            assert!(done.success(), "{arguments:?}");
        };
        cc(&["-shared", "-fPIC", "-Wl,--hash-style=gnu", "-o", "libone.so", "one.c"]);
        cc(&["-o", "main", "main.c", "-L.", "-lone", "-Wl,-rpath,$ORIGIN"]);
        let mut library = fs::read(path("libone.so")).unwrap();
        let wanted = names(&fs::read(path("main")).unwrap());
        localize(&mut library, &|name| wanted.contains(name)).unwrap();
        assert!(!names(&library).contains(b"gone".as_slice()));
        fs::write(path("libone.so"), library).unwrap();
        assert_eq!(Command::new(path("main")).status().unwrap().code(), Some(7));
    }

    #[test]
    fn what_has_no_symbols_is_left_alone() {
        let mut text = b"#!/bin/sh\n".to_vec();
        assert_eq!(localize(&mut text, &|_| false), None);
        assert!(names(&text).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_broken_file_is_safe(at in prop::collection::vec((0..200_000usize, any::<u8>()), 1..50), length in 0..1_500_000usize) {
            let mut file = fs::read(PROGRAM).unwrap();
            for (at, byte) in at {
                file[at] = byte;
            }
            file.truncate(length.max(100));
            let _ = (names(&file), localize(&mut file, &|_| false));
        }
    }
}
