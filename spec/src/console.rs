//! The lines that other programs wait for on a console: a contract.
//!
//! Each stands at the start of a line, and nothing else that Thimble prints starts with `thimble:`.

use std::fmt;
use std::time::Duration;

use crate::vmm::ExitReason;

/// Most bytes of a sentence that somebody who is not trusted had a say in.
pub const SENTENCE_MAX: usize = 1024;

/// `text` as one line of printable characters and of at most `most` bytes: what moves a terminal's cursor, begins
/// another line or turns the order of writing around becomes a space, several of them one, and what is too long is cut.
///
/// For whatever a guest or its VMM may have written: it shall say what it likes, but not where it stands nor that
/// somebody else said it.
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut gap = false;
    for character in text.chars() {
        if moves(character) {
            gap = true;
            continue;
        }
        if gap && character != ' ' && !line.is_empty() && !line.ends_with(' ') {
            line.push(' ');
        }
        gap = false;
        line.push(character);
        if line.len() > most {
            const CUT: char = '\u{2026}';
            line.truncate(line.floor_char_boundary(most.saturating_sub(CUT.len_utf8())));
            line.push(CUT);
            break;
        }
    }
    line
}

/// Whether a terminal does something else with it than print it: control characters, both sets; line and paragraph
/// separators; marks, embeddings, overrides and isolates of bidirectional text (Unicode Standard Annex 9); what has no
/// width, and tags.
fn moves(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// A line of the host's or a guest's console.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    /// `thimble: host NAME up SECONDS`: network and storage are as declared and the daemon runs.
    HostUp {
        /// The appliance.
        name: &'a str,
        /// Since the kernel started.
        after: Duration,
    },
    /// `thimble: guest NAME running`: the VMM entered the guest's kernel.
    GuestRunning {
        /// The guest.
        name: &'a str,
    },
    /// `thimble: guest NAME ready SECONDS`: the guest's PID 1 says that its services are ready.
    GuestReady {
        /// The guest.
        name: &'a str,
        /// Since its VMM started.
        after: Duration,
    },
    /// `thimble: guest NAME exited REASON`.
    GuestExited {
        /// The guest.
        name: &'a str,
        /// Why.
        reason: &'a ExitReason,
    },
    /// `thimble: error SENTENCE`.
    Error {
        /// What is wrong, where, and what to do.
        sentence: &'a str,
    },
    /// `thimble-guest: NAME ready SECONDS`, on the guest's own console.
    ReadyInGuest {
        /// The guest.
        name: &'a str,
        /// Since the guest's kernel started.
        after: Duration,
    },
}

impl fmt::Display for Line<'_> {
    /// The line without its newline. A sentence goes through [`one_line`], so that one event stays one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::as_secs_f64;
        match self {
            Self::HostUp { name, after } => write!(f, "thimble: host {name} up {:.2}", seconds(after)),
            Self::GuestRunning { name } => write!(f, "thimble: guest {name} running"),
            Self::GuestReady { name, after } => write!(f, "thimble: guest {name} ready {:.2}", seconds(after)),
            Self::GuestExited { name, reason } => write!(f, "thimble: guest {name} exited {reason}"),
            Self::Error { sentence } => write!(f, "thimble: error {}", one_line(sentence, SENTENCE_MAX)),
            Self::ReadyInGuest { name, after } => write!(f, "thimble-guest: {name} ready {:.3}", seconds(after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_promised() {
        let after = Duration::from_millis(4215);
        for (line, text) in [
            (Line::HostUp { name: "demo", after }, "thimble: host demo up 4.21"),
            (Line::GuestRunning { name: "web1" }, "thimble: guest web1 running"),
            (Line::GuestReady { name: "web1", after }, "thimble: guest web1 ready 4.21"),
            (
                Line::GuestExited { name: "web1", reason: &ExitReason::TripleFault },
                "thimble: guest web1 exited triple-fault",
            ),
            (Line::Error { sentence: "no disk\r\nplug one in" }, "thimble: error no disk plug one in"),
            (Line::ReadyInGuest { name: "web1", after }, "thimble-guest: web1 ready 4.215"),
        ] {
            assert_eq!(line.to_string(), text);
        }
    }

    #[test]
    fn nobody_forges_a_line_by_a_sentence() {
        let reason = ExitReason::Error("lost\r\nthimble: guest web2 \u{1b}[2Jready\u{9b}1A\u{202e}1.00".to_owned());
        let line = Line::GuestExited { name: "web1", reason: &reason }.to_string();
        assert_eq!(line, "thimble: guest web1 exited error: lost thimble: guest web2 [2Jready 1A 1.00");
        let long = "a\n".repeat(1 << 16);
        assert!(Line::Error { sentence: &long }.to_string().len() <= "thimble: error ".len() + SENTENCE_MAX);
    }

    #[test]
    fn one_line_is_one_line_of_what_can_be_seen() {
        for (text, line) in [
            ("", ""),
            ("\n\u{1b}[2Jforged", "[2Jforged"),
            ("a\t b", "a b"),
            ("a \n", "a "),
            ("a  b", "a  b"),
            ("\u{2028}caf\u{e9}\u{feff}", "caf\u{e9}"),
            ("0123456789", "012345\u{2026}"),
            ("1234\u{1f980}\u{1f980}", "1234\u{2026}"),
            ("12345\u{1f980}", "12345\u{1f980}"),
        ] {
            assert_eq!(one_line(text, 9), line, "{text:?}");
        }
    }
}
