//! The guests' initramfs, and the host's in parts.
//!
//! | module | what |
//! | --- | --- |
//! | [`archive`] | a newc cpio archive |
//! | [`template`] | the file system of the guests' disks |
//! | [`guest`] | the guests' initramfs |
//! | [`compress`] | what the host's kernel unpacks |
//! | [`parts`] | the host's initramfs |

pub mod archive;
pub mod compress;
pub mod guest;
pub mod parts;
pub mod template;
