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
    let text = one_line(text, CONSOLE_LINE_MAX);
    if !text.trim_end().is_empty() {
        print(&format!("[{guest}] {}", text.trim_end()));
    }
}

fn print(text: &str) {
    // The console may be gone; there is nobody left to tell.
    let _ = std::io::stdout().write_all(format!("{text}\n").as_bytes());
}
