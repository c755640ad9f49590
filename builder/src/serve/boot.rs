//! Which file a machine boots from, by what its firmware says of itself.
//!
//! The names are those of the tree that `thimble build` writes: see docs/netboot.md.

use std::fmt;
use std::net::Ipv4Addr;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// iPXE's script.
pub const IPXE_SCRIPT: &str = "boot.ipxe";
/// iPXE for BIOS: it uses the network driver of the card's own ROM.
pub const IPXE_BIOS: &str = "undionly.kpxe";
/// iPXE for UEFI: it uses the firmware's network driver.
pub const IPXE_UEFI: &str = "snponly.efi";
/// GRUB for BIOS.
pub const GRUB_BIOS: &str = "grub/i386-pc/core.0";
/// GRUB for UEFI.
pub const GRUB_UEFI: &str = "grub/x86_64-efi/core.efi";

/// A client's architecture: option 93 (RFC 4578 section 2.1, and IANA's list of processor architecture types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch(pub u16);

impl Arch {
    /// How it starts, if an appliance can be started on it at all.
    fn firmware(self) -> Option<Firmware> {
        match self.0 {
            0 => Some(Firmware::Bios),
            // 9 is EFI byte code by IANA's list, and x86-64 by what firmware sends (RFC 4578, erratum 4624).
            7 | 9 => Some(Firmware::Uefi),
            16 => Some(Firmware::UefiHttp),
            _ => None,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.firmware() {
            Some(Firmware::Bios) => f.pad("BIOS"),
            Some(Firmware::Uefi) => f.pad("UEFI"),
            Some(Firmware::UefiHttp) => f.pad("UEFI HTTP"),
            None => f.pad(&format!("type {}", self.0)),
        }
    }
}

impl Serialize for Arch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Firmware {
    Bios,
    Uefi,
    UefiHttp,
}

/// The loader that firmware gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Loader {
    /// iPXE for BIOS, whose own network stack is slow; GRUB for UEFI
    #[default]
    Auto,
    /// iPXE: kernel and initrd come over HTTP
    Ipxe,
    /// GRUB: they come the way GRUB itself came
    Grub,
}

/// What a machine that asks is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// What its firmware says that it is; nothing: an x86 BIOS of before RFC 4578.
    pub arch: Arch,
    /// It wants a URL: its option 60 says `HTTPClient`.
    pub http: bool,
    /// It is iPXE (its option 77 says so), and whether that iPXE has HTTP.
    pub ipxe: Option<bool>,
}

/// Where the files are.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    /// The server.
    pub address: Ipv4Addr,
    /// Its port for HTTP.
    pub http_port: u16,
    /// Which loader.
    pub loader: Loader,
}

impl Files {
    /// The boot file for a machine: a URL where it knows those, else a path by TFTP. `None` if nothing here runs on it.
    pub fn boot_file(&self, asker: &Asker) -> Option<String> {
        let firmware = asker.arch.firmware()?;
        if let Some(has_http) = asker.ipxe {
            return Some(if has_http { self.url(IPXE_SCRIPT) } else { IPXE_SCRIPT.to_owned() });
        }
        if asker.http != (firmware == Firmware::UefiHttp) {
            // HTTP boot as another architecture than the one that has it, or the other way round: nothing fits.
            return None;
        }
        let ipxe = match (self.loader, firmware) {
            (Loader::Auto, Firmware::Bios) | (Loader::Ipxe, _) => true,
            // GRUB 2.06 asks at port 80 and no other.
            (Loader::Auto, Firmware::UefiHttp) => self.http_port != 80,
            (Loader::Auto, _) | (Loader::Grub, _) => false,
        };
        Some(match (firmware, ipxe) {
            (Firmware::Bios, true) => IPXE_BIOS.to_owned(),
            (Firmware::Bios, false) => GRUB_BIOS.to_owned(),
            (Firmware::Uefi, true) => IPXE_UEFI.to_owned(),
            (Firmware::Uefi, false) => GRUB_UEFI.to_owned(),
            (Firmware::UefiHttp, true) => self.url(IPXE_UEFI),
            (Firmware::UefiHttp, false) => self.url(GRUB_UEFI),
        })
    }

    fn url(&self, file: &str) -> String {
        match self.http_port {
            80 => format!("http://{}/{file}", self.address),
            port => format!("http://{}:{port}/{file}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_firmware_gets_what_it_can_run() {
        let files = Files { address: Ipv4Addr::new(10, 0, 0, 1), http_port: 80, loader: Loader::Auto };
        let file = |arch, http, ipxe| files.boot_file(&Asker { arch: Arch(arch), http, ipxe });
        assert_eq!(file(0, false, None).as_deref(), Some("undionly.kpxe"));
        assert_eq!(file(7, false, None).as_deref(), Some("grub/x86_64-efi/core.efi"));
        assert_eq!(file(9, false, None), file(7, false, None));
        assert_eq!(file(16, true, None).as_deref(), Some("http://10.0.0.1/grub/x86_64-efi/core.efi"));
        assert_eq!(file(0, false, Some(true)).as_deref(), Some("http://10.0.0.1/boot.ipxe"));
        assert_eq!(file(7, false, Some(false)).as_deref(), Some("boot.ipxe"));
        // 32-bit UEFI, ARM, and HTTP boot that is none.
        for (arch, http) in [(6, false), (11, false), (15, true), (19, true), (7, true), (16, false)] {
            assert_eq!(file(arch, http, None), None, "{arch}");
        }
        let odd = Files { http_port: 8080, ..files };
        let http = Asker { arch: Arch(16), http: true, ipxe: None };
        assert_eq!(odd.boot_file(&http).as_deref(), Some("http://10.0.0.1:8080/snponly.efi"));
        let files = Files { loader: Loader::Ipxe, http_port: 8080, ..files };
        let file = |arch, http| files.boot_file(&Asker { arch: Arch(arch), http, ipxe: None });
        assert_eq!(file(7, false).as_deref(), Some("snponly.efi"));
        assert_eq!(file(16, true).as_deref(), Some("http://10.0.0.1:8080/snponly.efi"));
    }
}
