//! What administrators have done to an array that runs.

use std::fs;

use thimble_spec::appliance::{Raid, Storage};

use crate::observe::{array_directory, observe};
use crate::observed::{Array, Observed};
use crate::plan::{self, clearance};
use crate::step::{Step, Target};
use crate::{Error, Result, doing, execute, tools};

/// What is declared under this name.
fn declared<'a>(storage: &'a Storage, name: &str) -> Result<&'a Raid> {
    let known = || storage.raids.iter().map(|raid| raid.name.as_str()).collect::<Vec<_>>().join(", ");
    let raid = storage.raids.iter().find(|raid| raid.name == name);
    raid.ok_or_else(|| Error(format!("no array {name} is declared; there is {}", known())))
}

/// A declared array that runs.
fn running<'a>(storage: &'a Storage, observed: &'a Observed, name: &str) -> Result<(&'a Raid, &'a Array)> {
    let raid = declared(storage, name)?;
    let array = observed.arrays.iter().find(|array| array.name == name && array.active);
    Ok((raid, array.ok_or_else(|| Error(format!("the array {name} does not run: see thimble-node storage status")))?))
}

/// Has an array read and compared as a whole, in the background.
///
/// # Errors
/// It is not declared, does something else, or does not run.
pub fn scrub(storage: &Storage, observed: &Observed, name: &str) -> Result<()> {
    let (_, array) = running(storage, observed, name)?;
    let asked = fs::write(array_directory(&array.block).join("sync_action"), "check");
    doing(asked, || format!("check the array {name}, which may do something else: see thimble-node storage status"))
}

/// Has an array started with what is there of it, though it was written to without a member when the power failed: what was
/// being written then may be lost, and what is beside it in a stripe, too.
///
/// # Errors
/// It is not declared, runs already, too little of it is there, mdadm refuses.
pub fn force(storage: &Storage, name: &str, tell: &mut dyn FnMut(&Step)) -> Result<()> {
    let raid = declared(storage, name)?;
    loop {
        let step = plan::force(storage, &observe(storage)?, raid).map_err(Error)?;
        tell(&step);
        execute::execute(storage, &step)?;
        if matches!(step, Step::Assemble { .. }) {
            return Ok(());
        }
    }
}

/// What is said instead of a member that is not there any more.
pub const MISSING: &str = "missing";

/// Has a member of an array copied to another device, in the background; it counts as failed when all is copied, and can
/// be pulled. Instead of one that is [`MISSING`] or has failed, the other device is filled from the members that are left. It
/// must be free: see [`clearance`].
///
/// # Errors
/// The array is not declared or does not run, a device is not there or not free, mdadm refuses.
pub fn replace(
    storage: &Storage,
    observed: &Observed,
    name: &str,
    old: &str,
    new: &str,
    tell: &mut dyn FnMut(&Step),
) -> Result<()> {
    let (raid, array) = running(storage, observed, name)?;
    let old = match old {
        MISSING => None,
        // What has failed is given up already.
        old => {
            Some(clearance(storage, observed, old).map_err(Error)?.0).filter(|old| !array.failed.contains(&old.block))
        }
    };
    if let Some(stranger) = old.as_ref().filter(|old| !array.members.contains(&old.block)) {
        let members = array.members.join(", ");
        return Err(Error(format!("{stranger} is no member of the array {name}, which has {members}")));
    }
    let (new, free) = clearance(storage, observed, new).map_err(Error)?;
    let array = Target { block: array.block.clone(), path: raid.path() };
    let add = Step::AddMember { array: array.clone(), target: new.clone(), returns: false };
    for step in free.map_err(Error)?.iter().chain([&add]) {
        tell(step);
        execute::execute(storage, step)?;
    }
    let Some(old) = old else { return Ok(()) };
    let [array, old, new] = [array, old, new].map(|target| format!("/dev/{}", target.block));
    tools::run("mdadm", &[&array, "--replace", &old, "--with", &new]).map(drop)
}
