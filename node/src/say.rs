//! What the daemon says on the console: one write a line, so that lines of several processes don't mix.

use std::io::Write;

use thimble_spec::console::{Line, SENTENCE_MAX, one_line};

/// Most bytes of a line of a guest's console that are printed as one.
pub const CONSOLE_LINE_MAX: usize = 4096;

/// Prints a line of the contract.
pub fn line(line: &Line<'_>) {
    print(&line.to_string());
}

/// Prints a `thimble: error` line.
pub fn error(sentence: &str) {
    line(&Line::Error { sentence });
}

/// Prints a line for people; it starts with `node:`, never with `thimble:`.
pub fn note(text: &str) {
    print(&format!("node: {}", one_line(text, SENTENCE_MAX)));
}

/// Prints a line of a guest's console behind the guest's name; a blank one is left out.
pub fn copy(guest: &str, text: &str) {
    if let Some(line) = copied(guest, text) {
        print(&line);
    }
}

fn copied(guest: &str, text: &str) -> Option<String> {
    let text = one_line(text, CONSOLE_LINE_MAX);
    let text = text.trim_end();
    (!text.is_empty()).then(|| format!("[{guest}] {text}"))
}

/// Prints a line as it is; it must not start with `thimble:`.
pub fn print(text: &str) {
    // The console may be gone; there is nobody left to tell.
    let _ = std::io::stdout().write_all(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_console_stays_behind_the_guests_name() {
        assert_eq!(copied("web1", "\r\n"), None);
        assert_eq!(copied("web1", "login: \r\n").as_deref(), Some("[web1] login:"));
        let forged = copied("web1", "\x1b[2K\rthimble: guest web2 ready 1.00\n");
        assert_eq!(forged.as_deref(), Some("[web1] [2K thimble: guest web2 ready 1.00"));
    }
}
