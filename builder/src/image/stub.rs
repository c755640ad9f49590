//! A library of which only the names are there: its functions return 0, its data is zero.
//!
//! Programs of a distribution are linked with libraries that they do not use on every machine: `sd_notify` returns 0
//! where there is no systemd (sd_notify(3)), and ICU without its data knows the converters that are code and says of
//! others that they are not there. Where 0 is no answer because the caller looks behind it, as for libxml2's functions that
//! give the address of a variable of the thread's, a recipe says what is in that variable. The stub has the library's `DT_SONAME`, and each symbol with its version, so that the
//! dynamic loader finds what it looks for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use object::elf::{SHT_DYNSYM, STT_FUNC, STT_GNU_IFUNC, STT_OBJECT};
use object::read::elf::{FileHeader, Sym};
use object::{Endianness, elf::FileHeader64};

use super::elf;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::tool::Tool;

/// What a library defines.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Symbol {
    name: String,
    /// The version that programs are linked with today.
    version: Option<String>,
    /// Bytes, if it is data.
    data: Option<u64>,
}

/// Functions that give the address of a variable, and the text that this one points to; with an empty text, it is zero.
pub type Variables = BTreeMap<String, String>;

/// What is run to make stubs of these.
pub fn tools(stubs: &[String]) -> &'static [&'static str] {
    if stubs.is_empty() { &[] } else { &["as", "ld"] }
}

/// Writes the stub of `library` to `out`.
///
/// # Errors
/// It is no library; the assembler or the linker fails.
pub fn write(context: &Context, library: &[u8], variables: &Variables, out: &Path) -> Result<()> {
    let soname = elf::needs(library).and_then(|needs| needs.soname).unwrap_or_default();
    let symbols = symbols(library).ok_or_else(|| {
        Error::environment(format!("the symbols of {soname} cannot be read: leave it out of `stubs`"))
    })?;
    let dir = files::temp_dir_in(&context.cache.temp_dir(), "stub-")?;
    let (source, object, versions) = (dir.path().join("s.s"), dir.path().join("s.o"), dir.path().join("s.map"));
    files::write(&source, assembly(&symbols, variables).as_bytes())?;
    files::write(&versions, script(&symbols).as_bytes())?;
    Tool::new("as").arg("--64").arg("-o").arg(&object).arg(&source).run(context)?;
    let mut link = Tool::new("ld");
    link = link.args(["-shared", "--build-id=none", "-z", "noexecstack", "-z", "max-page-size=4096", "-soname"]);
    link = link.arg(soname);
    if symbols.iter().any(|symbol| symbol.version.is_some()) {
        link = link.arg("--version-script").arg(&versions);
    }
    link.arg("-o").arg(out).arg(&object).run(context)
}

/// The symbols that a library defines, in the versions that are for programs linked today.
fn symbols(library: &[u8]) -> Option<Vec<Symbol>> {
    let header = FileHeader64::<Endianness>::parse(library).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, library).ok()?;
    let table = sections.symbols(endian, library, SHT_DYNSYM).ok()?;
    let versions = sections.versions(endian, library).ok()?;
    let mut found = BTreeMap::new();
    for (index, symbol) in table.enumerate() {
        if symbol.is_undefined(endian) || symbol.is_local() {
            continue;
        }
        let name = String::from_utf8(symbol.name(endian, table.strings()).ok()?.to_vec()).ok()?;
        let data = match symbol.st_type() {
            STT_FUNC | STT_GNU_IFUNC => None,
            STT_OBJECT if symbol.st_size(endian) > 0 => Some(symbol.st_size(endian)),
            // The names of versions, marks of the linker's.
            _ => continue,
        };
        let mut version = None;
        if let Some(versions) = &versions {
            let at = versions.version_index(endian, index);
            if at.is_hidden() {
                continue;
            }
            version =
                versions.version(at.index()).ok()?.map(|version| String::from_utf8_lossy(version.name()).into_owned());
        }
        found.insert(name.clone(), Symbol { name, version, data });
    }
    Some(found.into_values().collect())
}

