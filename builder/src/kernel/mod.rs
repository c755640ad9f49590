//! The two kernels: the host's is the distribution's own or compiled, the guests' is compiled.

pub mod compiled;
pub mod config;
pub mod fragments;
pub mod guest;
pub mod hardware;
pub mod host;
pub mod modinfo;
pub mod modules;
pub mod source;
