//! Modules, hardware sets and firmware for the devices of a machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use thimble_spec::manifest::Firmware;
use thimble_spec::modules::glob;

use super::device::Device;
use crate::kernel::hardware::{BASE, Set};
use crate::kernel::modinfo::canonical;
use crate::kernel::modules::Catalog;

/// Drives the disks of everything that speaks SCSI; no device's `modalias` leads to it before there is a disk.
const SCSI_DISKS: &str = "sd_mod";
/// What a kernel has built in does not say what it drives. These are drivers of whole classes, which kernels have built in
/// more often than others.
const BUILT_IN: [(&str, &str); 12] = [
    ("pci:v*d*sv*sd*bc01sc06i01*", "ahci"),
    ("pci:v*d*sv*sd*bc01sc08i02*", "nvme"),
    ("pci:v*d*sv*sd*bc0Csc03i30*", "xhci_pci"),
    ("pci:v*d*sv*sd*bc0Csc03i20*", "ehci_pci"),
    ("pci:v*d*sv*sd*bc0Csc03i10*", "ohci_pci"),
    ("pci:v*d*sv*sd*bc0Csc03i00*", "uhci_hcd"),
    ("pci:v00001AF4d*", "virtio_pci"),
    ("virtio:d00000001v*", "virtio_net"),
    ("virtio:d00000002v*", "virtio_blk"),
    ("virtio:d00000003v*", "virtio_console"),
    ("virtio:d00000004v*", "virtio_rng"),
    ("virtio:d00000008v*", "virtio_scsi"),
];

/// What a definition for this machine should say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// For `kernel.host.hardware`.
    pub hardware: Vec<String>,
    /// The devices, in the order of the list.
    pub devices: Vec<Finding>,
    /// What the modules may ask for.
    pub firmware: Vec<Firmware>,
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The device.
    #[serde(flatten)]
    pub device: Device,
    /// Modules of the kernel that drive it and what is behind it.
    pub modules: Vec<String>,
    /// Sets among the proposed ones that have them.
    pub sets: Vec<String>,
    /// What is to be thought of it.
    pub verdict: Verdict,
}

/// What is to be thought of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The proposed sets drive it.
    Driven,
    /// The kernel does, without a module.
    BuiltIn,
    /// The kernel has modules for it, and no set names them.
    NoSet,
    /// No module of the kernel supports it.
    Unsupported,
    /// A host has no use for it.
    NotNeeded,
}

impl Advice {
    /// The devices that a host needs and that the proposed sets do not drive.
    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.devices.iter().filter(|found| matches!(found.verdict, Verdict::NoSet | Verdict::Unsupported))
    }
}

/// Any one of these modules does.
type Choice = BTreeSet<String>;

/// What a device needs, all of it.
#[derive(Debug, Default)]
struct Needs {
    choices: Vec<Choice>,
    /// The kernel itself does a part of it.
    built_in: bool,
    /// Nothing does a part of it.
    lacking: bool,
}

