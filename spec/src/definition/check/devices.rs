//! What must hold of a guest's processors and devices, so that its VMM takes them.

use toml::Spanned;

use super::super::source;
use super::{Checker, Devices, Once};
use crate::appliance::{DiskSource, GuestBoot, GuestDisk};
use crate::rules::{self, CIDS};
use crate::units::{ByteSize, MIB};
use crate::vmm::{Balloon, Cpu, DiskEngine, DiskFormat, Limits, Rate};

impl Checker<'_> {
    pub(super) fn cpu(&mut self, cpu: source::Cpu, vcpus: u8, key: &str) -> Cpu {
        let key = format!("{key}.pins");
        if let Some(pins) = &cpu.pins {
            self.expect(rules::pins(pins.get_ref().len(), vcpus), pins.span(), &key);
            for processor in pins.get_ref().iter().flatten() {
                self.expect(rules::processor(*processor.get_ref()), processor.span(), &key);
            }
        }
        let pins = cpu.pins.map(Spanned::into_inner).unwrap_or_default();
        Cpu { model: cpu.model, nested: cpu.nested, pins: pins.into_iter().map(super::inner).collect() }
    }

    pub(super) fn balloon(&mut self, balloon: source::Balloon, memory: ByteSize, key: &str) -> Balloon {
        let target_mib = balloon.target.map_or(0, |target| {
            let size = *target.get_ref();
            self.expect(rules::balloon(size, memory), target.span(), &format!("{key}.target"));
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
        self.expect(rules::cid(cid), place.clone(), &key);
        cids.take(self, &cid, place, &key, "context identifier");
        cid
    }

    pub(super) fn disk(&mut self, disk: Spanned<source::Disk>, key: &str, devices: &mut Devices) -> Option<GuestDisk> {
        let span = disk.span();
        let disk = disk.into_inner();
        let queues = disk.queues.as_ref().map_or(1, |queues| {
            self.expect(rules::disk_queues(*queues.get_ref()), queues.span(), &format!("{key}.queues"));
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
                DiskSource::File(self.host_file(&file, &key, devices))
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

    pub(super) fn boot(&mut self, boot: source::Boot, key: &str, devices: &Devices) -> GuestBoot {
        let mut file = |file: &Spanned<String>, name: &str| self.host_file(file, &format!("{key}.{name}"), devices);
        let (kernel, initrd) = (file(&boot.kernel, "kernel"), boot.initrd.as_ref().map(|it| file(it, "initrd")));
        if let Some(words) = &boot.cmdline {
            self.expect(rules::kernel_words(words.get_ref()), words.span(), &format!("{key}.cmdline"));
        }
        if let Some(text) = &boot.user_data {
            self.expect(rules::user_data(text.get_ref()), text.span(), &format!("{key}.user-data"));
        }
        let cmdline = boot.cmdline.map(Spanned::into_inner).unwrap_or_default();
        GuestBoot { kernel, initrd, cmdline, user_data: boot.user_data.map(Spanned::into_inner) }
    }

    /// An absolute path; `nfs:NAME/PATH` is one below the place where that export is mounted.
    fn host_file(&mut self, file: &Spanned<String>, key: &str, devices: &Devices) -> String {
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
        if !rules::is_absolute(&path) {
            let message = "write an absolute path without `..`, or nfs:NAME/PATH with the name of an export";
            self.wrong(file.span(), key, message);
        }
        path
    }

    fn disk_size(&mut self, size: &Spanned<ByteSize>, key: &str) -> DiskSource {
        let bytes = *size.get_ref();
        self.expect(rules::disk_size(bytes), size.span(), &format!("{key}.size"));
        DiskSource::Size(bytes)
    }

    /// What goes with a disk's place and format, and what does not.
    fn disk_format(&mut self, disk: &source::Disk, key: &str) {
        let qcow2 = disk.format.as_ref().filter(|format| *format.get_ref() == DiskFormat::Qcow2);
        if let Some(format) = qcow2 {
            self.expect(rules::qcow2_is_a_file(disk.file.is_some()), format.span(), &format!("{key}.format"));
        }
        if let Some(direct) = disk.direct.as_ref().filter(|_| qcow2.is_some()) {
            let holds = rules::qcow2_through_the_cache(*direct.get_ref());
            self.expect(holds, direct.span(), &format!("{key}.direct"));
        }
        if let Some(engine) = disk.engine.as_ref().filter(|_| qcow2.is_some()) {
            let holds = rules::qcow2_without_uring(*engine.get_ref() == DiskEngine::Uring);
            self.expect(holds, engine.span(), &format!("{key}.engine"));
        }
        if let Some(backing) = &disk.backing {
            let key = format!("{key}.backing");
            self.expect(rules::backing_of_qcow2(qcow2.is_some()), backing.span(), &key);
            self.expect(rules::backing(backing.get_ref()), backing.span(), &key);
        }
        if let Some(read_only) = disk.read_only.as_ref().filter(|read_only| *read_only.get_ref()) {
            self.expect(rules::read_only(disk.size.is_some()), read_only.span(), &format!("{key}.read-only"));
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
            if let Some(value) = value {
                self.expect(rules::limit(*value.get_ref()), value.span(), &format!("{key}.{name}"));
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
