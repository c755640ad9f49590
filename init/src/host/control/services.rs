//! The programs that PID 1 keeps.

use nix::sys::signal::Signal;
use thimble_spec::host::{Answer, ServicesVerb};

use super::Done;
use crate::host::{Host, node};

impl Host<'_> {
    /// Answers, or begins what is asked for.
    pub fn obey_services(&mut self, verb: &ServicesVerb) -> Done {
        match verb {
            ServicesVerb::List => {
                let mut all = vec![self.node.status()];
                all.extend(self.services.status());
                return Ok(Answer::Services(all));
            }
            // Guests go on, and the next daemon adopts them.
            ServicesVerb::Restart { name } if name == node::NAME => self.node.signal(Signal::SIGKILL),
            ServicesVerb::Stop { name } if name == node::NAME => {
                return Err("the node daemon stops with the host: say power off, or stop the guests".to_owned());
            }
            ServicesVerb::Start { name } if name == node::NAME => {}
            ServicesVerb::Start { name } => self.services.supervisor().start(name)?,
            ServicesVerb::Stop { name } => self.services.supervisor().stop(name, false)?,
            ServicesVerb::Restart { name } => self.services.supervisor().stop(name, true)?,
        }
        Ok(Answer::Done)
    }
}
