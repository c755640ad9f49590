//! Snapshots of a guest's disk: `snapshot-create`, `snapshot-list`, `snapshot-revert`, `snapshot-delete`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use thimble_spec::api::snapshot::{Snapshot, Snapshots};

use super::client::Client;
use super::failure::Failure;
use super::table::{or_dash, table};
use super::task;
use super::volumes::mib;
use super::words::Word;
use crate::syslog::format::timestamp;

/// Makes one, or gives a disk back; follows that to its end.
///
/// # Errors
/// The node refuses or is not there, or it takes longer than `limit`: then it goes on.
pub async fn make(client: &Client, word: &Word, limit: Option<Duration>, json: bool) -> Result<(), Failure> {
    let deadline = task::deadline(limit);
    let (guest, name, end) = match word {
        Word::SnapshotRevert { guest, snapshot } => (guest, snapshot.clone(), "/revert"),
        Word::SnapshotCreate { guest, snapshot } => (guest, snapshot.clone().unwrap_or_else(by_the_clock), ""),
        _ => return Ok(()),
    };
    let path = format!("/v1/guests/{guest}/snapshots/{name}{end}");
    let begun = client.json(Method::POST, &path).await?;
    let (task, text) = task::follow(client, begun, deadline, json).await?;
    match word {
        _ if json => println!("{text}"),
        Word::SnapshotRevert { .. } => println!("the disk of guest {guest} is that of snapshot {name}"),
        _ => println!("snapshot {name} of guest {guest}: {}", task.progress),
    }
    Ok(())
}

/// Shows them, or takes one away.
///
/// # Errors
/// The node refuses or is not there.
pub async fn shown(client: &Client, word: &Word, json: bool) -> Result<String, Failure> {
    match word {
        Word::SnapshotDelete { guest, snapshot } => {
            let path = format!("/v1/guests/{guest}/snapshots/{snapshot}");
            let (_, text): (Snapshot, _) = client.json(Method::DELETE, &path).await?;
            Ok(if json { text } else { format!("snapshot {snapshot} of guest {guest} is deleted") })
        }
        Word::SnapshotList { guest } => {
            let (all, text): (Snapshots, _) =
                client.json(Method::GET, &format!("/v1/guests/{guest}/snapshots")).await?;
            Ok(if json { text } else { listed(&all.snapshots) })
        }
        _ => Ok(String::new()),
    }
}

/// The seconds since 1970.
fn by_the_clock() -> String {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string()
}

fn listed(snapshots: &[Snapshot]) -> String {
    let row = |it: &Snapshot| {
        let made = timestamp(Duration::from_millis(it.made_ms));
        vec![it.name.clone(), made, it.moment.to_string(), mib(it.size), or_dash(it.allocated.map(mib))]
    };
    table(&["Name", "Made", "Moment", "Size", "Allocated"], &snapshots.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::api::snapshot::Moment;

    #[test]
    fn snapshots_are_a_table() {
        let snapshot = Snapshot {
            name: "before".to_owned(),
            made_ms: 0,
            moment: Moment::Frozen,
            size: 64 << 20,
            allocated: Some(3 << 19),
        };
        let text = listed(&[snapshot.clone(), Snapshot { allocated: None, ..snapshot }]);
        assert!(text.contains("frozen   64.0 MiB   1.5 MiB\n"), "{text}");
        assert!(text.contains("frozen   64.0 MiB   -\n") && text.contains("1970-01-01T00:00:00"), "{text}");
        assert!(thimble_spec::names::check_name(&by_the_clock()).is_ok());
    }
}
