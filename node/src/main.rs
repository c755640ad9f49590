//! `thimble-node`: see the library, which is all of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    thimble_node::main()
}
