#![cfg(feature = "toml")]

use super::*;
use crate::appliance::GuestBoot;
use proptest::prelude::*;

const TEXT: &str = r#"
appliance = { name = "demo" }
node = { memory = "512MiB" }
kernel.host = { package = "linux-image-amd64", hardware = [] }
kernel.guest = { source = "linux-source-6.12", fragments = [] }
network.bridges.br0 = { address = "10.1.1.2/24", mac = "02:00:00:00:00:01" }
network.bridges.br1 = { vlan-filtering = true, ports = ["eth1"] }
network.interfaces.eth1 = {}
network.interfaces.eth2 = {}
[storage.disks.a]
match = { serial = "a" }
partitions = [{ name = "one", size = "100MiB" }, { name = "two" }]
[storage.disks.b]
match = { serial = "b" }
[[storage.filesystem]]
device = "a.one"
kind = "ext4"
mount = "/data/files"
[[guest]]
name = "web1"
image = "web"
memory = "64MiB"
vsock = {}
network = { bridge = "br0", address = "10.1.1.11/24", gateway = "10.1.1.1" }
disk = { file = "/data/web1.raw" }
[[guest]]
name = "web2"
image = "web"
memory = "64MiB"
network = { bridge = "br0", address = "10.1.1.12/24", gateway = "10.1.1.1" }
disk = { size = "16MiB" }
"#;

fn appliance(text: &str) -> Appliance {
    crate::definition::parse("a.toml", text).unwrap_or_else(|mistakes| panic!("{mistakes}")).appliance
}

/// Of web3, which is web2 with another name, address and MAC, changed.
fn refused(text: &str, change: impl FnOnce(&mut Guest)) -> Vec<String> {
    let appliance = appliance(text);
    let mut guest = appliance.guests[1].clone();
    guest.name = "web3".to_owned();
    let network = guest.network.as_mut().unwrap();
    network.address = Some("10.1.1.13/24".parse().unwrap());
    network.mac = "02:00:00:00:00:13".parse().unwrap();
    change(&mut guest);
    let others: Vec<&Guest> = appliance.guests.iter().filter(|other| other.name != guest.name).collect();
    let found = objections(&guest, Beside { appliance: &appliance, others: &others });
    found.iter().map(ToString::to_string).collect()
}

fn source(source: DiskSource) -> impl FnOnce(&mut Guest) {
    move |guest| guest.disk.as_mut().unwrap().source = source
}

#[test]
fn a_guest_like_the_others_is_let_in() {
    assert_eq!(refused(TEXT, |_| ()), [""; 0]);
    assert_eq!(refused(TEXT, |guest| (guest.network, guest.disk) = (None, None)), [""; 0]);
    let plugged = |guest: &mut Guest| guest.network.as_mut().unwrap().plug = Plug::Macvtap("eth2".to_owned());
    assert_eq!(refused(TEXT, plugged), [""; 0]);
    for path in ["/dev/thimble/a.two", "/dev/thimble/b"] {
        assert_eq!(refused(TEXT, source(DiskSource::Device(path.to_owned()))), [""; 0], "{path}");
    }
    for path in ["/data/files/x.raw", "/data/files/a b/-x"] {
        assert_eq!(refused(TEXT, source(DiskSource::File(path.to_owned()))), [""; 0], "{path}");
    }
}

#[test]
fn a_kernel_of_its_own_lies_where_the_image_declares_a_file_system() {
    let boot = |kernel: &str| {
        let boot = GuestBoot { kernel: kernel.to_owned(), initrd: None, cmdline: String::new(), user_data: None };
        move |guest: &mut Guest| (guest.image, guest.boot) = (None, Some(boot))
    };
    assert_eq!(refused(TEXT, boot("/data/files/vmlinuz")), [""; 0]);
    for path in ["/etc/shadow", "/data/files/../x", "/data/vmlinuz", "vmlinuz"] {
        let found = refused(TEXT, boot(path));
        assert!(found.len() == 1 && found[0].starts_with(&format!("boot: `{path}` lies on none of the")), "{found:?}");
    }
    let found = refused(TEXT, |guest| {
        boot("/data/files/vmlinuz")(guest);
        let boot = guest.boot.as_mut().unwrap();
        (boot.cmdline, boot.user_data) = ("a=\"b\"c\"".to_owned(), Some("x".to_owned()));
    });
    assert!(found.len() == 2 && found[0].starts_with("boot.cmdline: ") && found[1].starts_with("boot.user_data: "));
}

