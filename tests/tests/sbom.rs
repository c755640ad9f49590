//! `sbom.spdx.json` against what is really in the artefacts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use thimble_tests::{Definition, cache, demo, repository, thimble};

struct Bill {
    /// File name to SHA-256.
    files: BTreeMap<String, String>,
    /// File name to the name of its package.
    packages: BTreeMap<String, String>,
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is a list")).iter()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

fn bill(dir: &Path) -> Bill {
    let json: Value = serde_json::from_slice(&fs::read(dir.join("sbom.spdx.json")).expect("the bill")).expect("JSON");
    let names: BTreeMap<&str, &str> =
        list(&json, "files").map(|file| (text(file, "SPDXID"), text(file, "fileName"))).collect();
    let package: BTreeMap<&str, &str> =
        list(&json, "packages").map(|one| (text(one, "SPDXID"), text(one, "name"))).collect();
    let mut packages = BTreeMap::new();
    for one in list(&json, "relationships") {
        let (left, right) = (text(one, "spdxElementId"), text(one, "relatedSpdxElement"));
        let (file, of) = match text(one, "relationshipType") {
            "CONTAINS" => (right, left),
            "GENERATED_FROM" => (left, right),
            _ => continue,
        };
        if let (Some(file), Some(of)) = (names.get(file), package.get(of).filter(|_| of != "SPDXRef-Appliance")) {
            packages.insert((*file).to_owned(), (*of).to_owned());
        }
    }
    let sha256 = |file: &Value| {
        let found = list(file, "checksums").find(|one| text(one, "algorithm") == "SHA256").expect("a SHA-256");
        text(found, "checksumValue").to_owned()
    };
    Bill {
        files: list(&json, "files").map(|file| (text(file, "fileName").to_owned(), sha256(file))).collect(),
        packages,
    }
}

fn sha256_of(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum starts");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().expect("a hash").to_owned()
}

#[test]
fn every_file_of_every_artefact_is_named_with_its_package() {
    let demo = demo();
    let bill = bill(demo);
    for file in bill.files.keys() {
        assert!(bill.packages.contains_key(file), "{file} has no package");
    }

    // The artefacts, and what the host's initramfs holds, as the manifest has them.
    let manifest: Value = serde_json::from_slice(&fs::read(demo.join("manifest.json")).unwrap()).unwrap();
    for artefact in list(&manifest, "artefacts").filter(|one| text(one, "name") != "sbom.spdx.json") {
        assert_eq!(bill.files[&format!("./{}", text(artefact, "name"))], text(artefact, "sha256"));
    }
    for object in list(&manifest, "objects") {
        let name = text(object, "name");
        let place = if name.starts_with('/') { format!("./initramfs{name}") } else { format!("./{name}") };
        assert_eq!(bill.files[&place], text(object, "sha256"), "{name}");
    }
    assert!(bill.packages["./netboot/vmlinuz"].starts_with("linux-image-"));
    assert_eq!(bill.packages["./images/page/usr/sbin/nginx"], "nginx");

    // What is in the image is taken from the image itself.
    let web = list(&manifest, "objects").find(|one| text(one, "name").ends_with("/page.erofs")).expect("the web image");
    let image = fs::read_dir(cache().join("images"))
        .expect("the cache")
        .map(|entry| entry.unwrap().path().join("image.erofs"))
        .find(|path| path.is_file() && sha256_of(path) == text(web, "sha256"))
        .expect("the image is in the cache");
    let out = TempDir::new().expect("a temporary directory");
    let root = out.path().join("root");
    let extracted = Command::new("fsck.erofs").arg(format!("--extract={}", root.display())).arg(image).output();
    assert!(extracted.expect("fsck.erofs starts").status.success());
    let found = Command::new("find").arg(&root).args(["-type", "f"]).output().expect("find starts");
    let mut count = 0;
    for path in String::from_utf8_lossy(&found.stdout).lines() {
        let place = format!("./images/page/{}", path.strip_prefix(&format!("{}/", root.display())).expect("below"));
        assert_eq!(bill.files.get(&place).map(String::as_str), Some(sha256_of(Path::new(path)).as_str()), "{place}");
        count += 1;
    }
    let listed = bill.files.keys().filter(|name| name.starts_with("./images/page/")).count();
    assert_eq!(listed, count, "files that are not in the image");
    println!("{} files, {count} of them in the image", bill.files.len());
}

#[test]
fn a_compiled_program_names_its_source_and_what_is_linked_in() {
    demo();
    // Given a guest whose programs are compiled,
    let directory = TempDir::new().expect("a temporary directory");
    let more = "[[guest]]\nname = \"shell1\"\nimage = \"minimal\"\nmemory = \"32MiB\"\n";
    let definition = Definition::read("configs/demo.toml").and(more).named("compiled");
    let out = definition.build(directory.path(), ["--format", "netboot"]);
    // then each program is made from its source package, musl and the kernel's headers,
    let json: Value = serde_json::from_slice(&fs::read(out.join("sbom.spdx.json")).expect("the bill")).expect("JSON");
    let id = |list_of: &str, key: &str, wanted: &dyn Fn(&Value) -> bool| {
        let found = list(&json, list_of).find(|one| wanted(one)).unwrap_or_else(|| panic!("{key}"));
        text(found, "SPDXID").to_owned()
    };
    let file = id("files", "bash", &|one| text(one, "fileName") == "./images/minimal/usr/bin/bash");
    for (name, url) in [("bash", "?arch=source"), ("musl-dev", "pkg:deb/"), ("linux-libc-dev", "pkg:deb/")] {
        let package = id("packages", name, &|one| {
            text(one, "name") == name && text(&one["externalRefs"][0], "referenceLocator").contains(url)
        });
        let made = list(&json, "relationships").any(|one| {
            text(one, "relationshipType") == "GENERATED_FROM"
                && text(one, "spdxElementId") == file
                && text(one, "relatedSpdxElement") == package
        });
        assert!(made, "bash is not made from {name}");
    }
    // and the manifest names them with their versions.
    let manifest: Value = serde_json::from_slice(&fs::read(out.join("manifest.json")).expect("it")).expect("JSON");
    let image =
        list(&manifest, "objects").find(|one| text(one, "name").ends_with("/minimal.erofs")).expect("the image");
    let packages: Vec<&str> = list(&image["origin"], "packages").filter_map(Value::as_str).collect();
    for start in ["src:bash=5", "src:busybox=1:1", "musl-dev=1.2", "linux-libc-dev=6"] {
        assert!(packages.iter().any(|package| package.starts_with(start)), "{start}: {packages:?}");
    }
}

#[test]
fn the_time_is_the_one_that_the_environment_says() {
    demo();
    let out = TempDir::new().expect("a temporary directory");
    let build = |epoch: &str| {
        let mut command = thimble();
        command.args(["build", "configs/demo.toml", "--quiet", "--out"]).arg(out.path().join("out"));
        command.current_dir(repository()).env("SOURCE_DATE_EPOCH", epoch).output().expect("thimble starts")
    };
    assert!(build("1700000000").status.success());
    let json: Value = serde_json::from_slice(&fs::read(out.path().join("out/sbom.spdx.json")).unwrap()).unwrap();
    assert_eq!(json["creationInfo"]["created"], "2023-11-14T22:13:20Z");
    let refused = build("yesterday");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("SOURCE_DATE_EPOCH is `yesterday`"));
}
