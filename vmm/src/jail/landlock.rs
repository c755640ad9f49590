//! Landlock (Linux `Documentation/userspace-api/landlock.rst`): no file can be opened, made or removed, whatever path
//! should still lead somewhere.

use std::io;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus};

use super::{Failure, failed};

/// The newest set of rights that this crate knows; of those the kernel's part is used.
const NEWEST: ABI = ABI::V5;

/// Forbids every access to the file system that the kernel can forbid; false if it can forbid none.
pub(super) fn forbid_files() -> Result<bool, Failure> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.create());
    let restricted = ruleset.and_then(|ruleset| ruleset.restrict_self());
    let status = restricted.map_err(io::Error::other).map_err(failed("forbid files (Landlock)"))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
