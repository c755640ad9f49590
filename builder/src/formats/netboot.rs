//! `netboot/`: what a machine without a disk of its own loads.
//!
//! | file | for |
//! | --- | --- |
//! | `vmlinuz`, `initrd` | everybody |
//! | `boot.ipxe` | iPXE, however it came to run |
//! | `undionly.kpxe`, `snponly.efi` | PXE by BIOS, PXE and HTTP boot by UEFI: iPXE, from Debian's package |
//! | `grub/i386-pc/core.0`, `grub/x86_64-efi/core.efi` | the same: GRUB, made here of the package's modules |
//! | `grub/grub.cfg` | GRUB |
//!
//! The tree may lie anywhere on a server: each loader looks for the rest beside where it came from itself, by the protocol
//! that it came by.

use std::path::Path;

use thimble_store::script;

use super::Contents;
use crate::build::output::{INITRD, Output, VMLINUZ};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::flash::mkimage;
use crate::serve::boot::{GRUB_BIOS, GRUB_UEFI, IPXE_BIOS, IPXE_SCRIPT, IPXE_UEFI};

/// The directory.
pub const DIR: &str = "netboot";
/// GRUB's configuration.
const GRUB_CONFIG: &str = "grub/grub.cfg";
/// The package of iPXE's loaders, and where they lie in it.
const IPXE: &str = "ipxe";
const IPXE_DIR: &str = "usr/lib/ipxe";
/// GRUB's images: file, `grub-mkimage`'s format, its platform, that platform's package, and the modules of it alone.
const GRUB: [(&str, &str, &str, &str, &[&str]); 2] = [
    (GRUB_BIOS, "i386-pc-pxe", "i386-pc", "grub-pc-bin", &["pxe"]),
    // Without a video driver, Linux has no screen until its own driver is loaded.
    (GRUB_UEFI, "x86_64-efi", "x86_64-efi", "grub-efi-amd64-bin", &["efinet", "efi_gop"]),
];
/// Modules of both: what fetches a kernel and starts it, and says so when it can't.
const MODULES: [&str; 10] = ["normal", "linux", "net", "tftp", "http", "regexp", "serial", "terminal", "echo", "sleep"];
/// The same.
const REBOOT: &str = "reboot";

/// Packages with what is packed here.
pub const PACKAGES: &[&str] = &[IPXE, "grub-pc-bin", "grub-efi-amd64-bin"];

/// The package that an artefact came from, if it is not our own.
pub fn package_of(artefact: &str) -> Option<&'static str> {
    let name = artefact.strip_prefix(DIR)?.strip_prefix('/')?;
    match name {
        IPXE_BIOS | IPXE_UEFI => Some(IPXE),
        _ => GRUB.iter().find(|(file, ..)| *file == name).map(|(_, _, _, package, _)| *package),
    }
}

/// Makes the directory.
///
/// # Errors
/// A file cannot be read, a tool fails, the disk is full, a loader would change a word of the command line.
pub fn write(contents: &Contents<'_>, output: &Output<'_>, context: &Context) -> Result<()> {
    let step = context.progress.step("netboot tree");
    let path = |name: &str| output.path(&format!("{DIR}/{name}"));
    output.copy(contents.kernel, VMLINUZ)?;
    let parts: Vec<&Path> = contents.parts.iter().map(|part| part.path.as_path()).collect();
    output.concatenate(&parts, INITRD)?;
    for file in [IPXE_BIOS, IPXE_UEFI] {
        let loader = contents.loaders.file(IPXE, &format!("{IPXE_DIR}/{file}"))?;
        output.copy(&loader, &format!("{DIR}/{file}"))?;
    }
    let script = ipxe_script(contents.name, contents.cmdline).map_err(|word| refused(&word, "iPXE"))?;
    files::write(&path(IPXE_SCRIPT), script.as_bytes())?;
    for (file, format, platform, package, modules) in GRUB {
        let out = path(file);
        files::make_dir(files::parent(&out))?;
        let image = mkimage::Image { format, platform, package, prefix: "", early: None };
        let modules = MODULES.iter().chain(modules).copied().chain([REBOOT]);
        mkimage::link(context, &contents.loaders.grub, image, modules, &out)?;
    }
    let config = grub_config(contents.name, contents.cmdline).map_err(|word| refused(&word, "GRUB"))?;
    files::write(&path(GRUB_CONFIG), config.as_bytes())?;
    step.done();
    Ok(())
}

