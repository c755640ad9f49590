//! Metrics for Prometheus, in its text format 0.0.4 (its documentation, "Exposition formats"): `docs/metrics.md` has their names.
//!
//! Names end with their unit, and those that only grow with `_total`; what a name means does not change.

use std::fmt::Write as _;
use std::time::Duration;

use hyper::{Method, Response, StatusCode};
use thimble_spec::api::guest::{Guest, State, Stats};
use thimble_spec::api::node::{Node, Temperature};
use thimble_spec::api::task;
use thimble_spec::units::MIB;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{guests, node, stats};
use crate::api::answer::{self, Content};
use crate::api::call::{Call, Refusal};
use crate::api::peer::Role;
use crate::api::routes::{Gives, Route};
use crate::life::Entry;

/// Its routes.
pub const ROUTES: &[Route] = &[Route {
    method: Method::GET,
    path: "/metrics",
    role: Role::Read,
    summary: "Metrics in the text format of Prometheus",
    query: &[],
    gives: Gives::Kind("text/plain"),
    serve: |call| Box::pin(get(call)),
}];

/// The media type of the format.
const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long all VMMs may take together to answer; Prometheus itself waits for ten seconds. One that does not answer in time is
/// left out.
const LIMIT: Duration = Duration::from_secs(5);
/// What a guest's states are called: the same as in JSON.
const STATES: [(State, &str); 5] = [
    (State::Off, "off"),
    (State::Starting, "starting"),
    (State::Running, "running"),
    (State::Paused, "paused"),
    (State::ShuttingDown, "shutting-down"),
];

async fn get(call: Call) -> Result<Response<Content>, Refusal> {
    let api = &call.api;
    let guests = guests::list(api).guests;
    let stats = stats(&call).await;
    let tasks: Vec<task::State> = api.tasks.all().iter().map(|task| task.state).collect();
    let text = text(&node::node(api), &guests, &stats, &tasks, api.events.newest());
    Ok(answer::whole(StatusCode::OK, KIND, text))
}

/// Those of all guests that run, in the order of the definition.
async fn stats(call: &Call) -> Vec<Stats> {
    let mut asked = JoinSet::new();
    let running = |entry: &Entry| entry.life.borrow().state.is_active();
    for (index, entry) in call.api.guests().into_iter().enumerate().filter(|(_, entry)| running(entry)) {
        asked.spawn(async move { (index, stats::of(&entry).await.ok()) });
    }
    let mut all = Vec::new();
    let answers = async {
        while let Some(answer) = asked.join_next().await {
            if let Ok((index, Some(stats))) = answer {
                all.push((index, stats));
            }
        }
    };
    let _ = timeout(LIMIT, answers).await;
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, stats)| stats).collect()
}

/// The text, a metric behind the other.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    /// Begins a metric; its samples follow.
    fn metric(&mut self, name: &'static str, kind: &str, help: &str) -> Metric<'_> {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Metric { text: &mut self.0, name }
    }

    fn gauge(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.metric(name, "gauge", help)
    }

    fn counter(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.metric(name, "counter", help)
    }
}

struct Metric<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Metric<'_> {
    fn is(&mut self, labels: &[(&str, &str)], value: f64) {
        let shown: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if shown.is_empty() { String::new() } else { format!("{{{}}}", shown.join(",")) };
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }
}

/// The value of a label: a backslash, a quotation mark and a line's end are written with a backslash.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn text(node: &Node, guests: &[Guest], stats: &[Stats], tasks: &[task::State], events: u64) -> String {
    let mut text = Text::default();
    host(&mut text, node);
    of_guests(&mut text, guests);
    of_stats(&mut text, stats);
    let mut metric = text.gauge("thimble_tasks", "Tasks that are remembered, by state.");
    for (state, name) in [
        (task::State::Running, "running"),
        (task::State::Done, "done"),
        (task::State::Failed, "failed"),
        (task::State::Cancelled, "cancelled"),
    ] {
        metric.is(&[("state", name)], tasks.iter().filter(|task| **task == state).count() as f64);
    }
    text.counter("thimble_events_total", "Events since the daemon started.").is(&[], events as f64);
    text.0
}

