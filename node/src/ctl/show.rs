//! What is looked at: `list`, `dominfo`, `domstate`, `domstats`, `domblklist`, `domiflist`, `domifaddr`, `dommemstat`,
//! `guestinfo`, `vcpuinfo`, `dumpconfig`, `tasks`, `audit`, `log`, `report`; and the host ([`super::machine`]).

use std::io::{Write, stdout};

use hyper::Method;
use thimble_spec::api::audit::Audit;
use thimble_spec::api::guest::{Detail, Guest, Guests, Inside, Interface, Stats};
use thimble_spec::api::task::{Task, Tasks};
use thimble_spec::units::{KIB, MIB};

use super::client::Client;
use super::failure::Failure;
use super::table::{or_dash, pairs, state, table};
use super::words::Word;
use super::{log, machine, report, snapshots, volumes};
use crate::syslog::format::timestamp;

/// Shows it.
///
/// # Errors
/// The node refuses or is not there.
pub async fn run(client: &Client, word: &Word, json: bool) -> Result<(), Failure> {
    let text = match word {
        Word::List { all } => {
            let (guests, text): (Guests, _) = client.json(Method::GET, "/v1/guests").await?;
            if json { text } else { list(&guests.guests, *all) }
        }
        Word::Nodeinfo | Word::Hardware | Word::Sysinfo | Word::NetList { .. } => {
            machine::shown(client, word, json).await?
        }
        Word::Tasks { cancel: None } => {
            let (tasks, text): (Tasks, _) = client.json(Method::GET, "/v1/tasks").await?;
            if json { text } else { tasks_table(&tasks.tasks) }
        }
        Word::Tasks { cancel: Some(id) } => {
            let (task, text): (Task, _) = client.json(Method::DELETE, &format!("/v1/tasks/{id}")).await?;
            if json { text } else { tasks_table(&[task]) }
        }
        Word::Audit => {
            let (audit, text): (Audit, _) = client.json(Method::GET, "/v1/audit").await?;
            if json { text } else { audit_lines(&audit) }
        }
        Word::Domstats { guests } => domstats(client, guests, json).await?,
        Word::Dommemstat { guest } => {
            let (stats, text): (Stats, _) = client.json(Method::GET, &format!("/v1/guests/{guest}/stats")).await?;
            if !stats.state.is_active() {
                return Err(Failure::failed(format!("guest {guest} does not run, and takes no memory")));
            }
            if json { text } else { memory_lines(&stats) }
        }
        Word::Guestinfo { guest } => {
            let (inside, text): (Inside, _) = client.json(Method::GET, &format!("/v1/guests/{guest}/inside")).await?;
            if json { text } else { inside_lines(&inside) }
        }
        Word::Dumpconfig { guest, inactive } => {
            let path = format!("/v1/guests/{guest}/{}", if *inactive { "definition" } else { "config" });
            let (value, text): (serde_json::Value, _) = client.json(Method::GET, &path).await?;
            if json { text } else { serde_json::to_string_pretty(&value).unwrap_or(text) }
        }
        Word::VolList | Word::VolCreate { .. } | Word::VolDelete { .. } => volumes::run(client, word, json).await?,
        Word::SnapshotList { .. } | Word::SnapshotDelete { .. } => snapshots::shown(client, word, json).await?,
        Word::Log { guest: Some(guest) } => log::guest(client, guest, json).await?,
        Word::Log { guest: None } if client.is_here() => return log::host(json),
        Word::Log { guest: None } => log::text(&log::of_node(client).await?, json)?,
        Word::Report { output } => report::run(client, output.as_deref(), json).await?,
        Word::Dominfo { guest }
        | Word::Domstate { guest, .. }
        | Word::Domblklist { guest }
        | Word::Domiflist { guest }
        | Word::Domifaddr { guest }
        | Word::Vcpuinfo { guest } => {
            let (detail, text): (Detail, _) = client.json(Method::GET, &format!("/v1/guests/{guest}")).await?;
            if json { text } else { about(&detail, word) }
        }
        // Done elsewhere.
        _ => String::new(),
    };
    // Whoever closes the pipe has seen enough.
    let _ = writeln!(stdout(), "{}", text.trim_end_matches('\n'));
    Ok(())
}

