//! The two kernels.

use toml::Spanned;

use super::{Checker, inner};
use crate::appliance::{GuestKernel, HostKernel, HostKernelSource};
use crate::definition::source;

/// What GRUB's shell would not hand on as it is.
const GRUB_SYNTAX: [char; 13] = ['\'', '\\', '$', '`', ';', '&', '|', '<', '>', '{', '}', '#', '"'];

impl Checker<'_> {
    pub(super) fn host_kernel(&mut self, kernel: Spanned<source::HostKernel>) -> HostKernel {
        let table = kernel.span();
        let kernel = kernel.into_inner();
        for (index, set) in kernel.hardware.iter().enumerate() {
            self.library_name(set, &format!("kernel.host.hardware[{index}]"));
        }
        if let Some(cmdline) = &kernel.cmdline
            && cmdline.get_ref().contains(|c: char| c.is_control() || !c.is_ascii() || GRUB_SYNTAX.contains(&c))
        {
            let message = "use printable ASCII without ' \" \\ $ ` ; & | < > { } #, which GRUB reads as its own";
            self.wrong(cmdline.span(), "kernel.host.cmdline", message);
        }
        if let (None, Some(fragments)) = (&kernel.source, &kernel.fragments) {
            let message = "goes with source: the kernel of a package is configured already";
            self.wrong(fragments.span(), "kernel.host.fragments", message);
        }
        let fragments = kernel.fragments.map(Spanned::into_inner).unwrap_or_default();
        for (index, fragment) in fragments.iter().enumerate() {
            self.library_name(fragment, &format!("kernel.host.fragments[{index}]"));
        }
        let from = match (kernel.package, kernel.source) {
            (Some(package), None) => {
                self.package(&package, "kernel.host.package");
                HostKernelSource::Package(package.into_inner())
            }
            (None, Some(source)) => {
                self.package(&source, "kernel.host.source");
                HostKernelSource::Source { source: source.into_inner(), fragments: inner(fragments) }
            }
            (Some(_), Some(source)) => {
                let message = "the kernel comes from package already: leave one of the two out";
                self.wrong(source.span(), "kernel.host.source", message);
                HostKernelSource::Package(String::new())
            }
            (None, None) => {
                let message = "name the kernel: package = \"linux-image-amd64\", or source = \"linux-source-6.12\"";
                self.wrong(table, "kernel.host", message);
                HostKernelSource::Package(String::new())
            }
        };
        HostKernel {
            from,
            hardware: inner(kernel.hardware),
            cmdline: kernel.cmdline.map(Spanned::into_inner).unwrap_or_default(),
        }
    }

    pub(super) fn guest_kernel(&mut self, kernel: source::GuestKernel) -> GuestKernel {
        self.package(&kernel.source, "kernel.guest.source");
        for (index, fragment) in kernel.fragments.iter().enumerate() {
            self.library_name(fragment, &format!("kernel.guest.fragments[{index}]"));
        }
        GuestKernel { source: kernel.source.into_inner(), fragments: inner(kernel.fragments) }
    }
}
