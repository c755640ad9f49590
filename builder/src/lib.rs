//! Thimble.
