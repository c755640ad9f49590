//! The power button, which the kernel shows as a key of an input device.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The power key (linux/input-event-codes.h).
const KEY_POWER: u16 = 116;
/// An event about a key (linux/input-event-codes.h).
const EV_KEY: u16 = 1;
/// Length of `struct input_event` on 64 bits: a time of 16 bytes, type, code, value (linux/input.h).
const EVENT: usize = 24;

/// Open input devices that have a power key.
#[derive(Default)]
pub struct Buttons {
    devices: Vec<(String, File)>,
}

impl Buttons {
    /// Opens those that are there.
    pub fn scan(&mut self) {
        for entry in fs::read_dir("/dev/input").into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str() {
                self.add(&format!("input/{name}"));
            }
        }
    }

    /// Opens the device with this node below /dev, if it has a power key and is not open.
    pub fn add(&mut self, device: &str) {
        let Some(name) = device.strip_prefix("input/event").map(|number| format!("event{number}")) else { return };
        let keys = fs::read_to_string(format!("/sys/class/input/{name}/device/capabilities/key")).unwrap_or_default();
        if !has_key(&keys, KEY_POWER) || self.devices.iter().any(|(open, _)| open == device) {
            return;
        }
        let path = Path::new("/dev").join(device);
        if let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
            self.devices.push((device.to_owned(), file));
        }
    }

    /// Reads all that came; says whether a power key was pressed. Devices that went away are closed.
    pub fn pressed(&mut self) -> bool {
        let mut pressed = false;
        self.devices.retain_mut(|(_, file)| {
            let mut buffer = [0; EVENT * 16];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => return false,
                    Ok(count) => pressed |= buffer[..count].chunks_exact(EVENT).any(is_press),
                    Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
                }
            }
        });
        pressed
    }

    /// Their descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.devices.iter().map(|(_, file)| file.as_fd())
    }
}

/// Whether one `struct input_event` says that the power key went down.
fn is_press(event: &[u8]) -> bool {
    let word = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    word(16) == EV_KEY && word(18) == KEY_POWER && word(20) == 1
}

/// Whether a set of keys, as sysfs shows it (words of 64 bits in hexadecimal, the highest first), holds `key`.
fn has_key(keys: &str, key: u16) -> bool {
    let word = keys.split_whitespace().rev().nth(usize::from(key / 64));
    word.and_then(|word| u64::from_str_radix(word, 16).ok()).is_some_and(|word| word >> (key % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_power_key() {
        assert!(has_key("10000000000000 0\n", KEY_POWER), "an ACPI button: bit 52 of the second word");
        assert!(!has_key("0\n", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
        assert!(!has_key("zz 0", KEY_POWER));
    }

    #[test]
    fn only_a_press_counts() {
        let event = |kind: u16, code: u16, value: u32| {
            let mut event = vec![0xee; 16];
            event.extend(kind.to_ne_bytes());
            event.extend(code.to_ne_bytes());
            event.extend(value.to_ne_bytes());
            event
        };
        assert!(is_press(&event(EV_KEY, KEY_POWER, 1)));
        assert!(!is_press(&event(EV_KEY, KEY_POWER, 0)), "released");
        assert!(!is_press(&event(EV_KEY, 30, 1)), "another key");
        assert!(!is_press(&event(0, KEY_POWER, 1)));
    }

    proptest! {
        #[test]
        fn any_text_is_safe(keys in ".*", key in any::<u16>()) {
            has_key(&keys, key);
        }
    }
}
