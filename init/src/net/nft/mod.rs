//! nf_tables by netlink: a set of tables that takes the place of the one before in one transaction, and its counters.
//!
//! | file | what |
//! | --- | --- |
//! | `rules` | tables, chains and rules: data |
//! | `wire` | the same as the kernel's messages |
//! | `socket` | messages there, acknowledgements and counters back |
//!
//! No crate of the `netlink-packet` family knows these messages, and those that do bring a netlink of their own or a C
//! library. What is here is the part of them that our rules need (linux/netfilter/nf_tables.h).

mod rules;
mod socket;
#[cfg(test)]
mod tests;
mod wire;

pub use rules::{Chain, Family, Hook, Match, Rule, Table, Then};
pub use socket::NftSocket;
