//! The file system that a guest's disk gets at its first start: made once here, packed as [`thimble_spec::template`].

use std::fs::File;

use thimble_spec::template;
use thimble_spec::units::MIB;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::files::{self, Key};
use crate::tool::Tool;

/// Size of the file system before it grows: the smallest disk that a definition may ask for.
const SIZE: u64 = 16 * MIB;
/// Features, all of them named, so that no machine's /etc/mke2fs.conf decides. `meta_bg` in place of `resize_inode`: group
/// descriptors lie in their own groups, so that the file system grows without limit while it is mounted.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,meta_bg,sparse_super,large_file,\
                        huge_file,dir_nlink,extra_isize,metadata_csum";
/// The same for all guests: nothing looks for a guest's disk by its UUID.
const UUID: &str = "7468696d-626c-8501-8000-000000000001";
/// Seed of the directories' hashes; hash flooding by whoever may write in a guest's own file system hurts that guest only.
const HASH_SEED: &str = "7468696d-626c-8501-8000-000000000002";
/// Seconds since 1970 that the file system was made: zero would mean "now".
const MADE: &str = "1";

/// The packed file system.
///
/// # Errors
/// mke2fs fails.
pub fn make(context: &Context) -> Result<Vec<u8>> {
    let key = Key::new("disk template 1").with(FEATURES).finish();
    let entry = context.cache.dir_for("disk-template", &key, |out| {
        let dir = files::temp_dir_in(&context.cache.temp_dir(), "template-")?;
        let path = dir.path().join("disk");
        File::create(&path).and_then(|file| file.set_len(SIZE)).map_err(Error::io("write", &path))?;
        let extended = format!("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed={HASH_SEED}");
        Tool::new("mke2fs")
            .env("MKE2FS_CONFIG", "/dev/null")
            .env("E2FSPROGS_FAKE_TIME", MADE)
            .env("SOURCE_DATE_EPOCH", MADE)
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-N", "4096", "-J", "size=4"])
            .args(["-O", FEATURES, "-U", UUID, "-E", &extended])
            .arg(&path)
            .run(context)?;
        files::write(&out.join("template"), &template::pack(&files::read(&path)?))
    })?;
    files::read(&entry.path.join("template"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::progress::Progress;
    use thimble_spec::template::Template;

    #[test]
    fn the_same_bytes_each_time_and_it_grows() {
        let make_in = |dir: &std::path::Path| {
            let context = Context { cache: Cache::open_at(dir).unwrap(), progress: Progress::quiet() };
            (make(&context).unwrap(), context)
        };
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (packed, context) = make_in(first.path());
        assert_eq!(packed, make_in(second.path()).0);
        assert!(packed.len() < 128 << 10, "{}", packed.len());

        // On a disk of a tebibyte with old content at its start, as PID 1 writes it.
        let disk = first.path().join("disk");
        std::fs::write(&disk, vec![0xaa; SIZE as usize]).unwrap();
        let file = File::options().write(true).open(&disk).unwrap();
        file.set_len(1 << 40).unwrap();
        for (offset, block) in Template::parse(&packed).unwrap().entries() {
            std::os::unix::fs::FileExt::write_all_at(&file, block, offset).unwrap();
        }
        Tool::new("e2fsck").args(["-fn"]).arg(&disk).run(&context).unwrap();
        Tool::new("resize2fs").arg(&disk).arg("64G").run(&context).unwrap();
        Tool::new("e2fsck").args(["-fn"]).arg(&disk).run(&context).unwrap();
    }
}
