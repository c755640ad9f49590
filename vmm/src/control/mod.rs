//! The control socket (its protocol is in [`thimble_spec::vmm`]).
//!
//! | file | what |
//! | --- | --- |
//! | [`socket`] | the listening socket: who may connect, whether a stale one is in the way |
//! | [`client`] | one connection: its bytes in and out, bounded both ways |
//! | [`request`] | a line of a client, understood or refused |

pub mod client;
pub mod request;
pub mod socket;
