//! `thimble`: one TOML file in, a bootable KVM appliance out.
//!
//! | module | what |
//! | --- | --- |
//! | [`build`] | the phases, in order |
//! | [`library`] | where fragments, hardware sets and recipes lie |
//! | [`apt`] | packages, from the machine's own sources |
//! | [`lock`] | the versions that builds are held to |
//! | [`kernel`] | the host's kernel and modules, the guests' kernel |
//! | [`host`] | what a host has only if its definition asks for it |
//! | [`machine`] | what a machine has, and what its host must carry |
//! | [`image`] | a recipe becomes a read-only image |
//! | [`initrd`] | the guests' initramfs, and the host's in parts |
//! | [`tls`] | who a node and its clients are to each other |
//! | [`formats`] | the artefacts, a file each |
//! | [`flash`] | the raw disk |
//! | [`flashing`] | an image onto a real disk |
//! | [`sbom`] | what all of it was made from, for other programs |
//! | [`run`] | an appliance in QEMU |
//! | [`serve`] | an appliance to machines that boot from the network |
//! | [`compare`] | what two builds differ in |
//! | [`cli`] | the verbs of the command line, a file each |
//!
//! Beneath them: [`cache`] (what was made before, by the hash of what it was made from), [`tool`] (external programs),
//! [`progress`], [`interrupt`], [`files`].

pub mod apt;
pub mod build;
pub mod cache;
pub mod cli;
pub mod compare;
pub mod context;
pub mod efi;
pub mod error;
pub mod files;
pub mod flash;
pub mod flashing;
pub mod formats;
pub mod host;
pub mod image;
pub mod initrd;
pub mod interrupt;
pub mod kernel;
pub mod ledger;
pub mod library;
pub mod lock;
pub mod machine;
pub mod make;
pub mod nearest;
pub mod place;
pub mod progress;
pub mod run;
pub mod sbom;
pub mod serve;
pub mod signing;
pub mod slots;
pub mod tls;
pub mod tool;
