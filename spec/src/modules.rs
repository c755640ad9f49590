//! The index of the kernel modules that a host carries, made by the builder from the modules' own `.modinfo`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What PID 1 knows of the modules beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleIndex {
    /// Release of the kernel that they belong to, as `uname -r` prints it.
    pub release: String,
    /// Module name (underscores, no suffix) to what is known of it. Its file is `NAME.ko` in
    /// [`crate::paths::MODULES_DIR`].
    pub modules: BTreeMap<String, Module>,
    /// Modules to load at start whatever hardware is there, in this order.
    pub always: Vec<String>,
}

/// One module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Modules that must be loaded first, in the order of loading; complete, so that nothing need be resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Patterns of the `modalias` that it drives, with the wildcards of fnmatch(3).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

impl ModuleIndex {
    /// Modules that drive the device with this `modalias`, in name order.
    pub fn drivers_of<'a>(&'a self, modalias: &'a str) -> impl Iterator<Item = &'a str> {
        self.modules
            .iter()
            .filter(move |(_, module)| module.aliases.iter().any(|alias| glob(alias.as_bytes(), modalias.as_bytes())))
            .map(|(name, _)| name.as_str())
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any run, `?` for any byte and `[a-z]` for a set: what
/// fnmatch(3) without flags does, which modprobe uses for aliases. Time is at most the product of the lengths.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    // Where to go on when a match fails: behind the last `*`, one byte further than last time.
    let mut retry: Option<(usize, usize)> = None;
    while position < text.len() {
        let step = match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, position));
                at += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[at..], text[position]),
            Some(byte) if *byte == text[position] => Some(1),
            _ => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                at += length;
                position += 1;
            }
            (None, Some((after, from))) => {
                at = after;
                position = from + 1;
                retry = Some((after, from + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// The length of the set at the start of `pattern` if it holds `byte`.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|byte| *byte == b']')?;
    let mut members = &pattern[1..end];
    while let [first, rest @ ..] = members {
        let last = match rest {
            [b'-', last, ..] => *last,
            _ => *first,
        };
        if (*first..=last).contains(&byte) {
            return Some(end + 1);
        }
        members = if matches!(rest, [b'-', _, ..]) { &rest[2..] } else { rest };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_driver_of_a_device() {
        let index = ModuleIndex {
            modules: [
                ("e1000e", "pci:v00008086d000010D3sv*sd*bc*sc*i*"),
                ("virtio_pci", "pci:v00001AF4d*sv*sd*bc*sc*i*"),
                ("kvm_amd", "cpu:type:x86,ven*fam*mod*:feature:*00C2*"),
            ]
            .map(|(name, alias)| (name.to_owned(), Module { aliases: vec![alias.to_owned()], ..Module::default() }))
            .into(),
            ..ModuleIndex::default()
        };
        let found = |modalias: &str| index.drivers_of(modalias).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(found("pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00"), ["e1000e"]);
        assert_eq!(found("pci:v00001AF4d00001041sv1bc02sc00i00"), Vec::<String>::new());
        assert_eq!(found("pci:v00001AF4d00001041sv1sd1bc02sc00i00"), ["virtio_pci"]);
        assert_eq!(found("cpu:type:x86,ven0002fam000Fmod006B:feature:,0000,00C2,00E0"), ["kvm_amd"]);
    }

    #[test]
    fn sets_and_wildcards() {
        assert!(glob(b"usb:v*d0[0-3]x", b"usb:v1234d02x"));
        assert!(!glob(b"usb:v*d0[0-3]x", b"usb:v1234d07x"));
        assert!(glob(b"a?c*", b"abc"));
        assert!(!glob(b"", b"a"));
        assert!(glob(b"***", b""));
        assert!(!glob(b"[a", b"a"), "an unclosed set matches nothing");
    }

    proptest! {
        #[test]
        fn never_panics_and_agrees_with_recursion(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern, text) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => slow(rest, text) || (!text.is_empty() && slow(pattern, &text[1..])),
                    ([b'?', p @ ..], [_, t @ ..]) => slow(p, t),
                    ([a, p @ ..], [b, t @ ..]) => a == b && slow(p, t),
                    _ => false,
                }
            }
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_bytes_are_safe(pattern in any::<Vec<u8>>(), text in any::<Vec<u8>>()) {
            glob(&pattern, &text);
        }
    }
}
