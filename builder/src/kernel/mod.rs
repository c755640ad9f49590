//! The two kernels: the host's is the distribution's own, the guests' is compiled.

pub mod config;
pub mod guest;
pub mod hardware;
pub mod host;
pub mod modinfo;
pub mod modules;
