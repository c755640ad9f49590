//! QEMU's command line: pure, so that it can be read and tested as text.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::accel::Accel;
use super::net::UserNet;

/// OVMF's code, from Debian's package `ovmf`.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// OVMF's variables, empty.
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// OVMF's code that can enforce Secure Boot: it keeps its variables from the machine's system in SMM.
pub const OVMF_SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// OVMF's variables with the keys that vendors' machines have, Secure Boot enforced.
pub const OVMF_VENDOR_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";

/// The card's ROM, iPXE, from Debian's package `ipxe-qemu`. QEMU finds it by itself.
pub const IPXE_ROM: &str = "/usr/lib/ipxe/qemu/efi-virtio.rom";

/// How the machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
    /// From the network: QEMU's user network is the DHCP and TFTP server.
    Network {
        /// OVMF and its own PXE; else SeaBIOS and the iPXE that is the card's ROM.
        uefi: bool,
        /// The directory that TFTP serves.
        tree: PathBuf,
        /// The boot file in it.
        file: String,
    },
    /// OVMF that enforces Secure Boot with the keys in these variables.
    SecureUefi(PathBuf),
    /// QEMU loads the kernel itself.
    Direct {
        /// The kernel.
        kernel: PathBuf,
        /// Its initramfs.
        initrd: PathBuf,
        /// Its command line.
        cmdline: String,
    },
}

/// What the machine boots from, if not its flash disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A CD with this image in it.
    Cd(PathBuf),
    /// A USB stick with this content, which stays as it is.
    Usb(PathBuf),
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The appliance's name.
    pub name: String,
    /// How it boots.
    pub firmware: Firmware,
    /// What it boots from, if that is not its disk.
    pub medium: Option<Device>,
    /// Who runs its code.
    pub accel: Accel,
    /// The processor that is emulated, if its code is translated.
    pub emulated_cpu: &'static str,
    /// Processors.
    pub cpus: u8,
    /// Memory.
    pub memory_mib: u64,
    /// The disk, if it has one.
    pub disk: Option<PathBuf>,
    /// Whether what the machine writes on it stays.
    pub keep: bool,
    /// Files that are more disks, which the machine can only read.
    pub attached: Vec<PathBuf>,
    /// Its network.
    pub net: UserNet,
    /// Whether it may reach anything but its forwarded ports.
    pub internet: bool,
    /// Ports of 127.0.0.1 that lead to addresses and ports in it.
    pub forwards: Vec<(u16, Ipv4Addr, u16)>,
    /// Whether a reboot ends it.
    pub ends_on_reboot: bool,
    /// Whether it has a watchdog, which resets it.
    pub watchdog: bool,
    /// A QMP socket for somebody else.
    pub qmp: Option<PathBuf>,
    /// The user's own words for QEMU.
    pub more: Vec<String>,
}

