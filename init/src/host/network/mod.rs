//! The host's links and addresses: as declared, at the start, whenever something changes, and when the declaration does.
//!
//! | file | what |
//! | --- | --- |
//! | `declared` | the definition as the state that the kernel shall have |
//! | `cards` | which card gets which name |
//! | `watch` | the kernel's announcements |
//! | `firewall` | the definition as rules |
//! | `forwarding` | what the host passes on, as rules |
//! | `guard` | the rules as the kernel has them |
//! | `trial` | a definition that has to be confirmed |
//! | `probe` | whether a machine answers meanwhile |
//!
//! [`Networking::settle`] is all there is: it asks the kernel what is there, and makes what is not so as declared
//! ([`crate::net::reconcile`]). It is called for every card that comes, every link that changes and every lease, and does
//! nothing where nothing is to do.

mod cards;
mod declared;
mod firewall;
#[cfg(test)]
mod firewall_tests;
mod forwarding;
mod guard;
mod probe;
mod trial;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use thimble_spec::appliance::{self, Appliance, BridgeMode, Firewall, Guest};
use thimble_spec::host::Counted;

use super::dhcp::{Dhcp, Leased};
use super::modules::Modules;
use crate::console;
use crate::error::{Doing, Error, Result};
use crate::net::reconcile::{self, Kind, State};
use crate::net::{self, Network};
use cards::{Card, Names};
use guard::Guard;
use trial::Trial;
use watch::Watch;

