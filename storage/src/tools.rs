//! Running the distribution's tools: no shell, no input, a limit of time, and their last words when they fail.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::observe::waiting;
use crate::{Error, Result, doing};

/// The longest that a tool may take: mkfs on a disk of many terabytes takes a minute or two.
const LIMIT: Duration = Duration::from_secs(600);
/// Time between two looks at a tool that runs.
const INTERVAL: Duration = Duration::from_millis(10);
/// How much of its output is kept.
const OUTPUT_MAX: u64 = 1 << 20;
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings of LVM for a host without udev: devices are made by LVM itself, and what it needs to remember is in memory. A new
/// pool that is full says so, rather than let writes wait and fail a minute later. Times are seconds since 1970. It looks at all
/// disks (`FILTER`) but those that would let it wait.
const LVM: &str = "devices{use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source=none dir=/dev \
                   scan=/dev global_filter=[FILTER]} \
                   activation{udev_sync=0 udev_rules=0 monitoring=0 verify_udev_operations=0 error_when_full=1} \
                   report{time_format=\"%s\"} global{use_lvmpolld=0 use_lvmlockd=0 locking_dir=/run/thimble/lvm event_activation=0} \
                   backup{backup=0 archive=0}";

/// Runs a tool, and gives what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_with(program, arguments, &[])
}

/// The same with variables of its own.
fn run_with(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let what = || format!("run {program}");
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C").env("HOME", "/root");
    command.env("LVM_SYSTEM_DIR", "/run/thimble/lvm").env("LVM_SUPPRESS_FD_WARNINGS", "1");
    command.envs(environment.iter().copied());
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = doing(command.spawn(), what)?;
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.by_ref().take(OUTPUT_MAX).read_to_end(&mut bytes);
                // What is more is read and forgotten, so that the tool does not wait for a reader.
                let _ = std::io::copy(&mut pipe, &mut std::io::sink());
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let output = reader(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let errors = reader(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = doing(child.try_wait(), what)? {
            break status;
        }
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error(format!("{program} did not end within {} s and was ended", LIMIT.as_secs())));
        }
        std::thread::sleep(INTERVAL);
    };
    let output = output.join().unwrap_or_default();
    let errors = errors.join().unwrap_or_default();
    if status.success() {
        return Ok(output);
    }
    Err(Error(format!("{program} {}: {}", arguments.first().unwrap_or(&""), last_words(&errors, &output))))
}

/// LVM's commands are words of one program.
pub(crate) fn lvm(arguments: &[&str]) -> Result<String> {
    let (verb, rest) = arguments.split_first().unwrap_or((&"version", &[]));
    let config = LVM.replace("FILTER", &filter(&waiting()));
    run("lvm", &[&[verb, "--config", &config], rest].concat())
}

/// All devices but some disks and their partitions (lvm.conf(5)).
fn filter(left_out: &[String]) -> String {
    let left_out = left_out.iter().map(|name| format!("\"r|^/dev/{name}[0-9]*$|\","));
    left_out.collect::<String>() + "\"a|.*|\""
}

/// cryptsetup makes devices by the device mapper's library, which there is no udev to do for (libdevmapper.h).
pub(crate) fn cryptsetup(arguments: &[&str]) -> Result<()> {
    run_with("cryptsetup", arguments, &[("DM_DISABLE_UDEV", "1")]).map(drop)
}

/// The last lines of what a failed tool said, as one.
fn last_words(errors: &str, output: &str) -> String {
    let text = if errors.trim().is_empty() { output } else { errors };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match &lines[lines.len().saturating_sub(3)..] {
        [] => "it failed without a word".to_owned(),
        lines => lines.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_that_wait_are_not_looked_at() {
        assert_eq!(filter(&[]), "\"a|.*|\"");
        assert_eq!(filter(&["sdb".to_owned()]), "\"r|^/dev/sdb[0-9]*$|\",\"a|.*|\"");
    }

    #[test]
    fn a_tools_output_and_its_last_words() {
        assert_eq!(run("echo", &["a"]).unwrap(), "a\n");
        let error = run("sh", &["-c", "echo one; for i in a b c d; do echo $i >&2; done; exit 3"]).unwrap_err();
        assert_eq!(error.0, "sh -c: b; c; d");
        assert_eq!(run("false", &[]).unwrap_err().0, "false : it failed without a word");
        assert!(run("nonexistent", &[]).unwrap_err().0.starts_with("cannot run nonexistent: "));
        // More than a pipe holds.
        assert_eq!(run("head", &["-c", "300000", "/dev/zero"]).unwrap().len(), 300_000);
    }
}
