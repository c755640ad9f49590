//! What must hold between the parts of a definition. Here the appliance as a whole, in the files below its parts.

mod devices;
mod firewall;
mod forwards;
mod guests;
mod host;
mod iscsi;
mod kernels;
mod network;
mod parameters;
mod storage;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::Range;

use toml::Spanned;

use super::mistake::{Mistake, Mistakes};
use super::{Build, Definition, Tls, source};
use crate::appliance::{Appliance, HostKernelSource, Update};
use crate::format::Format;
use crate::names::check_name;
use crate::release::TRIES;
use crate::rules;
use crate::secure_boot::{Mode, SecureBoot};
use crate::units::ByteSize;

use storage::Devices;

/// The budget of a definition that gives none.
const DEFAULT_BUDGET: ByteSize = ByteSize::mib(64);
/// A boot loader, a kernel and an initramfs don't fit in less.
const BUDGET_MIN: ByteSize = ByteSize::mib(16);

/// How often a new release is started, if nothing is said.
const TRIES_DEFAULT: u8 = 3;
/// How long a new release may take until its guests are ready: below, no machine has started its first guest; above, it
/// might as well not have been asked.
const READY_WITHIN_S: std::ops::RangeInclusive<u32> = 10..=86_400;
/// The same if nothing is said: five minutes, for a machine whose firmware and disks are slow.
const READY_WITHIN_S_DEFAULT: u32 = 300;

/// Checks everything and fills in the defaults.
pub(super) fn check(file: &str, text: &str, source: source::Definition) -> Result<Definition, Mistakes> {
    let behind_firewall = source.firewall.is_some();
    let mut checker = Checker { file, text, behind_firewall, mistakes: Vec::new() };
    let definition = checker.definition(source);
    if checker.mistakes.is_empty() { Ok(definition) } else { Err(checker.mistakes.into()) }
}

struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    behind_firewall: bool,
    mistakes: Vec<Mistake>,
}

/// Things of which there may be one user, or several that share it: the first of each is remembered.
struct Once<T> {
    taken: BTreeMap<T, User>,
}

struct User {
    key: String,
    shares: bool,
}

impl<T: Ord + Clone + Display + Hash> Once<T> {
    fn new() -> Self {
        Self { taken: BTreeMap::new() }
    }

    fn take(&mut self, checker: &mut Checker<'_>, value: &T, span: Range<usize>, key: &str, what: &str) {
        self.take_or_share(checker, false, value, span, key, what);
    }

    fn take_or_share(
        &mut self,
        checker: &mut Checker<'_>,
        shares: bool,
        value: &T,
        span: Range<usize>,
        key: &str,
        what: &str,
    ) {
        match self.taken.get(value) {
            Some(first) if first.shares && shares => {}
            Some(User { key: first, .. }) => {
                checker.wrong(span, key, format!("{what} {value} is used twice: {first} has it already"));
            }
            None => drop(self.taken.insert(value.clone(), User { key: key.to_owned(), shares })),
        }
    }
}

