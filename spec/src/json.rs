//! The JSON of what rooms say to each other.
//!
//! What serde derives is generic: each program that reads a type compiles its reader again, and for a whole definition that
//! is more than most programs are themselves. Here it is compiled once. A changed line of PID 1 is in its binary in two
//! thirds of the time.

use crate::appliance::{Appliance, Guest};
use crate::host;
use crate::modules::ModuleIndex;
use crate::service::Services;

/// What can be read from JSON, and written.
pub trait Json: Sized {
    /// Reads all of a text.
    ///
    /// # Errors
    /// It is no JSON, or not of this kind.
    fn from_json(text: &[u8]) -> serde_json::Result<Self>;

    /// Writes it on one line.
    ///
    /// # Errors
    /// It holds what JSON cannot say.
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;
}

macro_rules! json {
    ($($what:ty),*) => { $(
        impl Json for $what {
            fn from_json(text: &[u8]) -> serde_json::Result<Self> {
                serde_json::from_slice(text)
            }

            fn to_json(&self) -> serde_json::Result<Vec<u8>> {
                serde_json::to_vec(self)
            }
        }
    )* };
}

json!(Appliance, Guest, ModuleIndex, Services, host::Request, host::Reply);
