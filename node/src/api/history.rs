//! What each guest did of late, for the curves of the status page: sampled while it runs, and kept in memory of a fixed size,
//! [`KEPT`] samples of 16 bytes a guest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Api;
use super::resources::stats;

/// How far samples are apart.
pub const EVERY: Duration = Duration::from_secs(10);
/// Samples of a guest: ten minutes.
pub const KEPT: usize = 60;
/// How long a VMM may take to say what its disks did; one that takes longer has no sample there.
const LIMIT: Duration = Duration::from_secs(1);

/// What a guest has done since its VMM started, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Time on processors, in microseconds.
    pub cpu_us: u64,
    /// Memory that the host's kernel has charged to it.
    pub memory_bytes: u64,
    /// Bytes that its disks read and wrote.
    pub disk_bytes: u64,
    /// Bytes that went through its interfaces.
    pub network_bytes: u64,
}

/// What a guest did between two looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Processors that were busy with it, of which it may have several.
    pub cpus: f32,
    /// Bytes of memory at the end.
    pub memory: f32,
    /// Bytes a second, read and written.
    pub disk: f32,
    /// Bytes a second, received and sent.
    pub network: f32,
}

/// What one did of late.
#[derive(Debug)]
struct Past {
    /// Which VMM it was: another counts from zero again.
    vmm: u32,
    before: (Instant, Counts),
    samples: VecDeque<Sample>,
}

/// What all did of late.
#[derive(Clone, Debug, Default)]
pub struct Histories(Arc<Mutex<BTreeMap<Arc<str>, Past>>>);

impl Histories {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Past>> {
        // A panic ends the daemon: nobody sees what one left.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The samples of a guest, oldest first; none if it does not run.
    pub fn of(&self, guest: &str) -> Vec<Sample> {
        self.lock().get(guest).map(|past| past.samples.iter().copied().collect()).unwrap_or_default()
    }

    fn add(&self, guest: &Arc<str>, vmm: u32, now: Instant, counts: Counts) {
        let mut all = self.lock();
        match all.get_mut(guest) {
            Some(past) if past.vmm == vmm => past.add(now, counts),
            _ => {
                let past = Past { vmm, before: (now, counts), samples: VecDeque::with_capacity(KEPT) };
                all.insert(Arc::clone(guest), past);
            }
        }
    }

    fn keep_only(&self, running: &[Arc<str>]) {
        self.lock().retain(|guest, _| running.contains(guest));
    }
}

impl Past {
    fn add(&mut self, now: Instant, counts: Counts) {
        let (then, before) = std::mem::replace(&mut self.before, (now, counts));
        let seconds = now.duration_since(then).as_secs_f32();
        if seconds <= 0.0 {
            return;
        }
        let a_second = |new: u64, old: u64| new.saturating_sub(old) as f32 / seconds;
        if self.samples.len() >= KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            cpus: a_second(counts.cpu_us, before.cpu_us) / 1e6,
            memory: counts.memory_bytes as f32,
            disk: a_second(counts.disk_bytes, before.disk_bytes),
            network: a_second(counts.network_bytes, before.network_bytes),
        });
    }
}

/// Looks at the guests that run, again and again, for ever: one after the other, so that the daemon is never busy with all at
/// once.
pub async fn sample(api: Arc<Api>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut running = Vec::new();
        for entry in api.guests() {
            let Some((vmm, _)) = entry.life.borrow().vmm else { continue };
            if let Ok(Some(counts)) = timeout(LIMIT, stats::counts(&entry)).await {
                api.histories.add(&entry.name, vmm, Instant::now(), counts);
            }
            running.push(entry.name);
        }
        api.histories.keep_only(&running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_what_happened_in_a_second_and_the_oldest_go() {
        let (histories, guest) = (Histories::default(), Arc::from("web1"));
        let began = Instant::now();
        for index in 0..=KEPT as u64 + 5 {
            let counts = Counts {
                cpu_us: index * 5_000_000,
                memory_bytes: index,
                disk_bytes: index * 1000,
                network_bytes: index * index * 10,
            };
            histories.add(&guest, 7, began + EVERY * index as u32, counts);
        }
        let samples = histories.of("web1");
        assert_eq!(samples.len(), KEPT);
        assert_eq!(samples[0], Sample { cpus: 0.5, memory: 6.0, disk: 100.0, network: 11.0 });
        assert_eq!(samples[KEPT - 1].memory, 65.0);
        assert!(size_of::<Sample>() == 16 && histories.lock()["web1"].samples.capacity() < 2 * KEPT);
        // Another VMM begins anew, and one that is gone did nothing.
        histories.add(&guest, 8, began, Counts::default());
        assert!(histories.of("web1").is_empty());
        histories.keep_only(&[]);
        assert!(histories.lock().is_empty());
    }

    #[test]
    fn counts_that_fall_and_clocks_that_stand_are_no_rate() {
        let (histories, guest) = (Histories::default(), Arc::from("web1"));
        let now = Instant::now();
        histories.add(&guest, 7, now, Counts { cpu_us: 9, ..Counts::default() });
        histories.add(&guest, 7, now, Counts { cpu_us: 9, ..Counts::default() });
        assert!(histories.of("web1").is_empty());
        histories.add(&guest, 7, now + EVERY, Counts::default());
        assert_eq!(histories.of("web1"), [Sample::default()]);
    }
}
