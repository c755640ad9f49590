//! The rules as the kernel has them: set when they are others than before, and what they counted.

use thimble_spec::host::Counted;

use crate::console;
use crate::error::{Error, Result};
use crate::net::nft::{NftSocket, Table};

/// Aliases of the modules that rules are made of: nf_tables itself, connections, counters with a name, values of frames on bridges; then those of
/// translated addresses. (In the kernel's tree: `MODULE_ALIAS_NFNL_SUBSYS`, `MODULE_ALIAS_NFT_EXPR`,
/// `MODULE_ALIAS_NFT_AF_EXPR` and `MODULE_ALIAS_NFT_CHAIN`, 1 being the family inet and 7 that of bridges.)
pub const ALIASES: &[&str] = &[
    "nfnetlink-subsys-10",
    "nft-expr-ct",
    "nft-expr-objref",
    "nft-expr-7-meta",
    "nft-chain-1-nat",
    "nft-expr-masq",
    "nft-expr-nat",
    "nft-expr-1-fib",
];

/// Keeper of the rules.
#[derive(Default)]
pub struct Guard {
    socket: Option<NftSocket>,
    /// What the kernel has.
    set: Vec<Table>,
}

impl Guard {
    /// Has the kernel have these rules and no others of ours, if it has others.
    pub fn set(&mut self, tables: Vec<Table>) -> Result<()> {
        if tables == self.set {
            return Ok(());
        }
        let outcome = self.socket().and_then(|socket| socket.replace(&tables));
        outcome.map_err(|error| {
            Error::Said(format!("the firewall is not as it is declared, which is tried again: {}", error.sentence()))
        })?;
        let rules: usize = tables.iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum();
        console::notice(&format!("network: the firewall has {rules} rules"));
        self.set = tables;
        Ok(())
    }

    /// All counters.
    pub fn counted(&mut self) -> Result<Vec<Counted>> {
        if self.set.is_empty() {
            return Err(Error::Said("the host has no firewall: its definition has no table [firewall]".to_owned()));
        }
        let counters = self.socket()?.counters()?;
        let counted = counters.into_iter().map(|((_, name), counter)| Counted {
            name,
            packets: counter.packets,
            bytes: counter.bytes,
        });
        Ok(counted.collect())
    }

    fn socket(&mut self) -> Result<&mut NftSocket> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => NftSocket::open()?,
        };
        Ok(self.socket.insert(socket))
    }
}