fn refused(word: &str, loader: &str) -> Error {
    Error::environment(format!(
        "the host's kernel command line has the word `{word}`, which {loader} would change: \
         leave out quotes, backslashes, letters beyond ASCII and what {loader} takes for its own"
    ))
}

/// `boot.ipxe`. Names are relative to where the script came from, which may be HTTP or TFTP.
///
/// # Errors
/// A word of `cmdline` that iPXE would change: it expands `${...}`, and ends a command at some words (`src/core/exec.c`).
fn ipxe_script(name: &str, cmdline: &str) -> Result<String, String> {
    let changed = |word: &&str| {
        word.contains("${") || word.starts_with('#') || matches!(*word, "||" | "&&" | ";") || !word.is_ascii()
    };
    if let Some(word) = cmdline.split_ascii_whitespace().find(changed) {
        return Err(word.to_owned());
    }
    let words: String = cmdline.split_ascii_whitespace().map(|word| format!(" {word}")).collect();
    // `initrd=initrd`: by UEFI, the kernel's own loader asks for it by that name.
    Ok(format!(
        "#!ipxe\n\
         # {name}\n\
         kernel vmlinuz initrd=initrd{words} || goto failed\n\
         initrd initrd || goto failed\n\
         boot || goto failed\n\
         :failed\n\
         echo {name}: the system could not be loaded from the network; starting again in 10 seconds.\n\
         sleep 10\n\
         reboot\n"
    ))
}

/// `grub.cfg`: beside the directory that GRUB itself came from lie kernel and initramfs.
///
/// # Errors
/// A word of `cmdline` that GRUB would change.
fn grub_config(name: &str, cmdline: &str) -> Result<String, String> {
    let mut linux = String::from("linux \"$top/vmlinuz\"");
    for word in cmdline.split_ascii_whitespace() {
        linux.push(' ');
        linux.push_str(&script::quoted(word).ok_or(word)?);
    }
    Ok(format!(
        "# {name}: starts at once, without a menu.\n\
         serial --unit=0 --speed=115200\n\
         terminal_output console serial\n\
         set top=\"($root)\"\n\
         regexp --set=1:top '^(.*)/grub/*$' \"$prefix\"\n\
         {linux}\n\
         initrd \"$top/initrd\"\n\
         boot\n\
         echo \"{name}: the system could not be loaded from the network; starting again in 10 seconds.\"\n\
         sleep 10\n\
         reboot\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CMDLINE: &str = "console=ttyS0,115200  quiet thimble.x=a;b";

    #[test]
    fn scripts_are_as_promised() {
        assert_eq!(ipxe_script("demo", CMDLINE).unwrap(), include_str!("golden/boot.ipxe"));
        assert_eq!(grub_config("demo", CMDLINE).unwrap(), include_str!("golden/netboot-grub.cfg"));
    }

    #[test]
    fn words_that_a_loader_would_change_are_refused() {
        for word in ["a=${net0/mac}", "#x", "||", ";", "a=\u{e9}"] {
            assert_eq!(ipxe_script("demo", &format!("quiet {word}")), Err(word.to_owned()));
        }
        assert_eq!(grub_config("demo", "quiet a=\"b\""), Err("a=\"b\"".to_owned()));
    }

    #[test]
    fn loaders_are_their_packages() {
        assert_eq!(package_of("netboot/undionly.kpxe"), Some("ipxe"));
        assert_eq!(package_of("netboot/grub/i386-pc/core.0"), Some("grub-pc-bin"));
        assert_eq!(package_of("netboot/grub/grub.cfg"), None);
        assert_eq!(package_of("flash.img"), None);
    }
}
