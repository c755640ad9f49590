//! The phases of a build, in order: [`definition`], [`programs`], [`objects`], [`initramfs`], [`release`], the
//! artefacts ([`crate::formats`]), [`output`].
//!
//! The first two open what the user named and nothing else, so that a mistake is told before anything is fetched or
//! compiled. All others take from the cache what did not change.

pub mod definition;
pub mod initramfs;
pub mod objects;
pub mod output;
pub mod programs;
pub mod release;

use std::path::Path;

use sha2::{Digest, Sha256};
use thimble_spec::cmdline::{Cmdline, MAX_BYTES};
use thimble_spec::manifest::{Manifest, Object, Origin, Room};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::formats::{self, Contents, Format, netboot};
use crate::image::{self, stub};
use crate::kernel::source;
use crate::ledger::Space;
use crate::place::refuse;
use crate::run::artefacts;
use crate::{compare, files, sbom, tls, tool};
use definition::Inputs;
use initramfs::Initramfs;
use objects::Objects;
use output::Output;
use programs::Programs;

/// The host's console is wherever somebody looks: the screen, and the serial port that is PID 1's own. A kernel that
/// panics starts anew: nobody stands beside the machine.
/// `loglevel=3`: a guest that touches a register which KVM does not know makes the kernel print an error, which must not
/// land in the middle of a line that somebody waits for; the kernel log keeps it.
/// `cryptomgr.notests`: the tests of algorithms that were compiled in are the distribution's, and take a fifth of a boot.
const CMDLINE: &str = "console=tty0 console=ttyS0,115200 quiet loglevel=3 panic=10 cryptomgr.notests";
/// Programs that a build runs, besides those that compile the kernel.
const TOOLS: &[&str] = &["apt-get", "apt-cache", "dpkg-deb", "mkfs.erofs", "mke2fs"];
/// Version of the manifest's format.
const MANIFEST_VERSION: u32 = 1;

/// What to build.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The definition.
    pub config: &'a Path,
    /// Where the artefacts go.
    pub out: &'a Path,
    /// Which artefacts, if not those that the definition names.
    pub formats: Option<&'a [Format]>,
    /// Where our programs are.
    pub programs: Option<&'a Path>,
    /// The private key that signs the release.
    pub sign: Option<&'a Path>,
    /// Where fragments, hardware sets and recipes are.
    pub library: Option<&'a Path>,
    /// Whether progress is kept to oneself.
    pub quiet: bool,
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Everything, by name.
    pub manifest: Manifest,
    /// Who spends each byte of `flash.img`, if that is among them.
    pub spaces: Vec<Space>,
}

