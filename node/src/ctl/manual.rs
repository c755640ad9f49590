//! The manual page, made from the command line: it is `docs/thimblectl.1`, and the test here fails when that is another.
//! `THIMBLE_WRITE=1 cargo test -p thimble-node manual` writes it.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::words::Cli;

/// What a page begins with: how this roff writes an apostrophe.
const QUOTES: [&str; 2] = [r".ie \n(.g .ds Aq \(aq", r".el .ds Aq '"];

/// The page: the options of all words first, then a section with the words, each with its own options.
fn page() -> io::Result<String> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // The width of a terminal is no matter of the page's.
    command.build();
    let words: Vec<Command> = command.get_subcommands().filter(|word| !word.is_hide_set()).cloned().collect();
    let mut out = Vec::new();
    let man = Man::new(command).title("THIMBLECTL").section("1").date("").source("Thimble");
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    writeln!(out, ".SH COMMANDS")?;
    for word in words {
        writeln!(out, ".SS {}", word.get_name())?;
        let own = word.clone().mut_args(|argument| {
            let shared = argument.is_global_set() || argument.get_id() == "help";
            argument.hide(shared)
        });
        let man = Man::new(own);
        let mut text = Vec::new();
        man.render_description_section(&mut text)?;
        if word.get_arguments().any(|argument| !argument.is_global_set() && argument.get_id() != "help") {
            man.render_options_section(&mut text)?;
        }
        for line in String::from_utf8_lossy(&text).lines().filter(|line| !line.starts_with(".SH")) {
            writeln!(out, "{line}")?;
        }
    }
    man.render_extra_section(&mut out)?;
    // Each section brings its own.
    let text = String::from_utf8_lossy(&out).into_owned();
    let lines = text.lines().filter(|line| !QUOTES.contains(line));
    Ok(QUOTES.into_iter().chain(lines).map(|line| format!("{line}\n")).collect())
}

#[test]
fn the_manual_is_what_the_command_line_takes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/thimblectl.1");
    let text = page().unwrap();
    if std::env::var_os("THIMBLE_WRITE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == text,
        "docs/thimblectl.1 is another: THIMBLE_WRITE=1 cargo test -p thimble-node manual writes it"
    );
}