impl Machine {
    /// The arguments. The console is QEMU's standard input and output; `monitor` is the file descriptor of our own QMP
    /// connection, which it inherits.
    pub fn args(&self, monitor: i32) -> Vec<String> {
        let mut args = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
        add(&["-name", &format!("guest={}", self.name), "-no-user-config", "-nodefaults", "-display", "none"]);
        // The tables for code that KVM in the machine runs translated are large: see DESIGN.md, "Facts measured".
        let (accel, cpu) = match self.accel {
            Accel::Kvm => ("kvm", "host"),
            Accel::Tcg => ("tcg,thread=multi,tb-size=1024", self.emulated_cpu),
        };
        let secure = matches!(self.firmware, Firmware::SecureUefi(_));
        add(&["-M", if secure { "q35,smm=on" } else { "q35" }, "-accel", accel, "-cpu", cpu]);
        add(&["-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()]);
        if self.ends_on_reboot {
            add(&["-no-reboot"]);
        }
        match &self.firmware {
            Firmware::Bios | Firmware::Network { uefi: false, .. } => {}
            Firmware::Uefi | Firmware::Network { uefi: true, .. } => {
                add(&["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}")]);
                add(&["-drive", &format!("if=pflash,unit=1,format=raw,snapshot=on,file={OVMF_VARS}")]);
            }
            Firmware::SecureUefi(vars) => {
                add(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
                // SMM and sleep to memory do not go together in OVMF.
                add(&["-global", "ICH9-LPC.disable_s3=1"]);
                add(&["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_SECURE_CODE}")]);
                add(&["-drive", &format!("if=pflash,unit=1,format=raw,snapshot=on,file={}", escaped(vars))]);
            }
            Firmware::Direct { kernel, initrd, cmdline } => {
                add(&["-kernel", &kernel.display().to_string(), "-initrd", &initrd.display().to_string()]);
                add(&["-append", cmdline]);
            }
        }
        if let Some(disk) = &self.disk {
            let snapshot = if self.keep { "off" } else { "on" };
            add(&["-drive", &format!("if=none,id=flash,format=raw,snapshot={snapshot},file={}", escaped(disk))]);
            let first = if self.medium.is_none() { ",bootindex=1" } else { "" };
            add(&["-device", &format!("virtio-blk-pci,drive=flash{first}")]);
        }
        match &self.medium {
            None => {}
            Some(Device::Cd(image)) => {
                let file = escaped(image);
                add(&["-drive", &format!("if=none,id=medium,format=raw,media=cdrom,readonly=on,file={file}")]);
                add(&["-device", "ide-cd,drive=medium,bootindex=1"]);
            }
            Some(Device::Usb(image)) => {
                let file = escaped(image);
                add(&["-drive", &format!("if=none,id=medium,format=raw,snapshot=on,file={file}")]);
                add(&["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,removable=on,bootindex=1"]);
            }
        }
        if self.medium.is_some() {
            // What this medium cannot boot is not booted from another.
            add(&["-boot", "strict=on"]);
        }
        for (number, file) in self.attached.iter().enumerate() {
            let name = format!("attached{number}");
            add(&["-drive", &format!("if=none,id={name},format=raw,readonly=on,file={}", escaped(file))]);
            add(&["-device", &format!("virtio-blk-pci,drive={name}")]);
        }
        // Without a ROM of its own, the card does not slow down a boot from elsewhere, and OVMF uses its own PXE.
        let card = match &self.firmware {
            Firmware::Network { uefi: false, .. } => "virtio-net-pci,netdev=net0,bootindex=0",
            Firmware::Network { uefi: true, .. } => "virtio-net-pci,netdev=net0,romfile=,bootindex=0",
            _ => "virtio-net-pci,netdev=net0,romfile=",
        };
        add(&["-netdev", &self.netdev(), "-device", card]);
        add(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        add(&["-chardev", &format!("socket,id=monitor,fd={monitor}"), "-mon", "chardev=monitor,mode=control"]);
        if self.watchdog {
            // Its own bridge has no place for one that is plugged in later.
            add(&["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        if let Some(socket) = &self.qmp {
            add(&["-qmp", &format!("unix:{},server=on,wait=off", escaped(socket))]);
        }
        args.extend(self.more.iter().cloned());
        args
    }

    fn netdev(&self) -> String {
        let UserNet { net, gateway, dns, dhcp } = &self.net;
        let restrict = if self.internet { "off" } else { "on" };
        let mut text =
            format!("user,id=net0,ipv6=off,restrict={restrict},net={net},host={gateway},dns={dns},dhcpstart={dhcp}");
        if let Firmware::Network { tree, file, .. } = &self.firmware {
            text.push_str(&format!(",tftp={},bootfile={file}", escaped(tree)));
        }
        for (port, address, guest_port) in &self.forwards {
            text.push_str(&format!(",hostfwd=tcp:127.0.0.1:{port}-{address}:{guest_port}"));
        }
        text
    }
}

/// A path as a value: in QEMU's options, a comma in a value is written twice.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let ip = |last| Ipv4Addr::new(10, 1, 1, last);
        Machine {
            name: "demo".to_owned(),
            firmware: Firmware::Bios,
            medium: None,
            accel: Accel::Tcg,
            emulated_cpu: "max,npt=off",
            cpus: 2,
            memory_mib: 768,
            disk: Some("out,1/flash.img".into()),
            keep: false,
            attached: vec![],
            net: UserNet { net: "10.1.1.0/24".parse().unwrap(), gateway: ip(1), dns: ip(2), dhcp: ip(13) },
            internet: false,
            forwards: vec![(8081, ip(11), 80), (8082, ip(12), 80)],
            ends_on_reboot: false,
            watchdog: false,
            qmp: None,
            more: vec![],
        }
    }

    /// An option and its value a line.
    fn told(machine: &Machine) -> String {
        let mut text = String::new();
        for arg in machine.args(5) {
            text.push_str(if arg.starts_with('-') { "\n" } else { " " });
            text.push_str(&arg);
        }
        text.trim_start().to_owned() + "\n"
    }

    #[test]
    fn command_lines_are_as_promised() {
        assert_eq!(told(&machine()), include_str!("golden/flash-bios.txt"));
        let uefi = Machine {
            firmware: Firmware::Uefi,
            accel: Accel::Kvm,
            keep: true,
            attached: vec!["out/thimble.update".into()],
            internet: true,
            forwards: vec![],
            qmp: Some("/tmp/qmp".into()),
            ..machine()
        };
        assert_eq!(told(&uefi), include_str!("golden/flash-uefi.txt"));
        let secure = Machine { firmware: Firmware::SecureUefi(OVMF_VENDOR_VARS.into()), ..machine() };
        assert_eq!(told(&secure), include_str!("golden/flash-secure.txt"));
        let direct = Firmware::Direct {
            kernel: "out/netboot/vmlinuz".into(),
            initrd: "out/netboot/initrd".into(),
            cmdline: "console=ttyS0 quiet".to_owned(),
        };
        let direct = Machine { firmware: direct, ends_on_reboot: true, ..machine() };
        assert_eq!(told(&direct), include_str!("golden/direct.txt"));
        let cd = Machine { medium: Some(Device::Cd("out/thimble.iso".into())), ..machine() };
        assert_eq!(told(&cd), include_str!("golden/cd.txt"));
        let usb =
            Machine { firmware: Firmware::Uefi, medium: Some(Device::Usb("out/thimble.iso".into())), ..machine() };
        assert_eq!(told(&usb), include_str!("golden/usb.txt"));
        let network = |uefi| {
            let firmware = Firmware::Network { uefi, tree: "out,1/netboot".into(), file: "boot.ipxe".to_owned() };
            told(&Machine { firmware, disk: None, internet: true, ..machine() })
        };
        let netdev = ",dhcpstart=10.1.1.13,tftp=out,,1/netboot,bootfile=boot.ipxe,hostfwd=";
        for (uefi, card) in [(false, "net0,bootindex=0"), (true, "net0,romfile=,bootindex=0")] {
            let told = network(uefi);
            assert!(
                told.contains(netdev) && told.contains(&format!("-device virtio-net-pci,netdev={card}\n")),
                "{told}"
            );
            assert_eq!(told.contains("pflash"), uefi);
        }
    }
}
