//! Bytes as they come, put together to lines of bounded length.

/// Longest line that is kept; a longer one is dropped as a whole.
const LONGEST: usize = 1024;

/// What came since the last line's end.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Adds bytes; gives back the lines that they complete, trimmed, without the empty ones.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => {
                    let line = String::from_utf8_lossy(&self.partial).trim().to_owned();
                    if !self.too_long && !line.is_empty() {
                        complete.push(line);
                    }
                    self.partial.clear();
                    self.too_long = false;
                }
                byte if self.partial.len() < LONGEST => self.partial.push(*byte),
                _ => self.too_long = true,
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(b"shut"), Vec::<String>::new());
        assert_eq!(lines.feed(b"down\r\n\n st"), ["shutdown"]);
        assert_eq!(lines.feed(b"atus \n"), ["status"]);
        assert_eq!(lines.feed(&[b'x'; 2 * LONGEST]), Vec::<String>::new());
        assert_eq!(lines.feed(b"\nnext\n"), ["next"]);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(bytes in any::<Vec<u8>>(), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(bytes.len() + 1);
            let mut pieces = Lines::default();
            let mut lines = pieces.feed(&bytes[..cut]);
            lines.extend(pieces.feed(&bytes[cut..]));
            prop_assert_eq!(lines, Lines::default().feed(&bytes));
        }
    }
}
