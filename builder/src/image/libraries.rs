//! Packages of libraries, fetched when something in an image needs a library that the recipe's packages do not have.

use std::collections::{BTreeSet, VecDeque};

use crate::apt::{Apt, Package};
use crate::error::Result;

/// The section of shared libraries.
const SECTION: &str = "libs";

/// The packages that an image may take libraries from.
#[derive(Debug)]
pub struct Libraries<'a> {
    apt: &'a Apt<'a>,
    /// Found, not fetched; nearest first.
    waiting: VecDeque<Package>,
    /// Packages whose dependencies have not been looked at.
    unread: Vec<Package>,
    seen: BTreeSet<String>,
}

impl<'a> Libraries<'a> {
    /// Those that the recipe's packages depend on, and those that these depend on, and so on.
    pub fn new(apt: &'a Apt<'a>, packages: &[Package]) -> Self {
        let seen = packages.iter().map(|package| package.name.clone()).collect();
        Self { apt, waiting: VecDeque::new(), unread: packages.to_vec(), seen }
    }

    /// The next package to look for a library in: the one whose name says so, else the nearest.
    ///
    /// # Errors
    /// apt fails.
    pub fn next(&mut self, soname: &str) -> Result<Option<Package>> {
        let named = |package: &Package| is_named_after(&package.name, soname);
        loop {
            if let Some(index) = self.waiting.iter().position(named) {
                return Ok(self.waiting.remove(index));
            }
            // Only a question to apt: cheaper than to fetch a package that turns out to be another.
            if !self.read_more()? {
                return Ok(self.waiting.pop_front());
            }
        }
    }

    /// Reads one more level of dependencies; whether there was one.
    fn read_more(&mut self) -> Result<bool> {
        let unread = std::mem::take(&mut self.unread);
        let names: Vec<String> = unread
            .iter()
            .flat_map(|package| package.depends.iter().flatten())
            .filter(|name| self.seen.insert((*name).clone()))
            .cloned()
            .collect();
        if names.is_empty() {
            return Ok(false);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for package in self.apt.find_some(&names)? {
            if package.section == SECTION || package.name.starts_with("lib") {
                self.waiting.push_back(package.clone());
                self.unread.push(package);
            }
        }
        Ok(true)
    }
}

/// Whether a package is named as Debian names the one of a library (policy, 8.1): `libssl.so.3` is in `libssl3`,
/// `libpcre2-8.so.0` in `libpcre2-8-0`.
fn is_named_after(package: &str, soname: &str) -> bool {
    let Some((stem, version)) = soname.split_once(".so") else { return false };
    let version = version.trim_start_matches('.');
    let letters = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    // Packages of one transition carry a suffix: libssl1.1t64.
    letters(package).trim_end_matches("t64") == letters(&format!("{stem}{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_after_their_library() {
        for (package, soname) in [
            ("libssl3", "libssl.so.3"),
            ("libpcre2-8-0", "libpcre2-8.so.0"),
            ("libc6", "libc.so.6"),
            ("libssl3t64", "libssl.so.3"),
        ] {
            assert!(is_named_after(package, soname), "{package}");
        }
        assert!(!is_named_after("zlib1g", "libz.so.1"));
    }
}
