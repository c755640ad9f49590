//! The end of a host.

use serde::{Deserialize, Serialize};

/// How the host ends. In all of them the guests are shut down first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// The machine goes off.
    Off,
    /// It starts again, by its firmware.
    Reboot,
    /// It starts again by the kernel that was loaded for that, without its firmware.
    Kexec,
}