/// Builds an appliance.
///
/// # Errors
/// The definition is wrong, something is missing, a tool fails, the budget is exceeded, the user interrupts. In each case
/// the output directory is as it was.
pub fn build(request: &Request<'_>) -> Result<Outcome> {
    // First of all: a mistake is told before anything is touched, the cache included.
    let inputs = Inputs::read(request.config, request.library)?;
    let formats = request.formats.unwrap_or(&inputs.build.formats);
    hardware(&inputs, formats)?;
    let context = &Context::open(request.quiet)?;
    let cmdline = cmdline(&inputs)?;
    let signer = release::signer(request.sign, &inputs)?;
    if let Some(warning) = release::unsigned(inputs.build.update_key.as_deref(), signer.as_ref()) {
        context.progress.warn(&warning);
    }
    let programs = Programs::find(request.programs)?;
    let of_format = |format: &Format| formats::tools(*format).iter().chain(inputs.trust.tools(*format));
    let of_formats = formats.iter().flat_map(of_format).copied();
    let of_images = inputs.images.iter().flat_map(image::tools);
    let of_features = inputs.features.iter().flat_map(|feature| stub::tools(&feature.stubs)).copied();
    let fixed = TOOLS.iter().chain(source::TOOLS).copied();
    tool::require(&fixed.chain(of_formats).chain(of_images).chain(of_features).collect::<Vec<_>>())?;

    let api = tls::Store::of(&inputs, request.config).map(|store| store.keys()).transpose()?;
    let objects = objects::gather(context, &inputs, formats)?;
    let initramfs = initramfs::pack(context, &inputs, &objects, &programs, api.as_ref())?;

    let envelope = release::seal(&inputs, &objects, &initramfs, &cmdline, signer.as_ref())?;
    let output = Output::begin(context, request.out)?;
    let contents = Contents {
        name: &inputs.appliance.name,
        kernel: &objects.host.vmlinuz,
        kernel_release: &objects.host.release(),
        parts: &initramfs.parts,
        images: &objects.images,
        cmdline: &cmdline,
        envelope: &envelope,
        room: release::room(&inputs, envelope.release()),
        budget: inputs.appliance.budget,
        seed: seed(&inputs.appliance.name, &initramfs.hash),
        trust: &inputs.trust,
        loaders: &objects.loaders,
    };
    let mut spaces = Vec::new();
    let everything = everything(&objects, &initramfs)?;
    for format in formats {
        if let Some(warning) = inputs.trust.warning(*format) {
            context.progress.warn(&warning);
        }
        let written = formats::write(*format, &contents, &output, context);
        spaces.extend(written.map_err(|error| over_budget(error, &inputs, request.out, &everything))?);
    }
    if signer.is_some() {
        formats::update::write(&contents, &output.path(output::UPDATE))?;
    }
    output.json(&inputs.appliance, output::APPLIANCE)?;
    sbom::write(&inputs.appliance.name, &objects, &initramfs, &output)?;
    let manifest = manifest(&inputs, &objects, &initramfs, everything, cmdline, &output)?;
    output.json(&manifest, output::MANIFEST)?;
    output.publish()?;
    Ok(Outcome { spaces: by_object(spaces, &initramfs), manifest })
}

/// A node that boots from one of the formats has the drivers that this takes.
fn hardware(inputs: &Inputs, formats: &[Format]) -> Result<()> {
    let named = &inputs.appliance.host_kernel.hardware;
    let missing = formats.iter().flat_map(|format| formats::hardware(*format).iter().map(move |set| (format, set)));
    let mistake = |(format, set)| {
        let message = format!("the format {format} needs the hardware set {set}: add \"{set}\"");
        inputs.source.mistake("kernel.host.hardware", message)
    };
    refuse(missing.filter(|(_, set)| !named.iter().any(|name| name == *set)).map(mistake).collect())
}

/// Where the budget stands is known here only, and what grew since the build that is in `out`.
fn over_budget(error: Error, inputs: &Inputs, out: &Path, objects: &[Object]) -> Error {
    let Error::Budget { budget, needed, mut ledger, .. } = error else { return error };
    let growth = artefacts::manifest(out).map(|old| compare::between(&old.objects, objects).growth());
    if let Ok(growth) = growth.as_ref().map(String::as_str)
        && !growth.is_empty()
    {
        ledger.push_str(&format!("\nsince the build in {}:\n{growth}", out.display()));
    }
    Error::Budget { place: inputs.source.place("appliance.budget"), budget, needed, ledger }
}

/// The host's command line: ours, then the definition's, so that the definition wins.
fn cmdline(inputs: &Inputs) -> Result<String> {
    let line = format!("{CMDLINE} {}", inputs.appliance.host_kernel.cmdline).trim_end().to_owned();
    if line.len() > MAX_BYTES {
        let message =
            format!("the whole command line has {} bytes, the kernel keeps {MAX_BYTES}: shorten it", line.len());
        return Err(inputs.source.error("kernel.host.cmdline", message));
    }
    // Only what the kernel reads as it stands here.
    Cmdline::parse(&line)
        .render()
        .map_err(|error| inputs.source.error("kernel.host.cmdline", error.to_string()))
        .map(|_| line)
}

/// What GUIDs and volume ids come from: the same appliance gives the same, another build of it others.
fn seed(name: &str, hash: &str) -> [u8; 32] {
    Sha256::digest(format!("thimble flash\n{name}\n{hash}\n")).into()
}

