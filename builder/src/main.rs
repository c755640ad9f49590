//! `thimble`: see `thimble --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    thimble_builder::cli::main()
}
