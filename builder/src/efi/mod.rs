//! Programs that UEFI firmware starts.
//!
//! | module | what |
//! | --- | --- |
//! | [`pe`] | their headers, read and checked |
//! | [`append`] | sections put behind those that they have |
//! | [`read`] | a whole file |
//! | [`trust`] | signatures |

pub mod append;
pub mod pe;
pub mod read;
#[cfg(test)]
pub mod testing;
pub mod trust;