/// After an announcement others follow: the next look is so much later.
const PAUSE: Duration = Duration::from_millis(100);
/// The same when something could not be made: what does not go now hardly goes a moment later.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);
/// Whether packets of IPv4 are passed on (Documentation/networking/ip-sysctl.rst).
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// So often a look follows another at once because the first one found something to do.
const ROUNDS: u32 = 3;
/// Settings of the network namespace, each with its reason.
const SETTINGS: &[(&str, &str)] = &[
    // An address that goes takes no others of its network along (Documentation/networking/ip-sysctl.rst).
    ("net/ipv4/conf/all/promote_secondaries", "1"),
    // Links that appear speak no IPv6 unless the definition says so.
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

/// The host's network and what keeps it.
pub struct Networking {
    host: String,
    declared: appliance::Network,
    firewall: Option<Firewall>,
    guests: Vec<Guest>,
    guard: Guard,
    kernel: Option<Network>,
    watch: Option<Watch>,
    names: Names,
    clients: Vec<Dhcp>,
    /// The first look was taken.
    begun: bool,
    /// When to look again.
    due: Option<Duration>,
    /// Errors that were told and still hold.
    told: BTreeSet<String>,
    /// The definition before the one that has to be confirmed.
    trial: Option<Trial>,
    /// What became of the last one.
    last: Option<String>,
}

impl Networking {
    /// Begins: nothing is made yet.
    pub fn new(appliance: &Appliance) -> Self {
        for (path, value) in SETTINGS {
            // A kernel without IPv6 has no such file, and needs none.
            let _ = std::fs::write(Path::new("/proc/sys").join(path), value);
        }
        let kept = |error: Error| console::failed(&error);
        let mut kernel = Network::open().map_err(kept).ok();
        if let Some(Err(error)) = kernel.as_mut().map(net::loopback) {
            console::failed(&error);
        }
        Self {
            host: appliance.name.clone(),
            declared: appliance.network.clone(),
            firewall: appliance.firewall.clone(),
            guests: appliance.guests.clone(),
            guard: Guard::default(),
            kernel,
            watch: Watch::listen().map_err(kept).ok(),
            names: Names::default(),
            clients: Vec::new(),
            begun: false,
            due: None,
            told: BTreeSet::new(),
            trial: None,
            last: None,
        }
    }

    /// What the network is to be now.
    pub fn declared(&self) -> &appliance::Network {
        &self.declared
    }

    /// Makes this so, now and whenever something changes; what was declared before and is no more goes. What could not be made is told to
    /// the caller, who may go back by the same way.
    pub fn declare(
        &mut self,
        network: appliance::Network,
        firewall: Option<Firewall>,
        modules: &mut Modules,
        now: Duration,
    ) -> Vec<Error> {
        load_modules(&network, firewall.as_ref(), modules);
        self.put(network, firewall, now)
    }

    /// The same with modules that are there.
    fn put(&mut self, network: appliance::Network, firewall: Option<Firewall>, now: Duration) -> Vec<Error> {
        if network.has_own_networks() || self.declared.has_own_networks() {
            pass_on(&network);
        }
        self.declared = network;
        self.firewall = firewall;
        // Leases are given back while their addresses are there to do it from.
        let dhcp: BTreeSet<&str> = self.declared.links().filter(|(_, link)| link.dhcp).map(|(name, _)| name).collect();
        self.clients.retain_mut(|client| {
            let stays = dhcp.contains(client.interface());
            if !stays {
                client.stop(now);
            }
            stays
        });
        self.begun = true;
        let errors = self.settle(now);
        self.told = errors.iter().map(Error::sentence).collect();
        errors
    }

    /// Network cards that the definition needs and that are not there, or have not got their names yet.
    pub fn missing(&self) -> Vec<String> {
        self.declared.card_names().into_iter().filter(|name| !net::exists(name)).map(str::to_owned).collect()
    }

    /// Gives cards their names as they come, before anything is made of them.
    pub fn name_cards(&mut self) {
        if self.declared.cards.is_empty() {
            return;
        }
        let Some(kernel) = &mut self.kernel else { return };
        let outcome = kernel.observe().and_then(|seen| rename(kernel, &mut self.names, &self.declared, &seen));
        if let Err(error) = outcome {
            self.tell(&[error]);
        }
    }

    /// Looks at what is there and makes it as declared; what could not be made.
    fn settle(&mut self, now: Duration) -> Vec<Error> {
        // Before anything can be heard.
        let rules = firewall::tables(&self.declared, self.firewall.as_ref(), &self.guests);
        let unguarded = self.guard.set(rules).err();
        let Some(kernel) = &mut self.kernel else { return unguarded.into_iter().collect() };
        let mut errors = Vec::new();
        for _ in 0..ROUNDS {
            errors.clear();
            let outcome = kernel.observe().and_then(|seen| {
                rename(kernel, &mut self.names, &self.declared, &seen)?;
                kernel.observe()
            });
            let seen = match outcome {
                Ok(seen) => seen,
                Err(error) => {
                    errors.push(error);
                    break;
                }
            };
            let wanted = declared::wanted(&self.declared, &leases(&self.clients));
            let plan = reconcile::plan(&wanted, &seen);
            errors.extend(plan.problems.into_iter().map(Error::Said));
            if plan.changes.is_empty() {
                break;
            }
            for change in &plan.changes {
                console::notice(&format!("network: {change}"));
                errors.extend(kernel.change(change).err());
            }
        }
        self.start_clients(now);
        self.write_dns();
        errors.extend(unguarded);
        errors
    }

    /// A DHCP client for each link that is to have one and is there; the link may have been made anew.
    fn start_clients(&mut self, now: Duration) {
        self.clients.retain(|client| net::index_of(client.interface()).is_ok_and(|index| index == client.index()));
        let by_dhcp = self.declared.links().filter(|(name, link)| link.dhcp && net::exists(name));
        for (name, _) in by_dhcp {
            if !self.clients.iter().any(|client| client.interface() == name) {
                match Dhcp::start(name, &self.host, now) {
                    Ok(client) => self.clients.push(client),
                    Err(error) => console::failed(&error),
                }
            }
        }
        // The first question goes out now; the answer comes while other things go on.
        for client in &mut self.clients {
            client.run(now);
        }
    }

    /// Declared name servers come first, then those that DHCP servers named.
    fn write_dns(&self) {
        let mut servers: Vec<std::net::IpAddr> =
            self.declared.links().flat_map(|(_, link)| link.dns.iter().copied()).collect();
        servers.extend(self.clients.iter().flat_map(Dhcp::dns).map(|server| std::net::IpAddr::V4(*server)));
        if let Err(error) = net::write_resolv_conf(Path::new("/"), &servers) {
            console::failed(&error);
        }
    }

    /// Says each error once, and again only after it was gone.
    fn tell(&mut self, errors: &[Error]) {
        let sentences: BTreeSet<String> = errors.iter().map(Error::sentence).collect();
        for sentence in sentences.difference(&self.told) {
            console::error(sentence);
        }
        self.told = sentences;
    }

    /// Makes everything as declared, and says what cannot be made.
    fn apply(&mut self, now: Duration) {
        let errors = self.settle(now);
        self.tell(&errors);
        let pause = if errors.is_empty() { None } else { Some(now + PAUSE_AFTER_ERROR) };
        self.due = pause;
    }

    /// Something came or went: look soon.
    pub fn changed(&mut self, now: Duration) {
        self.due = Some(self.due.map_or(now + PAUSE, |due| due.min(now + PAUSE_AFTER_ERROR)));
    }

    /// Takes what was announced, received and what is due.
    pub fn run(&mut self, now: Duration) {
        if let Some(watch) = &mut self.watch {
            let heard = watch.hear();
            for (name, carrier) in heard.carriers {
                console::notice(&format!("network: {name} {} its carrier", if carrier { "has" } else { "lost" }));
                if carrier {
                    self.clients
                        .iter_mut()
                        .filter(|client| client.interface() == name)
                        .for_each(|client| client.hurry(now));
                }
            }
            if heard.changed {
                self.changed(now);
            }
        }
        self.run_trial(now);
        let mut leased = false;
        for client in &mut self.clients {
            leased |= client.run(now);
        }
        if self.begun && (leased || self.due.is_some_and(|due| due <= now)) {
            self.apply(now);
        }
    }

    /// When [`Self::run`] has something to do even if nothing is heard.
    pub fn deadline(&self) -> Option<Duration> {
        let due = self.due.filter(|_| self.begun);
        let trial = self.trial.as_ref().map(Trial::deadline);
        self.clients.iter().filter_map(Dhcp::deadline).chain(due).chain(trial).min()
    }

    /// What to wait for until it can be read.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let probe = self.trial.as_ref().and_then(|trial| trial.probe.as_ref());
        let fixed = self.watch.as_ref().map(AsFd::as_fd).into_iter().chain(probe.map(AsFd::as_fd));
        self.clients.iter().map(Dhcp::descriptor).chain(fixed)
    }

    /// What the firewall counted.
    ///
    /// # Errors
    /// There is none, or the kernel does not say.
    pub fn counted(&mut self) -> Result<Vec<Counted>> {
        self.guard.counted()
    }

    /// The links that ask for addresses, for people.
    pub fn clients(&self) -> &[Dhcp] {
        &self.clients
    }

    /// Gives all leases back: the host ends.
    pub fn end(&mut self, now: Duration) {
        for client in &mut self.clients {
            client.stop(now);
        }
    }
}