/// Advises.
pub fn advise(devices: Vec<Device>, catalog: &Catalog, sets: &[Set]) -> Advice {
    let mut known: BTreeMap<String, Choice> = BTreeMap::new();
    let mut drivers =
        |modalias: &str| known.entry(modalias.to_owned()).or_insert_with(|| drivers(catalog, modalias)).clone();
    let needs: Vec<Needs> = devices.iter().map(|device| needs(device, catalog, &mut drivers)).collect();

    let named: Vec<(&Set, Choice)> =
        sets.iter().map(|set| (set, set.modules.iter().map(|name| canonical(name)).collect())).collect();
    let mut open: BTreeSet<&Choice> = devices
        .iter()
        .zip(&needs)
        .filter(|(device, _)| device.needed())
        .flat_map(|(_, needs)| &needs.choices)
        .collect();
    let covers = |modules: &Choice, choice: &Choice| !modules.is_disjoint(choice);
    let mut chosen: Vec<&(&Set, Choice)> = named.iter().filter(|(set, _)| set.name == BASE).collect();
    open.retain(|choice| !chosen.iter().any(|(_, modules)| covers(modules, choice)));
    let modaliases: Vec<String> = devices.iter().map(Device::modalias).collect();
    let meant = |set: &Set| {
        set.when.is_empty()
            || set.when.iter().any(|when| modaliases.iter().any(|alias| glob(when.as_bytes(), alias.as_bytes())))
    };
    // Sets that are for other machines come last, if nothing else drives a device.
    for wanted in [true, false] {
        loop {
            let count = |modules: &Choice| open.iter().filter(|choice| covers(modules, choice)).count();
            let candidates = named.iter().filter(|(set, _)| set.name != BASE && meant(set) == wanted);
            let best = candidates.map(|one| (count(&one.1), one)).filter(|(count, _)| *count > 0);
            // The one that drives most; of equal ones, the one that carries least.
            let best = best.max_by(|(count, (set, modules)), (other_count, (other, other_modules))| {
                let smaller = other_modules.len().cmp(&modules.len());
                count.cmp(other_count).then(smaller).then_with(|| other.name.cmp(&set.name))
            });
            let Some((_, best)) = best else { break };
            open.retain(|choice| !covers(&best.1, choice));
            chosen.push(best);
        }
    }
    // What a later one made superfluous goes again.
    let wanted: Vec<&Choice> = devices
        .iter()
        .zip(&needs)
        .filter(|(device, _)| device.needed())
        .flat_map(|(_, needs)| &needs.choices)
        .filter(|choice| chosen.iter().any(|(_, modules)| covers(modules, choice)))
        .collect();
    let mut at = 0;
    while at < chosen.len() {
        let others = |choice: &&Choice| {
            chosen.iter().enumerate().any(|(other, (_, modules))| other != at && covers(modules, choice))
        };
        if chosen[at].0.name != BASE && wanted.iter().all(others) {
            chosen.remove(at);
        } else {
            at += 1;
        }
    }
    // In the order of the library, so that a line does not depend on which device was counted first.
    let chosen: Vec<&(&Set, Choice)> =
        named.iter().filter(|one| chosen.iter().any(|other| other.0.name == one.0.name)).collect();

    let mut firmware = BTreeSet::new();
    let devices = devices.into_iter().zip(needs).map(|(device, needs)| {
        let modules: Choice = needs.choices.iter().flatten().cloned().collect();
        // What drives the device itself; that of its disks says nothing about it.
        let drivers = needs.choices.first().cloned().unwrap_or_default();
        let has = |(_, own): &&&(&Set, Choice)| covers(own, &drivers);
        let sets: Vec<String> = chosen.iter().filter(has).map(|(set, _)| set.name.clone()).collect();
        let driven = |choice: &Choice| chosen.iter().any(|(_, own)| covers(own, choice));
        let packed = modules.iter().filter(|module| chosen.iter().any(|(_, own)| own.contains(*module)));
        for module in packed {
            let files = catalog.modules.get(module).into_iter().flat_map(|known| &known.info.firmware);
            firmware.extend(files.map(|file| Firmware { module: module.clone(), file: file.clone() }));
        }
        let verdict = if !device.needed() {
            Verdict::NotNeeded
        } else if needs.lacking {
            Verdict::Unsupported
        } else if !needs.choices.iter().all(driven) {
            Verdict::NoSet
        } else if needs.choices.is_empty() && needs.built_in {
            Verdict::BuiltIn
        } else {
            Verdict::Driven
        };
        Finding { device, modules: modules.into_iter().collect(), sets, verdict }
    });
    let devices = devices.collect();
    let hardware = chosen.iter().map(|(set, _)| set.name.clone()).filter(|name| name != BASE).collect();
    Advice { hardware, devices, firmware: firmware.into_iter().collect() }
}

fn needs(device: &Device, catalog: &Catalog, drivers: &mut impl FnMut(&str) -> Choice) -> Needs {
    let mut needs = Needs::default();
    for modalias in std::iter::once(device.modalias()).chain(device.virtio_modalias()) {
        let choice = drivers(&modalias);
        if !choice.is_empty() {
            needs.choices.push(choice);
        } else if built_in(catalog, &modalias) {
            needs.built_in = true;
        } else {
            needs.lacking = true;
        }
    }
    if device.has_scsi_disks() && catalog.modules.contains_key(SCSI_DISKS) && !needs.lacking {
        needs.choices.push([SCSI_DISKS.to_owned()].into());
    }
    needs
}

fn drivers(catalog: &Catalog, modalias: &str) -> Choice {
    let matches = |alias: &String| glob(alias.as_bytes(), modalias.as_bytes());
    let modules = catalog.modules.iter().filter(|(_, known)| known.info.aliases.iter().any(matches));
    modules.map(|(name, _)| name.clone()).collect()
}

fn built_in(catalog: &Catalog, modalias: &str) -> bool {
    let matches = |(pattern, name): &&(&str, &str)| {
        catalog.builtin.contains(*name) && glob(pattern.as_bytes(), modalias.as_bytes())
    };
    BUILT_IN.iter().any(|one| matches(&one))
}

#[cfg(test)]
mod tests {
    use super::super::lspci;
    use super::*;
    use crate::kernel::modinfo::Modinfo;
    use crate::kernel::modules::Known;
    use crate::place::Source;

