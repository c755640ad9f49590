//! `sbom.spdx.json`: every file of an appliance and of its guests' images, with the package that it came from.
//!
//! | module | what |
//! | --- | --- |
//! | [`spdx`] | the format |
//!
//! A package *contains* a file that is in the appliance as it is in the package. A file that was changed on the way (its
//! symbols are stripped) or compiled is *generated from* its package. The appliance contains its artefacts; an artefact
//! that is a package's own file, such as a boot loader, says so.

pub mod spdx;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};

use thimble_spec::manifest::{Object, Origin};

use crate::apt::source;
use crate::build::initramfs::Initramfs;
use crate::build::objects::Objects;
use crate::build::output::Output;
use crate::error::{Error, Result};
use crate::files::{self, Digests};
use crate::image::inventory::From;
use crate::image::tree::{self, Item};
use crate::kernel::host::HostKernel;
use spdx::{CreationInfo, Document, File, Package, Relationship};

/// The file in the output directory.
pub const FILE: &str = "sbom.spdx.json";
/// Where a build says which time it is to write (reproducible-builds.org, "SOURCE_DATE_EPOCH").
const EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Identifier of the document itself.
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
/// Identifier of the appliance.
const APPLIANCE: &str = "SPDXRef-Appliance";
/// Thimble's own name as a package.
const THIMBLE: &str = "thimble";
/// What is said where nothing is.
const UNKNOWN: &str = "NOASSERTION";

/// Writes the document for all artefacts that are there.
///
/// # Errors
/// A file cannot be read, `SOURCE_DATE_EPOCH` is no time.
pub fn write(name: &str, objects: &Objects, initramfs: &Initramfs, output: &Output<'_>) -> Result<()> {
    let mut bill = Bill::new(distribution());
    bill.package(THIMBLE, env!("CARGO_PKG_VERSION"), "");
    for package in [&objects.host.package, &objects.guest.package].into_iter().chain(objects.loaders.packages()) {
        bill.package(&package.name, &package.version, &package.sha256);
    }
    let kernel = Digests::of(&objects.host.vmlinuz)?;
    bill.file("./vmlinuz", &kernel);
    bill.kernel(&objects.host, "./vmlinuz");
    for package in objects.tools.iter().flat_map(|tools| &tools.inventory.packages) {
        bill.package(&package.name, &package.version, &package.sha256);
    }
    let stripped: BTreeSet<&str> = objects
        .tools
        .iter()
        .flat_map(|tools| &tools.inventory.files)
        .filter(|record| matches!(record.from, From::Stripped(_)))
        .map(|record| record.path.as_str())
        .collect();
    for part in &initramfs.parts {
        for object in &part.objects {
            if let Some((_, digests)) = part.digests.iter().find(|(path, _)| *path == object.name) {
                bill.object(object, digests, stripped.contains(object.name.as_str()));
            }
        }
    }
    for image in &objects.images {
        for package in &image.inventory.packages {
            bill.package(&package.name, &package.version, &package.sha256);
        }
        let inside = |path: &str| format!("./images/{}{path}", image.name);
        let whole = initramfs.parts.iter().flat_map(|part| &part.objects).find(|object| is_image(object, &image.name));
        for record in &image.inventory.files {
            let path = inside(&record.path);
            bill.file(&path, &record.digests);
            match &record.from {
                From::Package(package) => bill.contains(package, &path),
                From::Stripped(package) => bill.generated(&path, package),
                From::Compiled { packages, .. } => packages.iter().for_each(|package| bill.generated(&path, package)),
                From::Thimble => bill.contains(THIMBLE, &path),
                From::Recipe => {
                    let recipe = bill.recipe(&image.name);
                    bill.contains(&recipe, &path);
                }
            }
            if let Some(whole) = whole {
                bill.relate(spdx::file_id(&in_initramfs(whole)), "CONTAINS", spdx::file_id(&path));
            }
        }
    }
    let loaders = loader_files(objects)?;
    for artefact in output.files()? {
        let path = output.path(&artefact);
        let place = format!("./{artefact}");
        let digests = Digests::of(&path)?;
        bill.file(&place, &digests);
        bill.artefacts.push(place.clone());
        if digests == kernel {
            bill.kernel(&objects.host, &place);
        } else if let Some(package) = copied(&loaders, &path, &digests)? {
            bill.contains(package, &place);
        } else {
            bill.generated(&place, THIMBLE);
        }
    }
    let document = bill.document(name, &initramfs.hash, created()?);
    output.json(&document, FILE)
}

