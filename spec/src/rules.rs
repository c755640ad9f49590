//! What must hold of a guest, whoever defines it: the builder's definition ([`crate::definition`]) and one that a node is sent
//! ([`crate::admission`]) are refused by the same functions, in the same words. Each says what is wrong and what to do; who calls
//! it knows where that stands.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::appliance::{Guest, Network, Overcommit};
use crate::cmdline::Cmdline;
use crate::ip::IpNet;
use crate::names::{Ipv4Net, check_name};
use crate::parameters::Parameters;
use crate::template;
use crate::units::{ByteSize, MIB};
use crate::vmm::Pages;

/// Whether it holds: if not, a sentence.
pub type Rule = Result<(), String>;

/// What the host keeps of the machine's memory for itself when guests are counted against it: the initramfs unpacked,
/// its processes, the page cache that the guests' images need.
pub const HOST_MEMORY: ByteSize = ByteSize::mib(192);
/// The least that a guest kernel boots in with a service beside it.
pub const MEMORY_MIN: ByteSize = ByteSize::mib(32);
/// The most that a VMM offers: its interrupt table has one byte for processor numbers, some of them taken.
pub const VCPUS_MAX: u8 = 64;
/// As many name servers are asked (`MAXNS`, resolv.h), and fit on a guest's command line.
pub const NAME_SERVERS_MAX: usize = 3;
/// Context identifiers of guests: those below are the hypervisor's and the host's, the last one stands for any
/// (linux/vm_sockets.h).
pub const CIDS: RangeInclusive<u32> = 3..=u32::MAX - 1;
/// A page of the host's pool.
const HUGE_PAGE: ByteSize = ByteSize::mib(2);
/// Highest VLAN (IEEE 802.1Q, 9.6: 0 and 4095 are reserved).
const VLAN_MAX: u16 = 4094;
/// Most queues that the VMM gives a disk, and pairs of them that it gives an interface.
const QUEUES_MAX: u8 = 16;
/// From what every IPv4 host takes (RFC 1122, section 3.3.3) to what the tun driver takes (`MAX_MTU` less an Ethernet
/// header).
const MTU: RangeInclusive<u16> = 576..=65521;
/// The least that a guest's own disk may have: its file system's template with the journal.
const DISK_MIN: ByteSize = ByteSize::mib(16);
/// Numbers of the host's processors, as many as a mask of them has (`CPU_SETSIZE`, sched.h).
const PROCESSOR_MAX: u16 = 1023;

/// Kinds of keys that dropbear knows (its manual page).
const SSH_KEYS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];
/// The longest key: one of RSA with 16384 bits has 2.8 KB.
const SSH_KEY_MAX: usize = 4096;
/// The most that a guest's own kernel is told besides what the node says to it.
const KERNEL_WORDS_MAX: usize = 1024;
/// The most that cloud-init is told.
const USER_DATA_MAX: usize = 32 << 10;
/// The longest word that names an identity: a UUID has 36 characters.
const IDENTITY_MAX: usize = 64;
/// The most that guests may have together, in percent.
const OVERCOMMIT_MAX: u32 = 10_000;
/// The longest that a host waits before it starts a guest, in seconds.
const START_DELAY_MAX_S: u16 = 3600;

fn holds(good: bool, sentence: impl FnOnce() -> String) -> Rule {
    if good { Ok(()) } else { Err(sentence()) }
}

/// Whether somebody in a guest can run what the host sends: its PID 1 is ours, or stays behind another's.
pub fn commands(guest: &Guest) -> Rule {
    holds(!guest.commands || guest.boot.is_none(), || {
        "nothing of Thimble's is in a guest with a kernel of its own: leave out `commands`, or `boot`".to_owned()
    })
}

/// What a guest's root is: its image, or its own disk.
pub fn root(guest: &Guest) -> Rule {
    if guest.image.is_some() {
        return holds(guest.boot.is_none(), || {
            "an image runs on the guests' kernel: leave out `image`, or `boot`".to_owned()
        });
    }
    let Parameters { ssh_keys: _, role, environment, identity } = &guest.parameters;
    // What a kernel of its own finds, or has no need of, is its own matter; and cloud-init knows identities.
    let own_kernel = guest.boot.is_some();
    if !own_kernel && guest.disk.as_ref().is_none_or(|disk| disk.read_only) {
        return Err(
            "a guest without an image has its root on its disk: give it an image, or a disk that it can write to"
                .to_owned(),
        );
    }
    if role.is_some() || !environment.is_empty() || (identity.is_some() && !own_kernel) {
        return Err(
            "role, environment and identity are for an image's services: leave them out, or give the guest an image"
                .to_owned(),
        );
    }
    Ok(())
}