/// Of a guest that runs by another definition than its next start goes by.
const PENDING: &str = "it was defined anew since it started: that goes from its next start on";

fn list(guests: &[Guest], all: bool) -> String {
    let shown = guests.iter().filter(|guest| all || guest.state.is_active());
    let rows: Vec<Vec<String>> = shown
        .map(|guest| {
            let ready = or_dash(guest.ready_s.map(|seconds| format!("{seconds:.2} s")));
            let state = format!("{}{}", guest.state, if guest.waits { " *" } else { "" });
            vec![or_dash(guest.pid), guest.name.clone(), state, ready]
        })
        .collect();
    let mut text = table(&["Id", "Name", "State", "Ready"], &rows);
    if guests.iter().any(|guest| guest.waits) {
        text += &format!("* {PENDING}\n");
    }
    text
}

fn about(detail: &Detail, word: &Word) -> String {
    let guest = &detail.guest;
    match word {
        Word::Domstate { reason: false, .. } => guest.state.to_string(),
        Word::Domstate { reason: true, .. } => format!("{} ({})", guest.state, guest.reason),
        Word::Domblklist { .. } => {
            let rows: Vec<_> = detail
                .disks
                .iter()
                .map(|disk| {
                    let access = if disk.read_only { "read-only" } else { "read-write" };
                    vec![disk.target.clone(), disk.source.clone(), access.to_owned()]
                })
                .collect();
            table(&["Target", "Source", "Access"], &rows)
        }
        Word::Domiflist { .. } => {
            let rows: Vec<_> = detail
                .interfaces
                .iter()
                .map(|it| {
                    let (address, vlan) = (or_dash(it.address.as_deref()), or_dash(it.vlan));
                    let model = "virtio".to_owned();
                    vec![it.name.clone(), it.kind.clone(), it.source.clone(), model, it.mac.clone(), address, vlan]
                })
                .collect();
            table(&["Interface", "Type", "Source", "Model", "MAC", "Address", "VLAN"], &rows)
        }
        Word::Domifaddr { .. } => {
            let rows: Vec<_> = detail.interfaces.iter().map(address).collect();
            table(&["Interface", "MAC", "Protocol", "Address"], &rows)
        }
        Word::Vcpuinfo { .. } => {
            let rows: Vec<_> = detail
                .processors
                .iter()
                .map(|it| {
                    let list: Vec<_> = it.affinity.iter().map(u16::to_string).collect();
                    let affinity = if list.is_empty() { "all".to_owned() } else { list.join(",") };
                    vec![it.vcpu.to_string(), guest.state.to_string(), affinity]
                })
                .collect();
            table(&["VCPU", "State", "CPU Affinity"], &rows)
        }
        _ => pairs(&[
            ("Id", or_dash(guest.pid)),
            ("Name", guest.name.clone()),
            ("Image", or_dash(detail.image.as_ref())),
            ("State", format!("{} ({})", guest.state, guest.reason)),
            ("CPU(s)", guest.vcpus.to_string()),
            ("Memory", format!("{} MiB", guest.memory_mib)),
            ("Uptime", or_dash(guest.uptime_s.map(|seconds| format!("{seconds:.0} s")))),
            ("Ready after", or_dash(guest.ready_s.map(|seconds| format!("{seconds:.2} s")))),
            ("Autostart", if guest.autostart { "enable" } else { "disable" }.to_owned()),
            ("Starts", guest.starts.to_string()),
            ("Defined", guest.defined.words().to_owned()),
            ("Pending", (if guest.waits { PENDING } else { "-" }).to_owned()),
        ]),
    }
}

/// Of an interface that is given no address, nobody here knows what it has.
fn address(it: &Interface) -> Vec<String> {
    let family = it.address.as_ref().map(|address| if address.contains(':') { "ipv6" } else { "ipv4" });
    vec![it.name.clone(), it.mac.clone(), or_dash(family), or_dash(it.address.as_deref())]
}

