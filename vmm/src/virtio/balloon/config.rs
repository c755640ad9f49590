//! What a balloon tells its driver about itself, and the driver it (virtio 1.2, sections 5.5.3 and 5.5.4).

use thimble_spec::vmm;

/// The guest takes pages from the balloon before it kills a process for want of memory (section 5.5.3).
pub const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// The guest reports pages that are free (section 5.5.3). `PAGE_POISON` is not offered beside it: it would oblige us to
/// keep what the guest fills its free pages with.
pub const F_REPORTING: u64 = 1 << 5;

/// Where `actual` stands in the configuration space (section 5.5.4), behind `num_pages`.
pub const ACTUAL: usize = 4;

/// Bytes of a page, whatever the processor's are (section 5.5.6).
pub const PAGE: u64 = 4096;
/// Pages in a MiB.
pub const PAGES_PER_MIB: u32 = (1 << 20) / PAGE as u32;

/// What a device offers that `config` describes.
pub fn features(config: &vmm::Balloon) -> u64 {
    let when = |wanted: bool, feature| if wanted { feature } else { 0 };
    when(config.deflate_on_oom, F_DEFLATE_ON_OOM) | when(config.free_page_reporting, F_REPORTING)
}

/// `struct virtio_balloon_config` up to `actual` (section 5.5.4).
pub fn space(target_pages: u32, actual_pages: u32) -> [u8; 8] {
    (u64::from(target_pages) | u64::from(actual_pages) << 32).to_le_bytes()
}
