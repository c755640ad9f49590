//! The fragments of a host's kernel, without compiling one: Kconfig takes over all that they ask for.

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;
use thimble_tests::{repository, thimble};

/// All hardware sets, so that all fragments are read.
const HARDWARE: &str = r#"hardware = ["virtio", "raid", "nic-server", "usb", "nfs"]"#;

fn configuration(directory: &Path, kernel: &str) -> Output {
    let tiny = fs::read_to_string(repository().join("configs/tiny.toml")).expect("configs/tiny.toml");
    let hardware = "hardware = [\"virtio\"]";
    assert!(tiny.contains(hardware));
    let file = directory.join("host.toml");
    fs::write(&file, tiny.replacen(hardware, kernel, 1)).expect("the definition");
    let mut command = thimble();
    command.args(["kernel", "--quiet", "--print-config=host", "--library"]).arg(directory).arg(file);
    command.output().expect("thimble starts")
}

/// A library whose fragments a test may add to.
fn library() -> TempDir {
    let directory = TempDir::new().expect("a temporary directory");
    for part in ["configs", "images"] {
        let copied =
            std::process::Command::new("cp").arg("-r").arg(repository().join(part)).arg(directory.path()).status();
        assert!(copied.expect("cp starts").success());
    }
    directory
}

#[test]
fn every_option_of_every_fragment_survives() {
    let library = library();
    let output = configuration(library.path(), HARDWARE);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let config = String::from_utf8_lossy(&output.stdout);
    // The whole configuration, not only what was asked for: this one follows from others.
    for line in ["CONFIG_KVM_AMD=m", "CONFIG_VIRTIO_BLK=y", "CONFIG_MLX5_CORE=m", "CONFIG_SUNRPC=m"] {
        assert!(config.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn an_option_that_does_not_survive_is_named_with_its_fragment() {
    let library = library();
    let fragments = library.path().join("configs/kernel/site");
    fs::create_dir(&fragments).expect("a directory");
    fs::write(fragments.join("own.config"), "# no such thing\nCONFIG_THIMBLE_FLIES=y\n").expect("a fragment");
    let output = configuration(library.path(), "hardware = [\"virtio\"]\nfragments = [\"site/own\"]");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    let place = format!("{}:2: CONFIG_THIMBLE_FLIES: y did not survive", fragments.join("own.config").display());
    assert!(told.lines().any(|line| line.starts_with(&place)), "{told}");

    // One that does not exist is told before anything is unpacked.
    let output = configuration(library.path(), "hardware = [\"virtio\"]\nfragments = [\"host/virtoi\"]");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("kernel.host.fragments[0]: there is no fragment host/virtoi"), "{told}");
    assert!(told.contains("did you mean host/virtio?"), "{told}");
}
