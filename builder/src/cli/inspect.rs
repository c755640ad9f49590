//! `thimble inspect`.

use crate::error::Result;

/// To be written.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// To be written.
///
/// # Errors
/// None.
pub fn run(_args: Args) -> Result<()> {
    Ok(())
}