    /// Modules with the aliases that Debian's kernel 6.1 has for the devices of the samples.
    fn catalog() -> Catalog {
        let module = |name: &str, aliases: &[&str], firmware: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let info = Modinfo { aliases: texts(aliases), firmware: texts(firmware), ..Modinfo::default() };
            (name.to_owned(), Known { info, ..Known::default() })
        };
        Catalog {
            modules: BTreeMap::from([
                module("ahci", &["pci:v*d*sv*sd*bc01sc06i01*"], &[]),
                module("nvme", &["pci:v*d*sv*sd*bc01sc08i02*"], &[]),
                module("sd_mod", &["scsi:t-0x00*"], &[]),
                module("xhci_pci", &["pci:v*d*sv*sd*bc0Csc03i30*"], &[]),
                module("ehci_pci", &["pci:v*d*sv*sd*bc0Csc03i20*"], &[]),
                module(
                    "tg3",
                    &["pci:v000014E4d0000165Fsv*sd*bc*sc*i*", "pci:v000014E4d00001657sv*sd*bc*sc*i*"],
                    &["tigon/tg3.bin"],
                ),
                module("i40e", &["pci:v00008086d00001572sv*sd*bc*sc*i*"], &[]),
                module("megaraid_sas", &["pci:v00001000d00000016sv*sd*bc*sc*i*"], &[]),
                module("smartpqi", &["pci:v00009005d0000028Fsv*sd*bc*sc*i*"], &[]),
                module("atlantic", &["pci:v00001D6Ad000007B1sv*sd*bc*sc*i*"], &[]),
                module("virtio_pci", &["pci:v00001AF4d*sv*sd*bc*sc*i*"], &[]),
                module("virtio_net", &["virtio:d00000001v*"], &[]),
                module("virtio_blk", &["virtio:d00000002v*"], &[]),
                module("virtio_rng", &["virtio:d00000004v*"], &[]),
                module("virtio_balloon", &["virtio:d00000005v*"], &[]),
            ]),
            ..Catalog::default()
        }
    }

    fn sets() -> Vec<Set> {
        let set = |name: &str, modules: &[&str], when: &[&str]| Set {
            name: name.to_owned(),
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            always: Vec::new(),
            fragments: Vec::new(),
            when: when.iter().map(|name| (*name).to_owned()).collect(),
            source: Source { file: String::new(), text: String::new() },
        };
        vec![
            set("base", &["kvm"], &[]),
            set("nic-server", &["tg3", "i40e", "virtio-net"], &[]),
            set("raid", &["megaraid_sas", "smartpqi", "ahci", "nvme", "sd_mod"], &[]),
            set("usb", &["xhci_pci", "ehci-pci", "sd_mod"], &[]),
            set(
                "virtio",
                &["virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "ahci", "sd_mod"],
                &["pci:v00001AF4d*"],
            ),
        ]
    }

    fn of(sample: &str) -> Advice {
        advise(lspci::parse(sample).unwrap(), &catalog(), &sets())
    }

    #[test]
    fn a_virtual_machine_gets_the_set_that_is_for_it() {
        let advice = of(include_str!("samples/qemu-q35.txt"));
        assert_eq!(advice.hardware, ["virtio"]);
        assert_eq!(advice.open().count(), 0, "{advice:#?}");
        let disk = advice.devices.iter().find(|found| found.device.virtio() == Some(2)).unwrap();
        assert_eq!(disk.modules, ["virtio_blk", "virtio_pci"]);
    }

    #[test]
    fn servers_get_what_they_have_and_nothing_for_virtual_machines() {
        let dell = of(include_str!("samples/dell-r740.txt"));
        assert_eq!(dell.hardware, ["nic-server", "raid", "usb"]);
        assert_eq!(dell.open().count(), 0, "{dell:#?}");
        assert_eq!(dell.firmware, [Firmware { module: "tg3".into(), file: "tigon/tg3.bin".into() }]);
        let hpe = of(include_str!("samples/hpe-dl360-gen10.txt"));
        assert_eq!(hpe.hardware, ["nic-server", "raid", "usb"]);
    }

    #[test]
    fn what_no_set_and_what_no_module_drives_is_told() {
        let advice = of(
            "01:00.0 \"0200\" \"1d6a\" \"07b1\"\n02:00.0 \"0200\" \"dead\" \"beef\"\n03:00.0 \"0300\" \"dead\" \"beef\"",
        );
        let verdicts: Vec<Verdict> = advice.devices.iter().map(|found| found.verdict).collect();
        assert_eq!(verdicts, [Verdict::NoSet, Verdict::Unsupported, Verdict::NotNeeded]);
        assert_eq!(advice.devices[0].modules, ["atlantic"]);
        assert_eq!(advice.hardware, [] as [&str; 0]);
    }

    #[test]
    fn a_set_for_other_machines_is_better_than_no_driver() {
        let only = |sets: Vec<Set>| {
            advise(lspci::parse("00:1f.2 \"0106\" \"8086\" \"2922\" -p01").unwrap(), &catalog(), &sets)
        };
        assert_eq!(only(sets()).hardware, ["raid"]);
        let without = sets().into_iter().filter(|set| set.name != "raid").collect();
        assert_eq!(only(without).hardware, ["virtio"]);
    }

    #[test]
    fn what_the_kernel_has_built_in_needs_no_set() {
        let mut kernel = catalog();
        for name in ["ahci", "sd_mod"] {
            kernel.modules.remove(name);
            kernel.builtin.insert(name.to_owned());
        }
        let advice = advise(lspci::parse("00:1f.2 \"0106\" \"8086\" \"2922\" -p01").unwrap(), &kernel, &sets());
        assert_eq!((advice.devices[0].verdict, advice.hardware.len()), (Verdict::BuiltIn, 0));
    }
}
