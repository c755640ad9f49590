//! What the rooms of Thimble say to each other.
//!
//! Everything here is pure data: types, their text forms, and the rules that hold between them. No file is opened, no
//! socket, no process; the crate compiles into PID 1, the VMM, the daemon and the workstation's tool alike.
//!
//! | module | between whom |
//! | --- | --- |
//! | [`definition`] | the administrator's TOML and the builder (feature `toml`) |
//! | [`admission`], [`rules`] | the builder and the node daemon: what a guest may be |
//! | [`appliance`] | the builder and the host: a definition that has been checked |
//! | [`feature`] | the definition and the builder: what a host has only if asked |
//! | [`recipe`] | an image's TOML and the builder (feature `toml` to read it) |
//! | [`secure_boot`] | the definition and the builder |
//! | [`service`] | the builder and the guest's PID 1 |
//! | [`host`] | the host's PID 1 and whoever asks it |
//! | [`cmdline`] | whoever starts a kernel and its PID 1 |
//! | [`parameters`] | the node daemon and a guest's PID 1: what does not fit on a command line |
//! | [`modules`] | the builder and the host's PID 1 |
//! | [`release`] | the builder, the boot partition and whoever updates it |
//! | [`reply`] | whoever answers at a control socket, and whoever asks |
//! | [`slot`] | the boot loader and the host |
//! | [`template`] | the builder and the guest's PID 1 |
//! | [`catalogue`] | the builder and the node daemon: what guests share |
//! | [`export`] | whoever starts a host from an NFS server, and its daemon |
//! | [`vmm`] | the node daemon and one VMM process |
//! | [`exec`] | `thimblectl`, the node daemon and a guest's PID 1: a command in a guest |
//! | [`api`] | the node daemon and its clients |
//! | [`console`] | PID 1, the daemon, and whoever waits for a line |
//! | [`ip`], [`names`], [`units`] | all of them: small values that are read alike |
//! | [`json`] | all of them: the JSON of what programs say to each other (feature `json`) |
//! | [`format`](mod@format) | the administrator, the builder, and whoever names an artefact |
//! | [`manifest`] | the builder and everybody who asks what an artefact holds |
//! | [`paths`] | where things lie inside the host and the guest |

pub mod admission;
pub mod api;
pub mod appliance;
pub mod catalogue;
pub mod cmdline;
pub mod console;
#[cfg(feature = "toml")]
pub mod definition;
pub mod exec;
pub mod export;
pub mod feature;
pub mod format;
pub mod host;
pub mod inside;
pub mod ip;
#[cfg(feature = "json")]
pub mod json;
pub mod manifest;
pub mod modules;
pub mod names;
pub mod parameters;
pub mod paths;
pub mod recipe;
pub mod release;
pub mod reply;
pub mod rules;
#[cfg(feature = "schema")]
pub mod schema;
pub mod secure_boot;
pub mod service;
pub mod slot;
pub mod template;
pub mod units;
pub mod vmm;
