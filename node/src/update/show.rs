//! What an update says of itself: lines on standard error while it works, what it did on standard output.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use thimble_spec::release::Part;
use thimble_spec::slot::Slot;
use thimble_store::Step;
use thimble_store::update::Report;

use crate::shared::Hashes;

/// Time between two lines about the same object.
const INTERVAL: Duration = Duration::from_secs(2);

/// Shows.
#[derive(Debug)]
pub struct Show {
    json: bool,
    /// What was last said, and when.
    last: Option<(String, Instant)>,
}

impl Show {
    /// For programs, which see no progress, or for people.
    pub fn new(json: bool) -> Self {
        Self { json, last: None }
    }

    /// A step of the work.
    pub fn step(&mut self, step: Step<'_>) -> ControlFlow<()> {
        let (what, part, done) = match step {
            Step::Checking { part, done } => ("comparing", part, done),
            Step::Writing { part, done } => ("writing", part, done),
            Step::Sharing { part } => ("sharing", part, part.size),
        };
        let doing = format!("{what} {}", part.name);
        let again = self.last.as_ref().is_some_and(|(said, when)| *said == doing && when.elapsed() < INTERVAL);
        if !self.json && !again {
            eprintln!("update: {doing}, {} of {}", mib(done), mib(part.size));
            self.last = Some((doing, Instant::now()));
        }
        ControlFlow::Continue(())
    }

    /// What was done.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn report(&self, report: &Report, running: Slot, reboots: bool, live: Option<&Hashes>) -> Result<()> {
        if self.json {
            let object = json!({
                "slot": report.slot,
                "manifest": report.manifest,
                "installed": report.plan.is_some(),
                "written": report.plan.as_ref().map(|plan| &plan.missing),
                "shared": report.plan.as_ref().map(|plan| &plan.shared),
                "reboots": reboots,
                "live": live,
            });
            println!("{object}");
        } else {
            print!("{}", text(report, running, reboots, live));
        }
        Ok(())
    }
}

fn text(report: &Report, running: Slot, reboots: bool, live: Option<&Hashes>) -> String {
    let (slot, manifest) = (report.slot, &report.manifest);
    let mut text = match &report.plan {
        None => format!("update: nothing to do: slot {slot} is manifest {manifest} already\n"),
        Some(plan) => format!(
            "update: wrote {}\nupdate: shared {}\nupdate: slot {slot} is manifest {manifest}\n",
            list(&plan.missing),
            list(&plan.shared)
        ),
    };
    if let Some(Hashes { kernel, initrd }) = live {
        text.push_str(&format!("update: guests start with kernel {kernel:.12} initrd {initrd:.12} from now on\n"));
    }
    if reboots {
        text.push_str(&format!("update: rebooting into slot {slot}\n"));
    } else if slot != running {
        text.push_str(&format!("update: slot {slot} starts at the next boot\n"));
    }
    text
}

/// `2 objects, 3.4 MiB (host.cpio, guest.cpio)`.
fn list(parts: &[Part]) -> String {
    if parts.is_empty() {
        return "no objects".to_owned();
    }
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    let bytes = parts.iter().map(|part| part.size).sum();
    let plural = if parts.len() == 1 { "" } else { "s" };
    format!("{} object{plural}, {} ({})", parts.len(), mib(bytes), names.join(", "))
}

fn mib(bytes: u64) -> String {
    // A size of less than 2^52 bytes is exact.
    #[allow(clippy::cast_precision_loss)]
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_store::Plan;

    #[test]
    fn the_report_says_what_was_written_and_what_shared() {
        let part = |name: &str, size| Part { name: name.to_owned(), size, sha256: "a".repeat(64) };
        let plan = Plan {
            into: Slot::B,
            missing: vec![part("guest.cpio.xz", 2_200_000)],
            shared: vec![part("vmlinuz", 8_388_608), part("images.cpio", 1_048_576)],
            needed: 0,
            free: 0,
        };
        let report = Report { slot: Slot::B, manifest: "c0ffee".to_owned(), plan: Some(plan) };
        assert_eq!(
            text(&report, Slot::A, true, None),
            "update: wrote 1 object, 2.1 MiB (guest.cpio.xz)\n\
             update: shared 2 objects, 9.0 MiB (vmlinuz, images.cpio)\n\
             update: slot b is manifest c0ffee\n\
             update: rebooting into slot b\n"
        );
        let nothing = Report { plan: None, ..report };
        assert_eq!(
            text(&nothing, Slot::A, false, None),
            "update: nothing to do: slot b is manifest c0ffee already\nupdate: slot b starts at the next boot\n"
        );
        assert!(!text(&nothing, Slot::B, false, None).contains("boot"));
        let hashes = Hashes { kernel: "a".repeat(64), initrd: "b".repeat(64) };
        assert!(
            text(&nothing, Slot::A, false, Some(&hashes))
                .contains("update: guests start with kernel aaaaaaaaaaaa initrd bbbbbbbbbbbb from now on\n")
        );
    }
}
