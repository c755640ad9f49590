//! An update as a whole: read once from its start to its end, so that it may come from a network.
//!
//! ```text
//! envelope   the signed release (see crate::envelope)
//! objects    release.objects(), each once, in this order, nothing between and nothing behind
//! ```

use std::io::Read;

use serde::Serialize;
use sha2::{Digest, Sha256};
use thimble_spec::release::{Part, Release};
use thimble_spec::slot::Slot;

use crate::device::Device;
use crate::envelope::{Envelope, Key};
use crate::error::{Error, Result};
use crate::hash;
use crate::store::{Plan, Progress, Step, Store, altered, tell, truncated};

/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The slot that the boot loader starts next.
    pub slot: Slot,
    /// Manifest hash of the release.
    pub manifest: String,
    /// What was written and what was there; none if this release is in the slot already, and nothing was done.
    pub plan: Option<Plan>,
}

/// Reads an update to its end and changes nothing: whoever can read it twice knows before the first byte is written that
/// it is right as a whole.
///
/// # Errors
/// [`Error::Refused`] with the reason, as [`apply`].
pub fn check(mut update: impl Read, key: &Key, appliance: &str) -> Result<Envelope> {
    let envelope = Envelope::read(&mut update)?;
    envelope.verify(key, appliance)?;
    for part in envelope.release().objects() {
        pass_over(part, &mut update)?;
    }
    at_end(&mut update)?;
    Ok(envelope)
}

/// Refuses what stands behind the last object.
fn at_end(update: &mut impl Read) -> Result<()> {
    if update.read(&mut [0]).map_err(Error::Source)? > 0 {
        return Err(Error::Refused("something stands behind its end: it was altered".to_owned()));
    }
    Ok(())
}

/// Installs an update beside the good slot and puts it on trial. Its signature is checked before anything is changed, each
/// object while it is written, all of the slot again, read back, before the boot loader is told.
///
/// It may be done again after any failure: what is there by then is not written twice. The release that is good already
/// is not written at all; what was on trial beside it is not any more, for whoever installs the good one wants it next.
///
/// # Errors
/// [`Error::Refused`] with the reason (not signed with `key`, for another appliance than `appliance`, altered, truncated,
/// something behind its end); no room, the device, damage. Whatever it is, the good slot is as it was and is what the boot
/// loader starts.
pub fn apply<D: Device>(
    store: &mut Store<D>,
    mut update: impl Read,
    key: &Key,
    appliance: &str,
    progress: &mut Progress<'_>,
) -> Result<Report> {
    let envelope = Envelope::read(&mut update)?;
    envelope.verify(key, appliance)?;
    let release = envelope.release();
    let manifest = release.manifest.clone();
    if let Some(slot) = holds(store, release, progress)? {
        if slot == store.state()?.good {
            store.forget_trial()?;
        }
        return Ok(Report { slot, manifest, plan: None });
    }
    let plan = store.plan(release, progress)?;
    store.begin(&plan)?;
    for part in release.objects() {
        if plan.missing.contains(part) {
            store.add_object(part, &mut update, progress)?;
        } else {
            tell(progress, Step::Sharing { part })?;
            pass_over(part, &mut update)?;
        }
    }
    at_end(&mut update)?;
    store.install(plan.into, &envelope)?;
    let whole = store.verify(plan.into, progress)?;
    store.set_trial(&whole)?;
    Ok(Report { slot: plan.into, manifest, plan: Some(plan) })
}

