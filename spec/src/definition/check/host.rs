//! `[log]`, `[watchdog]`, `[time]`, `[sysctl]`, `[access]`, `[api]` and `[[service]]`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use toml::Spanned;

use super::super::source::{self, SyslogUrl};
use super::{Checker, inner};
use crate::api::identity;
use crate::appliance::{ApiListener, HostService, HostSettings, Ssh, Syslog, SyslogTransport, Watchdog};
use crate::names::{NAME_MAX, check_name};
use crate::rules;
use crate::service::{BUILT_IN, Limits, Ready};
use crate::units::{ByteSize, MIB};

/// What a watchdog may be told: shorter, a host whose processors are all busy is reset; longer, no hardware takes it.
const TIMEOUT_S: std::ops::RangeInclusive<u32> = 10..=600;
/// If nothing is said.
const TIMEOUT_S_DEFAULT: u32 = 60;
/// How long the node daemon may be silent: it looks at large files now and then.
const NODE_S: std::ops::RangeInclusive<u32> = 5..=3600;
/// If nothing is said.
const NODE_S_DEFAULT: u32 = 60;
/// So many servers are asked for the time.
const TIME_SERVERS_MAX: usize = 8;
/// What a service needs at least to start.
const MEMORY_MIN: ByteSize = ByteSize::mib(1);
/// ssh's own.
const SSH_PORT: u16 = 22;

/// The tables that make up a [`HostSettings`].
pub(super) struct Tables<'a> {
    pub log: &'a source::Log,
    pub watchdog: Option<source::Watchdog>,
    pub time: source::Time,
    pub sysctl: source::Sysctl,
    pub access: source::Access,
    pub api: Option<&'a source::Api>,
    pub service: Vec<source::HostService>,
}

