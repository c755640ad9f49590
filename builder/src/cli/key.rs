//! `thimble key`: who may sign updates.

use std::io::Write;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::signing;

/// Make a key pair that signs updates.
///
/// FILE gets the private half, readable by you alone: keep it where nobody else gets at it, and keep a copy, for without
/// it running appliances take no update any more. The public half goes beside it, with the ending .pub; a definition names
/// it: [update] key = "FILE.pub". Both are PEM, as OpenSSL writes ed25519 keys. No file is ever overwritten.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the private half goes, such as demo.key
    file: PathBuf,
}

/// Makes it.
///
/// # Errors
/// See [`signing::make`].
pub fn run(args: Args) -> Result<()> {
    let (public, key) = signing::make(&args.file)?;
    let text = format!(
        "{}: the private half, for `thimble build --sign`; let nobody have it\n\
         {}: the public half, for [update] in definitions: {key}\n",
        args.file.display(),
        public.display()
    );
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write to", "standard output"))
}
