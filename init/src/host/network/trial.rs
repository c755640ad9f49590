//! A network on trial: who gave it has to say that it is good, and the one before comes back if nobody does.

use std::time::Duration;

use thimble_spec::appliance::{self, Firewall, Plug};
use thimble_spec::host::{CONFIRM_S, LinkStatus, NetworkStatus, Proposal};

use super::Networking;
use super::probe::{Probe, SILENCE};
use crate::console;
use crate::error::{Error, Result};
use crate::host::modules::Modules;

/// The one that comes back, and when.
pub struct Trial {
    network: appliance::Network,
    firewall: Option<Firewall>,
    end: Duration,
    pub(super) probe: Option<Probe>,
}

impl Trial {
    /// When to look at it.
    pub(super) fn deadline(&self) -> Duration {
        self.probe.as_ref().map_or(self.end, |probe| probe.deadline().min(self.end))
    }
}

impl Networking {
    /// Makes the network another one, on trial. If something of it cannot be made, the one before is there again.
    ///
    /// # Errors
    /// Another one is on trial; guests would lose their bridge; what could not be made.
    pub fn propose(&mut self, proposal: Proposal, modules: &mut Modules, now: Duration) -> Result<()> {
        let said = |sentence: String| Err(Error::Said(sentence));
        if self.trial.is_some() {
            return said("a network is on trial already: confirm it, or roll it back".to_owned());
        }
        let Proposal { network, firewall, confirm_within_s, reach } = proposal;
        if !CONFIRM_S.contains(&confirm_within_s) {
            return said(format!("confirm within {} to {} seconds", CONFIRM_S.start(), CONFIRM_S.end()));
        }
        let mut plugs = self.guests.iter().filter_map(|guest| guest.network.as_ref().map(|network| &network.plug));
        let lost = plugs.find(|plug| match plug {
            Plug::Bridge(name) => !network.bridges.contains_key(name),
            Plug::Macvtap(name) => network.link(name).is_none() || network.master(name).is_some(),
        });
        if let Some(plug) = lost {
            return said(format!(
                "guests are plugged into {}, which the new definition does not have for them",
                plug.link()
            ));
        }
        let probe = reach.map(|address| Probe::start(address, now)).transpose()?;
        let end = now + Duration::from_secs(confirm_within_s.into());
        let (before, guarded) = (self.declared.clone(), self.firewall.clone());
        let known = self.told.clone();
        self.trial = Some(Trial { network: before, firewall: guarded, end, probe });
        console::notice(&format!("network: another definition is on trial for {confirm_within_s} s"));
        let errors = self.declare(network, firewall, modules, now);
        let new: Vec<String> = errors.iter().map(Error::sentence).filter(|error| !known.contains(error)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let why = new.join("; ");
        self.roll_back(&why, now);
        said(format!("{why}; the network is as it was before"))
    }

    /// The one on trial stays.
    ///
    /// # Errors
    /// None is on trial.
    pub fn confirm(&mut self) -> Result<()> {
        self.trial.take().ok_or_else(none)?;
        console::notice("network: the definition on trial was confirmed");
        self.last = Some("confirmed".to_owned());
        Ok(())
    }

    /// The one before comes back because somebody says so.
    ///
    /// # Errors
    /// None is on trial.
    pub fn give_up(&mut self, now: Duration) -> Result<()> {
        self.trial.as_ref().ok_or_else(none)?;
        self.roll_back("somebody asked for it", now);
        Ok(())
    }

    /// Looks whether the one on trial is to go.
    pub(super) fn run_trial(&mut self, now: Duration) {
        let Some(trial) = &mut self.trial else { return };
        if trial.end <= now {
            self.roll_back("nobody confirmed it in time", now);
        } else if let Some(probe) = &mut trial.probe
            && !probe.run(now)
        {
            let why = format!("{} does not answer for {} s", probe.address(), SILENCE.as_secs());
            self.roll_back(&why, now);
        }
    }

    fn roll_back(&mut self, why: &str, now: Duration) {
        let Some(trial) = self.trial.take() else { return };
        console::error(&format!("the network on trial is rolled back: {why}; apply another one"));
        self.last = Some(format!("rolled back: {why}"));
        for error in self.put(trial.network, trial.firewall, now) {
            console::failed(&error);
        }
    }

    /// How it is.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn show(&mut self, now: Duration) -> Result<NetworkStatus> {
        let none = || Error::Said("the kernel's network cannot be asked: see the errors at the start".to_owned());
        let state = self.kernel.as_mut().ok_or_else(none)?.observe()?;
        let links = state.links.into_iter().filter(|(name, _)| name != "lo").map(|(name, link)| LinkStatus {
            name,
            up: link.up,
            carrier: link.carrier,
            master: link.master,
            addresses: link.addresses.into_iter().collect(),
        });
        let trial_s = self.trial.as_ref().map(|trial| trial.end.saturating_sub(now).as_secs());
        Ok(NetworkStatus { links: links.collect(), trial_s, last: self.last.clone() })
    }
}

fn none() -> Error {
    Error::Said("no network is on trial: it was confirmed or rolled back".to_owned())
}
