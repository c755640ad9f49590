//! Links and addresses.

use thimble_spec::host::{Answer, NetworkVerb};

use super::Done;
use crate::clock::since_boot;
use crate::host::Host;

impl Host<'_> {
    /// Answers, or changes the network.
    pub fn obey_network(&mut self, verb: NetworkVerb) -> Done {
        let now = since_boot();
        let done = match verb {
            NetworkVerb::Show => self.network.show(now).map(Answer::Network),
            NetworkVerb::Apply(proposal) => {
                self.network.propose(*proposal, &mut self.modules, now).map(|()| Answer::Done)
            }
            NetworkVerb::Confirm => self.network.confirm().map(|()| Answer::Done),
            NetworkVerb::Rollback => self.network.give_up(now).map(|()| Answer::Done),
        };
        done.map_err(|error| error.sentence())
    }
}