impl Checker<'_> {
    pub(super) fn host_settings(&mut self, tables: Tables<'_>) -> HostSettings {
        let ssh = tables.access.ssh.map(|ssh| self.ssh(ssh));
        HostSettings {
            syslog: self.syslog(tables.log),
            watchdog: tables.watchdog.map(|watchdog| self.watchdog(watchdog)),
            time_servers: self.time_servers(tables.time.servers),
            sysctl: self.sysctl(tables.sysctl),
            shell: tables.access.shell,
            api: tables.api.map(|api| self.api(api, ssh.as_ref())),
            ssh,
            services: self.services(tables.service),
        }
    }

    fn syslog(&mut self, log: &source::Log) -> Option<Syslog> {
        let url = log.syslog.as_ref().map(|url| (*url.get_ref(), url.span()));
        match (&url, &log.tls_keys) {
            (Some((SyslogUrl { transport: SyslogTransport::Tls, .. }, span)), None) => {
                let message =
                    "by TLS it takes `tls-keys`, a directory with the ca.pem that has signed the server's certificate";
                self.wrong(span.clone(), "log.syslog", message);
            }
            (Some((SyslogUrl { transport: SyslogTransport::Tls, .. }, _)), Some(keys)) => {
                if keys.get_ref().is_empty() {
                    self.wrong(keys.span(), "log.tls-keys", "name a directory");
                }
            }
            _ => {
                for (key, value) in [("log.tls-keys", &log.tls_keys), ("log.tls-name", &log.tls_name)] {
                    if let Some(value) = value {
                        self.wrong(
                            value.span(),
                            key,
                            "the log does not go by TLS: leave it out, or write \"tls://...\"",
                        );
                    }
                }
            }
        }
        if let Some(name) = log.tls_name.as_ref().filter(|name| !host_name(name.get_ref())) {
            let message = format!("`{}` is neither a name nor an address", name.get_ref());
            self.wrong(name.span(), "log.tls-name", message);
        }
        let tls_name = log.tls_name.as_ref().map(|name| name.get_ref().clone());
        url.map(|(SyslogUrl { transport, server }, _)| Syslog { transport, server, tls_name })
    }

    fn watchdog(&mut self, source: source::Watchdog) -> Watchdog {
        let mut within = |value: Option<Spanned<u32>>, range: std::ops::RangeInclusive<u32>, default, key: &str| {
            let Some(value) = value else { return default };
            if !range.contains(value.get_ref()) {
                let (least, most) = (range.start(), range.end());
                self.wrong(
                    value.span(),
                    key,
                    format!("{} seconds are not between {least} and {most}", value.get_ref()),
                );
            }
            value.into_inner()
        };
        Watchdog {
            timeout_s: within(source.timeout_s, TIMEOUT_S, TIMEOUT_S_DEFAULT, "watchdog.timeout-s"),
            node_s: within(source.node_s, NODE_S, NODE_S_DEFAULT, "watchdog.node-s"),
        }
    }

    /// Names or addresses: what stands in a configuration file's line afterwards.
    fn time_servers(&mut self, servers: Vec<Spanned<String>>) -> Vec<String> {
        for (index, server) in servers.iter().enumerate() {
            let key = format!("time.servers[{index}]");
            let text = server.get_ref();
            let sound = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
            if text.is_empty() || text.len() > 253 || text.starts_with('-') || !text.chars().all(sound) {
                self.wrong(server.span(), key, format!("`{text}` is neither a name nor an address"));
            } else if index == TIME_SERVERS_MAX {
                self.wrong(server.span(), key, format!("name {TIME_SERVERS_MAX} servers at most"));
            }
        }
        inner(servers)
    }

    fn sysctl(&mut self, source: source::Sysctl) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        for (name, value) in source {
            let key = format!("sysctl.{}", name.get_ref());
            let part = |part: &str| {
                let sound = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
                !part.is_empty() && !part.starts_with('/') && part.chars().all(sound)
            };
            if !name.get_ref().contains('.') || !name.get_ref().split('.').all(part) {
                let message = "is no name of a sysctl, such as \"net.core.somaxconn\", in quotes";
                self.wrong(name.span(), key.clone(), format!("`{}` {message}", name.get_ref()));
            }
            let text = match value.get_ref() {
                source::SysctlValue::Number(number) => number.to_string(),
                source::SysctlValue::Text(text) => text.clone(),
            };
            if text.len() > 256 || text.chars().any(char::is_control) {
                self.wrong(value.span(), key, "is no line of at most 256 characters");
            }
            values.insert(name.into_inner(), text);
        }
        values
    }

    fn ssh(&mut self, source: source::Ssh) -> Ssh {
        if source.keys.get_ref().is_empty() {
            self.wrong(
                source.keys.span(),
                "access.ssh.keys",
                "without a key nobody could log in: leave [access.ssh] out",
            );
        }
        let keys = source.keys.into_inner();
        for (index, key) in keys.iter().enumerate() {
            self.expect(rules::ssh_key(key.get_ref()), key.span(), &format!("access.ssh.keys[{index}]"));
        }
        let port = source.port.map_or(SSH_PORT, |port| {
            if *port.get_ref() == 0 {
                self.wrong(port.span(), "access.ssh.port", "0 is no port");
            }
            port.into_inner()
        });
        Ssh { keys: inner(keys), port }
    }

    fn api(&mut self, source: &source::Api, ssh: Option<&Ssh>) -> ApiListener {
        let port = source.port.as_ref().map_or(identity::PORT, |port| *port.get_ref());
        if let Some(span) = source.port.as_ref().map(Spanned::span) {
            if port == 0 {
                self.wrong(span, "api.port", "0 is no port");
            } else if ssh.is_some_and(|ssh| ssh.port == port) {
                self.wrong(span, "api.port", format!("{port} is ssh's port already"));
            }
        }
        if let Some(keys) = source.keys.as_ref().filter(|keys| keys.get_ref().is_empty()) {
            self.wrong(keys.span(), "api.keys", "name a directory, or leave it out");
        }
        for (index, name) in source.names.iter().enumerate() {
            if !host_name(name.get_ref()) {
                let message = format!("`{}` is neither a name nor an address", name.get_ref());
                self.wrong(name.span(), format!("api.names[{index}]"), message);
            }
        }
        ApiListener { address: source.address, port }
    }

    fn services(&mut self, sources: Vec<source::HostService>) -> Vec<HostService> {
        let mut names: BTreeSet<String> = BUILT_IN.iter().map(|name| (*name).to_owned()).collect();
        let mut services = Vec::with_capacity(sources.len());
        for (index, source) in sources.into_iter().enumerate() {
            let key = |name: &str| format!("service[{index}].{name}");
            self.expect(check_name(source.name.get_ref()), source.name.span(), &key("name"));
            for (place, other) in source.after.iter().enumerate() {
                if !names.contains(other.get_ref()) {
                    let message = format!("`{}` is no service that stands before this one", other.get_ref());
                    self.wrong(other.span(), format!("service[{index}].after[{place}]"), message);
                }
            }
            if !names.insert(source.name.get_ref().clone()) {
                let message = format!("service {} is there already", source.name.get_ref());
                self.wrong(source.name.span(), key("name"), message);
            }
            let exec = source.exec.get_ref();
            if !exec.first().is_some_and(|program| program.starts_with('/')) {
                self.wrong(source.exec.span(), key("exec"), "name the program by its absolute path");
            } else if exec.iter().any(|word| word.contains('\0')) {
                self.wrong(source.exec.span(), key("exec"), "a word with a zero byte cannot be handed to a program");
            }
            if let Some(feature) = &source.feature {
                self.library_name(feature, &key("feature"));
            }
            if let Some(user) = &source.user {
                let sound = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
                if user.get_ref().is_empty() || !user.get_ref().chars().all(sound) {
                    self.wrong(user.span(), key("user"), format!("`{}` is not the name of a user", user.get_ref()));
                }
            }
            match source.ready.as_ref().map(|ready| (ready.get_ref(), ready.span())) {
                Some((Ready::Port(0), span)) => self.wrong(span, key("ready"), "0 is no port"),
                Some((Ready::File(path), span)) if !path.starts_with('/') => {
                    self.wrong(span, key("ready"), format!("`{path}` is not an absolute path"));
                }
                _ => {}
            }
            if let Some(memory) = source.memory.as_ref().filter(|memory| *memory.get_ref() < MEMORY_MIN) {
                self.wrong(memory.span(), key("memory"), format!("no program starts in less than {MEMORY_MIN}"));
            }
            for (name, limit) in [("cpu-percent", &source.cpu_percent), ("tasks", &source.tasks)] {
                if let Some(limit) = limit.as_ref().filter(|limit| *limit.get_ref() == 0) {
                    self.wrong(limit.span(), key(name), "nothing runs with 0 of it");
                }
            }
            services.push(HostService {
                name: source.name.into_inner(),
                exec: source.exec.into_inner(),
                feature: source.feature.map(Spanned::into_inner),
                kind: source.kind,
                after: inner(source.after),
                user: source.user.map(Spanned::into_inner),
                restart: source.restart,
                ready: source.ready.map(Spanned::into_inner),
                limits: Limits {
                    memory_mib: source.memory.map(|memory| memory.get_ref().bytes().div_ceil(MIB)),
                    cpu_percent: source.cpu_percent.map(Spanned::into_inner),
                    tasks: source.tasks.map(Spanned::into_inner),
                },
            });
        }
        services
    }
}

/// What a certificate may name: an address, or a name.
fn host_name(text: &str) -> bool {
    let label = |label: &str| {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.len() <= NAME_MAX && label.bytes().all(sound)
    };
    text.parse::<IpAddr>().is_ok() || text.len() <= 253 && text.split('.').all(label)
}