/// The slot that is started next or is good and holds this release. One on trial that is damaged does not count: it is
/// written anew.
///
/// # Errors
/// The device; a damaged state; a good slot that cannot be read.
pub fn holds<D: Device>(store: &Store<D>, release: &Release, progress: &mut Progress<'_>) -> Result<Option<Slot>> {
    let state = store.state()?;
    let next = state.next();
    if next != state.good {
        match store.verify(next, progress) {
            Ok(whole) if whole.release() == release => return Ok(Some(next)),
            Ok(_) | Err(Error::Slot { .. } | Error::Empty(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let good = store.release(state.good)?;
    Ok(good.is_some_and(|good| good.release() == release).then_some(state.good))
}

/// Reads an object that the store has. It is compared all the same: an update is right as a whole or refused.
fn pass_over(part: &Part, update: &mut impl Read) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = part.size;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        update.read_exact(&mut buffer[..count]).map_err(|error| truncated(part, error))?;
        hasher.update(&buffer[..count]);
        left -= count as u64;
    }
    if hash::finish(hasher) == part.sha256 { Ok(()) } else { Err(altered(part)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Signer;
    use crate::state::State;
    use crate::store::silent;
    use crate::testing::{self, Disk};

    const KERNEL: &[u8] = &[1; 5000];
    const HOST: &[u8] = &[2; 3000];
    const GUEST: &[u8] = &[3; 700];
    const NEW: &[u8] = &[4; 9000];

    fn run(disk: &Disk, update: &[u8]) -> Result<Report> {
        let mut store = Store::open(disk.clone())?;
        apply(&mut store, update, &testing::signer().key(), "demo", &mut silent)
    }

    #[test]
    fn an_update_writes_what_is_missing_and_goes_on_trial() {
        let disk = testing::installed(&[KERNEL, HOST, GUEST]);
        let report = run(&disk, &testing::update(&[KERNEL, NEW, GUEST])).unwrap();
        let plan = report.plan.unwrap();
        let names = |parts: &[Part]| parts.iter().map(|part| part.size).collect::<Vec<_>>();
        assert_eq!((names(&plan.missing), names(&plan.shared)), (vec![9000], vec![5000, 700]));
        let mut store = Store::open(disk.clone()).unwrap();
        let state = store.state().unwrap();
        assert_eq!(state, State { trial: Some(Slot::B), trial_left: 3, ..State::new(Slot::A, 3) });
        for slot in Slot::BOTH {
            store.verify(slot, &mut silent).unwrap();
        }
        assert_eq!(store.objects().unwrap().len(), 4);

        store.confirm(Slot::B).unwrap();
        assert_eq!(store.state().unwrap(), State::new(Slot::B, 3));
        // The next one goes to slot a, and what only that one had goes.
        run(&disk, &testing::update(&[KERNEL, NEW, b"other"])).unwrap();
        let mut store = Store::open(disk.clone()).unwrap();
        assert_eq!(store.state().unwrap().next(), Slot::A);
        assert_eq!(store.objects().unwrap().len(), 4);
        store.confirm(Slot::A).unwrap();
        assert_eq!(run(&disk, &testing::update(&[KERNEL, NEW, b"other"])).unwrap().plan, None);
    }

    #[test]
    fn what_is_next_already_is_not_written_and_the_good_one_ends_a_trial() {
        let disk = testing::installed(&[KERNEL, HOST, GUEST]);
        let update = testing::update(&[KERNEL, NEW, GUEST]);
        run(&disk, &update).unwrap();
        let before = disk.written();
        let report = run(&disk, &update).unwrap();
        assert_eq!((report.slot, report.plan, disk.written()), (Slot::B, None, before));
        let report = run(&disk, &testing::update(&[KERNEL, HOST, GUEST])).unwrap();
        assert_eq!((report.slot, report.plan, disk.written()), (Slot::A, None, before + 1));
        assert_eq!(Store::open(disk.clone()).unwrap().state().unwrap(), State::new(Slot::A, 3));
        // On trial once more, and damaged: written anew.
        run(&disk, &update).unwrap();
        let mut bytes = disk.bytes();
        let at = bytes.windows(600).position(|window| window == &NEW[..600]).unwrap();
        bytes[at] ^= 1;
        let damaged = Disk::of(bytes);
        assert_eq!(run(&damaged, &update).unwrap().plan.unwrap().missing.len(), 1);
        Store::open(damaged).unwrap().verify(Slot::B, &mut silent).unwrap();
        run(&disk, &testing::update(&[KERNEL, HOST, GUEST])).unwrap();
        // And it is tried again when somebody wants it again: nothing but the slot's own files is written.
        assert_eq!(run(&disk, &update).unwrap().plan.unwrap().missing, []);
        assert_eq!(Store::open(disk).unwrap().state().unwrap().next(), Slot::B);
    }

    #[test]
    fn what_is_not_right_is_refused_whole_by_name() {
        let disk = testing::installed(&[KERNEL, HOST, GUEST]);
        let good = testing::update(&[KERNEL, NEW, GUEST]);
        let told = |update: &[u8]| {
            let error = run(&disk, update).unwrap_err();
            let store = Store::open(disk.clone()).unwrap();
            assert_eq!(store.state().unwrap(), State::new(Slot::A, 3), "{error}");
            store.verify(Slot::A, &mut silent).unwrap();
            assert!(store.release(Slot::B).unwrap().is_none());
            assert!(matches!(error, Error::Refused(_)), "{error}");
            let checked = check(update, &testing::signer().key(), "demo").unwrap_err();
            assert_eq!(checked.to_string(), error.to_string());
            error.to_string()
        };
        for length in [0, 10, 200, good.len() - 9700, good.len() - 701, good.len() - 1] {
            assert!(told(&good[..length]).contains("truncated"), "{length}");
        }
        assert!(told(&[&good[..], b"x"].concat()).contains("behind its end"));
        let mut altered = good.clone();
        altered[good.len() - 5000] ^= 1;
        assert!(told(&altered).contains("part1 is not what the release says"));
        altered = good.clone();
        altered[100] ^= 1;
        told(&altered);
        let envelope = |release: &thimble_spec::release::Release, signer: Option<&Signer>| {
            let envelope = Envelope::seal(release, signer).unwrap();
            [envelope.bytes(), &good[good.len() - 14_700..]].concat()
        };
        let mut release = testing::release(&[KERNEL, NEW, GUEST]);
        assert!(told(&envelope(&release, None)).contains("not signed"));
        let other = Signer::from_seed([8; 32]).unwrap();
        assert!(told(&envelope(&release, Some(&other))).contains("not signed with this appliance's key"));
        release.appliance = "other".to_owned();
        assert!(told(&envelope(&release, Some(&testing::signer()))).contains("for the appliance other"));
        // And then the right one.
        check(&good[..], &testing::signer().key(), "demo").unwrap();
        run(&disk, &good).unwrap();
    }

    #[test]
    fn a_store_without_room_says_how_much_there_is() {
        let disk = testing::installed(&[KERNEL, HOST, GUEST]);
        let before = disk.written();
        let error = run(&disk, &testing::update(&[&vec![9; testing::DISK], HOST, GUEST])).unwrap_err();
        assert!(matches!(error, Error::Full { .. }), "{error}");
        assert_eq!(disk.written(), before);
    }

    #[test]
    fn a_damaged_object_that_is_shared_is_written_anew() {
        let disk = testing::installed(&[KERNEL, HOST, GUEST]);
        let mut bytes = disk.bytes();
        let at = bytes.windows(600).position(|window| window == &HOST[..600]).unwrap();
        bytes[at + 100] ^= 4;
        let disk = Disk::of(bytes);
        let told = Store::open(disk.clone()).unwrap().verify(Slot::A, &mut silent).unwrap_err().to_string();
        assert!(told.contains("slot a is damaged: part1 (/thimble/objects/"), "{told}");
        let report = run(&disk, &testing::update(&[KERNEL, HOST, b"new guest"])).unwrap();
        assert_eq!(report.plan.unwrap().missing.len(), 2);
        Store::open(disk).unwrap().verify(Slot::A, &mut silent).unwrap();
    }
}