/// Words for a guest's own kernel.
pub fn kernel_words(words: &str) -> Rule {
    holds(words.len() <= KERNEL_WORDS_MAX, || format!("use {KERNEL_WORDS_MAX} bytes at most"))?;
    holds(!words.chars().any(char::is_control), || "write them in one line, without control characters".to_owned())?;
    // As they are read, they can be written: an odd quote, or one within a value, cannot.
    Cmdline::parse(words).render().map(drop).map_err(|error| error.to_string())
}

/// What cloud-init is told. It knows what that is by how it begins
/// (<https://cloudinit.readthedocs.io/en/latest/explanation/format.html>).
pub fn user_data(text: &str) -> Rule {
    holds(text.len() <= USER_DATA_MAX, || format!("use {} at most", ByteSize(USER_DATA_MAX as u64)))?;
    let begins = ["#", "Content-Type:", "MIME-Version:", "From nobody"];
    holds(begins.iter().any(|begin| text.starts_with(begin)), || {
        "begin with what cloud-init knows: `#cloud-config`, `#!/bin/sh`, or another of its headers".to_owned()
    })
}

/// Names of files in `configs/` and `images/`: never a way out of those directories.
pub fn library_name(name: &str) -> Rule {
    let sound =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    holds(name.split('/').all(sound), || format!("`{name}` is not a name: use letters, digits, `-`, `_` and `/`"))
}

/// Number of processors.
pub fn vcpus(count: u8) -> Rule {
    holds((1..=VCPUS_MAX).contains(&count), || format!("use 1 to {VCPUS_MAX} vCPUs"))
}

/// Places of processors.
pub fn pins(count: usize, vcpus: u8) -> Rule {
    holds(count <= usize::from(vcpus), || format!("here are the places of {count} vCPUs, and the guest has {vcpus}"))
}

/// A processor of the host.
pub fn processor(number: u16) -> Rule {
    holds(number <= PROCESSOR_MAX, || format!("the host has no processor {number}: use 0 to {PROCESSOR_MAX}"))
}

/// Memory.
pub fn memory(size: ByteSize, pages: Pages) -> Rule {
    let whole = size >= MEMORY_MIN && size.bytes().is_multiple_of(MIB) && size.bytes() / MIB <= u64::from(u32::MAX);
    holds(whole, || format!("use {MEMORY_MIN} or more, in whole MiB"))?;
    holds(pages != Pages::Huge || size.bytes().is_multiple_of(HUGE_PAGE.bytes()), || {
        format!("{size} cannot be made of huge pages of {HUGE_PAGE}: use an even number of MiB")
    })
}

/// Guests that start by themselves must fit beside the host; each of the others must fit alone. `before` is what those that
/// start by themselves take already.
pub fn fits(memory: ByteSize, before: u64, node: ByteSize, overcommit: Overcommit) -> Rule {
    holds(before.saturating_add(memory.bytes()) <= room(node, overcommit), || {
        let beside =
            if before > 0 { format!(" after {} of guests before it", ByteSize(before)) } else { String::new() };
        let more = overcommit
            .memory_percent
            .map_or_else(String::new, |percent| format!(", and guests {percent} % of the rest"));
        format!("{memory} does not fit{beside}: the node has {node}, of which the host keeps {HOST_MEMORY}{more}")
    })
}

/// Bytes that a node's guests may have together.
pub fn room(node: ByteSize, overcommit: Overcommit) -> u64 {
    let rest = node.bytes().saturating_sub(HOST_MEMORY.bytes());
    u64::try_from(u128::from(rest) * u128::from(overcommit.memory_percent.unwrap_or(100)) / 100).unwrap_or(u64::MAX)
}

/// How much guests may have together, in percent.
pub fn overcommit(percent: u32) -> Rule {
    holds((1..=OVERCOMMIT_MAX).contains(&percent), || format!("use 1 to {OVERCOMMIT_MAX} percent"))
}

/// What a balloon takes from the start.
pub fn balloon(target: ByteSize, memory: ByteSize) -> Rule {
    holds(target < memory && target.bytes().is_multiple_of(MIB), || {
        format!("use less than the guest's {memory} of memory, in whole MiB")
    })
}

/// A context identifier.
pub fn cid(cid: u32) -> Rule {
    holds(CIDS.contains(&cid), || format!("use {} to {}", CIDS.start(), CIDS.end()))
}

