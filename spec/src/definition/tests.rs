//! Every mistake that the design lists, told with file, line and key.

use super::*;
use crate::appliance::{BondMode, DiskSource, GuestBoot, HostKernelSource, Update};
use proptest::prelude::*;

mod storage;

const GOOD: &str = r#"[appliance]
name = "demo"
budget = "64MiB"
[node]
memory = "1GiB"
[kernel.host]
package = "linux-image-amd64"
hardware = ["virtio", "nic-server"]
[kernel.guest]
source = "linux-source-6.12"
fragments = ["guest/base", "guest/virtio"]
[network.bonds.bond0]
mode = "active-backup"
ports = ["eth0", "eth1"]
miimon-ms = 80
[network.bridges.br0]
ports = ["bond0"]
address = "10.1.1.2/24"
[[storage.raid]]
name = "data"
level = 1
members = ["/dev/sda", "/dev/sdb"]
[[guest]]
name = "web1"
image = "web"
memory = "128MiB"
network = { bridge = "br0", address = "10.1.1.11/24", gateway = "10.1.1.1" }
disk = { size = "1GiB" }
[[guest]]
name = "web2"
image = "web"
vcpus = 2
memory = "128MiB"
network = { bridge = "br0", address = "10.1.1.12/24", vlan = 10, mac = "02:00:00:00:00:02" }
disk = { device = "/dev/md/data" }
autostart = false
"#;

/// What is told of the good definition with one thing replaced.
fn told(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse("a.toml", &GOOD.replacen(from, to, 1)).expect_err(to).to_string()
}

#[test]
fn a_good_definition_is_filled_in() {
    let Definition { appliance, build } = parse("a.toml", GOOD).unwrap();
    assert_eq!(build.formats, Format::DEFAULT);
    let wanted = GOOD.replacen("[appliance]", "[appliance]\nformats = [\"netboot\"]", 1);
    assert_eq!(parse("a.toml", &wanted).unwrap().build.formats, [Format::Netboot]);
    assert_eq!(appliance.update, Update { key: None, ready_within_s: 300 });
    assert_eq!((build.update_key, build.update_room, build.tries), (None, None, 3));
    let wanted = "[update]\nkey = \"demo.pub\"\nroom = \"24MiB\"\nready-within-s = 60\ntries = 5\n[node]";
    let Definition { appliance: updated, build } = parse("a.toml", &GOOD.replacen("[node]", wanted, 1)).unwrap();
    assert_eq!(updated.update.ready_within_s, 60);
    assert_eq!(
        (build.update_key.as_deref(), build.update_room, build.tries),
        (Some("demo.pub"), Some(ByteSize::mib(24)), 5)
    );
    assert_eq!(appliance.network.bonds["bond0"].mode, BondMode::ActiveBackup);
    assert_eq!(appliance.network.bridges["br0"].link.addresses, ["10.1.1.2/24".parse().unwrap()]);
    assert_eq!(appliance.guests[0].vcpus, 1);
    assert!(appliance.guests[0].autostart && !appliance.guests[1].autostart);
    let disk = appliance.guests[1].disk.as_ref().unwrap();
    assert_eq!(disk.source, DiskSource::Device("/dev/md/data".to_owned()));
    let json = serde_json::to_string(&appliance).unwrap();
    assert_eq!(serde_json::from_str::<Appliance>(&json).unwrap(), appliance);
}

#[test]
fn unknown_keys() {
    let text = told("memory = \"128MiB\"", "memroy = \"128MiB\"");
    assert!(text.starts_with("a.toml:26: guest[0].memroy: unknown field `memroy`, expected one of"), "{text}");
    let text = told("[network.bridges.br0]", "[network.bridges.br0]\nadress = \"dhcp\"");
    assert!(text.starts_with("a.toml:17: network.bridges.br0.adress: unknown field `adress`"), "{text}");
}