fn inside_lines(inside: &Inside) -> String {
    let said = &inside.said;
    let [one, five, fifteen] = said.load;
    let side = if inside.ahead_s < 0.0 { "behind" } else { "ahead of" };
    let addresses: Vec<_> = said.addresses.iter().map(ToString::to_string).collect();
    pairs(&[
        ("Uptime", format!("{:.0} s", said.uptime_s)),
        ("Load", format!("{one:.2} {five:.2} {fifteen:.2}")),
        ("Memory", format!("{} KiB", said.memory_kib)),
        ("Available", format!("{} KiB", said.available_kib)),
        ("Clock", format!("{:.2} s {side} the host's", inside.ahead_s.abs())),
        ("Addresses", if addresses.is_empty() { "-".to_owned() } else { addresses.join(" ") }),
    ])
}

/// `NAME COUNT` a line, in KiB, as `virsh` has it. What is not known is left out.
fn memory_lines(stats: &Stats) -> String {
    let mib = |mib: u64| mib * (MIB / KIB);
    let balloon = stats.balloon.as_ref().map(|it| (mib(it.actual_mib.into()), mib(it.target_mib.into())));
    // What a balloon holds is not the guest's for as long.
    let actual = mib(stats.memory_mib).saturating_sub(balloon.map_or(0, |(current, _)| current));
    let lines = [
        ("actual", Some(actual)),
        ("rss", stats.rss_bytes.map(|bytes| bytes / KIB)),
        ("balloon.current", balloon.map(|(current, _)| current)),
        ("balloon.target", balloon.map(|(_, target)| target)),
        ("cgroup.current", stats.memory_bytes.map(|bytes| bytes / KIB)),
        ("cgroup.limit", stats.memory_limit_bytes.map(|bytes| bytes / KIB)),
    ];
    lines.iter().filter_map(|(name, count)| Some(format!("{name} {}\n", (*count)?))).collect()
}

async fn domstats(client: &Client, named: &[String], json: bool) -> Result<String, Failure> {
    let names = if named.is_empty() {
        let (guests, _): (Guests, _) = client.json(Method::GET, "/v1/guests").await?;
        guests.guests.into_iter().filter(|guest| guest.state.is_active()).map(|guest| guest.name).collect()
    } else {
        named.to_vec()
    };
    let mut shown = Vec::new();
    for name in names {
        let (stats, text): (Stats, _) = client.json(Method::GET, &format!("/v1/guests/{name}/stats")).await?;
        shown.push(if json { text } else { stats_lines(&stats) });
    }
    Ok(shown.join("\n"))
}

/// `name.count=value` a line, as scripts take it apart.
fn stats_lines(stats: &Stats) -> String {
    let mut lines = vec![format!("Domain: '{}'", stats.name), format!("  state={}", stats.state)];
    let mut line = |name: String, value: u64| lines.push(format!("  {name}={value}"));
    if let Some(time) = stats.cpu_us {
        line("cpu.time_us".to_owned(), time);
    }
    if let Some(bytes) = stats.memory_bytes {
        line("memory.bytes".to_owned(), bytes);
    }
    if let Some(bytes) = stats.memory_limit_bytes {
        line("memory.limit_bytes".to_owned(), bytes);
    }
    if let Some(bytes) = stats.rss_bytes {
        line("memory.rss_bytes".to_owned(), bytes);
    }
    for (index, exits) in stats.vcpu_exits.iter().enumerate() {
        line(format!("vcpu.{index}.exits"), *exits);
    }
    for (index, disk) in stats.disks.iter().enumerate() {
        for (name, value) in [
            ("bytes", disk.bytes),
            ("rd.reqs", disk.reads),
            ("rd.bytes", disk.read_bytes),
            ("wr.reqs", disk.writes),
            ("wr.bytes", disk.written_bytes),
            ("fl.reqs", disk.flushes),
            ("errors", disk.errors),
            ("waiting", disk.waiting),
        ] {
            line(format!("block.{index}.{name}"), value);
        }
    }
    for (index, net) in stats.interfaces.iter().enumerate() {
        for (name, value) in [
            ("rx.bytes", net.received_bytes),
            ("rx.pkts", net.received),
            ("tx.bytes", net.sent_bytes),
            ("tx.pkts", net.sent),
        ] {
            line(format!("net.{index}.{name}"), value);
        }
    }
    if let Some(balloon) = &stats.balloon {
        line("balloon.target_mib".to_owned(), balloon.target_mib.into());
        line("balloon.actual_mib".to_owned(), balloon.actual_mib.into());
    }
    lines.join("\n") + "\n"
}

