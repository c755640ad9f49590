//! The seed by which a guest with a kernel of its own is told who it is: a small read-only disk that cloud-init reads in any
//! distribution (<https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html>): a FAT file system with the
//! label `cidata`, and on it `meta-data`, `user-data` and `network-config`.
//!
//! They are YAML there, of which JSON is a part. What differs from start to start differs in `instance-id` alone: by that
//! cloud-init knows whether it has been here before.

use std::io::{Cursor, Write};

use anyhow::Result;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::{Map, Value, json};
use thimble_spec::appliance::{Guest, GuestBoot, GuestNetwork};

/// The serial number of the disk.
pub const SERIAL: &str = "cidata";
/// By which cloud-init finds it.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// What a FAT12 file system takes besides its files, generously: both tables, the root directory, ends of clusters.
const ROOM: usize = 64 << 10;
const SECTOR: usize = 512;
/// Where nothing else is said: nothing is to be done.
const NOTHING: &str = "#cloud-config\n{}\n";

/// The content of the guest's seed.
///
/// # Errors
/// The file system cannot be made of it.
pub fn of(guest: &Guest, boot: &GuestBoot) -> Result<Vec<u8>> {
    let network = guest.network.as_ref().and_then(network_config);
    let files = [
        ("meta-data", Some(meta_data(guest).to_string())),
        ("user-data", Some(boot.user_data.clone().unwrap_or_else(|| NOTHING.to_owned()))),
        ("network-config", network.map(|it| it.to_string())),
    ];
    let bytes: usize = files.iter().flat_map(|(_, text)| text).map(String::len).sum();
    let mut image = Cursor::new(vec![0; (bytes + ROOM).next_multiple_of(SECTOR)]);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat12)
        .bytes_per_cluster(SECTOR as u32)
        .max_root_dir_entries(32)
        .volume_id(0)
        .volume_label(LABEL);
    fatfs::format_volume(&mut image, options)?;
    let volume = FileSystem::new(&mut image, FsOptions::new())?;
    for (name, text) in files {
        if let Some(text) = text {
            volume.root_dir().create_file(name)?.write_all(text.as_bytes())?;
        }
    }
    volume.unmount()?;
    Ok(image.into_inner())
}

/// Who it is, and who may log in.
fn meta_data(guest: &Guest) -> Value {
    let identity = guest.parameters.identity.as_ref().unwrap_or(&guest.name);
    let mut data = json!({ "instance-id": identity, "local-hostname": guest.name });
    if !guest.parameters.ssh_keys.is_empty() {
        data["public-keys"] = json!(guest.parameters.ssh_keys);
    }
    data
}

/// Its address, in the second version of that format. Where it has none, cloud-init asks by DHCP on its own.
fn network_config(network: &GuestNetwork) -> Option<Value> {
    let mut card = Map::new();
    card.insert("match".to_owned(), json!({ "macaddress": network.mac }));
    card.insert("addresses".to_owned(), json!([network.address?]));
    if let Some(gateway) = network.gateway {
        card.insert("routes".to_owned(), json!([{ "to": "0.0.0.0/0", "via": gateway }]));
    }
    if !network.dns.is_empty() {
        card.insert("nameservers".to_owned(), json!({ "addresses": network.dns }));
    }
    if let Some(mtu) = network.mtu {
        card.insert("mtu".to_owned(), json!(mtu));
    }
    Some(json!({ "version": 2, "ethernets": { "eth0": card } }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    fn guest(keys: &str) -> Guest {
        Guest { image: None, ..crate::testing::guest(&format!("memory = \"64MiB\"\n{keys}")) }
    }

    fn boot(user_data: Option<&str>) -> GuestBoot {
        let user_data = user_data.map(str::to_owned);
        GuestBoot { kernel: "/data/vmlinuz".to_owned(), initrd: None, cmdline: String::new(), user_data }
    }

    fn read(image: Vec<u8>) -> Vec<(String, String)> {
        let volume = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        let entries = volume.root_dir().iter().map(|entry| entry.unwrap());
        entries
            .map(|entry| {
                let mut text = String::new();
                entry.to_file().read_to_string(&mut text).unwrap();
                (entry.file_name(), text)
            })
            .collect()
    }

    #[test]
    fn cloud_init_is_told_who_the_guest_is() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPxXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX me";
        let guest = guest(&format!(
            "ssh-keys = [\"{key}\"]\nidentity = \"7f3c\"\nnetwork = {{ bridge = \"br0\", address = \"10.1.1.11/24\", \
             gateway = \"10.1.1.1\", dns = [\"10.1.1.3\"], mac = \"02:00:00:00:00:0b\", mtu = 1400 }}"
        ));
        let files = read(of(&guest, &boot(Some("#!/bin/sh\necho me\n"))).unwrap());
        let text = |name: &str| files.iter().find(|(file, _)| file == name).map(|(_, text)| text.as_str()).unwrap();
        let value = |name: &str| serde_json::from_str::<Value>(text(name)).unwrap();
        assert_eq!(
            value("meta-data"),
            json!({ "instance-id": "7f3c", "local-hostname": "web1", "public-keys": [key] })
        );
        assert_eq!(text("user-data"), "#!/bin/sh\necho me\n");
        assert_eq!(
            value("network-config"),
            json!({ "version": 2, "ethernets": { "eth0": {
                "match": { "macaddress": "02:00:00:00:00:0b" }, "addresses": ["10.1.1.11/24"],
                "routes": [{ "to": "0.0.0.0/0", "via": "10.1.1.1" }], "nameservers": { "addresses": ["10.1.1.3"] },
                "mtu": 1400
            } } })
        );
    }

    #[test]
    fn who_has_no_address_asks_for_one() {
        for keys in ["", "network = { bridge = \"br0\" }"] {
            let files = read(of(&guest(keys), &boot(None)).unwrap());
            assert_eq!(files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["meta-data", "user-data"]);
            assert_eq!(files[0].1, r#"{"instance-id":"web1","local-hostname":"web1"}"#);
            assert_eq!(files[1].1, NOTHING);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_it_is_told_is_on_it(text in "#[ -~\n]{0,32000}") {
            let files = read(of(&guest(""), &boot(Some(&text))).unwrap());
            prop_assert_eq!(&files[1], &("user-data".to_owned(), text));
        }
    }
}
