//! What GRUB reads of a slot: the script that starts it, and the list of hashes that it checks after a boot that was not
//! confirmed. Both follow from the release alone.

use thimble_spec::release::{Part, Release};
use thimble_spec::slot::{BOOT_WORD, SLOT_WORD, Slot, VolumeId};

use crate::error::{Error, Result};
use crate::hash;

/// Where an object lies, as GRUB names it.
pub fn object_path(part: &Part) -> String {
    let name = part.store_name();
    let (base, extension) = name.split_at(name.len().min(8));
    format!("/thimble/objects/{base}.{extension}")
}

/// GRUB's variable that holds [`thimble_spec::slot::TRIAL_WORD`] while it starts the slot on trial, and is not set otherwise.
pub const TRIAL_VARIABLE: &str = "thimble_trial";

/// `thimble/SLOT.cfg`: returns only if the slot could not be started.
///
/// # Errors
/// A word of the command line that GRUB would change on its way to the kernel.
pub fn script(release: &Release, slot: Slot, volume: VolumeId) -> Result<String> {
    let mut linux = format!("linux {}{}", object_path(&release.kernel), words(&release.cmdline)?);
    linux.push_str(&format!(" {SLOT_WORD}={slot} {BOOT_WORD}={volume} ${TRIAL_VARIABLE}"));
    let initrd: String = release.initrd.iter().map(|part| format!(" {}", object_path(part))).collect();
    let (name, manifest) = (&release.appliance, &release.manifest);
    Ok(format!("# {name}, slot {slot}, {manifest}\nif {linux}; then\n  if initrd{initrd}; then\n    boot\n  fi\nfi\n"))
}

/// `thimble/SLOT.sum`, as `sha256sum --check` reads it, GRUB's and the one of coreutils: all objects, and the script.
pub fn sums(release: &Release, slot: Slot, script: &str) -> String {
    let objects = release.objects().into_iter().map(|part| (part.sha256.clone(), object_path(part)));
    let script = (hash::hex(script.as_bytes()), format!("/thimble/{slot}.cfg"));
    objects.chain([script]).map(|(sha256, path)| format!("{sha256}  {path}\n")).collect()
}

/// A kernel command line as GRUB's shell must read it: a space, and the word, for each word.
///
/// # Errors
/// A word that GRUB would change on its way to the kernel.
pub fn words(cmdline: &str) -> Result<String> {
    let mut line = String::new();
    for word in cmdline.split_ascii_whitespace() {
        let word = quoted(word).ok_or_else(|| {
            Error::Wrong(format!(
                "the host's kernel command line has the word `{word}`, which GRUB would change: leave out quotes, \
                 backslashes and letters beyond ASCII"
            ))
        })?;
        line.push(' ');
        line.push_str(&word);
    }
    Ok(line)
}

/// A word as GRUB's shell must read it, if it can. GRUB puts a backslash before quotes and backslashes that it hands to a kernel
/// (`grub_create_loader_cmdline`), so that words with these cannot be passed on.
pub fn quoted(word: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=.,:/@%+^~".contains(&byte);
    if word.bytes().all(plain) {
        Some(word.to_owned())
    } else if word.bytes().any(|byte| matches!(byte, b'\'' | b'"' | b'\\') || !byte.is_ascii_graphic()) {
        None
    } else {
        Some(format!("'{word}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_script_is_as_promised() {
        let mut release = testing::release(&[b"kernel", b"host", b"guest"]);
        release.cmdline = "console=ttyS0,115200  quiet thimble.x=a;b".to_owned();
        let text = script(&release, Slot::B, VolumeId(0x0a2b_00ff)).unwrap();
        assert_eq!(text, include_str!("golden/b.cfg"));
        assert_eq!(sums(&release, Slot::B, &text), include_str!("golden/b.sum"));
    }

    #[test]
    fn words_that_grub_would_change_are_refused() {
        for word in ["a=\"b\"", "a='b'", "a\\b", "a=\u{e9}"] {
            let mut release = testing::release(&[b"kernel", b"host"]);
            release.cmdline = format!("quiet {word}");
            let error = script(&release, Slot::A, VolumeId(0)).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(quoted("a=${b}").as_deref(), Some("'a=${b}'"));
    }
}
