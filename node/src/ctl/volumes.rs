//! Disks that the node has made: `vol-list`, `vol-create`, `vol-delete`.

use hyper::Method;
use thimble_spec::api::volume::{Volume, Volumes};

use super::client::Client;
use super::failure::Failure;
use super::table::table;
use super::words::Word;

/// Shows them, makes one, or takes one away.
///
/// # Errors
/// The node refuses or is not there.
pub async fn run(client: &Client, word: &Word, json: bool) -> Result<String, Failure> {
    if let Word::VolDelete { volume } = word {
        let (volume, text): (Volume, _) = client.json(Method::DELETE, &format!("/v1/volumes/{volume}")).await?;
        return Ok(if json { text } else { format!("{} is deleted", volume.path) });
    }
    if let Word::VolCreate { volume, size } = word {
        let path = format!("/v1/volumes/{volume}?size={size}");
        let (volume, text): (Volume, _) = client.json(Method::POST, &path).await?;
        return Ok(if json { text } else { format!("{} is made", volume.path) });
    }
    let (volumes, text): (Volumes, _) = client.json(Method::GET, "/v1/volumes").await?;
    Ok(if json { text } else { listed(&volumes.volumes) })
}

fn listed(volumes: &[Volume]) -> String {
    let row = |volume: &Volume| {
        let used = if volume.used { "yes" } else { "no" };
        vec![volume.name.clone(), mib(volume.size), mib(volume.allocated), used.to_owned(), volume.path.clone()]
    };
    table(&["Name", "Size", "Allocated", "Used", "Path"], &volumes.iter().map(row).collect::<Vec<_>>())
}

/// A size, for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_a_table() {
        let volume = Volume {
            name: "web1".to_owned(),
            path: "/data/guests/web1/disk.raw".to_owned(),
            size: 64 << 20,
            allocated: 3 << 19,
            used: true,
        };
        let text = listed(&[volume]);
        assert!(text.contains(" web1   64.0 MiB   1.5 MiB     yes    /data/guests/web1/disk.raw\n"), "{text}");
    }
}
