//! Guests whose disk is on declared storage wait for it.

use std::path::Path;
use std::time::Duration;

use thimble_spec::appliance::{Guest, GuestBoot, GuestDisk, Storage};
use thimble_spec::paths::STORAGE_STATE;
use thimble_storage::state::State;
use tokio::time::sleep;

use crate::{plan, say};

/// Time between two looks at what is there.
const INTERVAL: Duration = Duration::from_millis(200);

/// What a guest needs of the storage, each once.
pub fn needs(storage: &Storage, guest: &Guest) -> Vec<String> {
    let own = plan::own_disk(guest).map(|path| path.display().to_string());
    let backing = guest.disk.as_ref().and_then(|disk: &GuestDisk| disk.backing.clone());
    let kernel = guest.boot.iter().flat_map(GuestBoot::files);
    let mut needs: Vec<String> = own
        .iter()
        .chain(&backing)
        .map(String::as_str)
        .chain(kernel)
        .filter_map(|path| storage.under(path).map(str::to_owned))
        .collect();
    needs.dedup();
    needs
}

/// A guest on a thin volume goes around the page cache: what that has taken and the pool has no room for would be lost, where
/// the guest itself can wait.
pub fn around_cache(storage: &Storage, mut guest: Guest) -> Guest {
    let thin = plan::own_disk(&guest).is_some_and(|path| path.to_str().is_some_and(|path| storage.is_thin(path)));
    if let Some(disk) = guest.disk.as_mut().filter(|_| thin) {
        disk.direct = true;
    }
    guest
}

/// Waits until all of it is there, for ever if it must be. What is not there when everything was tried is told once.
pub async fn wait(guest: &str, needs: &[String]) {
    let mut told = false;
    loop {
        let state = State::read(Path::new(STORAGE_STATE));
        let Some(missing) = needs.iter().find(|path| !state.has(path)) else { return };
        if state.settled && !told {
            told = true;
            say::error(&format!(
                "guest {guest} waits for {missing}: see what is said of storage above, and thimble-node storage status"
            ));
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::definition;

    #[test]
    fn a_guest_needs_the_device_or_the_mount_that_its_disk_is_on() {
        let text = |disk: &str| {
            format!(
                r#"
                [appliance]
                name = "a"
                [kernel.host]
                package = "linux"
                hardware = []
                [kernel.guest]
                source = "linux"
                fragments = []
                [storage.disks.c]
                match = {{ serial = "c" }}
                [[storage.raid]]
                name = "data"
                level = 1
                members = ["/dev/sda", "/dev/sdb"]
                [[storage.filesystem]]
                device = "/dev/sdc"
                kind = "ext4"
                mount = "/data/guests"
                [[storage.volume-group]]
                name = "vg"
                members = ["/dev/sdd"]
                volumes = [
                    {{ name = "pool", size = "64MiB", thin-pool = true }},
                    {{ name = "thin", size = "64MiB", pool = "pool" }},
                ]
                [[guest]]
                name = "web1"
                image = "web"
                memory = "64MiB"
                disk = {disk}
                "#
            )
        };
        for (disk, needed) in [
            ("{ device = \"/dev/md/data\" }", Some("/dev/md/data")),
            ("{ device = \"c\" }", Some("/dev/thimble/c")),
            ("{ size = \"16MiB\" }", Some("/data/guests")),
            ("{ file = \"/data/guests2/x\" }", None),
            ("{ device = \"/dev/sdz\" }", None),
            ("{ device = \"/dev/vg/thin\" }", Some("/dev/vg/thin")),
        ] {
            let appliance = definition::parse("a.toml", &text(disk)).unwrap_or_else(|it| panic!("{it}")).appliance;
            assert_eq!(needs(&appliance.storage, &appliance.guests[0]), Vec::from_iter(needed), "{disk}");
            let around = around_cache(&appliance.storage, appliance.guests[0].clone());
            assert_eq!(around.disk.is_some_and(|disk| disk.direct), disk.contains("thin"), "{disk}");
        }
    }
}
