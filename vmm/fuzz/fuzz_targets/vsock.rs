//! The socket device, with programs of the host that connect and write what they like.
#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use thimble_spec::vmm::Vsock as Description;
use thimble_vmm::virtio::testing::Driver;
use thimble_vmm::virtio::vsock::Vsock;
use thimble_vmm_fuzz::drive;

/// Most programs at once.
const PROGRAMS: usize = 4;

fuzz_target!(|data: &[u8]| {
    let directory = std::env::temp_dir().join(format!("thimble-vsock-{}", std::process::id()));
    if std::fs::create_dir_all(&directory).is_err() {
        return;
    }
    let path: PathBuf = directory.join("v");
    let Ok(device) = Vsock::open(&Description { cid: 3, path: path.clone() }) else { return };
    let mut programs: Vec<UnixStream> = Vec::new();
    drive(data, Driver::new(device), |bytes| {
        if bytes.len() % 2 == 0 && programs.len() < PROGRAMS {
            if let Ok(stream) = UnixStream::connect(&path)
                && stream.set_nonblocking(true).is_ok()
            {
                // Every other one begins as it should.
                let _ = (&stream).write(if programs.len() % 2 == 0 { b"CONNECT 5\n" } else { b"" });
                programs.push(stream);
            }
        } else if let Some(mut stream) = programs.pop() {
            let _ = stream.write(bytes);
            if bytes.first().is_some_and(|byte| byte % 2 == 0) {
                programs.insert(0, stream);
            }
        }
    });
});