/// The package whose file an artefact is. Files of one size are few: only those are read.
fn copied<'a>(loaders: &'a LoaderFiles, path: &Path, digests: &Digests) -> Result<Option<&'a str>> {
    for (package, file) in loaders.get(&files::size(path)?).into_iter().flatten() {
        if files::sha256_of(file)? == digests.sha256 {
            return Ok(Some(package));
        }
    }
    Ok(None)
}

/// Size to package and file.
type LoaderFiles = BTreeMap<u64, Vec<(String, PathBuf)>>;

/// The boot loaders' files.
fn loader_files(objects: &Objects) -> Result<LoaderFiles> {
    let mut by_size = LoaderFiles::new();
    for (package, tree) in objects.loaders.trees() {
        tree::walk(tree, &mut |_, item| {
            if let Item::File { source, .. } = item
                && let Ok(data) = source.metadata()
            {
                by_size.entry(data.len()).or_default().push((package.name.clone(), source));
            }
        })?;
    }
    Ok(by_size)
}

fn is_image(object: &Object, name: &str) -> bool {
    matches!(&object.origin, Origin::Image { recipe, .. } if recipe == name)
}

fn in_initramfs(object: &Object) -> String {
    format!("./initramfs{}", object.name)
}

/// The time that is written: what the environment says, else one that is always the same.
fn created() -> Result<u64> {
    match env::var(EPOCH) {
        Ok(text) => text.parse().map_err(|_| {
            Error::Usage(format!(
                "{EPOCH} is `{text}`: it wants whole seconds since 1970, such as `git log -1 --format=%ct`"
            ))
        }),
        Err(_) => Ok(0),
    }
}

/// Whose packages these are: the distribution of this machine, for its sources are used.
fn distribution() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("ID="));
    id.map_or("debian", |id| id.trim_matches('"')).to_owned()
}

/// A bill of materials on its way.
struct Bill {
    distribution: String,
    packages: BTreeMap<String, Package>,
    files: BTreeMap<String, Digests>,
    /// Package to its files.
    contained: BTreeMap<String, BTreeSet<String>>,
    artefacts: Vec<String>,
    relationships: BTreeSet<Relationship>,
}

impl Bill {
    fn new(distribution: String) -> Self {
        Self {
            distribution,
            packages: BTreeMap::new(),
            files: BTreeMap::new(),
            contained: BTreeMap::new(),
            artefacts: Vec::new(),
            relationships: BTreeSet::new(),
        }
    }

    fn package(&mut self, name: &str, version: &str, sha256: &str) {
        let ours = name == THIMBLE;
        let checksum = |value: &str| spdx::Checksum { algorithm: "SHA256", checksum_value: value.to_owned() };
        let package = Package {
            id: spdx::package_id(name),
            name: source::bare(name).unwrap_or(name).to_owned(),
            version_info: version.to_owned(),
            download_location: UNKNOWN,
            checksums: if sha256.is_empty() { Vec::new() } else { vec![checksum(sha256)] },
            external_refs: if ours { Vec::new() } else { vec![spdx::purl("deb", &self.distribution, name, version)] },
            license_declared: ours.then_some(env!("CARGO_PKG_LICENSE")),
            ..Package::default()
        };
        self.packages.entry(name.to_owned()).or_insert(package);
    }

