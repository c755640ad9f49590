//! `thimble-node firewall`.

use thimble_spec::host::{Counted, FirewallVerb};

/// The words behind `firewall`.
///
/// # Errors
/// A sentence.
pub fn parse(words: &[&str]) -> Result<FirewallVerb, String> {
    match words {
        [] => Ok(FirewallVerb::Counters),
        _ => Err("firewall stands alone".to_owned()),
    }
}

/// A line for each.
pub fn text(counters: &[Counted]) -> String {
    let line = |Counted { name, packets, bytes }: &Counted| format!("{name}: {packets} packets, {bytes} bytes\n");
    counters.iter().map(line).collect()
}