#[test]
fn values_of_the_wrong_kind() {
    let text = told("memory = \"128MiB\"", "memory = \"much\"");
    assert!(text.starts_with("a.toml:26: guest[0].memory: `much` is not a size"), "{text}");
    let text = told("address = \"10.1.1.2/24\"", "address = \"10.1.1.2\"");
    assert!(
        text.starts_with("a.toml:18: network.bridges.br0.address: `10.1.1.2` is not an IPv4 or IPv6 address with"),
        "{text}"
    );
    let text = told("level = 1", "level = \"one\"");
    assert!(text.starts_with("a.toml:21: storage.raid[0].level: invalid type"), "{text}");
    let text = told("name = \"demo\"", "name = ");
    assert!(text.starts_with("a.toml:2: "), "{text}");
    let text = told("hardware = [\"virtio\", \"nic-server\"]\n", "");
    assert!(text.contains("missing field `hardware`"), "{text}");
}

#[test]
fn overlapping_macs() {
    let text = told("gateway = \"10.1.1.1\" }", "mac = \"02:00:00:00:00:02\" }");
    assert_eq!(
        text,
        "a.toml:34: guest[1].network.mac: MAC address 02:00:00:00:00:02 is used twice: guest[0].network.mac has it already"
    );
}

#[test]
fn an_address_outside_its_network() {
    let text = told("10.1.1.11/24\", gateway = \"10.1.1.1\"", "10.9.1.11/24\", gateway = \"10.9.1.1\"");
    assert_eq!(
        text,
        "a.toml:27: guest[0].network.address: 10.9.1.11/24 lies outside the network 10.1.1.0/24 of bridge br0"
    );
    let text = told("gateway = \"10.1.1.1\"", "gateway = \"10.2.1.1\"");
    assert_eq!(text, "a.toml:27: guest[0].network.gateway: 10.2.1.1 lies outside the network 10.1.1.0/24");
    let text = told("10.1.1.11/24", "10.1.1.255/24");
    assert!(text.contains("10.1.1.255/24 is the network's own or its broadcast address"), "{text}");
}

#[test]
fn addresses_taken_twice() {
    let text = told("10.1.1.11/24", "10.1.1.2/24");
    assert!(text.ends_with("address 10.1.1.2 is used twice: network.bridges.br0.address has it already"), "{text}");
    // On another VLAN it is another network.
    assert!(parse("a.toml", &GOOD.replace("10.1.1.12/24", "10.1.1.11/24")).is_ok());
}

#[test]
fn memory_over_the_nodes() {
    let text = told("memory = \"1GiB\"", "memory = \"256MiB\"");
    assert_eq!(
        text.lines().next().unwrap(),
        "a.toml:26: guest[0].memory: 128MiB does not fit: the node has 256MiB, of which the host keeps 192MiB"
    );
    let both = GOOD.replace("autostart = false", "").replace("1GiB\"\n[kernel", "384MiB\"\n[kernel");
    let text = parse("a.toml", &both).unwrap_err().to_string();
    assert!(
        text.starts_with("a.toml:33: guest[1].memory: 128MiB does not fit after 128MiB of guests before it"),
        "{text}"
    );
}

#[test]
fn a_block_device_used_twice() {
    let text = told("/dev/md/data", "/dev/sdb");
    assert_eq!(
        text,
        "a.toml:35: guest[1].disk.device: block device /dev/sdb is used twice: storage.raid[0].members[1] has it already"
    );
}

#[test]
fn names_that_do_not_resolve() {
    let text = told("{ bridge = \"br0\", address = \"10.1.1.11/24\"", "{ bridge = \"br1\", address = \"10.1.1.11/24\"");
    assert!(text.contains("guest[0].network.bridge: there is no bridge `br1`"), "{text}");
    assert!(told("name = \"web2\"", "name = \"web1\"").contains("guest web1 is used twice"));
    assert!(told("ports = [\"bond0\"]", "ports = [\"eth1\"]").contains("interface eth1 is used twice"));
}

