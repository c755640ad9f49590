//! What the guests may use together, against what the host has. More is allowed, and said, as far as no limit is declared; what
//! those have that run is counted against that.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thimble_spec::appliance::{Appliance, Guest};
use thimble_spec::rules;
use thimble_spec::units::{ByteSize, MIB};

use crate::proc;

/// A line for people if the guests may use more processors or memory than there are.
pub fn note(guests: &[Guest]) -> Option<String> {
    compare(guests, cpus(), memory())
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(u64::MAX, |count| count.get() as u64)
}

fn memory() -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| proc::memory(&text, "MemTotal")).unwrap_or(u64::MAX)
}

/// What a guest has of the host: bytes of memory, and vCPUs.
type Share = (u64, u64);

/// What guests that run may have together, and what they have.
#[derive(Clone, Debug)]
pub struct Limits {
    most: Share,
    taken: Arc<Mutex<BTreeMap<String, Share>>>,
}

/// What a guest that runs has. It ends with this.
#[derive(Debug)]
pub struct Claim {
    limits: Limits,
    guest: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.limits.taken().remove(&self.guest);
    }
}

impl Limits {
    /// Those of a node with this definition, on this machine.
    pub fn of(appliance: &Appliance) -> Self {
        Self::on(appliance, appliance.node_memory.unwrap_or_else(|| ByteSize(memory())), cpus())
    }

    fn on(appliance: &Appliance, memory: ByteSize, cpus: u64) -> Self {
        let overcommit = appliance.overcommit;
        let memory = overcommit.memory_percent.map_or(u64::MAX, |_| rules::room(memory, overcommit));
        let vcpus = overcommit.vcpus_percent.map_or(u64::MAX, |percent| cpus.saturating_mul(percent.into()) / 100);
        Self { most: (memory, vcpus), taken: Arc::default() }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<String, Share>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest runs from now on. One that was found running has what it has.
    ///
    /// # Errors
    /// With those that run, it would be more than they may have: one sentence.
    pub fn take(&self, guest: &Guest, is_found: bool) -> Result<Claim, String> {
        let mut taken = self.taken();
        let own: Share = (guest.memory.bytes(), guest.vcpus.into());
        let (memory, vcpus) = taken
            .values()
            .fold(own, |(memory, vcpus), other| (memory.saturating_add(other.0), vcpus.saturating_add(other.1)));
        if !is_found {
            let refused = |what: String, most: String| {
                Err(format!(
                    "with those that run, it would be {what}, and [node.overcommit] allows {most}: thimblectl shutdown others, or \
                     make it smaller"
                ))
            };
            if vcpus > self.most.1 {
                return refused(format!("{vcpus} vCPUs"), self.most.1.to_string());
            }
            if memory > self.most.0 {
                let whole = |bytes: u64| ByteSize(bytes - bytes % MIB).to_string();
                return refused(format!("{} of memory", whole(memory)), whole(self.most.0));
            }
        }
        taken.insert(guest.name.clone(), own);
        Ok(Claim { limits: self.clone(), guest: guest.name.clone() })
    }
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
    use thimble_spec::appliance::Overcommit;

    fn guest(vcpus: u8, mib: u64) -> Guest {
        crate::testing::guest(&format!("vcpus = {vcpus}\nmemory = \"{mib}MiB\""))
    }

    #[test]
    fn no_more_run_than_may() {
        let mut appliance = crate::testing::appliance(&["memory = \"64MiB\""]);
        let unlimited = Limits::on(&appliance, ByteSize::mib(256), 1);
        assert!(unlimited.take(&guest(64, 4096), false).is_ok());
        appliance.overcommit = Overcommit { memory_percent: Some(150), vcpus_percent: Some(350) };
        // 150 % of what the host does not keep for itself, and three and a half vCPUs.
        let limits = Limits::on(&appliance, ByteSize(rules::HOST_MEMORY.bytes() + 128 * MIB), 1);
        let named = |name: &str, vcpus, mib| Guest { name: name.to_owned(), ..guest(vcpus, mib) };
        let one = limits.take(&named("one", 1, 128), false).unwrap();
        let told = limits.take(&named("two", 1, 65), false).unwrap_err();
        assert!(told.contains("193MiB of memory, and [node.overcommit] allows 192MiB"), "{told}");
        let told = limits.take(&named("two", 3, 64), false).unwrap_err();
        assert!(told.contains("4 vCPUs, and [node.overcommit] allows 3"), "{told}");
        let two = limits.take(&named("two", 2, 64), false).unwrap();
        // One that runs already runs.
        let three = limits.take(&named("three", 1, 64), true).unwrap();
        drop((two, three));
        assert!(limits.take(&named("two", 2, 65), false).is_err());
        drop(one);
        assert!(limits.take(&named("two", 2, 65), false).is_ok());
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
