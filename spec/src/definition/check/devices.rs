//! What must hold of a guest's processors and devices, so that its VMM takes them.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::super::source;
use super::{Checker, Devices, Once};
use crate::appliance::{DiskSource, GuestDisk};
use crate::template;
use crate::units::{ByteSize, MIB};
use crate::vmm::{Balloon, Cpu, DiskEngine, DiskFormat, Limits, Rate};

/// The least that a guest's own disk may have: its file system's template with the journal.
const DISK_MIN: ByteSize = ByteSize::mib(16);
/// Most request queues that the VMM gives a disk.
const DISK_QUEUES_MAX: u8 = 16;
/// Numbers of the host's processors, as many as a mask of them has (`CPU_SETSIZE`, sched.h).
const PROCESSOR_MAX: u16 = 1023;
/// Context identifiers of guests: those below are the hypervisor's and the host's, the last one stands for any
/// (linux/vm_sockets.h).
const CIDS: RangeInclusive<u32> = 3..=u32::MAX - 1;

impl Checker<'_> {
    pub(super) fn cpu(&mut self, cpu: source::Cpu, vcpus: u8, key: &str) -> Cpu {
        let key = format!("{key}.pins");
        if let Some(pins) = &cpu.pins {
            let count = pins.get_ref().len();
            if count > usize::from(vcpus) {
                let message = format!("here are the places of {count} vCPUs, and the guest has {vcpus}");
                self.wrong(pins.span(), &key, message);
            }
            for processor in pins.get_ref().iter().flatten() {
                if *processor.get_ref() > PROCESSOR_MAX {
                    let message =
                        format!("the host has no processor {}: use 0 to {PROCESSOR_MAX}", processor.get_ref());
                    self.wrong(processor.span(), &key, message);
                }
            }
        }
        let pins = cpu.pins.map(Spanned::into_inner).unwrap_or_default();
        Cpu { model: cpu.model, nested: cpu.nested, pins: pins.into_iter().map(super::inner).collect() }
    }

    pub(super) fn balloon(&mut self, balloon: source::Balloon, memory: ByteSize, key: &str) -> Balloon {
        let target_mib = balloon.target.map_or(0, |target| {
            let size = *target.get_ref();
            if size >= memory || !size.bytes().is_multiple_of(MIB) {
                let message = format!("use less than the guest's {memory} of memory, in whole MiB");
                self.wrong(target.span(), format!("{key}.target"), message);
            }
            u32::try_from(size.bytes() / MIB).unwrap_or(u32::MAX)
        });
        let (deflate_on_oom, free_page_reporting) = (balloon.deflate_on_oom, balloon.free_page_reporting);
        Balloon { target_mib, deflate_on_oom, free_page_reporting }
    }

    /// The context identifier of the guest at `index`: a number that goes with its place where none is given.
    pub(super) fn vsock(
        &mut self,
        vsock: Spanned<source::Vsock>,
        index: usize,
        key: &str,
        cids: &mut Once<u32>,
    ) -> u32 {
        let place = vsock.get_ref().cid.as_ref().map_or(vsock.span(), Spanned::span);
        let stated = vsock.into_inner().cid.map(Spanned::into_inner);
        let cid = stated.unwrap_or_else(|| CIDS.start().saturating_add(u32::try_from(index).unwrap_or(u32::MAX)));
        let key = format!("{key}.cid");
        if !CIDS.contains(&cid) {
            self.wrong(place.clone(), &key, format!("use {} to {}", CIDS.start(), CIDS.end()));
        }
        cids.take(self, &cid, place, &key, "context identifier");
        cid
    }

    pub(super) fn disk(&mut self, disk: Spanned<source::Disk>, key: &str, devices: &mut Devices) -> Option<GuestDisk> {
        let span = disk.span();
        let disk = disk.into_inner();
        let queues = disk.queues.as_ref().map_or(1, |queues| {
            if !(1..=DISK_QUEUES_MAX).contains(queues.get_ref()) {
                self.wrong(queues.span(), format!("{key}.queues"), format!("use 1 to {DISK_QUEUES_MAX} queues"));
            }
            *queues.get_ref()
        });
        self.disk_format(&disk, key);
        let read_only = is(disk.read_only.as_ref());
        let source = match (disk.size, disk.device, disk.file) {
            (Some(size), None, None) => self.disk_size(&size, key),
            (None, Some(device), None) => {
                DiskSource::Device(devices.take(self, &device, &format!("{key}.device"), read_only))
            }
            (None, None, Some(file)) => {
                let key = format!("{key}.file");
                devices.take_file(self, &file, &key, read_only);
                DiskSource::File(self.disk_file(&file, &key, devices))
            }
            _ => {
                self.wrong(span, key, "a disk is one of `size`, `device` and `file`: give exactly one");
                return None;
            }
        };
        Some(GuestDisk {
            source,
            format: disk.format.map(Spanned::into_inner).unwrap_or_default(),
            backing: disk.backing.map(Spanned::into_inner),
            read_only,
            direct: is(disk.direct.as_ref()),
            engine: disk.engine.map(Spanned::into_inner).unwrap_or_default(),
            queues,
            limits: self.limits(disk.limits, &format!("{key}.limits")),
        })
    }

    /// An absolute path; `nfs:NAME/PATH` is one below the place where that export is mounted.
    fn disk_file(&mut self, file: &Spanned<String>, key: &str, devices: &Devices) -> String {
        let text = file.get_ref();
        let path = match text.strip_prefix("nfs:").map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
            None => text.clone(),
            Some((name, path)) => match devices.export(name) {
                Some(mount) if !path.is_empty() => format!("{mount}/{path}"),
                Some(_) => String::new(),
                None => {
                    let message = format!("there is no NFS export `{name}`: declare it in [[storage.nfs]]");
                    self.wrong(file.span(), key, message);
                    return text.clone();
                }
            },
        };
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            let message = "write an absolute path without `..`, or nfs:NAME/PATH with the name of an export";
            self.wrong(file.span(), key, message);
        }
        path
    }

    fn disk_size(&mut self, size: &Spanned<ByteSize>, key: &str) -> DiskSource {
        let bytes = *size.get_ref();
        if bytes < DISK_MIN || !bytes.bytes().is_multiple_of(template::BLOCK as u64) {
            let message = format!("use {DISK_MIN} or more, in whole blocks of {} bytes", template::BLOCK);
            self.wrong(size.span(), format!("{key}.size"), message);
        }
        DiskSource::Size(bytes)
    }

    /// What goes with a disk's place and format, and what does not.
    fn disk_format(&mut self, disk: &source::Disk, key: &str) {
        let qcow2 = disk.format.as_ref().filter(|format| *format.get_ref() == DiskFormat::Qcow2);
        if let Some(format) = qcow2
            && disk.file.is_none()
        {
            self.wrong(format.span(), format!("{key}.format"), "a qcow2 image is a file: name it in `file`");
        }
        if let Some(direct) = disk.direct.as_ref().filter(|direct| qcow2.is_some() && *direct.get_ref()) {
            let message = "a qcow2 image goes through the host's page cache: leave `direct` out";
            self.wrong(direct.span(), format!("{key}.direct"), message);
        }
        if let Some(engine) = &disk.engine
            && qcow2.is_some()
            && *engine.get_ref() == DiskEngine::Uring
        {
            let message = "a qcow2 image has an engine of its own: leave `engine` out";
            self.wrong(engine.span(), format!("{key}.engine"), message);
        }
        if let Some(backing) = &disk.backing {
            let key = format!("{key}.backing");
            if qcow2.is_none() {
                let message = "only a qcow2 image has backing files: set `format = \"qcow2\"`, or leave `backing` out";
                self.wrong(backing.span(), &key, message);
            }
            if !backing.get_ref().starts_with('/') || backing.get_ref().split('/').any(|part| part == "..") {
                let message = "write the absolute path, without `..`, of the directory in which backing files may be";
                self.wrong(backing.span(), &key, message);
            }
        }
        if let Some(read_only) = disk.read_only.as_ref().filter(|read_only| *read_only.get_ref())
            && disk.size.is_some()
        {
            let message = "a disk that is made by its size is blank, and would stay so: name a `device` or a `file`";
            self.wrong(read_only.span(), format!("{key}.read-only"), message);
        }
    }

    pub(super) fn limits(&mut self, limits: source::Limits, key: &str) -> Limits {
        let bytes = |size: Spanned<ByteSize>| {
            let span = size.span();
            Spanned::new(span, size.into_inner().bytes())
        };
        let (bandwidth, burst) = (limits.bandwidth.map(bytes), limits.bandwidth_burst.map(bytes));
        Limits {
            bandwidth: self.rate(bandwidth, burst, key, "bandwidth"),
            operations: self.rate(limits.operations, limits.operations_burst, key, "operations"),
        }
    }

    fn rate(
        &mut self,
        per_second: Option<Spanned<u64>>,
        burst: Option<Spanned<u64>>,
        key: &str,
        name: &str,
    ) -> Option<Rate> {
        for (value, name) in [(&per_second, name.to_owned()), (&burst, format!("{name}-burst"))] {
            if let Some(value) = value
                && *value.get_ref() == 0
            {
                let message = "nothing could ever pass: use 1 or more, or leave it out for no limit";
                self.wrong(value.span(), format!("{key}.{name}"), message);
            }
        }
        match (per_second, burst) {
            (None, Some(burst)) => {
                let message = format!("a burst needs its rate beside it: set `{name}`");
                self.wrong(burst.span(), format!("{key}.{name}-burst"), message);
                None
            }
            (per_second, burst) => {
                let burst = burst.map(Spanned::into_inner);
                per_second.map(|per_second| Rate { per_second: per_second.into_inner(), burst })
            }
        }
    }
}

fn is(flag: Option<&Spanned<bool>>) -> bool {
    flag.is_some_and(|flag| *flag.get_ref())
}
