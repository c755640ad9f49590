//! A host whose kernel is compiled. Behind a feature of its own: the first time costs as long as the kernel takes to
//! compile, so that `make host-kernel-test` runs it and `make test` does not.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use thimble_spec::manifest::{Manifest, Object, Origin, Room};
use thimble_tests::{BOOT_LIMIT, Boot, Machine, demo, free_port, get, repository, thimble};

const READY: [&str; 2] = ["^thimble: host tiny up [0-9.]+$", r"^thimble: guest web1 ready [0-9.]+$"];
const FETCH_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(90);

fn tiny() -> &'static Path {
    static TINY: OnceLock<PathBuf> = OnceLock::new();
    TINY.get_or_init(|| {
        let out = repository().join("target/tiny");
        let build = ["build", "configs/tiny.toml", "--quiet", "--format", "flash,uki", "--out"];
        let status = thimble().args(build).arg(&out).status();
        assert!(status.expect("thimble starts").success(), "the appliance builds");
        out
    })
}

fn objects(out: &Path) -> Vec<Object> {
    let text = std::fs::read(out.join("manifest.json")).expect("a manifest");
    serde_json::from_slice::<Manifest>(&text).expect("a manifest").objects
}

fn packed(objects: &[Object], room: Room) -> u64 {
    objects.iter().filter(|object| object.room == room).map(|object| object.packed).sum()
}

fn serves(machine: &mut Machine, port: u16) {
    machine.wait_all(&READY, BOOT_LIMIT);
    let page = get(port, "/", FETCH_LIMIT).expect("the guest answers");
    assert!(page.contains("<h1>web1</h1>"), "{page}");
    machine.press_power_button();
    machine.wait_all(&[r"^thimble: guest web1 exited power-off$"], END_LIMIT);
    let errors: Vec<&String> = machine.seen().iter().filter(|line| line.starts_with("thimble: error")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn it_boots_by_bios_to_a_guest_that_answers_and_weighs_less() {
    let port = free_port();
    let forward = [(port, "web1:80")];
    let mut machine = Machine::boot(&Boot { forward: &forward, ..Boot::new(tiny(), "flash-bios") });
    serves(&mut machine, port);
    assert!(machine.end(END_LIMIT).success());

    let (own, distribution) = (objects(tiny()), objects(demo()));
    let kernel = own.iter().find(|object| object.room == Room::HostKernel).expect("a kernel");
    assert!(matches!(&kernel.origin, Origin::Source { package, .. } if package == "linux-source-6.12"), "{kernel:?}");
    for (name, objects) in [("compiled", &own), ("the distribution's", &distribution)] {
        let (kernel, modules) = (packed(objects, Room::HostKernel), packed(objects, Room::HostModules));
        println!("{name}: kernel {kernel} bytes, modules {modules} bytes on the flash");
    }
    assert!(packed(&own, Room::HostKernel) < packed(&distribution, Room::HostKernel));
    assert!(packed(&own, Room::HostModules) < packed(&distribution, Room::HostModules));
}

#[test]
fn uefi_starts_it_by_its_own_stub() {
    let port = free_port();
    let forward = [(port, "web1:80")];
    let mut machine = Machine::boot(&Boot { forward: &forward, ..Boot::new(tiny(), "uki") });
    serves(&mut machine, port);
    assert!(machine.end(END_LIMIT).success());
}
