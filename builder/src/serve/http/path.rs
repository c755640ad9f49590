//! The file that a request's target names.

/// The name in the tree: percent signs decoded once, the query left away. `None`: it is no path, or no UTF-8.
///
/// Nothing is decided here about what may be served: that is [`crate::serve::tree`]'s.
pub fn name(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.strip_prefix('/')?.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { digit(rest.next()?)? << 4 | digit(rest.next()?)? } else { byte });
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percent_signs_are_decoded_once() {
        assert_eq!(name("/grub/core.efi").as_deref(), Some("grub/core.efi"));
        assert_eq!(name("/a%20b%2F%2e%2e").as_deref(), Some("a b/.."));
        assert_eq!(name("/%252e").as_deref(), Some("%2e"));
        for bad in ["", "*", "example.org:80", "/%", "/%2", "/%zz", "/%ff"] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_target_ends_the_server(path in "/?(%[0-9a-fg]{0,2}|\\PC){0,40}") {
            let _ = name(&path);
        }
    }
}
