//! The data partition: an empty ext4, made inside the image file by `mke2fs`, which needs no root for that.

use std::path::Path;

use thimble_spec::paths::DATA_PARTITION;
use thimble_spec::units::MIB;

use super::identity::Identity;
use super::layout::Extent;
use crate::context::Context;
use crate::error::Result;
use crate::tool::Tool;

/// Everything that the host's kernel has mounted since 3.18. Named here, and the machine's own mke2fs.conf left aside, so
/// that every workstation makes the same file system.
const FEATURES: &str = "none,has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,\
    sparse_super,filetype,resize_inode,dir_index,ext_attr,large_file";
/// The time that the file system says it was made at, in seconds since 1970; 0 would mean the clock.
const TIME: &str = "1";
/// From this size on, blocks are pages: below, the journal of 1024 blocks would take half of the partition.
const LARGE: u64 = 256 * MIB;

/// Makes the file system in `place` of `image`.
///
/// # Errors
/// `mke2fs` is not there or fails.
pub fn write(image: &Path, place: Extent, identity: &Identity, context: &Context) -> Result<()> {
    let block = if place.bytes() < LARGE { "1024" } else { "4096" };
    let extended = format!(
        "offset={},hash_seed={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        place.start(),
        identity.hash_seed
    );
    Tool::new("mke2fs")
        .bare_environment()
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("E2FSPROGS_FAKE_TIME", TIME)
        .args(["-q", "-F", "-t", "ext4", "-O", FEATURES, "-I", "256", "-m", "0", "-b", block])
        .args(["-L", DATA_PARTITION, "-U", &identity.data_uuid, "-E", &extended])
        .arg(image)
        .arg(format!("{}k", place.bytes() / 1024))
        .run(context)
}
