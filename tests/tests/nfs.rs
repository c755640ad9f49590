//! A node that was started from the network keeps its images on an NFS server, or copies them into its memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use thimble_tests::{BOOT_LIMIT, Boot, Ganesha, Machine, free_port, get, repository, thimble};

const LIMIT: Duration = Duration::from_secs(60);

/// Builds the node, and gives its output directory and its manifest.
fn rack() -> (PathBuf, Value) {
    let out = repository().join("target/rack");
    let built =
        thimble().args(["build", "--quiet", "tests/library/nfs.toml", "--library", ".", "--out"]).arg(&out).status();
    assert!(built.expect("thimble starts").success());
    let manifest = fs::read(out.join("manifest.json")).expect("there is a manifest");
    (out, serde_json::from_slice(&manifest).expect("it is JSON"))
}

/// The image on the export.
fn image(out: &Path) -> PathBuf {
    let mut objects = fs::read_dir(out.join("nfs/objects")).expect("there are objects");
    objects.next().expect("there is one image").expect("it can be read").path()
}

fn boot(out: &Path, server: &Ganesha, port: u16, words: &str) -> Machine {
    let export = format!("thimble.nfs=10.1.1.1:/thimble,port={},noresvport {words}", server.port());
    let forward = [(port, "web1:80")];
    Machine::boot(&Boot { forward: &forward, append: &export, more: &["--internet"], ..Boot::new(out, "nfs") })
}

#[test]
fn images_are_read_from_the_export_or_copied_into_memory_and_a_damaged_one_is_named() {
    let (out, manifest) = rack();
    let hash = manifest["hash"].as_str().expect("a hash");
    let object = image(&out);
    let port = free_port();
    {
        // Given a node that was started without its images,
        let server = Ganesha::export(&out.join("nfs"));
        let mut machine = boot(&out, &server, port, "");
        // then it is the same node as one that carries them, as its manifest's hash says,
        machine.wait(&format!("^rack: manifest {hash}$"), BOOT_LIMIT);
        machine.wait(r"^thimble: guest web1 ready", BOOT_LIMIT);
        // and its guest runs from the export.
        machine.type_line("cat /proc/mounts");
        machine.wait(r"^console: 10.1.1.1:/thimble /thimble/export nfs4 ro,", LIMIT);
        assert!(get(port, "/", LIMIT).expect("web1 answers").contains("<h1>web1</h1>"));
        machine.type_line("poweroff");
        assert!(machine.end(LIMIT).success());
        let errors: Vec<&String> = machine.seen().iter().filter(|line| line.starts_with("thimble: error")).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    // Given an export whose image has a flipped bit, in a copy that may be damaged,
    let damaged = tempfile::tempdir().expect("a temporary directory");
    let copy = damaged.path().join("objects").join(object.file_name().expect("it has a name"));
    fs::create_dir(damaged.path().join("objects")).expect("a directory");
    let mut bytes = fs::read(&object).expect("the image can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&copy, &bytes).expect("the copy is written");
    let server = Ganesha::export(damaged.path());
    // when a node is to copy it into its memory,
    let mut machine = boot(&out, &server, port, "thimble.toram");
    // then the node names it and no guest sees it,
    let name = copy.file_name().expect("it has a name").to_string_lossy().into_owned();
    machine.wait(&format!("^thimble: error .*objects/{name} is damaged"), BOOT_LIMIT);
    assert!(!machine.seen().iter().any(|line| line == "thimble: guest web1 running"));
    // and when the export is whole again,
    let beside = damaged.path().join("new");
    fs::copy(&object, &beside).expect("the copy is written");
    fs::rename(&beside, &copy).expect("it takes the place of the other");
    // then the guest starts, and goes on when the server is gone.
    machine.wait(r"^thimble: guest web1 ready", BOOT_LIMIT);
    drop(server);
    assert!(get(port, "/", LIMIT).expect("web1 answers").contains("<h1>web1</h1>"));
    machine.type_line("poweroff");
    assert!(machine.end(LIMIT).success());
}
