//! Who may log in: the keys that the guest is told, besides those that are in its image. They are in memory, so that one
//! that is taken out of the definition is gone at the next start.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::early::make_directory;
use crate::error::{Doing, Result};

/// Where a server for ssh looks for root's.
const AUTHORIZED: &str = "/root/.ssh/authorized_keys";
/// Where they are.
const IN_MEMORY: &str = "/run/authorized_keys";

/// Lets these keys in.
pub fn authorize(keys: &[String]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let authorized = Path::new(AUTHORIZED);
    if let Some(directory) = authorized.parent().filter(|directory| !directory.exists()) {
        make_directory(directory, 0o700)?;
    }
    if !authorized.exists() {
        let made = File::create(authorized).and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)));
        made.doing(|| format!("make {AUTHORIZED}"))?;
    }
    let own = fs::read_to_string(authorized).doing(|| format!("read {AUTHORIZED}"))?;
    let all = together(&own, keys);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(IN_MEMORY);
    file.and_then(|mut file| file.write_all(all.as_bytes())).doing(|| format!("write {IN_MEMORY}"))?;
    mount(Some(IN_MEMORY), AUTHORIZED, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(|| format!("put {IN_MEMORY} in the place of {AUTHORIZED}"))
}

/// The file's lines and the keys behind them.
fn together(own: &str, keys: &[String]) -> String {
    let lines = own.lines().chain(keys.iter().map(String::as_str));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_keys_stay() {
        let keys = ["b".to_owned(), "c d".to_owned()];
        assert_eq!(together("", &keys), "b\nc d\n");
        assert_eq!(together("a", &keys), "a\nb\nc d\n");
    }
}
