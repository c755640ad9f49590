//! What the guests may use together, against what the host has. More is allowed, and said.

use std::fs;

use thimble_spec::appliance::Guest;
use thimble_spec::units::{ByteSize, MIB};

use crate::proc;

/// A line for people if the guests may use more processors or memory than there are.
pub fn note(guests: &[Guest]) -> Option<String> {
    let cpus = std::thread::available_parallelism().map_or(u64::MAX, |count| count.get() as u64);
    let memory =
        fs::read_to_string("/proc/meminfo").ok().and_then(|text| proc::memory(&text, "MemTotal")).unwrap_or(u64::MAX);
    compare(guests, cpus, memory)
}

fn compare(guests: &[Guest], cpus: u64, memory: u64) -> Option<String> {
    let vcpus: u64 = guests.iter().map(|guest| u64::from(guest.vcpus)).sum();
    let wanted = guests.iter().fold(0u64, |sum, guest| sum.saturating_add(guest.memory.bytes()));
    let mut parts = Vec::new();
    if vcpus > cpus {
        parts.push(format!("{vcpus} vCPUs on {cpus} processors"));
    }
    if wanted > memory {
        let whole = |bytes: u64| ByteSize(bytes - bytes % MIB);
        parts.push(format!("{} of memory on {}", whole(wanted), whole(memory)));
    }
    (!parts.is_empty()).then(|| format!("overcommitted: the guests may use {}", parts.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(vcpus: u8, mib: u64) -> Guest {
        crate::testing::guest(&format!("vcpus = {vcpus}\nmemory = \"{mib}MiB\""))
    }

    #[test]
    fn more_than_there_is_is_said() {
        let guests = [guest(2, 256), guest(1, 512)];
        assert_eq!(compare(&guests, 3, 768 * MIB), None);
        assert_eq!(
            compare(&guests, 2, 767 * MIB + 5).as_deref(),
            Some("overcommitted: the guests may use 3 vCPUs on 2 processors and 768MiB of memory on 767MiB")
        );
        assert!(compare(&guests, 2, u64::MAX).unwrap().ends_with("3 vCPUs on 2 processors"));
        assert_eq!(compare(&[], 1, 1), None);
    }
}