/// Loads the modules that the declared devices need: the kernel would call modprobe, which is not here.
fn load_modules(network: &appliance::Network, firewall: Option<&Firewall>, modules: &mut Modules) {
    if firewall.is_some() || network.has_own_networks() {
        guard::ALIASES.iter().for_each(|alias| modules.load_for(alias));
    }
    for (kind, is_wanted) in [
        ("bond", !network.bonds.is_empty()),
        ("bridge", !network.bridges.is_empty()),
        ("vlan", !network.vlans.is_empty()),
        ("dummy", !network.dummies.is_empty()),
    ] {
        if is_wanted {
            modules.load_for(&format!("rtnl-link-{kind}"));
        }
    }
}

/// Has the kernel pass packets on, or not.
fn pass_on(network: &appliance::Network) {
    let modes = network.bridges.values().map(|bridge| bridge.mode);
    let on = modes.into_iter().any(|mode| matches!(mode, BridgeMode::Nat | BridgeMode::Routed));
    if let Err(error) = std::fs::write(FORWARDING, if on { "1" } else { "0" }).doing(|| format!("write {FORWARDING}")) {
        console::failed(&error);
    }
}

fn leases(clients: &[Dhcp]) -> BTreeMap<String, Leased> {
    clients.iter().filter_map(|client| Some((client.interface().to_owned(), client.leased()?))).collect()
}

fn rename(kernel: &mut Network, names: &mut Names, declared: &appliance::Network, seen: &State) -> Result<()> {
    if declared.cards.is_empty() {
        return Ok(());
    }
    let found = seen.links.iter().filter(|(_, link)| link.kind == Kind::Card);
    let found = found.filter_map(|(name, link)| {
        let (path, driver) = cards::place(name);
        Some(Card { index: net::index_of(name).ok()?, name: name.clone(), mac: link.own_mac, path, driver })
    });
    let found: Vec<Card> = found.collect();
    for cards::Rename { from, to, .. } in names.give(&declared.cards, &found) {
        console::notice(&format!("network: {from} is called {to}"));
        kernel.rename(&from, &to)?;
    }
    Ok(())
}
