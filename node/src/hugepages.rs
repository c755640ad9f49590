//! The host's pool of huge pages: as many as the guests take that are to have them.
//!
//! They are set aside when the daemon starts, while memory is still in one piece. The kernel gives what it finds (Linux
//! `Documentation/admin-guide/mm/hugetlbpage.rst`).

use std::fs;
use std::io;
use std::path::Path;

use thimble_spec::appliance::Guest;
use thimble_spec::units::ByteSize;
use thimble_spec::vmm::Pages;

/// How many pages the pool has.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
/// A page of it.
const PAGE: ByteSize = ByteSize::mib(2);

/// Makes the pool large enough; a line for people if it is not.
pub fn set_aside(guests: &[Guest]) -> Option<String> {
    set_aside_in(Path::new(POOL), guests)
}

fn set_aside_in(pool: &Path, guests: &[Guest]) -> Option<String> {
    let huge = guests.iter().filter(|guest| guest.memory_kind.pages == Pages::Huge);
    let needed = huge.fold(0u64, |sum, guest| sum.saturating_add(guest.memory.bytes().div_ceil(PAGE.bytes())));
    if needed == 0 {
        return None;
    }
    match grow(pool, needed) {
        Ok(found) => short(found, needed),
        Err(error) => Some(format!("huge pages cannot be set aside in {}: {error}", pool.display())),
    }
}

fn short(found: u64, needed: u64) -> Option<String> {
    (found < needed).then(|| {
        format!(
            "the guests take {needed} huge pages of {PAGE}, and the host has {found}: give it more memory, or \
             hugepages={needed} on its kernel command line"
        )
    })
}

/// Grows the pool to `needed` pages if it has fewer, and says how many it has then.
fn grow(pool: &Path, needed: u64) -> io::Result<u64> {
    let count = || fs::read_to_string(pool)?.trim().parse().map_err(io::Error::other);
    if count()? < needed {
        fs::write(pool, needed.to_string())?;
    }
    count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::appliance;

    #[test]
    fn the_pool_grows_to_what_is_needed_and_never_shrinks() {
        let directory = tempfile::tempdir().unwrap();
        let pool = directory.path().join("nr_hugepages");
        let count = || fs::read_to_string(&pool).unwrap();
        let guests = |pages: &str| {
            appliance(&["memory = \"64MiB\"", &format!("memory = \"34MiB\"\npages = \"{pages}\"")]).guests
        };
        // Who needs none does not look for the pool.
        assert_eq!(set_aside_in(&pool, &guests("default")), None);
        assert!(set_aside_in(&pool, &guests("huge")).unwrap().starts_with("huge pages cannot be set aside in "));
        for (before, after) in [("0\n", "17"), ("16\n", "17"), ("18\n", "18\n")] {
            fs::write(&pool, before).unwrap();
            assert_eq!(set_aside_in(&pool, &guests("huge")), None);
            assert_eq!(count(), after);
        }
        assert!(short(16, 17).unwrap().starts_with("the guests take 17 huge pages of 2MiB, and the host has 16:"));
    }
}