    /// What a recipe's own directory has is a package too.
    fn recipe(&mut self, name: &str) -> String {
        let whole = format!("recipe-{name}");
        let package = Package {
            id: spdx::package_id(&whole),
            name: whole.clone(),
            download_location: UNKNOWN,
            comment: format!("The files of the image recipe {name}."),
            ..Package::default()
        };
        self.packages.entry(whole.clone()).or_insert(package);
        whole
    }

    fn file(&mut self, path: &str, digests: &Digests) {
        self.files.insert(path.to_owned(), digests.clone());
    }

    /// An object of the host's initramfs; one without its symbols is made from its package.
    fn object(&mut self, object: &Object, digests: &Digests, stripped: bool) {
        let path = in_initramfs(object);
        self.file(&path, digests);
        match &object.origin {
            Origin::Package { package, .. } if !stripped => self.contains(package, &path),
            Origin::Package { package, .. } => self.generated(&path, package),
            Origin::Source { package, .. } => self.generated(&path, package),
            Origin::Thimble => self.contains(THIMBLE, &path),
            // Each of its files says where it came from.
            Origin::Image { .. } => self.generated(&path, THIMBLE),
        }
    }

    /// The host's kernel, as it is or compiled.
    fn kernel(&mut self, kernel: &HostKernel, path: &str) {
        match kernel.compiled {
            None => self.contains(&kernel.package.name, path),
            Some(_) => self.generated(path, &kernel.package.name),
        }
    }

    fn contains(&mut self, package: &str, path: &str) {
        self.contained.entry(package.to_owned()).or_default().insert(path.to_owned());
    }

    fn generated(&mut self, path: &str, package: &str) {
        self.relate(spdx::file_id(path), "GENERATED_FROM", spdx::package_id(package));
    }

    fn relate(&mut self, one: String, how: &'static str, other: String) {
        let relationship = Relationship { spdx_element_id: one, relationship_type: how, related_spdx_element: other };
        self.relationships.insert(relationship);
    }

    fn code(&self, paths: &BTreeSet<String>) -> spdx::VerificationCode {
        spdx::verification_code(
            paths.iter().filter_map(|path| self.files.get(path)).map(|digests| digests.sha1.as_str()),
        )
    }

