//! Phase 4: the host's initramfs, in the parts that change together.

use std::collections::BTreeMap;

use thimble_spec::catalogue::{Catalogue, Shared};
use thimble_spec::manifest::{Object, Origin, Room};
use thimble_spec::paths;
use thimble_spec::release::{GUEST_PARTS, NODE_PART};

use super::definition::Inputs;
use super::objects::Objects;
use super::programs::Programs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::image::assemble;
use crate::image::tree::{self, Item, MERGED};
use crate::initrd::archive::Content;
use crate::initrd::compress::Method;
use crate::initrd::guest;
use crate::initrd::parts::{Part, Plan, manifest_hash};
use crate::kernel::host;
use crate::tls::Keys;

/// The part with the images; its name.
pub const IMAGES: &str = "images";

/// Where the host's PID 1 and its daemon mount and write.
const DIRS: [(&str, u32); 9] = [
    ("/data", 0o755),
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/proc", 0o755),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o755),
    ("/tmp", 0o1777),
    ("/var", 0o755),
];

/// The host's initramfs.
#[derive(Clone, Debug)]
pub struct Initramfs {
    /// Its parts, in the order of loading.
    pub parts: Vec<Part>,
    /// Hash over all that they hold.
    pub hash: String,
}

impl Initramfs {
    /// All that the parts hold.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.parts.iter().flat_map(|part| &part.objects)
    }
}

/// Packs all parts.
///
/// # Errors
/// A file cannot be read, the cache cannot be written, the user interrupts.
pub fn pack(
    context: &Context,
    inputs: &Inputs,
    objects: &Objects,
    programs: &Programs,
    api: Option<&Keys>,
) -> Result<Initramfs> {
    let tools = tools(objects)?;
    let [guest_kernel, guest_init] = guest(context, objects, programs)?;
    let plans = [modules(objects)?, own_programs(programs), guest_kernel, guest_init, images(objects)];
    let mut parts = plans.iter().chain(&tools).map(|plan| plan.pack(context)).collect::<Result<Vec<_>>>()?;

    let mut node = Plan::new(NODE_PART, Method::None);
    node.file(paths::APPLIANCE, 0o444, Content::Bytes(json(&inputs.appliance)?), Room::Host, Origin::Thimble);
    if let Some(keys) = api {
        certificate(&mut node, paths::API_CA, &keys.ca);
        certificate(&mut node, paths::API_CERTIFICATE, &keys.certificate);
        key(&mut node, paths::API_KEY, &keys.key);
    }
    if let Some(keys) = &inputs.log_keys {
        certificate(&mut node, &format!("{}/ca.pem", paths::SYSLOG_KEYS), &keys.ca);
        if let Some([own, private]) = &keys.client {
            certificate(&mut node, &format!("{}/cert.pem", paths::SYSLOG_KEYS), own);
            key(&mut node, &format!("{}/key.pem", paths::SYSLOG_KEYS), private);
        }
    }
    let mut all: Vec<Object> = parts.iter().flat_map(|part| part.objects.clone()).collect();
    let shared = Content::Bytes(json(&catalogue(&all))?);
    node.file(paths::CATALOGUE, 0o444, shared, Room::Host, Origin::Thimble);
    // The marker holds the hash of everything else, so that hash is made first.
    all.extend(node.objects(0)?);
    let hash = manifest_hash(&all);
    node.archive().last(paths::END_MARKER, format!("{hash}\n").into_bytes());
    parts.push(node.pack(context)?);
    for part in parts.iter().filter(|part| part.reused) {
        context.progress.reused(&part.name);
    }
    Ok(Initramfs { parts, hash })
}

fn certificate(plan: &mut Plan, path: &str, pem: &str) {
    plan.file(path, 0o444, Content::Bytes(pem.to_owned().into_bytes()), Room::Host, Origin::Thimble);
}

/// The manifest tells nothing of a key: its certificate stands for it.
fn key(plan: &mut Plan, path: &str, pem: &str) {
    plan.archive().file(path, 0o400, Content::Bytes(pem.to_owned().into_bytes()));
}

/// What guests share, for the node to know it by its content.
fn catalogue(objects: &[Object]) -> Catalogue {
    let shared = objects.iter().filter(|it| matches!(it.room, Room::GuestKernel | Room::GuestInitrd | Room::Images));
    let mut objects: Vec<Shared> = shared
        .map(|object| Shared { path: object.name.clone(), size: object.size, sha256: object.sha256.clone() })
        .collect();
    objects.sort_by(|a, b| a.path.cmp(&b.path));
    Catalogue { objects }
}