#[test]
fn names_never_become_paths_or_options() {
    for (from, to) in [
        ("image = \"web\"", "image = \"../web\""),
        ("\"virtio\"", "\"/etc/passwd\""),
        ("\"guest/base\"", "\"guest//base\""),
        ("\"linux-source-6.12\"", "\"-o=x\""),
        ("\"linux-image-amd64\"", "\"linux image\""),
        ("/dev/md/data", "/dev/../etc/shadow"),
        ("name = \"web1\"", "name = \"a/b\""),
    ] {
        told(from, to);
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = GOOD.replace("level = 1", "level = 3").replace("vcpus = 2", "vcpus = 0").replace("1GiB\" }", "1MiB\" }");
    let mistakes = parse("a.toml", &text).unwrap_err();
    let lines: Vec<usize> = mistakes.iter().map(|mistake| mistake.line).collect();
    assert_eq!(lines, [21, 28, 32]);
}

/// What is told of the good definition with `keys` added to the guest web2, and `disk` to its disk.
fn told_of(keys: &str, disk: &str) -> String {
    let disk = format!("disk = {{ {disk} }}");
    let text = GOOD.replace("disk = { device = \"/dev/md/data\" }", &disk);
    match parse("a.toml", &text.replace("autostart = false", keys)) {
        Ok(_) => "nothing".to_owned(),
        Err(mistakes) => mistakes.to_string().lines().next().unwrap().to_owned(),
    }
}

#[test]
fn what_its_vmm_would_refuse() {
    for (keys, sentence) in [
        (
            "cpu = { model = \"x86-64-v9\" }",
            "36: guest[1].cpu.model: unknown variant `x86-64-v9`, expected one of `host`,",
        ),
        (
            "cpu = { pins = [[0], [], [1]] }",
            "36: guest[1].cpu.pins: here are the places of 3 vCPUs, and the guest has 2",
        ),
        ("cpu = { pins = [[1024]] }", "36: guest[1].cpu.pins: the host has no processor 1024: use 0 to 1023"),
        ("cpu = { modle = \"host\" }", "36: guest[1].cpu.modle: unknown field `modle`"),
        ("pages = \"small\"", "36: guest[1].pages: unknown variant `small`, expected one of `default`,"),
        (
            "balloon = { target = \"128MiB\" }",
            "36: guest[1].balloon.target: use less than the guest's 128MiB of memory",
        ),
        (
            "balloon = { target = \"1KiB\" }",
            "36: guest[1].balloon.target: use less than the guest's 128MiB of memory, in",
        ),
        ("vsock = { cid = 2 }", "36: guest[1].vsock.cid: use 3 to 4294967294"),
        (
            "vsock = {}\n[[guest]]\nname = \"c\"\nimage = \"web\"\nmemory = \"32MiB\"\nvsock = { cid = 4 }",
            "41: guest[2].vsock.cid: context identifier 4 is used twice: guest[1].vsock.cid has it already",
        ),
    ] {
        let told = told_of(keys, "size = \"16MiB\"");
        assert!(told.starts_with(&format!("a.toml:{sentence}")), "{keys}: {told}");
    }
    let huge = told("memory = \"128MiB\"", "memory = \"33MiB\"\npages = \"huge\"");
    assert!(huge.starts_with("a.toml:26: guest[0].memory: 33MiB cannot be made of huge pages of 2MiB"), "{huge}");
    for (keys, sentence) in [
        ("queues = 0", "queues: use 1 to 16 pairs of queues"),
        ("queues = 17", "queues: use 1 to 16 pairs of queues"),
        (
            "dns = [\"10.1.1.1\", \"10.1.1.1\", \"10.1.1.1\", \"10.1.1.1\"]",
            "dns[3]: a resolver asks 3 name servers at most",
        ),
        ("mtu = 575", "mtu: use 576 to 65521 bytes"),
        ("mtu = 65522", "mtu: use 576 to 65521 bytes"),
        ("receive = { bandwidth = 0 }", "receive.bandwidth: nothing could ever pass: use 1 or more"),
        ("transmit = { operations = 5, operations-burst = 0 }", "transmit.operations-burst: nothing could ever pass"),
        (
            "transmit = { bandwidth-burst = 5 }",
            "transmit.bandwidth-burst: a burst needs its rate beside it: set `bandwidth`",
        ),
        ("receive = { bandwith = 5 }", "receive.bandwith: unknown field `bandwith`"),
    ] {
        let told = told("vlan = 10", &format!("vlan = 10, {keys}"));
        assert!(told.starts_with(&format!("a.toml:34: guest[1].network.{sentence}")), "{keys}: {told}");
    }
    for (disk, sentence) in [
        ("size = \"16MiB\", queues = 17", "queues: use 1 to 16 queues"),
        ("size = \"16MiB\", format = \"vhd\"", "format: unknown variant `vhd`, expected `raw` or `qcow2`"),
        ("size = \"16MiB\", format = \"qcow2\"", "format: a qcow2 image is a file"),
        ("size = \"16MiB\", read-only = true", "read-only: a disk that is made by its size is blank"),
        ("size = \"16MiB\", limits = { operations = 0 }", "limits.operations: nothing could ever pass"),
        (
            "file = \"/x\", format = \"qcow2\", direct = true",
            "direct: a qcow2 image goes through the host's page cache",
        ),
        ("file = \"/x\", format = \"qcow2\", engine = \"uring\"", "engine: a qcow2 image has an engine of its own"),
        ("file = \"/x\", backing = \"/data\"", "backing: only a qcow2 image has backing files"),
        (
            "file = \"/x\", format = \"qcow2\", backing = \"/data/../etc\"",
            "backing: write the absolute path, without `..`",
        ),
        ("file = \"/x\", readonly = true", "readonly: unknown field `readonly`"),
    ] {
        let told = told_of("", disk);
        assert!(told.starts_with(&format!("a.toml:35: guest[1].disk.{sentence}")), "{disk}: {told}");
    }
}

#[test]
fn guests_start_after_others_and_never_after_themselves() {
    let told = |keys: &str| told("memory = \"128MiB\"", &format!("memory = \"128MiB\"\n{keys}"));
    let place = "a.toml:27: guest[0].start-";
    assert_eq!(told("start-after = [\"web9\"]"), format!("{place}after: there is no guest `web9`"));
    assert!(
        told("start-after = [\"web1\"]").starts_with(&format!("{place}after: guest web1 would start after itself"))
    );
    assert_eq!(told("start-delay-s = 3601"), format!("{place}delay-s: use 3600 seconds at most"));
    assert!(told("restart = \"sometimes\"").contains("unknown variant `sometimes`"));
}

#[test]
fn a_guest_without_an_image_has_its_root_on_its_disk() {
    let without = |from: &str, to: &str| {
        let text = GOOD.replacen("image = \"web\"\n", "", 1).replacen(from, to, 1);
        parse("a.toml", &text)
            .map(|definition| definition.appliance.guests[0].image.clone())
            .map_err(|error| error.to_string())
    };
    assert_eq!(without("", ""), Ok(None));
    assert_eq!(without("autostart", "ssh-keys = []\nautostart"), Ok(None));
    let disk =
        "a.toml:24: guest[0]: a guest without an image has its root on its disk: give it an image, or a disk that";
    for other in ["", "disk = { device = \"/dev/sdc\", read-only = true }\n"] {
        let told = without("disk = { size = \"1GiB\" }\n", other).unwrap_err();
        assert!(told.starts_with(disk), "{told}");
    }
    for key in ["role = \"db\"", "environment = { A = \"b\" }", "identity = \"x\""] {
        let told = without("memory = \"128MiB\"", &format!("memory = \"128MiB\"\n{key}")).unwrap_err();
        assert!(told.starts_with("a.toml:24: guest[0]: role, environment and identity are for an image's"), "{told}");
    }
}

#[test]
fn a_guest_may_have_a_kernel_of_its_own() {
    let with = |image: &str, keys: &str| {
        let text = GOOD.replacen("image = \"web\"\n", image, 1);
        let text = text.replacen("memory = \"128MiB\"", &format!("memory = \"128MiB\"\n{keys}"), 1);
        parse("a.toml", &text)
            .map(|definition| definition.appliance.guests[0].boot.clone())
            .map_err(|error| error.to_string())
    };
    let boot = "boot = { kernel = \"/data/vmlinuz\", cmdline = \"root=/dev/vda1\", user-data = \"#!/bin/sh\" }\n";
    let wanted = GuestBoot {
        kernel: "/data/vmlinuz".to_owned(),
        initrd: None,
        cmdline: "root=/dev/vda1".to_owned(),
        user_data: Some("#!/bin/sh".to_owned()),
    };
    assert_eq!(with("", &format!("identity = \"x\"\n{boot}")), Ok(Some(wanted)));
    for (image, keys, sentence) in [
        ("image = \"web\"\n", boot.to_owned(), "guest[0]: an image runs on the guests' kernel: leave out"),
        ("", format!("role = \"db\"\n{boot}"), "guest[0]: role, environment and identity are for an image's"),
        ("", boot.replace("/data/v", "v"), "guest[0].boot.kernel: write an absolute path without `..`"),
        ("", boot.replace("/data/v", "nfs:x/v"), "guest[0].boot.kernel: there is no NFS export `x`"),
        ("", boot.replace("root=", "root=a\\\"b"), "guest[0].boot.cmdline: root cannot hold a double quote"),
        ("", boot.replace("root=", "root=a\\nb"), "guest[0].boot.cmdline: write them in one line"),
        ("", boot.replace("root=", &"x".repeat(1025)), "guest[0].boot.cmdline: use 1024 bytes at most"),
        ("", boot.replace("#!/bin/sh", "me"), "guest[0].boot.user-data: begin with what cloud-init knows"),
        ("", boot.replace("#!/bin/sh", &"#".repeat(32769)), "guest[0].boot.user-data: use 32KiB at most"),
        ("", boot.replace("cmdline", "words"), "unknown field `words`"),
    ] {
        let told = with(image, &keys).unwrap_err();
        assert!(told.contains(sentence), "{told}");
    }
}

#[test]
fn limits_of_an_update_are_checked() {
    let update = |keys: &str| told("[node]", &format!("[update]\n{keys}\n[node]"));
    assert_eq!(update("tries = 0"), "a.toml:5: update.tries: 0 is not a number from 1 to 9");
    assert!(update("ready-within-s = 1").contains("update.ready-within-s: 1 seconds are not between 10 and 86400"));
    assert!(update("kez = 1").contains("kez"));
}

#[test]
fn several_guests_may_read_what_none_writes() {
    let both = |one: &str, two: &str| {
        let text = GOOD.replace("disk = { size = \"1GiB\" }", &format!("disk = {{ {one} }}"));
        parse("a.toml", &text.replace("disk = { device = \"/dev/md/data\" }", &format!("disk = {{ {two} }}")))
    };
    let (reads, writes) = ("file = \"/x\", read-only = true", "file = \"/x\"");
    assert!(both(reads, reads).is_ok());
    for (one, two) in [(reads, writes), (writes, reads), (writes, writes)] {
        assert!(both(one, two).unwrap_err().to_string().contains("file /x is used twice"), "{one} {two}");
    }
}

#[test]
fn a_context_identifier_goes_with_the_guests_place() {
    let cids =
        |keys: &str| parse("a.toml", &GOOD.replace("autostart = false", keys)).unwrap().appliance.guests[1].vsock;
    assert_eq!(cids(""), None);
    assert_eq!(cids("vsock = {}"), Some(4));
    assert_eq!(cids("vsock = { cid = 77 }"), Some(77));
}

#[test]
fn commands_come_by_the_socket_device() {
    let cid = |keys: &str| parse("a.toml", &GOOD.replace("autostart = false", keys)).unwrap().appliance.guests[1].cid();
    assert_eq!(cid("commands = false"), None);
    assert_eq!(cid("commands = true"), Some(3));
    assert_eq!(cid("commands = true\nvsock = {}"), Some(4));
}

#[test]
fn what_the_documentation_shows_can_be_written() {
    let page = include_str!("../../../docs/definition.md");
    let mut examples = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    // The page shows what excludes each other side by side: an address by DHCP has no gateway,
    let whole = examples.next().unwrap().replace("address = \"dhcp\"", "address = \"10.1.1.2/24\"");
    parse("definition.md", &whole).unwrap();
    // and a raw disk no backing file. What must be there is shown above.
    let machine = examples
        .next()
        .unwrap()
        .replace("[[guest]]", "[[guest]]\nname = \"a\"\nimage = \"web\"\nmemory = \"64MiB\"")
        .replace("[guest.network]", "[guest.network]\nbridge = \"br0\"")
        .replace("format = \"raw\"", "file = \"/data/a\"\nformat = \"qcow2\"");
    parse("definition.md", &(GOOD[..GOOD.find("[[guest]]").unwrap()].to_owned() + &machine)).unwrap();
}

#[test]
fn a_recipe_reads() {
    let text = "summary = \"x\"\nports = [80]\n[[service]]\nname = \"a\"\nexec = [\"/bin/a\"]\nready = { port = 80 }\n";
    assert_eq!(parse_recipe("r.toml", text).unwrap().services[0].user, "root");
    let text = parse_recipe("r.toml", "summary = \"x\"\n[[service]]\nnane = \"a\"\n").unwrap_err().to_string();
    assert!(text.starts_with("r.toml:3: service[0].nane: unknown field"), "{text}");
}

proptest! {
    #[test]
    fn any_text_is_an_answer_or_a_sentence(text in any::<String>()) {
        let _ = parse("a.toml", &text);
    }

    #[test]
    fn a_damaged_definition_never_panics(at in 0..GOOD.len(), replacement in "[ -~]{0,3}") {
        let mut text = GOOD.to_owned();
        text.replace_range(at..=at, &replacement);
        if let Err(mistakes) = parse("a.toml", &text) {
            for mistake in mistakes.iter() { prop_assert!(!mistake.to_string().contains('\n')); }
        }
    }
}

#[test]
fn the_hosts_kernel_is_a_package_or_a_source() {
    let package = "package = \"linux-image-amd64\"";
    let source = "source = \"linux-source-6.12\"\nfragments = [\"site/more\"]";
    let definition = parse("a.toml", &GOOD.replacen(package, source, 1)).unwrap();
    let fragments = vec!["site/more".to_owned()];
    let wanted = HostKernelSource::Source { source: "linux-source-6.12".into(), fragments };
    assert_eq!(definition.appliance.host_kernel.from, wanted);

    let both = format!("{package}\nsource = \"linux-source-6.12\"");
    assert_eq!(
        told(package, &both),
        "a.toml:8: kernel.host.source: the kernel comes from package already: leave one of the two out"
    );
    assert_eq!(
        told(package, ""),
        "a.toml:6: kernel.host: name the kernel: package = \"linux-image-amd64\", or source = \"linux-source-6.12\""
    );
    assert_eq!(
        told(package, &format!("{package}\nfragments = []")),
        "a.toml:8: kernel.host.fragments: goes with source: the kernel of a package is configured already"
    );
    let signed = GOOD.replacen("[node]", "[secure-boot]\nmode = \"debian\"\n[node]", 1).replacen(package, source, 1);
    let told = parse("a.toml", &signed).unwrap_err().to_string();
    assert!(told.contains("a.toml:8: kernel.host.source: secure-boot.mode = \"debian\" starts what"), "{told}");
}

#[test]
fn secure_boot_takes_files_for_ones_own_keys_only() {
    let parsed = |table: &str| parse("a.toml", &GOOD.replacen("[node]", &format!("[secure-boot]\n{table}\n[node]"), 1));
    assert_eq!(parse("a.toml", GOOD).unwrap().build.secure_boot, None);
    assert_eq!(parsed("mode = \"debian\"").unwrap().build.secure_boot, Some(SecureBoot::Debian));
    let own = SecureBoot::Own { key: "db.key".to_owned(), certificate: "db.pem".to_owned() };
    let text = "mode = \"own\"\nkey = \"db.key\"\ncertificate = \"db.pem\"";
    assert_eq!(parsed(text).unwrap().build.secure_boot, Some(own));
    let told = |table: &str| parsed(table).unwrap_err().to_string();
    assert!(told("mode = \"own\"\nkey = \"db.key\"").contains("secure-boot.mode: mode = \"own\" needs certificate"));
    assert!(told("mode = \"debian\"\nkey = \"k\"").contains("secure-boot.key: goes with mode = \"own\""));
    let unknown = told("mode = \"vendor\"");
    assert!(unknown.contains("secure-boot.mode: ") && unknown.contains("`debian` or `own`"), "{unknown}");
}
