//! What is looked at of the host: `nodeinfo`, `hardware`, `sysinfo`, `net-list`.

use hyper::Method;
use thimble_spec::api::network::{Network, Networks};
use thimble_spec::api::node::{Hardware, Node, PciDevice, Sysinfo};

use super::client::Client;
use super::failure::Failure;
use super::table::{or_dash, pairs, table};
use super::words::Word;

/// It, for people or for programs.
///
/// # Errors
/// The node refuses or is not there.
pub async fn shown(client: &Client, word: &Word, json: bool) -> Result<String, Failure> {
    Ok(match word {
        Word::Hardware => {
            let (hardware, text): (Hardware, _) = client.json(Method::GET, "/v1/node/hardware").await?;
            if json { text } else { hardware.pci.iter().map(pci_line).collect() }
        }
        Word::Sysinfo => {
            let (machine, text): (Sysinfo, _) = client.json(Method::GET, "/v1/node/sysinfo").await?;
            if json { text } else { sysinfo(&machine) }
        }
        Word::NetList { all } => {
            let (networks, text): (Networks, _) = client.json(Method::GET, "/v1/node/networks").await?;
            if json { text } else { net_list(&networks.networks, *all) }
        }
        _ => {
            let (node, text): (Node, _) = client.json(Method::GET, "/v1/node").await?;
            if json { text } else { nodeinfo(&node) }
        }
    })
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
    let warm = node.temperatures.iter();
    let warm: Vec<String> = warm.map(|it| format!("{} {} {:.1} °C", it.chip, it.sensor, it.celsius)).collect();
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
        ("Temperatures", or_dash(Some(warm.join(", ")).as_deref().filter(|warm| !warm.is_empty()))),
        ("Guests", format!("{}, {} run", node.guests, node.running)),
    ])
}

fn sysinfo(machine: &Sysinfo) -> String {
    pairs(&[
        ("Vendor", or_dash(machine.vendor.as_deref())),
        ("Product", or_dash(machine.product.as_deref())),
        ("Serial", or_dash(machine.serial.as_deref())),
        ("Firmware vendor", or_dash(machine.firmware_vendor.as_deref())),
        ("Firmware version", or_dash(machine.firmware_version.as_deref())),
        ("Firmware date", or_dash(machine.firmware_date.as_deref())),
        ("CPU model", machine.cpu_model.clone()),
        ("CPU(s)", machine.cpus.to_string()),
        ("Memory size", format!("{} MiB", machine.memory_mib)),
    ])
}

fn net_list(networks: &[Network], all: bool) -> String {
    let shown = networks.iter().filter(|network| all || network.state.is_on());
    let rows: Vec<Vec<String>> = shown
        .map(|it| {
            let addresses = if it.addresses.is_empty() { "-".to_owned() } else { it.addresses.join(" ") };
            vec![it.name.clone(), it.state.to_string(), it.mode.to_string(), addresses, it.guests.to_string()]
        })
        .collect();
    table(&["Name", "State", "Mode", "Address", "Guests"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::api::network::{LinkState, Mode};

    #[test]
    fn networks_are_those_that_are_on_or_all() {
        let network = |name: &str, state, mode, addresses: &[&str], guests| Network {
            name: name.to_owned(),
            state,
            mode,
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            guests,
        };
        let networks = [
            network("br0", LinkState::Up, Mode::Bridged, &["10.1.1.2/24", "fd00::2/64"], 2),
            network("br1", LinkState::NoCarrier, Mode::Nat, &[], 0),
            network("eth1", LinkState::Missing, Mode::Direct, &[], 1),
        ];
        assert_eq!(
            net_list(&networks, true),
            " Name   State        Mode      Address                  Guests\n\
             ----------------------------------------------------------------\n \
             br0    up           bridged   10.1.1.2/24 fd00::2/64   2\n \
             br1    no carrier   nat       -                        0\n \
             eth1   missing      direct    -                        1\n"
        );
        let on = net_list(&networks, false);
        assert!(on.contains("br1") && !on.contains("eth1"), "{on}");
    }

    #[test]
    fn what_the_firmware_does_not_say_is_a_dash() {
        let machine = Sysinfo { vendor: Some("QEMU".to_owned()), cpus: 2, memory_mib: 768, ..Sysinfo::default() };
        let shown = sysinfo(&machine);
        for line in ["Vendor:           QEMU\n", "Serial:           -\n", "Memory size:      768 MiB\n"] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
    }
}
