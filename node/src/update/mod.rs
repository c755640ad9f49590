//! A node's own releases: installing one beside the one in use, and telling the boot loader that one works.
//!
//! | file | what |
//! | --- | --- |
//! | `boot` | the boot partition that this host was started from |
//! | `source` | where an update comes from |
//! | `live` | the guests' kernel and initramfs, without a reboot |
//! | `show` | progress and the report, for people and for programs |
//! | `slots` | what both slots hold |
//! | `confirm` | what PID 1's health gate has written |
//!
//! What is written, and in which order, so that a power cut harms nothing, is the business of [`thimble_store`].

pub mod boot;
pub mod confirm;
mod live;
mod show;
pub mod slots;
mod source;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use thimble_spec::appliance::Appliance;
use thimble_spec::paths;
use thimble_spec::slot::Slot;
use thimble_store::update::{Report, apply, check};
use thimble_store::{Device, Error, Key, State, Store};

use crate::cli::exit;
use crate::shared::{Hashes, Shared};
use show::Show;
use source::Source;

/// What follows once it is installed.
#[derive(Clone, Copy, Debug)]
pub struct Then {
    /// A reboot into it.
    pub reboot: bool,
    /// Guests that start have its kernel and initramfs.
    pub live: bool,
}

/// Installs the update.
///
/// # Errors
/// It is refused, or cannot be installed: the release in use is untouched.
pub fn run(path: &Path, then: Then, json: bool) -> Result<()> {
    let appliance = crate::node::appliance(Path::new(paths::APPLIANCE))?;
    let key = key(&appliance)?;
    let origin = boot::origin()?;
    let source = Source::open(path).with_context(|| format!("opening the update {}", path.display()))?;
    let mut show = Show::new(json);
    if source.again() {
        let envelope = check(source.reader()?, &key, &appliance.name)?;
        if then.live {
            // Told before anything is written, as far as the release says it.
            let running =
                boot::look(origin.volume)?.release(origin.slot)?.context("the running slot has no release")?;
            live::only_guests(running.release(), envelope.release()).map_err(not_live)?;
        }
    }
    let mut store = boot::open(origin.volume)?;
    settled(&store.state()?, origin.slot)?;
    let report = install(&mut store, &source, &key, &appliance.name, &mut show)?;
    if report.plan.is_some() {
        // It was about a release that is gone now.
        let _ = std::fs::remove_file(paths::GIVEN_UP);
    }
    let taken = if then.live { Some(take_live(&store, report.slot, origin.slot)?) } else { None };
    let boots = then.reboot && store.state()?.next() != origin.slot;
    drop(store);
    show.report(&report, origin.slot, boots, taken.as_ref())?;
    if boots {
        let asked = Command::new(paths::INIT).arg("reboot").status().context("asking PID 1 for the reboot")?;
        if !asked.success() {
            bail!("PID 1 could not be asked for the reboot: reboot by hand");
        }
    }
    Ok(())
}

/// Has guests start with what `slot` holds.
fn take_live<D: Device>(store: &Store<D>, slot: Slot, running: Slot) -> Result<Hashes> {
    let shared = Shared::default();
    let installed = "the update is installed and starts at the next boot, but guests do not take it before";
    if slot == running {
        shared.take_built_in().context("going back to the kernel that the node was built with")?;
        return shared.next().hashes.context("this node has no catalogue of what guests share");
    }
    let release = |slot| -> Result<_> { store.release(slot)?.with_context(|| format!("slot {slot} is empty")) };
    let (old, new) = (release(running)?, release(slot)?);
    live::only_guests(old.release(), new.release()).map_err(not_live).context(installed)?;
    live::take(store, new.release(), &shared).context(installed)
}

fn not_live(reason: String) -> anyhow::Error {
    exit::refused(&format!(
        "--live is for an update that changes nothing but the guests' kernel and initramfs: {reason}; leave --live out"
    ))
}

fn install<D: Device>(
    store: &mut Store<D>,
    source: &Source,
    key: &Key,
    appliance: &str,
    show: &mut Show,
) -> Result<Report, Error> {
    apply(store, source.reader()?, key, appliance, &mut |step| show.step(step))
}

/// Who may sign.
fn key(appliance: &Appliance) -> Result<Key> {
    let Some(key) = &appliance.update.key else {
        let sentence = "this appliance takes no updates: its definition names no key; build it again with [update] key = \
            \"FILE.pub\" and write its flash.img to the disk";
        return Err(exit::refused(sentence));
    };
    Key::from_hex(key).with_context(|| format!("the appliance's update key {key}"))
}

/// Whether an update may be installed beside the running slot. While that one is on trial, the other one is the only one
/// that is known to work.
fn settled(state: &State, running: Slot) -> Result<()> {
    if state.good == running {
        return Ok(());
    }
    let sentence = format!(
        "slot {running} is on trial and not confirmed yet, and slot {} must stay as it is until then: wait until all \
         guests are ready",
        state.good
    );
    Err(exit::refused(&sentence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn an_appliance_without_a_key_takes_no_updates() {
        let mut appliance = testing::appliance(&[]);
        let told = key(&appliance).unwrap_err();
        assert!(told.to_string().starts_with("this appliance takes no updates"));
        assert_eq!(exit::code(&told), exit::REFUSED);
        appliance.update.key = Some("0".repeat(64));
        assert!(key(&appliance).is_err(), "the neutral point of the curve is nobody's key");
    }

    #[test]
    fn while_a_trial_runs_nothing_is_installed() {
        let state = State::new(Slot::A, 3);
        assert!(settled(&state, Slot::A).is_ok());
        let trial = State { trial: Some(Slot::B), trial_left: 2, ..state };
        assert!(settled(&trial, Slot::A).is_ok(), "it did not start yet");
        let told = settled(&trial, Slot::B).unwrap_err();
        assert!(told.to_string().contains("slot b is on trial and not confirmed yet"));
        assert_eq!(exit::code(&told), exit::REFUSED);
        assert!(settled(&trial.confirmed(Slot::B), Slot::B).is_ok());
    }
}