fn host(text: &mut Text, node: &Node) {
    let manifest = node.manifest.as_deref().unwrap_or_default();
    text.gauge("thimble_info", "The appliance, and what runs it; the value is 1.").is(
        &[("appliance", &node.name), ("version", &node.version), ("manifest", manifest), ("kernel", &node.kernel)],
        1.0,
    );
    for (name, help, value) in [
        ("thimble_host_uptime_seconds", "Time since the host started.", node.uptime_s),
        ("thimble_host_load1", "Processes that want to run, on average over a minute.", node.load[0]),
        ("thimble_host_load5", "Processes that want to run, on average over 5 minutes.", node.load[1]),
        ("thimble_host_load15", "Processes that want to run, on average over 15 minutes.", node.load[2]),
        ("thimble_host_cpus", "Processors of the host.", f64::from(node.cpus)),
        ("thimble_host_memory_bytes", "Memory of the host.", (node.memory_mib * MIB) as f64),
        (
            "thimble_host_memory_available_bytes",
            "Memory of the host that can still be had.",
            (node.memory_available_mib * MIB) as f64,
        ),
    ] {
        text.gauge(name, help).is(&[], value);
    }
    let mut metric = text.gauge("thimble_host_temperature_celsius", "What a sensor of the host says.");
    for Temperature { chip, sensor, celsius } in &node.temperatures {
        metric.is(&[("chip", chip), ("sensor", sensor)], *celsius);
    }
}

fn of_guests(text: &mut Text, guests: &[Guest]) {
    let mut metric = text.gauge("thimble_guest_state", "1 for the state that the guest is in, 0 for the others.");
    for guest in guests {
        for (state, name) in STATES {
            let value = f64::from(u8::from(guest.state == state));
            metric.is(&[("guest", &guest.name), ("state", name)], value);
        }
    }
    let mut each = |name, kind, help, value: &dyn Fn(&Guest) -> Option<f64>| {
        let mut metric = text.metric(name, kind, help);
        for guest in guests {
            if let Some(value) = value(guest) {
                metric.is(&[("guest", &guest.name)], value);
            }
        }
    };
    each("thimble_guest_starts_total", "counter", "Starts since the daemon started.", &|it| Some(it.starts as f64));
    each("thimble_guest_uptime_seconds", "gauge", "Time since the guest's VMM started.", &|it| it.uptime_s);
    each("thimble_guest_ready_seconds", "gauge", "Time that the guest took until its services were ready.", &|it| {
        it.ready_s
    });
    each("thimble_guest_vcpus", "gauge", "Processors of the guest.", &|it| Some(f64::from(it.vcpus)));
    each("thimble_guest_memory_bytes", "gauge", "Memory of the guest.", &|it| Some((it.memory_mib * MIB) as f64));
}