#[test]
fn what_the_image_itself_says_of_a_guest_stays_good() {
    let appliance = appliance(TEXT);
    for (index, guest) in appliance.guests.iter().enumerate() {
        let mut guest = guest.clone();
        guest.autostart = false;
        let others = [&appliance.guests[1 - index]];
        assert_eq!(objections(&guest, Beside { appliance: &appliance, others: &others }), []);
    }
}

#[test]
fn what_others_have_is_refused() {
    let told = |change: fn(&mut Guest), wanted: &str| {
        let found = refused(TEXT, change);
        assert!(found.len() == 1 && found[0].starts_with(wanted), "{wanted}: {found:?}");
    };
    fn network(guest: &mut Guest) -> &mut GuestNetwork {
        guest.network.as_mut().unwrap()
    }
    told(|it| network(it).address = Some("10.1.1.11/24".parse().unwrap()), "network.address: guest web1 has 10.1.1.11");
    told(|it| network(it).address = Some("10.1.1.2/24".parse().unwrap()), "network.address: the host has 10.1.1.2");
    told(
        |it| (network(it).address, network(it).gateway) = (Some("10.2.1.2/24".parse().unwrap()), None),
        "network.address: 10.2.1.2/24 lies outside",
    );
    told(|it| network(it).mac = "02:00:00:00:00:01".parse().unwrap(), "network.mac: the host's interface br0 has");
    told(
        |it| network(it).plug = Plug::Bridge("eth0".to_owned()),
        "network.bridge: there is no bridge `eth0` on this host: it has br",
    );
    told(|it| network(it).plug = Plug::Macvtap("eth0".to_owned()), "network.macvtap: there is no link `eth0`");
    told(|it| network(it).plug = Plug::Macvtap("br0".to_owned()), "network.macvtap: `br0` is a bridge");
    told(|it| network(it).plug = Plug::Macvtap("eth1".to_owned()), "network.macvtap: `eth1` is a port of br1");
    told(
        |it| (network(it).plug, network(it).vlan) = (Plug::Macvtap("eth2".to_owned()), Some(7)),
        "network.macvtap: only a bridge keeps VLANs apart",
    );
    told(|it| it.parameters.ssh_keys = vec!["me".to_owned()], "parameters.ssh_keys: begin with the kind");
    told(|it| it.parameters.role = Some("A b".to_owned()), "parameters.role: use 1 to 63");
    told(|it| it.parameters.identity = Some(String::new()), "parameters.identity: use 1 to 64");
    told(|it| drop(it.parameters.environment.insert("1A".to_owned(), String::new())), "parameters.environment: `1A`");
    told(
        |it| drop(it.parameters.environment.insert("A".to_owned(), "x".repeat(70_000))),
        "parameters: keys and variables of a guest have",
    );
    told(|it| network(it).vlan = Some(7), "network.vlan: bridge br0 keeps no VLANs apart");
    told(|it| network(it).mtu = Some(1), "network.mtu: use 576 to 65521 bytes");
    told(|it| network(it).queues = 17, "network.queues: use 1 to 16");
    told(|it| it.vsock = Some(3), "vsock: guest web1 has 3 already");
    told(|it| it.vcpus = 0, "vcpus: use 1 to 64 vCPUs");
    told(|it| it.memory = ByteSize(1), "memory: use 32MiB or more");
    told(|it| it.memory = ByteSize::mib(256), "memory: 256MiB does not fit after 128MiB of guests before it");
    told(|it| it.cpu.pins = vec![vec![1024]], "cpu.pins: the host has no processor 1024");
    told(|it| it.image = Some("../../etc/x".to_owned()), "image: `../../etc/x` is not a name");
    told(
        |it| it.disk.as_mut().unwrap().source = DiskSource::File("/data/web9.raw".to_owned()),
        "disk.source.file: `/data/web9.raw` lies on none",
    );
    told(|it| it.disk.as_mut().unwrap().read_only = true, "disk.read_only: a disk that is made by its size");
    told(|it| it.disk.as_mut().unwrap().format = DiskFormat::Qcow2, "disk.format: a qcow2 image is a file");
    // One that is shut off may have what fits alone.
    assert_eq!(refused(TEXT, |it| (it.memory, it.autostart) = (ByteSize::mib(256), false)), [""; 0]);
}

