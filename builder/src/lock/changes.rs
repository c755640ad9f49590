//! What a new lock changes.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Lock;

/// A package that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its name.
    pub package: String,
    /// Version until now, if it was there.
    pub old: Option<String>,
    /// Version from now on, if it stays.
    pub new: Option<String>,
}

/// All packages that differ, by name. The same version with other content is one too.
pub fn between(old: &Lock, new: &Lock) -> Vec<Change> {
    let names: BTreeSet<&String> = old.packages.keys().chain(new.packages.keys()).collect();
    let changed = |name: &&&String| {
        let hash = |lock: &Lock| lock.packages.get(**name).map(|pinned| pinned.package.sha256.clone());
        hash(old) != hash(new)
    };
    let version = |lock: &Lock, name: &String| lock.packages.get(name).map(|pinned| pinned.package.version.clone());
    names
        .iter()
        .filter(changed)
        .map(|name| Change { package: (*name).clone(), old: version(old, name), new: version(new, name) })
        .collect()
}

/// A line each.
pub fn table(changes: &[Change]) -> String {
    let width = changes.iter().map(|change| change.package.len()).max().unwrap_or(0);
    let line = |change: &Change| {
        let Change { package, old, new } = change;
        let what = match (old, new) {
            (Some(old), Some(new)) if old == new => format!("{old}, with other content"),
            (Some(old), Some(new)) => format!("{old} -> {new}"),
            (None, Some(new)) => format!("new: {new}"),
            (Some(old), None) => format!("no longer needed: {old}"),
            (None, None) => String::new(),
        };
        format!("{package:<width$}  {what}\n")
    };
    changes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::package;
    use super::*;

    #[test]
    fn each_kind_of_change_is_told() {
        let old = Lock::default()
            .with("a", &[package("gone", "1", &[]), package("libc6", "2", &[]), package("same", "1", &[])]);
        let mut other = package("same", "1", &[]);
        other.sha256 = "0".repeat(64);
        let new = Lock::default().with("a", &[package("libc6", "3", &[]), package("new", "1", &[]), other]);
        let changes = between(&old, &new);
        assert_eq!(
            table(&changes),
            "gone   no longer needed: 1\nlibc6  2 -> 3\nnew    new: 1\nsame   1, with other content\n"
        );
        assert_eq!(between(&old, &old), []);
    }
}
