//! `nfs/`: the tree that an NFS server exports. A node loads kernel and initramfs from it by TFTP or HTTP, without the
//! images; those it reads from the export, each under its hash, so that an export that is built anew changes nothing for
//! the nodes that run.

use std::path::Path;

use thimble_spec::export::{NFS, OBJECTS_DIR};
use thimble_spec::paths::IMAGES_DIR;

use super::Contents;
use crate::build::initramfs::IMAGES;
use crate::build::output::{self, Output};
use crate::error::{Error, Result};
use crate::files;

/// Makes the directory.
///
/// # Errors
/// A file cannot be read, the disk is full.
pub fn write(contents: &Contents<'_>, output: &Output<'_>) -> Result<()> {
    let place = |name: &str| format!("{}/{name}", output::NFS);
    output.copy(contents.kernel, &place("vmlinuz"))?;
    let (images, parts): (Vec<_>, Vec<_>) =
        contents.parts.iter().partition(|part| part.name.split('.').next() == Some(IMAGES));
    let parts: Vec<&Path> = parts.iter().map(|part| part.path.as_path()).collect();
    output.concatenate(&parts, &place("initrd"))?;
    for image in contents.images {
        let name = format!("{IMAGES_DIR}/{}.erofs", image.name);
        let object = images.iter().flat_map(|part| &part.objects).find(|object| object.name == name);
        let object = object.ok_or_else(|| Error::environment(format!("{name} is in no part of the initramfs")))?;
        output.copy(&image.path, &place(&format!("{OBJECTS_DIR}/{}", object.sha256)))?;
    }
    let script = output.path(&place("boot.ipxe"));
    files::write(&script, ipxe(contents.name, contents.cmdline).as_bytes())
}

/// What iPXE does. The export is what DHCP says (option 17, root path); where it says nothing, a file beside this one that
/// is chained to with `set root-path` does as well.
fn ipxe(name: &str, cmdline: &str) -> String {
    format!(
        "#!ipxe\n\
         # {name}: kernel and initramfs from here, images from the NFS export that DHCP's option 17 names.\n\
         isset ${{root-path}} || goto unknown\n\
         kernel vmlinuz initrd=initrd {cmdline} {NFS}=${{root-path}} || goto failed\n\
         initrd initrd || goto failed\n\
         boot || goto failed\n\
         :unknown\n\
         echo {name}: DHCP names no NFS export: set its option 17 to SERVER:/PATH\n\
         :failed\n\
         echo {name}: could not be loaded; starting again in 10 seconds\n\
         sleep 10\n\
         reboot\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_hands_the_export_on() {
        let script = ipxe("rack", "console=ttyS0 quiet");
        assert!(script.contains("\nkernel vmlinuz initrd=initrd console=ttyS0 quiet thimble.nfs=${root-path} ||"));
        assert!(script.starts_with("#!ipxe\n"));
    }
}
