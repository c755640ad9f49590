//! Power cuts: at each sector that an update writes, with any of the unsynced sectors on the medium or not.

use proptest::prelude::*;
use thimble_spec::slot::Slot;

use crate::error::Result;
use crate::fat::Fat;
use crate::state::State;
use crate::store::{Store, silent};
use crate::testing::{self, Disk};
use crate::update::{Report, apply};

const KERNEL: &[u8] = &[1; 5000];
const OLD: &[u8] = &[2; 3000];
const OLDER: &[u8] = &[3; 4000];
const NEW: &[u8] = &[4; 6000];
const GUEST: &[u8] = &[5; 700];

fn run(disk: &Disk, update: &[u8]) -> Result<Report> {
    let mut store = Store::open(disk.clone())?;
    apply(&mut store, update, &testing::signer().key(), "demo", &mut silent)
}

/// Slot a is good and slot b an older release, so that the update has something to remove.
fn before() -> Disk {
    let disk = testing::installed(&[KERNEL, OLD, GUEST]);
    run(&disk, &testing::update(&[KERNEL, OLDER, GUEST])).unwrap();
    disk
}

/// What must hold on any medium that a cut left.
fn sound(disk: &Disk, update: &[u8]) {
    Fat::open(disk.clone()).unwrap().check().unwrap();
    let store = Store::open(disk.clone()).unwrap();
    let state = store.state().unwrap();
    assert_eq!(state.good, Slot::A);
    let good = store.verify(Slot::A, &mut silent).unwrap();
    assert_eq!(good.release(), &testing::release(&[KERNEL, OLD, GUEST]));
    // What the boot loader would start is whole, whatever it is.
    store.verify(state.next(), &mut silent).unwrap();

    // And the next try gets there.
    let report = run(disk, update).unwrap();
    let store = Store::open(disk.clone()).unwrap();
    assert_eq!((report.slot, store.state().unwrap().next()), (Slot::B, Slot::B));
    assert_eq!(store.verify(Slot::B, &mut silent).unwrap().release(), &testing::release(&[KERNEL, NEW, GUEST]));
    assert_eq!(store.objects().unwrap().len(), 4);
    store.verify(Slot::A, &mut silent).unwrap();
    Fat::open(disk.clone()).unwrap().check().unwrap();
}

/// Sectors that the whole update writes.
fn sectors(disk: &Disk, update: &[u8]) -> usize {
    let whole = Disk::of(disk.bytes());
    run(&whole, update).unwrap();
    whole.written()
}

#[test]
fn a_cut_at_any_sector_leaves_the_good_slot() {
    let (start, update) = (before(), testing::update(&[KERNEL, NEW, GUEST]));
    let writes = sectors(&start, &update);
    assert!(writes > 30, "{writes}");
    for cut in 0..writes {
        let disk = Disk::of(start.bytes());
        disk.fail_at(cut);
        run(&disk, &update).unwrap_err();
        // None of what was not synced, all of it, every second sector, the others.
        for survives in
            [&(|_| false) as &dyn Fn(usize) -> bool, &|_| true, &|index| index % 2 == 0, &|index| index % 2 == 1]
        {
            sound(&disk.after_cut(&mut |index| survives(index)), &update);
        }
    }
}

#[test]
fn a_cut_while_a_trial_is_confirmed_leaves_either_state() {
    let start = before();
    let confirm = |disk: &Disk| Store::open(disk.clone()).and_then(|mut store| store.confirm(Slot::B));
    for survives in [false, true] {
        let disk = Disk::of(start.bytes());
        disk.fail_at(0);
        confirm(&disk).unwrap_err();
        let disk = disk.after_cut(&mut |_| survives);
        assert_eq!(Store::open(disk.clone()).unwrap().state().unwrap().next(), Slot::B);
        confirm(&disk).unwrap();
        assert_eq!(Store::open(disk).unwrap().state().unwrap(), State::new(Slot::B, 3));
    }
}

#[test]
fn a_damaged_state_is_made_anew_when_a_slot_is_confirmed() {
    let start = before();
    let damaged = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = start.bytes();
        let at = bytes.windows(24).position(|window| window == b"# GRUB Environment Block").unwrap();
        change(&mut bytes[at..]);
        Disk::of(bytes)
    };
    let unreadable = damaged(&|state| state[..600].fill(0));
    assert!(Store::open(unreadable.clone()).unwrap().state().is_err());
    Store::open(unreadable.clone()).unwrap().confirm(Slot::A).unwrap();
    assert_eq!(Store::open(unreadable).unwrap().state().unwrap(), State::new(Slot::A, 3));

    // Gone, with its directory entry: a file again.
    let mut bytes = start.bytes();
    let at = bytes.windows(11).position(|window| window == b"STATE      ").unwrap();
    bytes[at] = 0xe5;
    let gone = Disk::of(bytes);
    Store::open(gone.clone()).unwrap().confirm(Slot::A).unwrap();
    assert_eq!(Store::open(gone.clone()).unwrap().state().unwrap(), State::new(Slot::A, 3));
    Store::open(gone.clone()).unwrap().verify(Slot::A, &mut silent).unwrap();
    Fat::open(gone).unwrap().check().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn cuts_in_a_row_leave_the_good_slot(cuts in proptest::collection::vec((0usize..200, any::<[bool; 16]>()), 1..5)) {
        let update = testing::update(&[KERNEL, NEW, GUEST]);
        let mut disk = before();
        for (cut, survives) in cuts {
            disk = Disk::of(disk.bytes());
            disk.fail_at(cut);
            let _ = run(&disk, &update);
            disk = disk.after_cut(&mut |index| survives[index % survives.len()]);
        }
        sound(&disk, &update);
    }

    #[test]
    fn damage_is_no_panic_and_no_endless_walk(
        flips in proptest::collection::vec((0usize..40_000, any::<u8>()), 1..20),
        entry in 0usize..4000,
    ) {
        // The first 40 kB hold the boot record, both tables, the root directory and the first clusters.
        let mut bytes = before().bytes();
        for (place, value) in flips {
            bytes[place] = value;
        }
        // And a ring in the table.
        let ring = 512 + 2 * entry;
        bytes[ring..ring + 2].copy_from_slice(&u16::try_from(entry).unwrap().to_le_bytes());
        let disk = Disk::of(bytes);
        if let Ok(store) = Store::open(disk.clone()) {
            let _ = (store.state(), store.objects(), store.free());
            for slot in Slot::BOTH {
                let _ = store.verify(slot, &mut silent);
            }
        }
        let _ = run(&disk, &testing::update(&[KERNEL, NEW, GUEST]));
        let _ = Store::open(disk).and_then(|mut store| store.confirm(Slot::B));
    }
}