#[test]
fn no_name_is_a_path_or_an_option() {
    for name in ["", "-x", "../x", "a/b", "web3.json", "Web", "a b", "a\n", "a=b", "\0"] {
        let found = refused(TEXT, |guest| guest.name = name.to_owned());
        assert!(found.iter().any(|text| text.contains("is not a host name")), "{name}: {found:?}");
    }
    for name in ["", "/", "../web", "web/", "a.b", "-x=1,path", "web\n"] {
        let found = refused(TEXT, |guest| guest.image = Some(name.to_owned()));
        // A name may begin as an option does: it is never a word of its own.
        assert!(!found.is_empty() && found[0].starts_with("image: "), "{name}: {found:?}");
    }
}

#[test]
fn a_disk_is_declared_and_nobody_elses() {
    for path in [
        "/dev/sda",
        "/dev/thimble/a",
        "/dev/thimble/a.one",
        "b",
        "/dev/thimble/../sda",
        "/dev/thimble/b/",
        "",
        "/data/files",
    ] {
        let found = refused(TEXT, source(DiskSource::Device(path.to_owned())));
        assert!(
            found.len() == 1 && found[0].contains("declares /dev/thimble/a.two, /dev/thimble/b"),
            "{path}: {found:?}"
        );
    }
    for path in [
        "/etc/shadow",
        "/data/files/../audit/audit.jsonl",
        "/data/filesx/a",
        "/data/guests/web9/disk.raw",
        "data/files/a",
        "/data/files//a",
        "/data/files/./a",
        "/data/files/",
        "/data/files/a\0b",
        "/data/files/a\nb",
        "/dev/sda",
        "nfs:x/y",
        "",
    ] {
        let found = refused(TEXT, source(DiskSource::File(path.to_owned())));
        assert!(found.len() == 1 && found[0].contains("declares: /data/files"), "{path}: {found:?}");
        let found = refused(TEXT, |guest| {
            let disk = guest.disk.as_mut().unwrap();
            (disk.source, disk.format) = (DiskSource::File("/data/files/x".to_owned()), DiskFormat::Qcow2);
            disk.backing = Some(path.to_owned());
        });
        assert!(found.len() == 1 && found[0].starts_with("disk.backing: "), "{path}: {found:?}");
    }
    // Where the disks that are made lie on a declared file system, they are their guests' all the same.
    let text = TEXT.replace("/data/files", "/data/guests");
    let found = refused(&text, source(DiskSource::File("/data/guests/web2/disk.raw".to_owned())));
    assert_eq!(found, ["disk.source.file: guest web2 has this disk already"]);
}

#[test]
fn behind_a_firewall_a_guest_sends_as_the_image_says() {
    let text = TEXT.replace("[storage.disks.a]", "[firewall]\n[storage.disks.a]");
    let found = refused(&text, |_| ());
    assert!(found.len() == 1 && found[0].starts_with("network: the host's firewall"), "{found:?}");
    assert_eq!(refused(&text, |guest| guest.network = None), [""; 0]);
    let appliance = appliance(&text);
    let mut guest = appliance.guests[0].clone();
    guest.vcpus = 2;
    assert_eq!(objections(&guest, Beside { appliance: &appliance, others: &[&appliance.guests[1]] }), []);
}

proptest! {
    /// Whatever is let in names nothing but what is declared.
    #[test]
    fn no_path_leads_out(path in "(/data/files|/dev/thimble|/data|)(/|\\.|-|[a-b]|\\n|files|two){0,6}") {
        if refused(TEXT, source(DiskSource::File(path.clone()))).is_empty() {
            prop_assert!(path.starts_with("/data/files/"));
            let plain = std::path::Path::new(&path).components().all(|it| !matches!(it, std::path::Component::ParentDir));
            prop_assert!(plain && !path.contains("//"), "{}", path);
        }
        if refused(TEXT, source(DiskSource::Device(path.clone()))).is_empty() {
            prop_assert!(["/dev/thimble/a.two", "/dev/thimble/b"].contains(&path.as_str()));
        }
    }
}
