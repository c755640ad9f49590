//! The board on a terminal, redrawn in place.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::serve::board::{Machine, State};

/// Lines where the terminal does not say how many it has.
const LINES: usize = 24;
/// Columns, the same.
const COLUMNS: usize = 100;

/// What is on the terminal now.
#[derive(Debug)]
pub struct View {
    head: String,
    lines: usize,
}

impl View {
    /// Nothing yet; `head` stands above the table.
    pub fn new(head: String) -> Self {
        Self { head, lines: 0 }
    }

    /// Draws the table over the one before.
    ///
    /// # Errors
    /// The terminal has gone away.
    pub fn draw(&mut self, machines: &[Machine]) -> io::Result<()> {
        let (columns, lines) = terminal_size::terminal_size()
            .map_or((COLUMNS, LINES), |(width, height)| (usize::from(width.0), usize::from(height.0)));
        let text = table(&self.head, machines, columns.max(20), lines.max(5));
        let mut out = io::stdout().lock();
        if self.lines > 0 {
            // Up to where the table began, and clear from there on (ECMA-48: CPL, ED).
            write!(out, "\x1b[{}F\x1b[J", self.lines)?;
        }
        out.write_all(text.as_bytes())?;
        self.lines = text.lines().count();
        out.flush()
    }
}

/// The table as text, no larger than the terminal.
fn table(head: &str, machines: &[Machine], columns: usize, lines: usize) -> String {
    let mut text = String::new();
    let mut put = |line: String| {
        text.extend(line.trim_end().chars().take(columns - 1));
        text.push('\n');
    };
    put(head.to_owned());
    put(format!(
        "{:<17}  {:<15}  {:<9}  {:<14}  {:>4}  {:>7}  {}",
        "CARD", "ADDRESS", "FIRMWARE", "STATE", "%", "MB/s", "FILE"
    ));
    // Head, titles, and the line that counts the rest; the cursor stands on the last.
    let room = lines.saturating_sub(4).max(1);
    for machine in machines.iter().take(room) {
        put(row(machine));
    }
    if machines.len() > room {
        put(format!("and {} more", machines.len() - room));
    }
    text
}

fn row(machine: &Machine) -> String {
    let mut row = String::new();
    let mac = machine.who.mac.map_or_else(|| "-".to_owned(), |mac| mac.to_string());
    let ip = machine.who.ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
    let arch = machine.arch.map_or_else(|| "-".to_owned(), |arch| arch.to_string());
    let (percent, rate) = match machine.state {
        State::Offered | State::Leased => (String::new(), String::new()),
        _ => (machine.percent().to_string(), format!("{:.1}", machine.megabytes_per_second())),
    };
    let state = machine.state.word();
    // Writing to a string does not fail.
    let _ = write!(row, "{mac:<17}  {ip:<15}  {arch:<9}  {state:<14}  {percent:>4}  {rate:>7}  {}", machine.file);
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::board::Board;
    use crate::serve::boot::Arch;
    use crate::serve::event::{Mac, Protocol};
    use crate::serve::journal::Journal;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    #[test]
    fn a_machine_is_a_row_and_the_table_fits_the_terminal() {
        let board = Arc::new(Board::new(Journal::silent()));
        let ip = Ipv4Addr::new(10, 0, 0, 9);
        board.offered(Mac([2, 0, 0, 0, 0, 9]), Some(ip), Some(Arch(16)), Some("http://10.0.0.1/x"));
        let transfer = board.begin(ip.into(), Protocol::Http, "initrd", 100);
        transfer.at(42);
        let text = table("serving", &board.machines(), 100, 24);
        let row = text.lines().last().unwrap();
        assert!(row.starts_with("02:00:00:00:00:09  10.0.0.9         UEFI HTTP  fetches           42"), "{row}");
        assert!(row.ends_with("  initrd"), "{row}");
        for n in 0..50 {
            board.offered(Mac([2, 0, 0, 0, 1, n]), None, None, Some("boot.ipxe"));
        }
        let text = table("serving", &board.machines(), 40, 10);
        assert!(text.lines().count() < 10 && text.lines().all(|line| line.chars().count() < 40), "{text}");
        assert!(text.ends_with("and 45 more\n"), "{text}");
    }
}
