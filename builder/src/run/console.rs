//! The serial console as lines of plain text.

/// Longest line that is kept; what a machine writes without a line end beyond this is cut there.
const LINE_MAX: usize = 64 << 10;

/// Where in an escape sequence the text stands (ECMA-48, sections 5.4 and 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    /// Behind ESC.
    Escape,
    /// Behind ESC and bytes of 0x20 to 0x2f: one byte ends it.
    Intermediate,
    /// Behind ESC `[`: ends with a byte of 0x40 to 0x7e.
    Control,
    /// Behind ESC and `]`, `P`, `_`, `^` or `X`: ends with BEL or ESC `\`.
    String,
    /// A control string, behind an ESC in it.
    StringEscape,
}

/// Cuts bytes into lines: carriage returns and escape sequences are left out, whatever is no UTF-8 is replaced.
#[derive(Debug)]
pub struct Lines {
    state: State,
    line: Vec<u8>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { state: State::Text, line: Vec::new() }
    }
}

impl Lines {
    /// Takes in bytes and hands on each line that they complete.
    pub fn push(&mut self, bytes: &[u8], mut on_line: impl FnMut(&str)) {
        for byte in bytes {
            if self.text(*byte) && (*byte == b'\n' || self.line.len() >= LINE_MAX) {
                on_line(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            }
        }
    }

    /// The end: hands on what has no line end.
    pub fn finish(self, on_line: impl FnOnce(&str)) {
        if !self.line.is_empty() {
            on_line(&String::from_utf8_lossy(&self.line));
        }
    }

    /// Whether the byte is text and not part of an escape sequence; text other than line ends is kept.
    fn text(&mut self, byte: u8) -> bool {
        let (next, text) = match (self.state, byte) {
            (State::Text, 0x1b) => (State::Escape, false),
            (State::Text, b'\r') => (State::Text, false),
            // A line end is one wherever it stands: a sequence that was cut short swallows no more than its line.
            (_, b'\n') => (State::Text, true),
            (State::Text, _) => {
                self.line.push(byte);
                (State::Text, true)
            }
            (State::Escape, b'[') => (State::Control, false),
            (State::Escape, b']' | b'P' | b'_' | b'^' | b'X') => (State::String, false),
            (State::Escape | State::Intermediate, 0x20..=0x2f) => (State::Intermediate, false),
            (State::Control, 0x40..=0x7e) | (State::Escape | State::Intermediate, _) => (State::Text, false),
            (State::Control, _) => (State::Control, false),
            (State::String, 0x07) | (State::StringEscape, b'\\') => (State::Text, false),
            (State::String | State::StringEscape, 0x1b) => (State::StringEscape, false),
            (State::String | State::StringEscape, _) => (State::String, false),
        };
        self.state = next;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        for piece in pieces {
            lines.push(piece, |line| found.push(line.to_owned()));
        }
        lines.finish(|line| found.push(line.to_owned()));
        found
    }

    #[test]
    fn lines_are_plain_text() {
        assert_eq!(lines(&[b"one\r\ntw", b"o\r\n\r\nrest"]), ["one", "two", "", "rest"]);
        let firmware = b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[0m\x1b[37m\x1b[40mthimble: host demo up 2.10\r\n";
        assert_eq!(lines(&[firmware]), ["thimble: host demo up 2.10"]);
        assert_eq!(lines(&[b"a\x1b]0;title\x07b\x1b(Bc\x1b7d\x1bPx\x1b\\e\n"]), ["abcde"]);
        assert_eq!(lines(&[b"a\x1b", b"[3", b"1mb\xff\n"]), ["ab\u{fffd}"]);
    }

    #[test]
    fn a_cut_sequence_swallows_no_second_line() {
        assert_eq!(lines(&[b"a\x1b[31\nb\n"]), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let cut = cut.min(bytes.len());
            prop_assert_eq!(lines(&[&bytes]), lines(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
