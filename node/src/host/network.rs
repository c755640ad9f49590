//! `thimble-node network`.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use thimble_spec::api::network::LinkState;
use thimble_spec::appliance::{Appliance, Guest};
use thimble_spec::host::{CONFIRM_S, CONFIRM_S_DEFAULT, NetworkStatus, NetworkVerb, Proposal};
use thimble_spec::json::Json;
use thimble_spec::paths::APPLIANCE;

use crate::cli::Options;

/// The longest definition.
const FILE_MAX: u64 = 16 << 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One question that is there as it is.
    Verb(NetworkVerb),
    /// The network of another definition.
    Apply {
        /// The file, or `-`.
        file: PathBuf,
        /// How long the confirmation may take, in seconds.
        within_s: u32,
        /// Who must answer meanwhile.
        reach: Option<Ipv4Addr>,
    },
}

/// The words behind `network`, and its options.
///
/// # Errors
/// A sentence.
pub fn parse(words: &[&str], options: &mut Options<'_>) -> Result<Wanted, String> {
    match *words {
        [] | ["show"] => Ok(Wanted::Verb(NetworkVerb::Show)),
        ["confirm"] => Ok(Wanted::Verb(NetworkVerb::Confirm)),
        ["rollback"] => Ok(Wanted::Verb(NetworkVerb::Rollback)),
        ["apply", file] => {
            let within_s = match options.value("--confirm-within") {
                None => CONFIRM_S_DEFAULT,
                Some(text) => text.parse().ok().filter(|time| CONFIRM_S.contains(time)).ok_or_else(|| {
                    let (least, most) = (CONFIRM_S.start(), CONFIRM_S.end());
                    format!("--confirm-within takes {least} to {most} seconds, not `{}`", text.escape_debug())
                })?,
            };
            let reach = options.value("--reach").map(|text| {
                text.parse().map_err(|_| format!("--reach takes an IPv4 address, not `{}`", text.escape_debug()))
            });
            Ok(Wanted::Apply { file: file.into(), within_s, reach: reach.transpose()? })
        }
        _ => Err("network takes show, apply FILE, confirm or rollback".to_owned()),
    }
}

/// The verb for PID 1.
///
/// # Errors
/// The definition cannot be read, or changes what takes more than a network.
pub fn verb(wanted: &Wanted) -> Result<NetworkVerb> {
    match wanted {
        Wanted::Verb(verb) => Ok(verb.clone()),
        Wanted::Apply { file, within_s, reach } => {
            let running = appliance(APPLIANCE.as_ref())?;
            let appliance = appliance(file)?;
            same_guests(&running.guests, &appliance.guests)?;
            let (network, firewall) = (appliance.network, appliance.firewall);
            Ok(NetworkVerb::Apply(Box::new(Proposal { network, firewall, confirm_within_s: *within_s, reach: *reach })))
        }
    }
}

/// A definition as `thimble build` checked it.
fn appliance(file: &Path) -> Result<Appliance> {
    let mut text = Vec::new();
    let name = file.display();
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(fs::File::open(file).with_context(|| format!("opening {name}"))?)
    };
    reader.take(FILE_MAX).read_to_end(&mut text).with_context(|| format!("reading {name}"))?;
    let wrong = || format!("{name} is no checked definition: give the appliance.json that `thimble build` wrote");
    Appliance::from_json(&text).with_context(wrong)
}

/// A guest's network is its machine's, and its address on its kernel's command line: no change of the host's network is one.
fn same_guests(running: &[Guest], new: &[Guest]) -> Result<()> {
    let names = |guests: &[Guest]| guests.iter().map(|guest| guest.name.clone()).collect::<Vec<_>>();
    ensure!(names(running) == names(new), "the definition has other guests than this host runs: that takes an update");
    let differs = running.iter().zip(new).find(|(one, other)| one.network != other.network);
    match differs {
        Some((guest, _)) => {
            bail!("the network of guest {} differs from what it runs with: that takes an update", guest.name)
        }
        None => Ok(()),
    }
}

/// A line for each link, and what is on trial.
pub fn text(status: &NetworkStatus) -> String {
    let mut text = String::new();
    for link in &status.links {
        let state = LinkState::of(link.up, link.carrier);
        // Writing to a string does not fail.
        let _ = write!(text, "link {}: {state}", link.name);
        if let Some(master) = &link.master {
            let _ = write!(text, ", in {master}");
        }
        for address in &link.addresses {
            let _ = write!(text, ", {address}");
        }
        text.push('\n');
    }
    if let Some(rest) = status.trial_s {
        let _ = writeln!(text, "on trial: rolled back in {rest} s unless it is confirmed");
    }
    if let Some(last) = &status.last {
        let _ = writeln!(text, "last change: {last}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::host::LinkStatus;

    #[test]
    fn words_become_what_is_asked() {
        let parsed = |words: &[&str]| parse(words, &mut Options::default());
        assert_eq!(parsed(&[]), Ok(Wanted::Verb(NetworkVerb::Show)));
        assert_eq!(parsed(&["confirm"]), Ok(Wanted::Verb(NetworkVerb::Confirm)));
        let apply = Wanted::Apply { file: "a.toml".into(), within_s: CONFIRM_S_DEFAULT, reach: None };
        assert_eq!(parsed(&["apply", "a.toml"]), Ok(apply));
        assert!(parsed(&["apply"]).is_err() && parsed(&["explode"]).is_err());
    }

    #[test]
    fn a_line_says_how_a_link_is() {
        let link = LinkStatus {
            name: "eth0".to_owned(),
            up: true,
            carrier: false,
            master: Some("br0".to_owned()),
            addresses: vec!["10.1.1.2/24".parse().unwrap()],
        };
        let status = NetworkStatus { links: vec![link], trial_s: Some(7), last: Some("confirmed".to_owned()) };
        assert_eq!(
            text(&status),
            "link eth0: no carrier, in br0, 10.1.1.2/24\non trial: rolled back in 7 s unless it is confirmed\n\
             last change: confirmed\n"
        );
    }

    #[test]
    fn guests_stay_as_they_are() {
        let guest = |network: &str| {
            crate::testing::guest(&format!("memory = \"64MiB\"\nnetwork = {{ bridge = \"br0\"{network} }}"))
        };
        let before = [guest("")];
        assert!(same_guests(&before, &[guest("")]).is_ok());
        assert!(same_guests(&before, &[]).unwrap_err().to_string().contains("other guests"));
        assert!(same_guests(&before, &[guest(", vlan = 7")]).unwrap_err().to_string().contains("network of guest"));
    }
}
