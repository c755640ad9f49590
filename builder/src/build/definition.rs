//! Phase 1: everything that the definition says or names is read and checked before anything is fetched or compiled.

use std::path::Path;

use thimble_spec::appliance::{Appliance, HostKernelSource};
use thimble_spec::definition::{self, Build, Definition, Mistake};

use crate::efi::trust::Trust;
use crate::error::{Error, Result};
use crate::files;
use crate::host::features::{self, Feature};
use crate::image::include;
use crate::image::recipe::Image;
use crate::kernel::config::{self, Setting};
use crate::kernel::fragments;
use crate::kernel::hardware::{self, Set};
use crate::library::Library;
use crate::lock::Lock;
use crate::nearest::hint;
use crate::place::{Source, refuse};
use crate::signing;
use crate::tls::LogKeys;

/// A definition with all the files that it names.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The definition's file.
    pub source: Source,
    /// What it says.
    pub appliance: Appliance,
    /// How to build it.
    pub build: Build,
    /// The hardware sets, the base set first, then those of the features.
    pub sets: Vec<Set>,
    /// What the host has because the definition asks for it.
    pub features: Vec<Feature>,
    /// The host kernel's configuration, if it is compiled.
    pub host_settings: Vec<Setting>,
    /// The guest kernel's configuration.
    pub settings: Vec<Setting>,
    /// The recipes that guests name, each once.
    pub images: Vec<Image>,
    /// Who has to have signed what firmware starts.
    pub trust: Trust,
    /// What the log is sent with, if it goes by TLS.
    pub log_keys: Option<LogKeys>,
    /// The lock beside the definition, if there is one.
    pub lock: Option<Lock>,
}

impl Inputs {
    /// Reads a definition and all that it names.
    ///
    /// # Errors
    /// All mistakes in all those files, as [`Error::Definition`]; a file that cannot be read.
    pub fn read(config: &Path, library: Option<&Path>) -> Result<Self> {
        let text = match std::fs::read_to_string(config) {
            Ok(text) => text,
            Err(error) => {
                return Err(Error::Usage(format!("cannot read the definition {}: {error}", config.display())));
            }
        };
        let source = Source { file: config.display().to_string(), text };
        let Definition { mut appliance, build } =
            definition::parse(&source.file, &source.text).map_err(Error::Definition)?;
        let library = Library::find(library, config)?;
        let mut mistakes = Vec::new();
        let mut sets = hardware::read(&library, &appliance.host_kernel.hardware, &source, &mut mistakes)?;
        let features = features::read(&library, &appliance, &mut mistakes)?;
        sets.extend(features.iter().map(|feature| feature.set.clone()));
        let host_settings = match &appliance.host_kernel.from {
            HostKernelSource::Package(_) => Vec::new(),
            HostKernelSource::Source { fragments: names, .. } => {
                fragments::read(&library, &fragments::of_host(&sets, names, &source), &mut mistakes)?
            }
        };
        let of_guest = fragments::of_guest(&appliance.guest_kernel.fragments, &source);
        let settings = fragments::read(&library, &of_guest, &mut mistakes)?;
        mistakes.extend(config::modular(&settings));
        let images = images(&library, &appliance, &source, &mut mistakes)?;
        if let Some(name) = &build.update_key {
            match signing::public_key(name, files::parent(config)) {
                Ok(key) => appliance.update.key = Some(key.to_string()),
                Err(reason) => mistakes.push(source.mistake("update.key", reason)),
            }
        }
        let trust = Trust::find(build.secure_boot.as_ref(), files::parent(config)).unwrap_or_else(|(key, reason)| {
            mistakes.push(source.mistake(key, reason));
            Trust::None
        });
        let log_keys = build.syslog_keys.as_ref().and_then(|dir| {
            let read = LogKeys::read(&files::parent(config).join(dir));
            read.map_err(|reason| mistakes.push(source.mistake("log.tls-keys", reason))).ok()
        });
        refuse(mistakes)?;
        let lock = Lock::beside(config)?;
        Ok(Self { source, appliance, build, sets, features, host_settings, settings, images, trust, log_keys, lock })
    }
}

fn images(
    library: &Library,
    appliance: &Appliance,
    source: &Source,
    mistakes: &mut Vec<Mistake>,
) -> Result<Vec<Image>> {
    let mut images: Vec<Image> = Vec::new();
    for (index, guest) in appliance.guests.iter().enumerate() {
        // One without has its root on its disk.
        let Some(name) = &guest.image else { continue };
        if images.iter().any(|image| image.name == *name) {
            continue;
        }
        let dir = library.image(name);
        let path = dir.join("recipe.toml");
        if !path.is_file() {
            let known = Library::siblings(&dir);
            let hint = hint(name, known.iter().map(String::as_str));
            let message = format!("there is no image {name}: {} does not exist{hint}", path.display());
            mistakes.push(source.mistake(&format!("guest[{index}].image"), message));
            continue;
        }
        images.extend(include::read(library, name, mistakes)?);
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITION: &str = r#"[appliance]
name = "demo"
[kernel.host]
package = "linux-image-amd64"
hardware = ["virtoi"]
[kernel.guest]
source = "linux-source-6.12"
fragments = ["guest/bace"]
[[guest]]
name = "web1"
image = "wep"
memory = "64MiB"
"#;

    #[test]
    fn everything_that_is_not_there_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            files::make_dir(files::parent(&path)).unwrap();
            files::write(&path, text.as_bytes()).unwrap();
        };
        write("configs/hardware/base.toml", "summary = \"s\"\nmodules = []\n");
        write("configs/hardware/virtio.toml", "summary = \"s\"\nmodules = []\n");
        write("configs/kernel/guest/base.config", "CONFIG_A=y\n");
        write("images/web/recipe.toml", "summary = \"s\"\n");
        write("configs/demo.toml", DEFINITION);
        let error = Inputs::read(&root.join("configs/demo.toml"), None).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string().replace(&format!("{}/", root.canonicalize().unwrap().display()), "");
        let text = text.replace(&format!("{}/", root.display()), "");
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "configs/demo.toml:5: kernel.host.hardware[0]: there is no hardware set virtoi: \
                 configs/hardware/virtoi.toml does not exist; did you mean virtio?",
                "configs/demo.toml:8: kernel.guest.fragments[0]: there is no fragment guest/bace: \
                 configs/kernel/guest/bace.config does not exist; did you mean guest/base?",
                "configs/demo.toml:11: guest[0].image: there is no image wep: images/wep/recipe.toml does not exist; \
                 did you mean web?",
            ]
        );
    }
}
