//! `thimblectl top`: what the guests take, again and again.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use hyper::Method;
use thimble_spec::api::guest::{Guests, Stats};
use tokio::time::{Instant, sleep_until};

use super::client::Client;
use super::failure::Failure;
use super::table::table;

/// Clears a terminal and begins at its top (ECMA-48, 8.3.39 and 8.3.21).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows it until it has done so `count` times.
///
/// # Errors
/// The node refuses or is not there.
pub async fn run(client: &Client, delay: Duration, count: Option<u64>, json: bool) -> Result<(), Failure> {
    let mut before: BTreeMap<String, Stats> = BTreeMap::new();
    let mut looked = Instant::now();
    // The first look has nothing to compare with.
    let mut left = count.unwrap_or(u64::MAX).saturating_add(1);
    loop {
        let now = look(client).await?;
        let passed = looked.elapsed();
        looked = Instant::now();
        if !before.is_empty() || now.is_empty() {
            let text = if json { lines(&now) } else { shown(&before, &now, passed) };
            let clear = if stdout().is_terminal() && !json { CLEAR } else { "" };
            let mut out = stdout().lock();
            if write!(out, "{clear}{text}").and_then(|()| out.flush()).is_err() {
                // Whoever closes the pipe has seen enough.
                return Ok(());
            }
        }
        left -= 1;
        if left == 0 {
            return Ok(());
        }
        before = now;
        sleep_until(looked + delay).await;
    }
}

async fn look(client: &Client) -> Result<BTreeMap<String, Stats>, Failure> {
    let (guests, _): (Guests, _) = client.json(Method::GET, "/v1/guests").await?;
    let mut all = BTreeMap::new();
    for guest in guests.guests.into_iter().filter(|guest| guest.state.is_active()) {
        // One that ended in between is not shown.
        if let Ok((stats, _)) = client.json(Method::GET, &format!("/v1/guests/{}/stats", guest.name)).await {
            all.insert(guest.name, stats);
        }
    }
    Ok(all)
}

fn lines(now: &BTreeMap<String, Stats>) -> String {
    now.values().filter_map(|stats| serde_json::to_string(stats).ok()).map(|line| line + "\n").collect()
}

/// Bytes read and written, received and sent.
fn moved(stats: &Stats) -> [u64; 4] {
    let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.sum();
    [
        sum(&mut stats.disks.iter().map(|disk| disk.read_bytes)),
        sum(&mut stats.disks.iter().map(|disk| disk.written_bytes)),
        sum(&mut stats.interfaces.iter().map(|net| net.received_bytes)),
        sum(&mut stats.interfaces.iter().map(|net| net.sent_bytes)),
    ]
}

/// What changed between two looks, as so much a second.
fn shown(before: &BTreeMap<String, Stats>, now: &BTreeMap<String, Stats>, passed: Duration) -> String {
    let seconds = passed.as_secs_f64().max(0.001);
    let rows: Vec<Vec<String>> = now
        .iter()
        .map(|(name, stats)| {
            let last = before.get(name).unwrap_or(stats);
            let cpu_us = stats.cpu_us.unwrap_or_default().saturating_sub(last.cpu_us.unwrap_or_default());
            let mut row = vec![
                name.clone(),
                stats.state.to_string(),
                format!("{:.1}", cpu_us as f64 / 10_000.0 / seconds),
                (stats.memory_bytes.unwrap_or_default() >> 20).to_string(),
            ];
            let rates = moved(stats).into_iter().zip(moved(last));
            row.extend(rates.map(|(now, last)| format!("{:.0}", now.saturating_sub(last) as f64 / 1024.0 / seconds)));
            row
        })
        .collect();
    let head = ["Name", "State", "CPU %", "MiB", "Read KiB/s", "Write KiB/s", "Receive KiB/s", "Send KiB/s"];
    table(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::api::guest::State;

    #[test]
    fn rates_are_what_changed() {
        let stats = |cpu_us, sent_bytes| {
            let interfaces = vec![thimble_spec::api::guest::Counters { sent_bytes, ..Default::default() }];
            let stats = Stats {
                name: "web1".to_owned(),
                state: State::Running,
                cpu_us: Some(cpu_us),
                memory_bytes: Some(64 << 20),
                memory_limit_bytes: None,
                rss_bytes: None,
                memory_mib: 64,
                vcpu_exits: vec![],
                disks: vec![],
                nets: vec![],
                interfaces,
                balloon: None,
            };
            BTreeMap::from([("web1".to_owned(), stats)])
        };
        let text = shown(&stats(1_000_000, 0), &stats(2_000_000, 4096), Duration::from_secs(2));
        let row: Vec<_> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(row, ["web1", "running", "50.0", "64", "0", "0", "0", "2"]);
    }
}
