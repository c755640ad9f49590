//! `thimble hardware`: from what a machine has to what its host must carry.
//!
//! | module | what |
//! | --- | --- |
//! | [`lspci`] | what `lspci` wrote, read |
//! | [`device`] | one PCI device: its numbers, its `modalias`, whether a host needs it |
//! | [`advice`] | modules, hardware sets and firmware for all of them |

pub mod advice;
pub mod device;
pub mod lspci;
