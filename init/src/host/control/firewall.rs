//! What the firewall counted.

use thimble_spec::host::{Answer, FirewallVerb};

use super::Done;
use crate::host::Host;

impl Host<'_> {
    /// Answers.
    pub fn obey_firewall(&mut self, verb: FirewallVerb) -> Done {
        let FirewallVerb::Counters = verb;
        self.network.counted().map(Answer::Firewall).map_err(|error| error.sentence())
    }
}