/// All objects: the kernel, and what the initramfs holds.
fn everything(objects: &Objects, initramfs: &Initramfs) -> Result<Vec<Object>> {
    let size = files::size(&objects.host.vmlinuz)?;
    let kernel = Object {
        name: "vmlinuz".to_owned(),
        room: Room::HostKernel,
        size,
        packed: size,
        sha256: files::sha256_of(&objects.host.vmlinuz)?,
        origin: objects.host.origin(),
    };
    Ok(std::iter::once(kernel).chain(initramfs.objects().cloned()).collect())
}

fn manifest(
    inputs: &Inputs,
    objects: &Objects,
    initramfs: &Initramfs,
    everything: Vec<Object>,
    cmdline: String,
    output: &Output<'_>,
) -> Result<Manifest> {
    let artefact = |name: &str| -> Result<Object> {
        let path = output.path(name);
        let size = files::size(&path)?;
        let sha256 = files::sha256_of(&path)?;
        let package = netboot::package_of(name).and_then(|name| objects.loaders.package(name));
        let origin = package.map_or(Origin::Thimble, |package| Origin::Package {
            package: package.name.clone(),
            version: package.version.clone(),
        });
        Ok(Object { name: name.to_owned(), room: Room::Artefact, size, packed: size, sha256, origin })
    };
    let artefacts = output.files()?;
    Ok(Manifest {
        version: MANIFEST_VERSION,
        appliance: inputs.appliance.name.clone(),
        budget: inputs.appliance.budget.bytes(),
        cmdline,
        hash: initramfs.hash.clone(),
        artefacts: artefacts.iter().map(|name| artefact(name)).collect::<Result<_>>()?,
        objects: everything,
        firmware: objects.modules.firmware.clone(),
    })
}

/// The disk knows files; who pays for an initramfs part is whoever has something in it.
fn by_object(spaces: Vec<Space>, initramfs: &Initramfs) -> Vec<Space> {
    let mut split = Vec::new();
    for space in spaces {
        let part = initramfs.parts.iter().find(|part| space.name.ends_with(&format!("/{}", part.name)));
        let Some(part) = part.filter(|part| !part.objects.is_empty()) else {
            split.push(space);
            continue;
        };
        let mut rooms: Vec<Space> = Vec::new();
        for object in &part.objects {
            // Modules are many and small: one line for all of them.
            let name = match object.room {
                Room::HostModules => space.name.clone(),
                _ => format!("{} {}", space.name, object.name),
            };
            match rooms.iter_mut().find(|room| room.name == name && room.room == object.room) {
                Some(room) => room.bytes += object.packed,
                None => rooms.push(Space { room: object.room, name, bytes: object.packed }),
            }
        }
        // Headers and rounding go with the first.
        let shared: u64 = rooms.iter().map(|room| room.bytes).sum();
        if let Some(first) = rooms.first_mut() {
            first.bytes += space.bytes.saturating_sub(shared);
        }
        split.extend(rooms);
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initrd::parts::Part;
    use std::path::PathBuf;

    #[test]
    fn a_part_is_paid_for_by_those_that_are_in_it() {
        let object = |name: &str, room, packed| Object {
            name: name.into(),
            room,
            size: packed * 2,
            packed,
            sha256: String::new(),
            origin: Origin::Thimble,
        };
        let part = Part {
            name: "guest.cpio.xz".into(),
            path: PathBuf::new(),
            objects: vec![object("/k", Room::GuestKernel, 70), object("/i", Room::GuestInitrd, 20)],
            digests: vec![],
            reused: false,
        };
        let initramfs = Initramfs { parts: vec![part], hash: String::new() };
        let space = |room, name: &str, bytes| Space { room, name: name.into(), bytes };
        let spaces = vec![space(Room::Boot, "GRUB", 5), space(Room::Host, "thimble/guest.cpio.xz", 100)];
        assert_eq!(
            by_object(spaces, &initramfs),
            [
                space(Room::Boot, "GRUB", 5),
                space(Room::GuestKernel, "thimble/guest.cpio.xz /k", 80),
                space(Room::GuestInitrd, "thimble/guest.cpio.xz /i", 20),
            ]
        );
    }
}
