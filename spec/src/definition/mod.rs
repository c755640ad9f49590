//! The administrator's TOML.