fn tasks_table(tasks: &[Task]) -> String {
    let rows: Vec<_> = tasks
        .iter()
        .map(|task| {
            vec![task.id.clone(), task.guest.clone(), task.verb.name().to_owned(), state(task), task.progress.clone()]
        })
        .collect();
    table(&["Id", "Guest", "Task", "State", "Progress"], &rows)
}

fn audit_lines(audit: &Audit) -> String {
    let line = |entry: &thimble_spec::api::audit::Entry| {
        let refused = entry.refused.as_ref().map(|why| format!(": refused: {why}")).unwrap_or_default();
        let (who, when) = (&entry.who, timestamp(std::time::Duration::from_millis(entry.time_ms)));
        format!("{when} {who}: {}{refused}\n", entry.what)
    };
    audit.entries.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::api::guest::State;
    use thimble_spec::vmm::BalloonStats;

    #[test]
    fn a_list_has_those_that_run_or_all() {
        let guest = |name: &str, state, pid| Guest {
            name: name.to_owned(),
            state,
            reason: "booted".to_owned(),
            pid,
            uptime_s: None,
            ready_s: pid.map(|_| 3.214),
            starts: 1,
            autostart: true,
            defined: thimble_spec::api::guest::Origin::Image,
            waits: false,
            vcpus: 1,
            memory_mib: 96,
        };
        let guests = [guest("web1", State::Running, Some(512)), guest("web2", State::Off, None)];
        assert_eq!(
            list(&guests, true),
            " Id    Name   State      Ready\n\
             ---------------------------------\n \
             512   web1   running    3.21 s\n \
             -     web2   shut off   -\n"
        );
        assert!(!list(&guests, false).contains("web2"));
    }
    #[test]
    fn an_interface_has_the_address_that_it_is_given() {
        let of = |address: Option<&str>| Interface {
            name: "tap-web1".to_owned(),
            kind: "bridge".to_owned(),
            source: "br0".to_owned(),
            mac: "52:54:00:00:00:01".to_owned(),
            address: address.map(str::to_owned),
            vlan: None,
        };
        let shown = |given| address(&of(given))[2..].join(" ");
        assert_eq!(shown(Some("10.1.1.11/24")), "ipv4 10.1.1.11/24");
        assert_eq!(shown(Some("fd00::11/64")), "ipv6 fd00::11/64");
        assert_eq!(shown(None), "- -");
    }

    #[test]
    fn memory_is_counted_in_kib_and_what_is_not_known_is_left_out() {
        let mut stats = Stats {
            name: "web1".to_owned(),
            state: State::Running,
            cpu_us: None,
            memory_bytes: Some(48 << 20),
            memory_limit_bytes: Some(128 << 20),
            rss_bytes: Some(50 << 10),
            memory_mib: 64,
            vcpu_exits: vec![],
            disks: vec![],
            nets: vec![],
            interfaces: vec![],
            balloon: None,
        };
        assert_eq!(memory_lines(&stats), "actual 65536\nrss 50\ncgroup.current 49152\ncgroup.limit 131072\n");
        stats.balloon = Some(BalloonStats { target_mib: 32, actual_mib: 16, reported_bytes: 0 });
        (stats.rss_bytes, stats.memory_bytes, stats.memory_limit_bytes) = (None, None, None);
        assert_eq!(memory_lines(&stats), "actual 49152\nballoon.current 16384\nballoon.target 32768\n");
    }
}
