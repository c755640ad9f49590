//! Plans and does, until nothing is left to do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use thimble_spec::appliance::Storage;

use crate::observed::Observed;
use crate::plan::{Patience, Plan, plan};
use crate::step::Step;
use crate::{Error, Result};

/// More rounds than any definition takes: each makes at least one layer of one thing.
const ROUNDS_MAX: usize = 1000;
/// Time between two looks at disks that may still come.
const INTERVAL: Duration = Duration::from_millis(200);

/// What the steps are done to: the host, or what a test has in its place.
pub trait System {
    /// Looks at everything.
    ///
    /// # Errors
    /// It cannot.
    fn observe(&mut self) -> Result<Observed>;
    /// Does a step.
    ///
    /// # Errors
    /// It cannot.
    fn execute(&mut self, step: &Step) -> Result<()>;
    /// Tells people that a step is about to be taken.
    fn tell(&mut self, step: &Step);
    /// Tells programs what there is by now.
    fn planned(&mut self, plan: &Plan);
}

/// What is left when everything was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many steps were taken.
    pub steps: usize,
    /// What could not be done, and what nobody may do.
    pub problems: Vec<String>,
    /// What is not there.
    pub waiting: Vec<String>,
    /// What waits for something else.
    pub held: Vec<String>,
}

/// Makes the host's storage what is declared, as far as it can be. Disks that are missing may come until `settle` has
/// passed without any step.
///
/// # Errors
/// The host cannot be looked at.
pub fn apply(storage: &Storage, system: &mut dyn System, settle: Duration) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut failed = Failed::default();
    let mut quiet_since = Instant::now();
    for _ in 0..ROUNDS_MAX {
        let patience = if quiet_since.elapsed() < settle { Patience::Wait } else { Patience::Over };
        let plan = plan(storage, &system.observe()?, patience);
        system.planned(&plan);
        let Plan { steps, problems, waiting, held, .. } = plan;
        let steps: Vec<Step> = steps.into_iter().filter(|step| !failed.forbids(step)).collect();
        if steps.is_empty() {
            if !waiting.is_empty() && patience == Patience::Wait {
                std::thread::sleep(INTERVAL);
                continue;
            }
            let told = failed.sentences.clone().into_iter().chain(problems);
            outcome.problems = told.collect();
            (outcome.waiting, outcome.held) = (waiting, held);
            return Ok(outcome);
        }
        for step in steps {
            system.tell(&step);
            outcome.steps += 1;
            quiet_since = Instant::now();
            if let Err(error) = system.execute(&step) {
                failed.add(step, &error);
                // What comes after it may have counted on it.
                break;
            }
            failed.done(&step);
        }
    }
    Err(Error("the plan has no end; this is a mistake in Thimble, and nothing more is done".to_owned()))
}

/// Steps that failed are not tried again in this run, and nothing else is made where they were to make something.
#[derive(Default)]
struct Failed {
    steps: Vec<Step>,
    blocks: BTreeSet<String>,
    sentences: Vec<String>,
    done: Vec<Step>,
}

impl Failed {
    fn add(&mut self, step: Step, error: &Error) {
        self.sentences.push(format!("{step}: {error}"));
        self.blocks.extend(step.destroys().into_iter().map(|target| target.block.clone()));
        self.steps.push(step);
    }

    /// A step that was done and is asked for again did nothing: once more would do nothing either.
    fn done(&mut self, step: &Step) {
        let times = self.done.iter().filter(|known| *known == step).count();
        if times >= 2 {
            self.add(step.clone(), &Error("it was done, and nothing came of it".to_owned()));
        } else {
            self.done.push(step.clone());
        }
    }

    fn forbids(&self, step: &Step) -> bool {
        self.steps.contains(step) || step.destroys().iter().any(|target| self.blocks.contains(&target.block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Block;
    use crate::signature::{Found, Signature};
    use thimble_spec::appliance::{Disk, DiskMatch};

    /// One disk with something on it; wiping it fails.
    struct Stuck {
        executed: Vec<Step>,
    }

    impl System for Stuck {
        fn observe(&mut self) -> Result<Observed> {
            let mut observed = Observed::default();
            let found = Found { blank: false, signatures: vec![Signature::Other("a FAT file system")] };
            let block = Block {
                size: 1 << 30,
                sector: 512,
                serial: Some("s".to_owned()),
                wwn: None,
                unit: None,
                part_of: None,
                found,
                used_by: None,
                broken: None,
            };
            observed.blocks.insert("vda".to_owned(), block);
            Ok(observed)
        }

        fn execute(&mut self, step: &Step) -> Result<()> {
            self.executed.push(step.clone());
            if matches!(step, Step::Wipe { .. }) { Err(Error("no".to_owned())) } else { Ok(()) }
        }

        fn tell(&mut self, _: &Step) {}

        fn planned(&mut self, _: &Plan) {}
    }

    #[test]
    fn nothing_is_made_where_a_step_failed_and_there_is_an_end() {
        let disk = Disk { identity: DiskMatch::Serial("s".to_owned()), wipe: true, partitions: Vec::new() };
        let swaps = vec!["/dev/thimble/a".to_owned()];
        let storage = Storage { disks: [("a".to_owned(), disk)].into(), swaps, ..Storage::default() };
        let mut system = Stuck { executed: Vec::new() };
        let outcome = apply(&storage, &mut system, Duration::ZERO).unwrap();
        assert_eq!(system.executed.iter().filter(|step| matches!(step, Step::Wipe { .. })).count(), 1);
        assert!(!system.executed.iter().any(|step| matches!(step, Step::MakeSwap { .. })));
        assert!(outcome.problems.iter().any(|text| text.ends_with("as `wipe = true` says: no")), "{outcome:?}");
        // The name was given, and is still not seen: that is told, too, and not tried for ever.
        assert!(outcome.problems.iter().any(|text| text.contains("nothing came of it")), "{outcome:?}");
    }
}
