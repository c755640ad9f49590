//! `make`, and how far it is: the kernels and the programs of recipes are compiled by it.

use std::fs;
use std::thread;

use crate::context::Context;
use crate::error::Result;
use crate::progress::Step;
use crate::tool::Tool;

/// Runs `make` with a job for each processor. How many files it compiles is known from the last time that it compiled a
/// `kind`, else `guess`.
///
/// # Errors
/// It fails, the user interrupts.
pub fn run(context: &Context, make: Tool, kind: &str, guess: u64, step: &Step) -> Result<()> {
    let counted = context.cache.root().join("compiled-files").join(kind);
    let total = fs::read_to_string(&counted).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(guess);
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut done = 0;
    make.arg(format!("-j{jobs}")).watch(context, |line| {
        if let Some(file) = target(line) {
            done += 1;
            step.position(done, total, file);
        }
    })?;
    // Only an estimate for the next bar: a cache that cannot be written shows where it matters.
    let _ = fs::create_dir_all(crate::files::parent(&counted)).and_then(|()| fs::write(&counted, done.to_string()));
    Ok(())
}

/// The first line of `program --version`: another compiler may make other bytes.
///
/// # Errors
/// It is not there.
pub fn version(context: &Context, program: &str) -> Result<String> {
    let output = Tool::new(program).arg("--version").output(context)?;
    Ok(String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned())
}

/// The file that a line of make's output is about: `  CC      kernel/fork.o` of kbuild, `gcc -c -O2 shell.c` of others.
fn target(line: &str) -> Option<&str> {
    let Some(line) = line.strip_prefix("  ") else {
        let mut words = line.split(' ');
        return words.any(|word| word == "-c").then(|| words.find(|word| word.ends_with(".c"))).flatten();
    };
    let (verb, file) = line.split_once(char::is_whitespace)?;
    let is_verb = verb.len() > 1 && verb.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_verb.then_some(file.trim()).filter(|file| !file.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_make_name_a_file() {
        assert_eq!(target("  CC      kernel/fork.o"), Some("kernel/fork.o"));
        assert_eq!(target("  AR      built-in.a"), Some("built-in.a"));
        assert_eq!(target("make[1]: Entering directory"), None);
        assert_eq!(target("  scripts/kconfig: note"), None);
        assert_eq!(target("/x/cc -c -DSHELL -I. shell.c"), Some("shell.c"));
        assert_eq!(target("/x/cc -o bash shell.o"), None);
    }
}
