//! Where vCPUs run: each on all processors of the host, or on some.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// The calling thread, for the calls below.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Refuses `pins` that no host could keep: by index, the host's processors that each of `vcpus` may run on.
///
/// # Errors
/// There are more of them than vCPUs.
pub fn check_count(pins: &[Vec<u16>], vcpus: u8) -> Result<()> {
    if pins.len() > usize::from(vcpus) {
        let last = pins.len() - 1;
        return Err(Error::Config(format!("vCPU {last} cannot be pinned: the guest has {vcpus}, counted from 0")));
    }
    Ok(())
}

/// Refuses `pins` that this host cannot keep.
///
/// # Errors
/// There are more of them than vCPUs, or a processor that does not exist, is offline, or is not this process's to use.
pub fn check(pins: &[Vec<u16>], vcpus: u8) -> Result<()> {
    check_count(pins, vcpus)?;
    if pins.iter().all(Vec::is_empty) {
        return Ok(());
    }
    // Trying is the only way to know: what a process may use now is not all that it may choose.
    let before = sched_getaffinity(THIS_THREAD).map_err(Error::host("tell which processors this process uses"))?;
    let refused = pins
        .iter()
        .enumerate()
        .find_map(|(vcpu, cpus)| cpus.iter().find_map(|cpu| pin(&[*cpu]).err().map(|error| (vcpu, *cpu, error))));
    sched_setaffinity(THIS_THREAD, &before).map_err(Error::host("use the processors that this process had"))?;
    match refused {
        None => Ok(()),
        Some((vcpu, cpu, error)) => Err(Error::Config(format!(
            "vCPU {vcpu} cannot be pinned to the host's processor {cpu}: it does not exist, is offline, or may not be \
             used by this process ({})",
            error.desc()
        ))),
    }
}

/// Has the calling thread run on `cpus` only; where they are none, on all.
///
/// # Errors
/// None of them can be used, or one has a number that no processor has.
pub fn pin(cpus: &[u16]) -> std::result::Result<(), Errno> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(usize::from(*cpu)))?;
    sched_setaffinity(THIS_THREAD, &set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Vec<u16> {
        let set = sched_getaffinity(THIS_THREAD).unwrap();
        (0..CpuSet::count() as u16).filter(|cpu| set.is_set(usize::from(*cpu)).unwrap()).collect()
    }

    #[test]
    fn pins_are_tried_and_undone() {
        let before = allowed();
        check(&[vec![], vec![before[0]]], 2).unwrap();
        check(&[], 1).unwrap();
        assert_eq!(allowed(), before);
    }

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let last = *allowed().last().unwrap();
        let pinned = std::thread::spawn(move || {
            pin(&[]).unwrap();
            pin(&[last]).unwrap();
            allowed()
        });
        assert_eq!(pinned.join().unwrap(), [last]);
    }

    #[test]
    fn an_unknown_processor_is_named() {
        let before = allowed();
        for unknown in [1023, u16::MAX] {
            let sentence = check(&[vec![before[0]], vec![before[0], unknown]], 2).unwrap_err().sentence();
            assert!(sentence.starts_with(&format!("vCPU 1 cannot be pinned to the host's processor {unknown}:")));
        }
        assert_eq!(allowed(), before);
        assert!(check(&[vec![], vec![]], 1).unwrap_err().sentence().contains("the guest has 1, counted from 0"));
    }
}
