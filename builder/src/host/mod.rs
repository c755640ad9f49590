//! What a host has only if its definition asks for it.
//!
//! | module | what |
//! | --- | --- |
//! | [`features`] | `configs/host/NAME.toml`, read |
//! | [`script`] | modules of JavaScript as one file |
//! | [`tools`] | the programs that they take from packages |

pub mod features;
pub mod script;
pub mod tools;