fn of_stats(text: &mut Text, stats: &[Stats]) {
    let mut metric = text
        .counter("thimble_guest_cpu_seconds_total", "Time of the host's processors that the guest and its VMM took.");
    for guest in stats {
        if let Some(time) = guest.cpu_us {
            metric.is(&[("guest", &guest.name)], time as f64 / 1e6);
        }
    }
    let mut metric = text.gauge("thimble_guest_memory_used_bytes", "Memory of the host that the guest holds.");
    for guest in stats {
        if let Some(bytes) = guest.memory_bytes {
            metric.is(&[("guest", &guest.name)], bytes as f64);
        }
    }
    type OfDisk = fn(&thimble_spec::vmm::DiskStats) -> u64;
    let disks: [(_, _, OfDisk); 5] = [
        ("thimble_guest_disk_read_bytes_total", "Bytes that the guest read from its disk.", |disk| disk.read_bytes),
        ("thimble_guest_disk_written_bytes_total", "Bytes that the guest wrote to its disk.", |disk| {
            disk.written_bytes
        }),
        ("thimble_guest_disk_reads_total", "Reads of the guest from its disk.", |disk| disk.reads),
        ("thimble_guest_disk_writes_total", "Writes of the guest to its disk.", |disk| disk.writes),
        ("thimble_guest_disk_errors_total", "Requests of the guest to its disk that failed.", |disk| disk.errors),
    ];
    for (name, help, value) in disks {
        let mut metric = text.counter(name, help);
        for guest in stats {
            for (letter, disk) in ('a'..='z').zip(&guest.disks) {
                metric.is(&[("guest", &guest.name), ("disk", &format!("vd{letter}"))], value(disk) as f64);
            }
        }
    }
    type OfInterface = fn(&thimble_spec::api::guest::Counters) -> u64;
    let interfaces: [(_, _, OfInterface); 4] = [
        ("thimble_guest_network_receive_bytes_total", "Bytes that the guest received.", |it| it.received_bytes),
        ("thimble_guest_network_receive_packets_total", "Packets that the guest received.", |it| it.received),
        ("thimble_guest_network_transmit_bytes_total", "Bytes that the guest sent.", |it| it.sent_bytes),
        ("thimble_guest_network_transmit_packets_total", "Packets that the guest sent.", |it| it.sent),
    ];
    for (name, help, value) in interfaces {
        let mut metric = text.counter(name, help);
        for guest in stats {
            for interface in &guest.interfaces {
                metric.is(&[("guest", &guest.name), ("interface", &interface.name)], value(interface) as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use thimble_spec::api::guest::Counters;
    use thimble_spec::vmm::DiskStats;

    fn sample() -> String {
        let node = Node {
            name: "demo".to_owned(),
            version: "0.1.0".to_owned(),
            manifest: None,
            kernel: "6.1 \"x\"\\".to_owned(),
            cpu_model: String::new(),
            cpus: 2,
            memory_mib: 1024,
            memory_available_mib: 512,
            uptime_s: 1.5,
            load: [0.1, 0.2, 0.3],
            guests: 1,
            running: 1,
            temperatures: vec![Temperature { chip: "nvme".to_owned(), sensor: "Composite".to_owned(), celsius: 49.85 }],
        };
        let guest = Guest {
            name: "web1".to_owned(),
            state: State::Running,
            reason: "booted".to_owned(),
            pid: Some(7),
            uptime_s: Some(9.0),
            ready_s: None,
            starts: 3,
            autostart: true,
            defined: thimble_spec::api::guest::Origin::Image,
            waits: false,
            vcpus: 1,
            memory_mib: 64,
        };
        let stats = Stats {
            name: "web1".to_owned(),
            state: State::Running,
            cpu_us: Some(2_500_000),
            memory_bytes: Some(4096),
            memory_limit_bytes: None,
            rss_bytes: None,
            memory_mib: 64,
            vcpu_exits: vec![],
            disks: vec![DiskStats::default(), DiskStats { read_bytes: 512, ..DiskStats::default() }],
            nets: vec![],
            interfaces: vec![Counters { name: "tap-web1".to_owned(), sent: 5, ..Counters::default() }],
            balloon: None,
        };
        text(&node, &[guest], &[stats], &[task::State::Done], 4)
    }

    /// Reads the format: each line is a comment or `NAME{LABELS} VALUE`, and a metric is announced before its samples.
    #[test]
    fn the_text_is_what_prometheus_reads() {
        let text = sample();
        let (mut known, mut kind): (BTreeSet<&str>, &str) = (BTreeSet::new(), "");
        let mut current = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                (current, kind) = rest.split_once(' ').unwrap();
                assert!(known.insert(current), "{current} comes twice");
                assert_eq!(kind == "counter", current.ends_with("_total"), "{current}");
                assert!(kind == "counter" || kind == "gauge");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(rest.ends_with('.') || rest.ends_with('1'), "{rest}");
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            assert_eq!(name, current, "{line}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'));
            assert!(value.parse::<f64>().is_ok_and(|value| kind == "gauge" || value >= 0.0), "{line}");
        }
        assert!(text.ends_with('\n'));
        for wanted in [
            r#"thimble_info{appliance="demo",version="0.1.0",manifest="",kernel="6.1 \"x\"\\"} 1"#,
            r#"thimble_guest_state{guest="web1",state="running"} 1"#,
            r#"thimble_guest_state{guest="web1",state="paused"} 0"#,
            r#"thimble_guest_cpu_seconds_total{guest="web1"} 2.5"#,
            r#"thimble_guest_disk_read_bytes_total{guest="web1",disk="vdb"} 512"#,
            r#"thimble_guest_network_transmit_packets_total{guest="web1",interface="tap-web1"} 5"#,
            "thimble_host_memory_bytes 1073741824",
            r#"thimble_host_temperature_celsius{chip="nvme",sensor="Composite"} 49.85"#,
            r#"thimble_tasks{state="done"} 1"#,
        ] {
            assert!(text.lines().any(|line| line == wanted), "{wanted}\n{text}");
        }
        assert!(!text.contains("thimble_guest_ready_seconds{"), "what is not known is not said");
    }

    #[test]
    fn each_is_documented() {
        let page = include_str!("../../../../docs/metrics.md");
        for line in sample().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(
                page.contains(&format!("| `{name}` | {kind} |")),
                "docs/metrics.md says nothing of the {kind} {name}"
            );
        }
    }
}
