//! The raw disk.
