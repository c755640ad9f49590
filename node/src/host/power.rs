//! `thimble-node power`.

use thimble_spec::host::Power;

/// The words behind `power`.
///
/// # Errors
/// A sentence.
pub fn parse(words: &[&str]) -> Result<Power, String> {
    match words {
        ["off"] => Ok(Power::Off),
        ["reboot"] => Ok(Power::Reboot),
        ["kexec"] => Ok(Power::Kexec),
        _ => Err("power takes one of off, reboot and kexec".to_owned()),
    }
}
