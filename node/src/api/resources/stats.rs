//! What a guest did since its VMM started: counts of its VMM, of the kernel for its control group and for its interfaces.

use std::fs;
use std::path::{Path, PathBuf};

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::guest::{Counters, Stats};
use thimble_spec::names::tap_name;
use thimble_spec::units::MIB;
use thimble_spec::vmm::{self, Answer, CONTROL_FILE, Verb};

use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::history::Counts;
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::cgroup;
use crate::control::Control;
use crate::life::Entry;
use crate::plan::Place;
use crate::proc;

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/v1/guests/{name}/stats",
    role: Role::Read,
    summary: "What a guest did since its VMM started",
    query: &[],
    gives: Gives::Json("Stats"),
    serve: |call| Box::pin(get(call)),
}];

async fn get(call: Call) -> Result<Response<Content>, Refusal> {
    answer::json(StatusCode::OK, &of(&call.api.guest(call.name())?).await?)
}

/// What one did.
///
/// # Errors
/// Its VMM does not answer.
pub async fn of(entry: &Entry) -> Result<Stats, Refusal> {
    let (name, guest) = (&*entry.name, entry.guest());
    let (state, vmm) = {
        let life = entry.life.borrow();
        (life.state, life.vmm)
    };
    // One that is off did nothing.
    let counted = if state.is_active() { counted(name).await? } else { vmm::Stats::default() };
    let group = cgroup::place(name);
    Ok(Stats {
        name: name.to_owned(),
        state,
        cpu_us: cpu_us(&fs::read_to_string(group.join("cpu.stat")).unwrap_or_default()),
        memory_bytes: number(&group.join("memory.current")),
        memory_limit_bytes: number(&group.join("memory.max")),
        rss_bytes: vmm.and_then(|(minder, _)| rss(&group, minder)),
        memory_mib: guest.memory.bytes() / MIB,
        vcpu_exits: counted.vcpus.iter().map(|vcpu| vcpu.exits).collect(),
        disks: counted.disks,
        nets: counted.nets,
        interfaces: guest.network.iter().filter_map(|_| counters(&tap_name(name))).collect(),
        balloon: counted.balloon,
    })
}

/// As much of it as changes from one moment to the next, for little; none if its VMM does not answer.
pub async fn counts(entry: &Entry) -> Option<Counts> {
    let (name, guest) = (&*entry.name, entry.guest());
    let group = cgroup::place(name);
    let disks = counted(name).await.ok()?.disks;
    let interface = guest.network.iter().find_map(|_| counters(&tap_name(name)));
    Some(Counts {
        cpu_us: cpu_us(&fs::read_to_string(group.join("cpu.stat")).unwrap_or_default()).unwrap_or_default(),
        memory_bytes: number(&group.join("memory.current")).unwrap_or_default(),
        disk_bytes: disks.iter().map(|disk| disk.read_bytes + disk.written_bytes).sum(),
        network_bytes: interface.map_or(0, |it| it.received_bytes + it.sent_bytes),
    })
}

async fn counted(guest: &str) -> Result<vmm::Stats, Refusal> {
    let socket = Place::of(guest).file(CONTROL_FILE);
    let asked = async { Control::connect(&socket).await?.ask(Verb::Stats).await };
    match asked.await {
        Ok(Answer::Stats(stats)) => Ok(stats),
        Ok(_) => Err(Refusal::broken(format!("guest {guest}: its VMM does not answer with its counts"))),
        Err(error) => Err(Refusal::broken(format!("guest {guest}: {error:#}"))),
    }
}

/// `usage_usec` of `cpu.stat` (Linux `Documentation/admin-guide/cgroup-v2.rst`).
fn cpu_us(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `VmRSS` of the process that runs the guest (proc(5)): of those of its control group, the child of its minder, by whose number
/// the VMM is known.
fn rss(group: &Path, minder: u32) -> Option<u64> {
    let processes = fs::read_to_string(group.join("cgroup.procs")).ok()?;
    processes.lines().find_map(|process| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent: u32 = proc::value(&status, "PPid")?.parse().ok()?;
        (parent == minder).then(|| proc::memory(&status, "VmRSS"))?
    })
}

/// What the kernel counts at a tap is turned around: the host receives what the guest sends.
fn counters(tap: &str) -> Option<Counters> {
    let directory = PathBuf::from("/sys/class/net").join(tap).join("statistics");
    let count = |name: &str| number(&directory.join(name));
    Some(Counters {
        name: tap.to_owned(),
        received_bytes: count("tx_bytes")?,
        received: count("tx_packets")?,
        sent_bytes: count("rx_bytes")?,
        sent: count("rx_packets")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_group_is_read() {
        assert_eq!(cpu_us("usage_usec 1234\nuser_usec 1000\n"), Some(1234));
        assert_eq!(cpu_us(""), None);
    }
    #[test]
    fn what_a_guest_may_hold_is_a_number_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.max");
        for (text, wanted) in [("100663296\n", Some(96 << 20)), ("max\n", None)] {
            fs::write(&file, text).unwrap();
            assert_eq!(number(&file), wanted);
        }
    }

    #[test]
    fn of_a_group_the_minders_child_is_the_one_that_runs_the_guest() {
        let directory = tempfile::tempdir().unwrap();
        let minder = std::process::id();
        assert_eq!(rss(directory.path(), minder), None);
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let list = directory.path().join("cgroup.procs");
        fs::write(&list, format!("{minder}\n")).unwrap();
        assert_eq!(rss(directory.path(), minder), None, "its own memory is not the guest's");
        fs::write(&list, format!("{minder}\n{}\n", child.id())).unwrap();
        let found = rss(directory.path(), minder);
        // Its input ends, and so does it.
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(found.is_some_and(|bytes| bytes > 0), "{found:?}");
    }
}
