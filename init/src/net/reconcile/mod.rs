//! The network as it is brought to what it shall be: observed, planned, changed.
//!
//! | file | what |
//! | --- | --- |
//! | `state` | what is, what shall be, and one step between them: data |
//! | `plan` | the steps, in order: a pure function |
//! | `model` | what a step does besides: the kernel's rules |
//! | `observe` | what is, asked of the kernel |
//! | `execute` | a step, told to the kernel |
//! | `wire` | options as the kernel's attributes |
//!
//! What a definition named is marked in the kernel (by its link group), so that what is declared no more is known even to
//! a process that did not make it, and what others made is left alone.

mod execute;
mod model;
mod observe;
mod plan;
mod state;
#[cfg(test)]
mod tests;
mod wire;

pub use execute::execute;
pub use observe::observe;
pub use plan::plan;
pub use state::{BondOptions, BridgeOptions, Change, Kind, PortVlan, Route, State, VlanOptions, Wanted, WantedLink};