fn modules(objects: &Objects) -> Result<Plan> {
    let mut plan = Plan::new("modules", Method::Zstd);
    let origin = objects.host.origin();
    for (name, path) in &objects.modules.files {
        let source = objects.host.modules_dir.join(path);
        // Compressed ones are unpacked: PID 1 loads them as they are.
        let plain = source.extension().is_some_and(|extension| extension == "ko");
        let content = if plain { Content::File(source) } else { Content::Bytes(host::content(&source)?) };
        plan.file(&format!("{}/{name}.ko", paths::MODULES_DIR), 0o444, content, Room::HostModules, origin.clone());
    }
    let index = Content::Bytes(json(&objects.modules.index)?);
    plan.file(paths::MODULES_INDEX, 0o444, index, Room::HostModules, Origin::Thimble);
    Ok(plan)
}

fn own_programs(programs: &Programs) -> Plan {
    let mut plan = Plan::new("programs", Method::Zstd);
    for (path, mode) in DIRS {
        plan.archive().dir(path, mode);
    }
    plan.archive().console();
    for (path, source) in [(paths::INIT, &programs.init), (paths::NODE, &programs.node), (paths::VMM, &programs.vmm)] {
        plan.file(path, 0o755, Content::File(source.clone()), Room::Host, Origin::Thimble);
    }
    plan.archive().link(paths::CTL, paths::NODE);
    plan
}

/// Programs of packages, for the features that have some. Libraries that several bring are the same, but for those of which one
/// has only the names.
fn tools(objects: &Objects) -> Result<Option<Plan>> {
    if objects.tools.is_empty() {
        return Ok(None);
    }
    let mut plan = Plan::new("tools", Method::Xz);
    for name in MERGED {
        plan.archive().link(&format!("/{name}"), &format!("usr/{name}"));
        plan.archive().dir(&format!("/usr/{name}"), 0o755);
    }
    let mut users = BTreeMap::new();
    for tools in &objects.tools {
        let origins: BTreeMap<&str, Origin> =
            tools.inventory.files.iter().map(|record| (record.path.as_str(), tools.inventory.origin(record))).collect();
        tree::walk(&tools.root, &mut |path, item| match item {
            Item::Dir { mode } => plan.archive().dir(&path, mode),
            Item::Link { target } => plan.archive().link(&path, &target),
            Item::File { .. } if tools.yields(&path, &objects.tools) => {}
            Item::File { source, mode } => {
                let origin = origins.get(path.as_str()).cloned().unwrap_or(Origin::Thimble);
                plan.file(&path, mode, Content::File(source), Room::Host, origin);
            }
        })?;
        users.extend(tools.users.clone());
    }
    for (path, text) in assemble::etc(&users) {
        plan.file(path, 0o644, Content::Bytes(text.into_bytes()), Room::Host, Origin::Thimble);
    }
    Ok(Some(plan))
}

/// What guests share, the kernel and the initramfs.
fn guest(context: &Context, objects: &Objects, programs: &Programs) -> Result<[Plan; 2]> {
    let mut plans = GUEST_PARTS.map(|name| Plan::new(name, Method::Xz));
    let [with_kernel, with_initrd] = &mut plans;
    let kernel = &objects.guest;
    let origin = Origin::Source {
        package: kernel.package.name.clone(),
        version: kernel.package.version.clone(),
        hash: kernel.hash.clone(),
    };
    with_kernel.file(paths::GUEST_KERNEL, 0o444, Content::File(kernel.vmlinux.clone()), Room::GuestKernel, origin);
    let initrd = guest::make(context, &programs.init_guest)?;
    with_initrd.file(paths::GUEST_INITRD, 0o444, Content::Bytes(initrd), Room::GuestInitrd, Origin::Thimble);
    Ok(plans)
}

/// Images are compressed inside, block by block: once more would gain nothing.
fn images(objects: &Objects) -> Plan {
    let mut plan = Plan::new(IMAGES, Method::None);
    plan.archive().dir(paths::IMAGES_DIR, 0o755);
    for image in &objects.images {
        let origin = Origin::Image { recipe: image.name.clone(), packages: image.packages.clone() };
        let path = format!("{}/{}.erofs", paths::IMAGES_DIR, image.name);
        plan.file(&path, 0o444, Content::File(image.path.clone()), Room::Images, origin);
    }
    plan
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut json =
        serde_json::to_vec_pretty(value).map_err(|error| Error::environment(format!("cannot write JSON: {error}")))?;
    json.push(b'\n');
    Ok(json)
}