/// The assembler's text: one function under all names but those of `variables`, which have their own, and data that takes no
/// room in the file.
fn assembly(symbols: &[Symbol], variables: &Variables) -> String {
    let mut text = String::from(".text\n");
    let (mut own, mut data) = (String::new(), String::new());
    // Writing to a string does not fail.
    for Symbol { name, .. } in symbols.iter().filter(|symbol| symbol.data.is_none()) {
        let head = format!(".globl {name}\n.type {name}, @function\n{name}:\n");
        let Some(value) = variables.get(name) else {
            text.push_str(&head);
            continue;
        };
        let _ = writeln!(own, "{head}leaq .Lvariable.{name}(%rip), %rax\nret");
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        let pointer = if value.is_empty() { "0".to_owned() } else { format!(".Ltext.{name}") };
        let _ = writeln!(data, ".balign 8\n.Lvariable.{name}: .quad {pointer}\n.Ltext.{name}: .asciz \"{value}\"");
    }
    let _ = write!(text, "xorl %eax, %eax\nret\n{own}");
    if !data.is_empty() {
        let _ = write!(text, ".data\n{data}");
    }
    text.push_str(".bss\n");
    for Symbol { name, data, .. } in symbols {
        if let Some(size) = data {
            let _ = writeln!(text, ".balign 16\n.globl {name}\n.type {name}, @object\n.size {name}, {size}");
            let _ = writeln!(text, "{name}: .zero {size}");
        }
    }
    text
}

/// The linker's version script (ld's manual, "VERSION"). Symbols without a version stay so: they are not in it.
fn script(symbols: &[Symbol]) -> String {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for symbol in symbols {
        if let Some(version) = &symbol.version {
            versions.entry(version).or_default().push(&symbol.name);
        }
    }
    versions.iter().map(|(version, names)| format!("{version} {{ global: {}; }};\n", names.join("; "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str, version: Option<&str>, data: Option<u64>) -> Symbol {
        Symbol { name: name.to_owned(), version: version.map(str::to_owned), data }
    }

    #[test]
    fn functions_share_a_body_and_data_takes_no_room() {
        let symbols =
            [symbol("f", Some("V_2"), None), symbol("g", Some("V_1"), None), symbol("d", Some("V_1"), Some(9))];
        assert_eq!(
            assembly(&symbols, &Variables::new()),
            ".text\n.globl f\n.type f, @function\nf:\n.globl g\n.type g, @function\ng:\nxorl %eax, %eax\nret\n\
             .bss\n.balign 16\n.globl d\n.type d, @object\n.size d, 9\nd: .zero 9\n"
        );
        let variables = [("g".to_owned(), "a \"b\"".to_owned())].into();
        assert_eq!(
            assembly(&symbols, &variables),
            ".text\n.globl f\n.type f, @function\nf:\nxorl %eax, %eax\nret\n\
             .globl g\n.type g, @function\ng:\nleaq .Lvariable.g(%rip), %rax\nret\n\
             .data\n.balign 8\n.Lvariable.g: .quad .Ltext.g\n.Ltext.g: .asciz \"a \\\"b\\\"\"\n\
             .bss\n.balign 16\n.globl d\n.type d, @object\n.size d, 9\nd: .zero 9\n"
        );
        assert_eq!(script(&symbols), "V_1 { global: g; d; };\nV_2 { global: f; };\n");
        assert_eq!(script(&[symbol("f", None, None)]), "");
    }

    #[test]
    fn the_symbols_of_a_library_of_this_machine_have_their_versions() {
        let libm = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
        let library = libm.iter().find_map(|path| std::fs::read(path).ok()).expect("the C library is here");
        let symbols = symbols(&library).expect("it is a library");
        let cos = symbols.iter().find(|symbol| symbol.name == "cos").expect("it has a cosine");
        assert_eq!(*cos, symbol("cos", Some("GLIBC_2.2.5"), None));
        let sign = symbols.iter().find(|symbol| symbol.name == "signgam").expect("and data");
        assert!(sign.data == Some(4), "{sign:?}");
    }
}
