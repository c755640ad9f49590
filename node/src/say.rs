//! What the daemon says on the console: one write a line, so that lines of several processes don't mix.

use std::io::Write;

use thimble_spec::console::Line;

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
    print(&format!("node: {text}"));
}

/// Prints a line as it is.
pub fn raw(text: &str) {
    print(text);
}

fn print(text: &str) {
    // The console may be gone; there is nobody left to tell.
    let _ = std::io::stdout().write_all(format!("{text}\n").as_bytes());
}