impl Checker<'_> {
    fn wrong(&mut self, span: Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        self.mistakes.push(Mistake::at(self.file, self.text, span, key.into(), message));
    }

    fn expect<E: Display>(&mut self, result: Result<(), E>, span: Range<usize>, key: &str) {
        if let Err(error) = result {
            self.wrong(span, key, error.to_string());
        }
    }

    fn definition(&mut self, source: source::Definition) -> Definition {
        let name = source.appliance.name;
        self.expect(check_name(name.get_ref()), name.span(), "appliance.name");
        let budget = source.appliance.budget.map_or(DEFAULT_BUDGET, |budget| {
            if *budget.get_ref() < BUDGET_MIN {
                self.wrong(
                    budget.span(),
                    "appliance.budget",
                    format!("{} is too small: use {BUDGET_MIN} or more", budget.get_ref()),
                );
            }
            budget.into_inner()
        });
        let formats = self.formats(source.appliance.formats);
        let host_table = source.kernel.host.span();
        let host_kernel = self.host_kernel(source.kernel.host);
        let guest_kernel = self.guest_kernel(source.kernel.guest);

        let mut links = source.network;
        let forwards = std::mem::take(&mut links.forward);
        let (mut network, unfiltered) = self.network(links);

        let mut devices = Devices::new(&source.storage);
        let storage = self.storage(source.storage, &mut devices);
        let guests = self.guests(name.get_ref(), source.guest, &network, &mut devices);
        let overcommit = self.overcommit(source.node.overcommit);
        if let Some(memory) = &source.node.memory {
            self.memory(memory, overcommit, &guests);
        }
        let guests: Vec<_> = guests.into_iter().map(|(guest, _)| guest).collect();
        self.port_vlans(&mut network, &unfiltered, &guests);
        let host = self.host_settings(host::Tables {
            log: &source.log,
            watchdog: source.watchdog,
            time: source.time,
            sysctl: source.sysctl,
            access: source.access,
            api: source.api.as_ref(),
            service: source.service,
        });
        let firewall = source.firewall.map(|firewall| self.firewall(firewall, &host));
        network.forwards = self.forwards(forwards, &network, &guests, firewall.as_ref());
        let appliance = Appliance {
            name: name.into_inner(),
            budget,
            node_memory: source.node.memory.map(Spanned::into_inner),
            overcommit,
            host_kernel,
            guest_kernel,
            network,
            firewall,
            storage,
            update: self.update_limits(&source.update),
            host,
            guests,
        };
        let tries = source.update.tries.map_or(TRIES_DEFAULT, |tries| {
            if !TRIES.contains(tries.get_ref()) {
                self.wrong(tries.span(), "update.tries", format!("{} is not a number from 1 to 9", tries.get_ref()));
            }
            tries.into_inner()
        });
        let update_key = source.update.key.map(Spanned::into_inner);
        let update_room = source.update.room.map(Spanned::into_inner);
        let secure_boot = source.secure_boot.and_then(|secure_boot| self.secure_boot(secure_boot));
        if let (HostKernelSource::Source { .. }, Some(SecureBoot::Debian)) = (&appliance.host_kernel.from, &secure_boot)
        {
            let message = "secure-boot.mode = \"debian\" starts what the distribution has signed: it goes with package";
            self.wrong(host_table, "kernel.host.source", message);
        }
        let tls = source.api.map(|api| Tls { keys: api.keys.map(Spanned::into_inner), names: inner(api.names) });
        let syslog_keys = source.log.tls_keys.map(Spanned::into_inner);
        Definition {
            appliance,
            build: Build { formats, update_key, update_room, tries, secure_boot, tls, syslog_keys },
        }
    }

    fn secure_boot(&mut self, source: source::SecureBoot) -> Option<SecureBoot> {
        let files = [("key", source.key), ("certificate", source.certificate)];
        match source.mode.get_ref() {
            Mode::Debian => {
                for (name, file) in files {
                    if let Some(file) = file {
                        let message = "goes with mode = \"own\": with \"debian\", the distribution has signed";
                        self.wrong(file.span(), format!("secure-boot.{name}"), message.to_owned());
                    }
                }
                Some(SecureBoot::Debian)
            }
            Mode::Own => {
                let [key, certificate] = files.map(|(name, file)| {
                    if file.is_none() {
                        let message = format!("mode = \"own\" needs {name}: a file in PEM format");
                        self.wrong(source.mode.span(), "secure-boot.mode", message);
                    }
                    file.map(Spanned::into_inner)
                });
                Some(SecureBoot::Own { key: key?, certificate: certificate? })
            }
        }
    }

    fn update_limits(&mut self, update: &source::Update) -> Update {
        let ready_within_s = update.ready_within_s.as_ref().map_or(READY_WITHIN_S_DEFAULT, |seconds| {
            if !READY_WITHIN_S.contains(seconds.get_ref()) {
                let (least, most) = (READY_WITHIN_S.start(), READY_WITHIN_S.end());
                let message = format!("{} seconds are not between {least} and {most}", seconds.get_ref());
                self.wrong(seconds.span(), "update.ready-within-s", message);
            }
            *seconds.get_ref()
        });
        Update { key: None, ready_within_s }
    }

    /// In the order in which they are made, each once.
    fn formats(&mut self, formats: Option<Spanned<Vec<Format>>>) -> Vec<Format> {
        let Some(formats) = formats else { return Format::DEFAULT.to_vec() };
        if formats.get_ref().is_empty() {
            let known = Format::ALL.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
            self.wrong(formats.span(), "appliance.formats", format!("name at least one: {known}"));
        }
        Format::ALL.iter().copied().filter(|format| formats.get_ref().contains(format)).collect()
    }

    /// Debian policy, 5.6.1; a name never becomes an option or a path.
    fn package(&mut self, name: &Spanned<String>, key: &str) {
        let text = name.get_ref().as_bytes();
        let sound = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(byte);
        if text.len() < 2 || !text.iter().all(sound) || !text[0].is_ascii_alphanumeric() {
            self.wrong(name.span(), key, format!("`{}` is not the name of a package", name.get_ref()));
        }
    }

    /// Names of files in `configs/` and `images/`: never a way out of those directories.
    fn library_name(&mut self, name: &Spanned<String>, key: &str) {
        self.expect(rules::library_name(name.get_ref()), name.span(), key);
    }
}

fn inner<T>(values: Vec<Spanned<T>>) -> Vec<T> {
    values.into_iter().map(Spanned::into_inner).collect()
}