    fn document(mut self, name: &str, hash: &str, created: u64) -> Document {
        let artefacts: BTreeSet<String> = self.artefacts.drain(..).collect();
        let mut appliance = Package {
            id: APPLIANCE.to_owned(),
            name: name.to_owned(),
            version_info: hash.to_owned(),
            download_location: UNKNOWN,
            ..Package::default()
        };
        if !artefacts.is_empty() {
            appliance.files_analyzed = true;
            appliance.package_verification_code = Some(self.code(&artefacts));
        }
        self.relate(DOCUMENT.to_owned(), "DESCRIBES", APPLIANCE.to_owned());
        for path in &artefacts {
            self.relate(APPLIANCE.to_owned(), "CONTAINS", spdx::file_id(path));
        }
        let names: Vec<String> = self.packages.keys().cloned().collect();
        for package in &names {
            self.relate(APPLIANCE.to_owned(), "CONTAINS", spdx::package_id(package));
        }
        for (package, paths) in std::mem::take(&mut self.contained) {
            let code = self.code(&paths);
            if let Some(package) = self.packages.get_mut(&package) {
                package.files_analyzed = true;
                package.package_verification_code = Some(code);
            }
            for path in &paths {
                self.relate(spdx::package_id(&package), "CONTAINS", spdx::file_id(path));
            }
        }
        let files = self.files.iter().map(|(path, digests)| File {
            id: spdx::file_id(path),
            file_name: path.clone(),
            checksums: spdx::checksums(digests),
        });
        let mut document = Document {
            spdx_version: "SPDX-2.3",
            data_license: "CC0-1.0",
            id: DOCUMENT,
            name: name.to_owned(),
            document_namespace: String::new(),
            creation_info: CreationInfo {
                created: spdx::time(created),
                creators: vec![concat!("Tool: thimble-", env!("CARGO_PKG_VERSION")).to_owned()],
            },
            packages: std::iter::once(appliance).chain(self.packages.into_values()).collect(),
            files: files.collect(),
            relationships: self.relationships.into_iter().collect(),
        };
        // Unique, and the same for the same content: a UUID of version 8 over all of it (RFC 9562, 5.8).
        let content = serde_json::to_vec(&document).unwrap_or_default();
        document.document_namespace = format!("urn:uuid:{}", crate::image::uuid(&files::sha256(&content)));
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn bill() -> Document {
        let mut bill = Bill::new("debian".to_owned());
        bill.package(THIMBLE, "0.1.0", "");
        bill.package("nginx", "1.22", &"a".repeat(64));
        bill.package("linux-source-6.12", "6.12", &"b".repeat(64));
        let digests = |text: &str| Digests::of_bytes(text.as_bytes());
        for path in ["./images/web/usr/sbin/nginx", "./images/web/etc/mime", "./initramfs/init", "./flash.img"] {
            bill.file(path, &digests(path));
        }
        bill.generated("./images/web/usr/sbin/nginx", "nginx");
        bill.contains("nginx", "./images/web/etc/mime");
        bill.contains(THIMBLE, "./initramfs/init");
        bill.artefacts.push("./flash.img".to_owned());
        bill.document("demo", "0123", 1_700_000_000)
    }

    #[test]
    fn all_that_the_specification_wants_is_there() {
        let document = serde_json::to_value(bill()).unwrap();
        let texts = |list: &str, key: &str| -> Vec<String> {
            let list = document[list].as_array().unwrap();
            list.iter().map(|one| one[key].as_str().unwrap().to_owned()).collect()
        };
        for key in ["spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace"] {
            assert!(document[key].is_string(), "{key}");
        }
        assert_eq!(document["creationInfo"]["created"], "2023-11-14T22:13:20Z");
        // Identifiers are unique, made of the letters that they may have, and each that is named is there.
        let mut ids = texts("packages", "SPDXID");
        ids.extend(texts("files", "SPDXID"));
        ids.push(DOCUMENT.to_owned());
        let unique: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len());
        let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        assert!(ids.iter().all(|id| id.strip_prefix("SPDXRef-").is_some_and(|rest| rest.chars().all(may))));
        for key in ["spdxElementId", "relatedSpdxElement"] {
            assert!(texts("relationships", key).iter().all(|id| unique.contains(id)), "{key}");
        }
        for file in document["files"].as_array().unwrap() {
            assert!(file["fileName"].as_str().unwrap().starts_with("./"));
            assert_eq!(file["checksums"][0]["algorithm"], "SHA1");
            assert_eq!(file["checksums"][1]["checksumValue"].as_str().unwrap().len(), 64);
        }
        // A package has a verification code if, and only if, it has files here (clauses 7.8 and 7.9).
        for package in document["packages"].as_array().unwrap() {
            assert!(package["downloadLocation"].is_string());
            let has_files = document["relationships"].as_array().unwrap().iter().any(|one| {
                one["spdxElementId"] == package["SPDXID"]
                    && one["relationshipType"] == "CONTAINS"
                    && one["relatedSpdxElement"].as_str().unwrap().starts_with("SPDXRef-File-")
            });
            assert_eq!(package["filesAnalyzed"], Value::Bool(has_files), "{package}");
            assert_eq!(package["packageVerificationCode"].is_object(), has_files);
        }
    }

    #[test]
    fn the_same_content_is_the_same_document_and_other_content_another() {
        assert_eq!(bill(), bill());
        let mut other = Bill::new("debian".to_owned());
        other.package("nginx", "1.23", "");
        assert_ne!(other.document("demo", "0123", 1_700_000_000).document_namespace, bill().document_namespace);
    }
}
