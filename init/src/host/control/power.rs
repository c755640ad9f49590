//! The end of the host.

use thimble_spec::host::{Answer, Power};

use super::Done;
use crate::host::Host;
use crate::power::Ending;

/// Whether a kernel was loaded (kernel/ksysfs.c).
const KEXEC_LOADED: &str = "/sys/kernel/kexec_loaded";

impl Host<'_> {
    /// The end begins with the next turn; the first wish counts.
    pub fn obey_power(&mut self, power: Power) -> Done {
        let ending = match power {
            Power::Off => Ending::PowerOff,
            Power::Reboot => Ending::Reboot,
            Power::Kexec => {
                let loaded = std::fs::read_to_string(KEXEC_LOADED).is_ok_and(|text| text.trim() == "1");
                if !loaded {
                    return Err("no kernel is loaded: thimble-node power kexec loads one first".to_owned());
                }
                Ending::Kexec
            }
        };
        self.ending = self.ending.or(Some(ending));
        Ok(Answer::Done)
    }
}