/// A VLAN.
pub fn vlan(id: u16) -> Rule {
    holds((1..=VLAN_MAX).contains(&id), || format!("use 1 to {VLAN_MAX}"))
}

/// A VLAN that a port sees with its tag, beside the one that it sees without.
pub fn tagged(id: u16, untagged: Option<u16>) -> Rule {
    holds(untagged != Some(id), || "frames of a VLAN leave a port with a tag or without, not both".to_owned())
}

/// An address that a machine may have.
pub fn host_address(net: IpNet) -> Rule {
    holds(net.is_host(), || {
        if net.address.is_multicast() || net.address.is_unspecified() {
            format!("{} is not the address of one machine", net.address)
        } else {
            format!("{net} is the network's own or its broadcast address: give it one between them")
        }
    })
}

/// A guest's address lies in one of its bridge's networks, if the host has any there.
pub fn beside(net: Ipv4Net, bridge: &str, mut hosts: impl Iterator<Item = Ipv4Net> + Clone) -> Rule {
    let is_beside = |host: Ipv4Net| (host.network(), host.prefix) == (net.network(), net.prefix);
    match hosts.clone().next() {
        Some(first) if !hosts.any(is_beside) => {
            let (network, prefix) = (first.network(), first.prefix);
            Err(format!("{net} lies outside the network {network}/{prefix} of bridge {bridge}"))
        }
        _ => Ok(()),
    }
}

/// A gateway must be another machine in one of the link's networks.
pub fn gateway(gateway: IpAddr, nets: &[IpNet]) -> Rule {
    let mut family = nets.iter().filter(|net| net.is_v6() == gateway.is_ipv6());
    let first = family.clone().next();
    let within = family.clone().any(|net| net.contains(gateway));
    match first {
        None => Err("a gateway needs a fixed address beside it: set `address`".to_owned()),
        Some(first) if !within => Err(format!("{gateway} lies outside the network {}", first.network())),
        Some(_) => {
            holds(!family.any(|net| net.address == gateway), || "a machine cannot be its own gateway".to_owned())
        }
    }
}

/// So many name servers.
pub fn name_servers(count: usize) -> Rule {
    holds(count <= NAME_SERVERS_MAX, || {
        format!("a resolver asks {NAME_SERVERS_MAX} name servers at most: leave the others out")
    })
}

/// A link into which a guest is plugged beside the host: one that nothing else has, for the kernel gives a link's frames to one
/// (`netdev_rx_handler_register`, net/core/dev.c).
pub fn macvtap(links: &Network, name: &str) -> Rule {
    holds(!links.bridges.contains_key(name), || format!("`{name}` is a bridge: say bridge = \"{name}\""))?;
    holds(links.link(name).is_some(), || {
        format!("there is no link `{name}`: declare [network.interfaces.{name}], which may be empty")
    })?;
    match links.master(name) {
        Some(master) => Err(format!("`{name}` is a port of {master}: its frames go there")),
        None => Ok(()),
    }
}

/// VLANs of a guest that has a door of its own to a link.
pub fn macvtap_without_vlans(link: &str, vlans: bool) -> Rule {
    holds(!vlans, || format!("only a bridge keeps VLANs apart: declare [network.vlans] with {link} as the parent"))
}

/// Such a guest on a host with a firewall.
pub fn macvtap_beside_firewall(held: bool) -> Rule {
    holds(!held, || {
        "the firewall sees nothing of its frames: say anti-spoofing = false, or plug it into a bridge".to_owned()
    })
}

/// Pairs of queues of an interface.
pub fn queue_pairs(count: u8) -> Rule {
    holds((1..=QUEUES_MAX).contains(&count), || format!("use 1 to {QUEUES_MAX} pairs of queues"))
}

/// The largest packet.
pub fn mtu(bytes: u16) -> Rule {
    holds(MTU.contains(&bytes), || format!("use {} to {} bytes", MTU.start(), MTU.end()))
}

/// A network, written as one.
pub fn network(net: IpNet) -> Rule {
    let network = net.network();
    holds(network == net, || format!("{net} is an address, not a network: write {network}"))
}

/// What a guest says of the names that it sends under, `on` or off, and of more addresses.
pub fn allowed_addresses(on: bool) -> Rule {
    holds(on, || "without anti-spoofing the guest sends from any address".to_owned())
}

/// The same where there is no firewall.
pub fn behind_firewall(is: bool) -> Rule {
    holds(is, || "goes with [firewall], which the definition does not have".to_owned())
}

