//! `thimble client-cert`: who may ask a node over the network.

use std::io::Write;
use std::path::PathBuf;

use thimble_spec::api::identity::{Identity, Role};

use crate::build::definition::Inputs;
use crate::error::{Error, Result};
use crate::tls::Store;

/// Make a certificate for a client of a node's API.
///
/// CONFIG is the definition with [api], beside which the authority's key lies: CONFIG with the ending .tls, or the directory
/// that [api] keys names. The certificate goes into clients/NAME there, with its key and the authority's certificate: give that
/// directory to whoever is to have it, for `thimblectl --host`, and keep no copy. Nobody takes a certificate back: give it
/// an end with --days, or remove the whole directory, make new ones, and build again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The appliance's definition
    config: PathBuf,
    /// Whose it is: letters, digits and -_.@; it stands in the audit log of the node
    name: String,
    /// What they may: read, operate (start and stop guests, type on consoles) or admin
    #[arg(long, value_parser = role)]
    role: Role,
    /// It is good for so many days [default: without end]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    /// Directory with configs/ and images/ [default: found above CONFIG]
    #[arg(long, value_name = "DIR")]
    library: Option<PathBuf>,
}

fn role(name: &str) -> std::result::Result<Role, String> {
    name.parse().map_err(|error: thimble_spec::api::identity::IdentityError| error.to_string())
}

/// Makes it.
///
/// # Errors
/// See [`Store::client`].
pub fn run(args: Args) -> Result<()> {
    let identity = Identity::new(args.role, &args.name).map_err(|error| Error::Usage(error.to_string()))?;
    let inputs = Inputs::read(&args.config, args.library.as_deref())?;
    let store = Store::of(&inputs, &args.config).ok_or_else(|| {
        let config = args.config.display();
        Error::Usage(format!("{config} has no [api]: without it, nobody asks the node over the network"))
    })?;
    let dir = store.client(&identity, args.days)?;
    let text = format!("{}: for {}, who may {}\n", dir.display(), identity.name(), identity.role().name());
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("write to", "standard output"))
}
