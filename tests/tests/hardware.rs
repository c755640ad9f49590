//! `thimble hardware` against the distribution's real kernel.

use std::io::Write;
use std::process::{Output, Stdio};

use thimble_tests::{repository, thimble};

fn hardware(list: &str, options: &[&str]) -> Output {
    let mut command = thimble();
    command.args(["hardware", "-", "--quiet"]).args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("thimble starts");
    child.stdin.take().expect("it is piped").write_all(list.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[test]
fn machines_get_the_sets_that_drive_them() {
    let samples = repository().join("builder/src/machine/samples");
    let of = |name: &str| {
        let list = std::fs::read_to_string(samples.join(name)).expect(name);
        let output = hardware(&list, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let server = "hardware = [\"nic-server\", \"raid\", \"usb\"]\n";
    assert!(of("dell-r740.txt").ends_with(server));
    assert!(of("hpe-dl360-gen10.txt").ends_with(server));
    assert!(of("qemu-q35.txt").ends_with("hardware = [\"virtio\"]\n"));
}

#[test]
fn what_would_have_no_driver_is_told_and_fails() {
    // A 10 Gbit/s card that the kernel drives and no set names, and one that nobody drives.
    let output = hardware("01:00.0 \"0200\" \"1d6a\" \"07b1\"\n02:00.0 \"0200\" \"dead\" \"beef\"\n", &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(report["devices"][0]["verdict"], "no-set", "{report:#}");
    assert_eq!(report["devices"][0]["modules"][0], "atlantic");
    assert_eq!(report["devices"][1]["verdict"], "unsupported");

    let output = hardware("00:1f.2 SATA controller [0106]: Intel Corporation", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("it wants what `lspci -nmm` prints"));
}