/// Queues of a disk.
pub fn disk_queues(count: u8) -> Rule {
    holds((1..=QUEUES_MAX).contains(&count), || format!("use 1 to {QUEUES_MAX} queues"))
}

/// The size of a disk that is made.
pub fn disk_size(size: ByteSize) -> Rule {
    holds(size >= DISK_MIN && size.bytes().is_multiple_of(template::BLOCK as u64), || {
        format!("use {DISK_MIN} or more, in whole blocks of {} bytes", template::BLOCK)
    })
}

/// A path of the host that leads where it seems to.
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| part != "..")
}

/// What holds a qcow2 image.
pub fn qcow2_is_a_file(is_file: bool) -> Rule {
    holds(is_file, || "a qcow2 image is a file: name it in `file`".to_owned())
}

/// How a qcow2 image is read.
pub fn qcow2_through_the_cache(direct: bool) -> Rule {
    holds(!direct, || "a qcow2 image goes through the host's page cache: leave `direct` out".to_owned())
}

/// How a qcow2 image is read.
pub fn qcow2_without_uring(uring: bool) -> Rule {
    holds(!uring, || "a qcow2 image has an engine of its own: leave `engine` out".to_owned())
}

/// What has backing files.
pub fn backing_of_qcow2(qcow2: bool) -> Rule {
    holds(qcow2, || "only a qcow2 image has backing files: set `format = \"qcow2\"`, or leave `backing` out".to_owned())
}

/// Where backing files are.
pub fn backing(path: &str) -> Rule {
    holds(is_absolute(path), || {
        "write the absolute path, without `..`, of the directory in which backing files may be".to_owned()
    })
}

/// What can be read and not written.
pub fn read_only(made: bool) -> Rule {
    holds(!made, || {
        "a disk that is made by its size is blank, and would stay so: name a `device` or a `file`".to_owned()
    })
}

/// What may go in a second, or at once.
pub fn limit(value: u64) -> Rule {
    holds(value > 0, || "nothing could ever pass: use 1 or more, or leave it out for no limit".to_owned())
}

/// A key that may log in: a line of `authorized_keys` without options, that is kind, key, and a comment if one likes.
pub fn ssh_key(key: &str) -> Rule {
    let mut words = key.split(' ');
    let kind = words.next().unwrap_or_default();
    holds(SSH_KEYS.contains(&kind), || format!("begin with the kind of the key: {}", SSH_KEYS.join(", ")))?;
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let sound = words.next().is_some_and(|body| body.len() >= 32 && body.chars().all(base64));
    holds(sound && key.len() <= SSH_KEY_MAX && !key.chars().any(char::is_control), || {
        "is not a public key on one line, as a file .pub has it".to_owned()
    })
}

/// A guest that another one starts after.
pub fn known_guest(name: &str, names: &BTreeSet<String>) -> Rule {
    holds(names.contains(name), || format!("there is no guest `{name}`"))
}

/// Guests that start after others, in the end not after themselves.
pub fn start_order(guest: &Guest, all: &[&Guest]) -> Rule {
    let mut before: BTreeSet<&str> = BTreeSet::new();
    let mut waits: Vec<&Guest> = vec![guest];
    while let Some(next) = waits.pop() {
        let named = next.start_after.iter().filter(|name| before.insert(name));
        waits.extend(named.filter_map(|name| all.iter().find(|other| other.name == *name)));
    }
    holds(!before.contains(guest.name.as_str()), || {
        format!("guest {} would start after itself: take one of the names out", guest.name)
    })
}

/// How long the host waits before it starts a guest.
pub fn start_delay(seconds: u16) -> Rule {
    holds(seconds <= START_DELAY_MAX_S, || format!("use {START_DELAY_MAX_S} seconds at most"))
}

/// What a guest is there for.
pub fn role(word: &str) -> Rule {
    check_name(word).map_err(|_| "use 1 to 63 lower-case letters, digits and inner hyphens".to_owned())
}

/// What makes a guest on a copied disk another one.
pub fn identity(word: &str) -> Rule {
    let sound = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    holds((1..=IDENTITY_MAX).contains(&word.len()) && word.chars().all(sound), || {
        format!("use 1 to {IDENTITY_MAX} letters, digits, `.`, `_` and `-`, such as a UUID")
    })
}

/// A name of a variable.
pub fn variable(name: &str) -> Rule {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    holds(name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit()), || {
        format!("`{name}` is no name of a variable: use letters, digits and `_`, no digit first")
    })
}
