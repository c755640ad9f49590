//! Settings of the host's kernel: those that every host has, with their reasons, and what the definition says over them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::console;
use crate::service::prepare::sysctl;

/// What every host has: `name = value`, each behind the reason why.
const TABLE: &str = include_str!("sysctl.conf");

/// Sets all of them; what cannot be set is told, and the rest is set.
pub fn apply(more: &BTreeMap<String, String>) {
    let mut values = table(TABLE);
    values.extend(more.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    for (key, value) in values {
        if let Err(error) = sysctl(Path::new("/proc/sys"), key, value) {
            if more.contains_key(key) {
                console::failed(&error);
            } else {
                // A kernel that was built without it does without.
                console::notice(&error.sentence());
            }
        }
    }
}

fn table(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_reason_before_it() {
        let table = table(TABLE);
        assert!(table.len() > 5);
        let mut reason = false;
        for line in TABLE.lines() {
            assert!(line.is_empty() || line.starts_with('#') || reason, "{line}");
            reason = line.starts_with('#') || (reason && !line.is_empty());
        }
        assert_eq!(table["kernel.panic"], "10");
    }
}
