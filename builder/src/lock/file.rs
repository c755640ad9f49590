//! The file: TOML, a table a package, sorted by name, so that a change of one package is a change of a few lines.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Deserialize;

use super::{Lock, Pinned};
use crate::apt::{Package, source};
use crate::image::recipe::is_package;

/// Version of this format.
const VERSION: u32 = 1;
/// More than any appliance has, in bytes.
const SIZE_MAX: usize = 4 << 20;
/// First lines.
const HEAD: &str =
    "# The packages that builds in this directory use. Written by `thimble lock`: keep it with the definitions.\n";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default)]
    package: Vec<Table>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    name: String,
    version: String,
    sha256: String,
    size: u64,
    section: String,
    #[serde(default)]
    depends: Vec<String>,
    used_by: BTreeSet<String>,
}

/// Reads it. Names and versions become arguments of programs, so that nothing else than those is let through.
///
/// # Errors
/// A sentence.
pub fn parse(text: &str) -> Result<Lock, String> {
    if text.len() > SIZE_MAX {
        return Err(format!("more than {SIZE_MAX} bytes are no lock"));
    }
    let document: Document = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        format!(
            "line {line}: {}: write it again with `thimble lock`",
            error.message().lines().next().unwrap_or("no TOML")
        )
    })?;
    if document.version != VERSION {
        return Err(format!("it has version {}, and this thimble reads version {VERSION}", document.version));
    }
    let mut lock = Lock::default();
    for table in document.package {
        let wrong =
            |what: &str| format!("package {:?}: its {what} is none: write it again with `thimble lock`", table.name);
        if !is_name(&table.name) {
            return Err(wrong("name"));
        }
        if !is_version(&table.version) {
            return Err(wrong("version"));
        }
        if table.sha256.len() != 64 || !table.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong("SHA-256"));
        }
        if !table.depends.iter().all(|name| is_name(name)) {
            return Err(wrong("list of dependencies"));
        }
        let package = Package {
            name: table.name.clone(),
            version: table.version,
            section: table.section,
            depends: table.depends.into_iter().map(|name| vec![name]).collect(),
            sha256: table.sha256,
            size: table.size,
        };
        if lock.packages.insert(table.name.clone(), Pinned { package, used_by: table.used_by }).is_some() {
            return Err(format!("package {:?} stands in it twice: write it again with `thimble lock`", table.name));
        }
    }
    Ok(lock)
}

/// Writes it.
pub fn render(lock: &Lock) -> String {
    let mut text = format!("{HEAD}version = {VERSION}\n");
    for Pinned { package, used_by } in lock.packages.values() {
        let depends: Vec<&String> = package.depends.iter().flatten().collect();
        // Writing to a string does not fail. A quoted Rust string of what is let through here is one of TOML.
        let _ = write!(
            text,
            "\n[[package]]\nname = {:?}\nversion = {:?}\nsha256 = {:?}\nsize = {}\nsection = {:?}\ndepends = {depends:?}\n\
             used-by = {:?}\n",
            package.name,
            package.version,
            package.sha256,
            package.size,
            package.section,
            used_by.iter().collect::<Vec<_>>(),
        );
    }
    text
}

fn is_name(text: &str) -> bool {
    is_package(source::bare(text).unwrap_or(text))
}

/// Debian policy, 5.6.12.
fn is_version(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".+-:~".contains(&byte);
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::super::tests::package;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_again() {
        let lock = Lock::default().with(
            "rack \"7\".toml",
            &[
                package("g++", "4:12.2.0-3", &["libc6"]),
                package("libc6", "2.36-9+deb12u10", &[]),
                package("src:busybox", "1:1.35.0-4", &[]),
            ],
        );
        let text = render(&lock);
        assert_eq!(parse(&text).unwrap(), lock, "{text}");
        assert!(text.find("\"g++\"").unwrap() < text.find("\"libc6\"\nversion").unwrap());
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let lock = render(&Lock::default().with("a", &[package("libc6", "2.36-9", &[])]));
        let told = |from: &str, to: &str| parse(&lock.replace(from, to)).unwrap_err();
        assert!(told("\"libc6\"", "\"--config-file=x\"").contains("its name is none"));
        assert!(told("\"libc6\"", "\"src:--config\"").contains("its name is none"));
        assert!(told("2.36-9", "2 36").contains("its version is none"));
        assert!(told("sha256 = \"", "sha256 = \"G").contains("its SHA-256 is none"));
        assert!(told("version = 1", "version = 2").contains("reads version 1"));
        assert!(told("size = 1000", "size = \"x\"").starts_with("line 8: "), "{}", told("size = 1000", "size = \"x\""));
        let table = &lock[lock.find("[[").unwrap()..];
        assert!(parse(&format!("{lock}\n{table}")).unwrap_err().contains("twice"));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,200}", tail in "\\PC{0,80}") {
            let _ = parse(&text);
            let _ = parse(&format!("version = 1\n[[package]]\nname = {tail}"));
        }
    }
}
