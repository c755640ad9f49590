//! What a slot of a flash disk starts and an update brings: the host's kernel and the parts of its initramfs.

use std::path::Path;

use thimble_spec::release::{Part, Release, VERSION};
use thimble_store::{Envelope, Key, Signer};

use super::definition::Inputs;
use super::initramfs::Initramfs;
use super::objects::Objects;
use super::output;
use crate::error::{Error, Result};
use crate::files;
use crate::flash::layout::Room;
use crate::signing;

/// What to say of a build that can be installed by hand and never as an update.
pub fn unsigned(key: Option<&str>, signer: Option<&Signer>) -> Option<String> {
    let key = key.filter(|_| signer.is_none())?;
    Some(format!(
        "[update] key = \"{key}\" says who may sign updates, and nobody signs this build: no {} is made, and a node refuses \
         it as an update; sign it by --sign FILE.key",
        output::UPDATE
    ))
}

/// The private key that signs a build, checked against the definition's public one; none if nobody signs.
///
/// # Errors
/// The key cannot be read, or is not the definition's.
pub fn signer(path: Option<&Path>, inputs: &Inputs) -> Result<Option<Signer>> {
    let Some(path) = path else { return Ok(None) };
    let Some(key) = &inputs.appliance.update.key else {
        let message = "--sign is given, and no key: say [update] key = \"FILE.pub\" so that the appliance knows who may \
            update it";
        return Err(inputs.source.error("appliance", message));
    };
    let signer = signing::signer(path)?;
    if Key::from_hex(key).ok() != Some(signer.key()) {
        let message = format!(
            "{} is not the private half of this key ({key}): the appliance would refuse the update",
            path.display()
        );
        return Err(inputs.source.error("update.key", message));
    }
    Ok(Some(signer))
}

/// The release of a build.
///
/// # Errors
/// A file cannot be read; a release that no boot loader could start.
pub fn seal(
    inputs: &Inputs,
    objects: &Objects,
    initramfs: &Initramfs,
    cmdline: &str,
    signer: Option<&Signer>,
) -> Result<Envelope> {
    let part = |name: &str, path: &Path| -> Result<Part> {
        Ok(Part { name: name.to_owned(), size: files::size(path)?, sha256: files::sha256_of(path)? })
    };
    let release = Release {
        version: VERSION,
        appliance: inputs.appliance.name.clone(),
        manifest: initramfs.hash.clone(),
        cmdline: cmdline.to_owned(),
        tries: inputs.build.tries,
        key: inputs.appliance.update.key.clone(),
        kernel: part("vmlinuz", &objects.host.vmlinuz)?,
        initrd: initramfs.parts.iter().map(|file| part(&file.name, &file.path)).collect::<Result<_>>()?,
    };
    Envelope::seal(&release, signer).map_err(|error| Error::environment(format!("the release of this build: {error}")))
}

/// What the flash disk keeps free for the next update: what the definition says; if it says nothing, a whole payload where
/// there is a key, and nothing where no update will ever come.
pub fn room(inputs: &Inputs, release: &Release) -> Room {
    match (inputs.build.update_room, &inputs.appliance.update.key) {
        (Some(room), _) => Room::Exactly(room.bytes()),
        (None, Some(_)) => Room::UpTo(release.objects().iter().map(|part| part.size).sum()),
        (None, None) => Room::Exactly(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nobody_signs_with_is_told() {
        let told = unsigned(Some("demo.pub"), None).unwrap();
        assert!(told.starts_with("[update] key = \"demo.pub\"") && told.contains("--sign"), "{told}");
        assert_eq!(unsigned(None, None), None);
    }
}
