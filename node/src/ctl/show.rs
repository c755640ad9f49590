//! What is looked at: `list`, `dominfo`, `domstate`, `domstats`, `domblklist`, `domiflist`, `vcpuinfo`, `dumpconfig`,
//! `nodeinfo`, `hardware`, `tasks`, `audit`, `log`, `report`.

use std::io::{Write, stdout};

use hyper::Method;
use thimble_spec::api::audit::Audit;
use thimble_spec::api::guest::{Detail, Guest, Guests, Stats};
use thimble_spec::api::node::{Hardware, Node, PciDevice};
use thimble_spec::api::task::{Task, Tasks};

use super::client::Client;
use super::failure::Failure;
use super::table::{or_dash, pairs, state, table};
use super::words::Word;
use super::{log, report};
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
        Word::Nodeinfo => {
            let (node, text): (Node, _) = client.json(Method::GET, "/v1/node").await?;
            if json { text } else { nodeinfo(&node) }
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
        Word::Dumpconfig { guest, inactive } => {
            let path = format!("/v1/guests/{guest}/{}", if *inactive { "definition" } else { "config" });
            let (value, text): (serde_json::Value, _) = client.json(Method::GET, &path).await?;
            if json { text } else { serde_json::to_string_pretty(&value).unwrap_or(text) }
        }
        Word::Log { guest: Some(guest) } => log::guest(client, guest, json).await?,
        Word::Log { guest: None } if client.is_here() => return log::host(json),
        Word::Log { guest: None } => log::text(&log::of_node(client).await?, json)?,
        Word::Hardware => {
            let (hardware, text): (Hardware, _) = client.json(Method::GET, "/v1/node/hardware").await?;
            if json { text } else { hardware.pci.iter().map(pci_line).collect() }
        }
        Word::Report { output } => report::run(client, output.as_deref(), json).await?,
        Word::Dominfo { guest }
        | Word::Domstate { guest, .. }
        | Word::Domblklist { guest }
        | Word::Domiflist { guest }
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

/// As `lspci -Dnmm` has it, which `thimble hardware` reads.
fn pci_line(it: &PciDevice) -> String {
    let (class, interface) = (it.class >> 8, it.class & 0xff);
    let mut line = format!(
        "{} \"{class:04x}\" \"{:04x}\" \"{:04x}\" -r{:02x} -p{interface:02x} \"{:04x}\" \"{:04x}\"",
        it.slot, it.vendor, it.device, it.revision, it.subsystem_vendor, it.subsystem_device
    );
    line.push('\n');
    line
}

fn nodeinfo(node: &Node) -> String {
    let [one, five, fifteen] = node.load;
    pairs(&[
        ("Name", node.name.clone()),
        ("Thimble", node.version.clone()),
        ("Manifest", or_dash(node.manifest.as_deref())),
        ("Kernel", node.kernel.clone()),
        ("CPU model", node.cpu_model.clone()),
        ("CPU(s)", node.cpus.to_string()),
        ("Memory size", format!("{} MiB", node.memory_mib)),
        ("Memory available", format!("{} MiB", node.memory_available_mib)),
        ("Uptime", format!("{:.0} s", node.uptime_s)),
        ("Load", format!("{one:.2} {five:.2} {fifteen:.2}")),
        ("Guests", format!("{}, {} run", node.guests, node.running)),
    ])
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
            ("Image", detail.image.clone()),
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
}
