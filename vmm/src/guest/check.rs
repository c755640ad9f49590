//! What must hold of a description by itself, whatever the host: asked before anything is opened, taken or locked.

use thimble_spec::vmm::{GuestConfig, Limits};

use super::devices::{self, check_balloon};
use crate::error::{Error, Result};
use crate::virtio::block::Block;
use crate::virtio::net::Net;
use crate::virtio::vsock::Vsock;
use crate::{boot, memory, vcpu};

/// Looks at `config` alone, and at nothing of the host.
///
/// # Errors
/// The first thing in it that no host could give a guest, or that contradicts another.
pub fn check(config: &GuestConfig) -> Result<()> {
    if !(1..=vcpu::MAX).contains(&config.vcpus) {
        let (vcpus, most) = (config.vcpus, vcpu::MAX);
        return Err(Error::Config(format!("a guest cannot have {vcpus} vCPUs: give it 1 to {most}")));
    }
    vcpu::affinity::check_count(&config.cpu.pins, config.vcpus)?;
    memory::check(config.memory_mib, &config.memory)?;
    for disk in &config.disks {
        Block::check(disk)?;
        check_limits(disk.limits)?;
    }
    for net in &config.nets {
        Net::check(net)?;
        check_limits(net.receive)?;
        check_limits(net.transmit)?;
    }
    if let Some(balloon) = &config.balloon {
        check_balloon(balloon.target_mib, config.memory_mib).map_err(Error::Config)?;
    }
    if let Some(vsock) = &config.vsock {
        Vsock::check(vsock)?;
    }
    boot::cmdline::with_devices(&config.cmdline, devices::count(config), config.discovery).map(drop)
}

fn check_limits(limits: Limits) -> Result<()> {
    let rates = [limits.bandwidth, limits.operations].into_iter().flatten();
    if rates.into_iter().any(|rate| rate.per_second == 0 || rate.burst == Some(0)) {
        return Err(Error::Config("a limit of 0 would be a stop: leave it out, or give 1 or more".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_spec::names::Mac;
    use thimble_spec::vmm::{
        Balloon, Cpu, Disk, DiskFormat, Memory, Net as NetConfig, Pages, Rate, Vsock as VsockConfig,
    };

    fn sound() -> GuestConfig {
        GuestConfig {
            vcpus: 2,
            memory_mib: 64,
            disks: vec![Disk::default()],
            nets: vec![NetConfig::new("tap0", Mac([2, 0, 0, 0, 0, 1]))],
            vsock: Some(VsockConfig { cid: 3, path: "/run/x/socket".into() }),
            balloon: Some(Balloon::default()),
            ..GuestConfig::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut GuestConfig)) -> String {
        let mut config = sound();
        change(&mut config);
        check(&config).unwrap_err().sentence()
    }

    #[test]
    fn a_sound_description_passes_and_each_unsound_one_has_its_sentence() {
        check(&sound()).unwrap();
        let none = Some(Rate { per_second: 0, burst: None });
        for (sentence, words) in [
            (refusal(|config| config.vcpus = 0), "0 vCPUs"),
            (refusal(|config| config.vcpus = 255), "255 vCPUs"),
            (refusal(|config| config.cpu = Cpu { pins: vec![vec![]; 3], ..Cpu::default() }), "vCPU 2 cannot be pinned"),
            (refusal(|config| config.memory_mib = 1), "1 MiB of memory"),
            (
                refusal(|config| {
                    config.memory_mib = 63;
                    config.memory = Memory { pages: Pages::Huge, prefault: false };
                }),
                "an even number",
            ),
            (refusal(|config| config.disks[0].queues = Some(0)), "0 queues"),
            (
                refusal(|config| {
                    config.disks[0].format = DiskFormat::Qcow2;
                    config.disks[0].direct = true;
                }),
                "leave `direct` out",
            ),
            (refusal(|config| config.disks[0].serial = Some("x".repeat(21))), "1 to 20 bytes"),
            (refusal(|config| config.disks[0].limits.operations = none), "a limit of 0"),
            (refusal(|config| config.nets[0].queue_pairs = Some(17)), "17 queue pairs"),
            (refusal(|config| config.nets[0].mtu = Some(67)), "an MTU of 67"),
            (refusal(|config| config.nets[0].mac = Mac([1; 6])), "a group's"),
            (refusal(|config| config.nets[0].transmit.bandwidth = none), "a limit of 0"),
            (refusal(|config| config.balloon = Some(Balloon { target_mib: 65, ..Balloon::default() })), "65 MiB"),
            (refusal(|config| config.vsock = Some(VsockConfig { cid: 2, path: "x".into() })), "2 is no context"),
            (
                refusal(|config| config.vsock = Some(VsockConfig { cid: 3, path: "x".repeat(97).into() })),
                "has 96 bytes at most",
            ),
            (refusal(|config| config.disks = vec![Disk::default(); 40]), "44 virtio devices"),
        ] {
            assert!(sentence.contains(words), "{words}: {sentence}");
        }
    }
}
