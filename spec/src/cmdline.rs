//! The kernel command line: how PID 1 is told things, and nothing is misread.
//!
//! The kernel splits its command line at white space outside double quotes and knows no escape
//! (`next_arg` in lib/cmdline.c); [`Cmdline`] reads it as the kernel does. What Thimble writes is `thimble.KEY=VALUE`,
//! quoted only where a value holds a space. A value with a double quote, a line break or another control character
//! cannot be carried, and is refused where the line is made.

use std::net::Ipv4Addr;

use thiserror::Error;

use crate::names::Ipv4Net;
use crate::parameters::{CONFIG, DISK_SERIAL, Parameters, ParametersError, pack};

/// Longest command line that an x86 kernel keeps: `COMMAND_LINE_SIZE` (arch/x86/include/asm/setup.h) less the final
/// zero. What goes beyond is cut off by the kernel without a word.
pub const MAX_BYTES: usize = 2047;

/// The word that lets commands in.
const COMMANDS: &str = "thimble.commands";
/// Before the keys that are ours.
const PREFIX: &str = "thimble.";

/// A command line that cannot be made or understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CmdlineError {
    /// A value that the kernel's syntax cannot carry.
    #[error("{key} cannot hold a double quote or a control character on the kernel command line")]
    Character {
        /// The key.
        key: String,
    },
    /// Longer than [`MAX_BYTES`].
    #[error("the kernel command line has {0} bytes, the kernel keeps {MAX_BYTES}: shorten it")]
    TooLong(usize),
    /// A value that does not mean anything.
    #[error("{key}={value} on the kernel command line: {reason}")]
    Value {
        /// The key.
        key: String,
        /// What stands there.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that must be there and is not.
    #[error("{0} is missing on the kernel command line")]
    Missing(&'static str),
}

/// What a guest is told cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// By the command line.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// By a configuration device.
    #[error(transparent)]
    Parameters(#[from] ParametersError),
}

/// A command line, split as the kernel does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    words: Vec<(String, Option<String>)>,
}

impl Cmdline {
    /// Reads a command line. Nothing is an error: the kernel takes everything too.
    pub fn parse(line: &str) -> Self {
        let mut words = Vec::new();
        let mut rest = line.trim_start_matches(is_space);
        while !rest.is_empty() {
            let mut quoted = false;
            let end = rest
                .find(|character| {
                    quoted ^= character == '"';
                    !quoted && is_space(character)
                })
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after.trim_start_matches(is_space);
            words.push(split_word(word));
        }
        Self { words }
    }

    /// The value of the last `key=value`; the kernel's own options work so too.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.words.iter().rev().find(|(word, _)| word == key)?.1.as_deref()
    }

    /// The values of all `key=value`, in their order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.words.iter().filter(move |(word, _)| word == key).filter_map(|(_, value)| value.as_deref())
    }

    /// All words, in their order, with their values.
    pub fn words(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.words.iter().map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    /// Whether `flag` stands there, with a value or without.
    pub fn has(&self, flag: &str) -> bool {
        self.words.iter().any(|(word, _)| word == flag)
    }

    /// Adds a word without a value.
    pub fn flag(&mut self, word: &str) -> &mut Self {
        self.words.push((word.to_owned(), None));
        self
    }

    /// Adds `key=value`.
    pub fn set(&mut self, key: &str, value: impl ToString) -> &mut Self {
        self.words.push((key.to_owned(), Some(value.to_string())));
        self
    }

    /// Adds all of `other`'s words.
    pub fn extend(&mut self, other: Self) -> &mut Self {
        self.words.extend(other.words);
        self
    }

    /// The text of it.
    ///
    /// # Errors
    /// A character that the syntax cannot carry; a line longer than the kernel keeps.
    pub fn render(&self) -> Result<String, CmdlineError> {
        let mut line = String::new();
        for (key, value) in &self.words {
            let value_text = value.as_deref().unwrap_or("");
            let sound = |text: &str| !text.contains(|c: char| c == '"' || c.is_control());
            if !sound(key) || !sound(value_text) || key.contains(is_space) {
                return Err(CmdlineError::Character { key: key.clone() });
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(key);
            if value.is_some() {
                line.push('=');
                let quote = if value_text.contains(is_space) { "\"" } else { "" };
                line.extend([quote, value_text, quote]);
            }
        }
        if line.len() > MAX_BYTES { Err(CmdlineError::TooLong(line.len())) } else { Ok(line) }
    }
}

/// The kernel's `isspace`, within what a command line can hold.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{a0}')
}

/// `key=value`, `key="value"`, `"key=value"` or `key`.
fn split_word(word: &str) -> (String, Option<String>) {
    let unquote = |text: &str| {
        let text = text.strip_prefix('"').unwrap_or(text);
        text.strip_suffix('"').unwrap_or(text).to_owned()
    };
    let whole = if word.starts_with('"') { unquote(word) } else { word.to_owned() };
    match whole.split_once('=') {
        Some((key, value)) if !key.is_empty() => (key.to_owned(), Some(unquote(value))),
        _ => (whole, None),
    }
}

/// Who PID 1 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It runs the appliance.
    Host,
    /// It runs inside a guest.
    Guest,
}

impl Role {
    /// `thimble.role=guest` makes a guest; everything else is a host.
    pub fn of(line: &Cmdline) -> Self {
        if line.get("thimble.role") == Some("guest") { Self::Guest } else { Self::Host }
    }
}

/// What a guest is told at its start. With the block devices it is all in which guests differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestParams {
    /// Host name (`thimble.name`).
    pub name: String,
    /// Address of `eth0` (`thimble.address`).
    pub address: Option<Ipv4Net>,
    /// Default route (`thimble.gateway`).
    pub gateway: Option<Ipv4Addr>,
    /// Name servers (`thimble.dns`, separated by commas).
    pub dns: Vec<Ipv4Addr>,
    /// Block device with the shared image (`thimble.image`), `/dev/vda`.
    pub image: String,
    /// Block device of the guest's own (`thimble.disk`), `/dev/vdb`; without one, changes live in memory.
    pub disk: Option<String>,
    /// Block device with a root of its own and an init in it (`thimble.root`), `/dev/vda`: there is no image then.
    pub root: Option<String>,
    /// Whether its PID 1 runs commands that the host sends (`thimble.commands`).
    pub commands: bool,
    /// What its services, its users and its disk are told.
    pub parameters: Parameters,
}

/// The most that the node puts on a guest's command line: the VMM adds up to 45 bytes a device.
const GUEST_MAX_BYTES: usize = 1536;

/// Where the shared image is when the command line does not say.
pub const DEFAULT_IMAGE: &str = "/dev/vda";

impl GuestParams {
    /// The command line that tells all of it, behind `words`; and, where that is too long for one or holds what one cannot
    /// hold, a configuration device ([`crate::parameters`]) with what is left out of it.
    ///
    /// # Errors
    /// There is more than a configuration device holds; what is left does not fit on a command line.
    pub fn place(&self, mut words: Cmdline) -> Result<(String, Option<Vec<u8>>), PlaceError> {
        self.write_network(&mut words);
        let mut more = Cmdline::default();
        self.parameters.write(&mut more);
        let mut whole = words.clone();
        whole.extend(more.clone());
        if let Some(line) = whole.render().ok().filter(|line| line.len() <= GUEST_MAX_BYTES) {
            return Ok((line, None));
        }
        words.set(CONFIG, DISK_SERIAL);
        Ok((words.render()?, Some(pack(&more)?)))
    }

    /// Writes who the guest is and what its devices are behind what is in `line` already.
    fn write_network(&self, line: &mut Cmdline) {
        let mut set = |key: &str, value: String| {
            line.set(&format!("{PREFIX}{key}"), value);
        };
        set("role", "guest".to_owned());
        set("name", self.name.clone());
        if let Some(address) = self.address {
            set("address", address.to_string());
        }
        if let Some(gateway) = self.gateway {
            set("gateway", gateway.to_string());
        }
        if !self.dns.is_empty() {
            let servers: Vec<String> = self.dns.iter().map(Ipv4Addr::to_string).collect();
            set("dns", servers.join(","));
        }
        match &self.root {
            Some(root) => set("root", root.clone()),
            None => set("image", self.image.clone()),
        }
        if let Some(disk) = &self.disk {
            set("disk", disk.clone());
        }
        if self.commands {
            line.flag(COMMANDS);
        }
    }

    /// Reads the parameters.
    ///
    /// # Errors
    /// A missing name; an address that is none. Unknown `thimble.` keys are left to newer versions.
    pub fn read(line: &Cmdline) -> Result<Self, CmdlineError> {
        let name = line.get("thimble.name").ok_or(CmdlineError::Missing("thimble.name"))?;
        crate::names::check_name(name).map_err(|error| value_error("thimble.name", name, error))?;
        Ok(Self {
            name: name.to_owned(),
            address: parse_value(line, "thimble.address")?,
            gateway: parse_value(line, "thimble.gateway")?,
            dns: match line.get("thimble.dns") {
                Some(list) => list
                    .split(',')
                    .map(|server| server.parse().map_err(|error| value_error("thimble.dns", list, error)))
                    .collect::<Result<_, _>>()?,
                None => Vec::new(),
            },
            image: line.get("thimble.image").unwrap_or(DEFAULT_IMAGE).to_owned(),
            disk: line.get("thimble.disk").map(str::to_owned),
            root: line.get("thimble.root").map(str::to_owned),
            commands: line.has(COMMANDS),
            parameters: Parameters::read(line),
        })
    }
}

fn parse_value<T: std::str::FromStr>(line: &Cmdline, key: &str) -> Result<Option<T>, CmdlineError>
where
    T::Err: ToString,
{
    line.get(key).map(|value| value.parse().map_err(|error| value_error(key, value, error))).transpose()
}

fn value_error(key: &str, value: &str, reason: impl ToString) -> CmdlineError {
    CmdlineError::Value { key: key.to_owned(), value: value.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn web1() -> GuestParams {
        GuestParams {
            name: "web1".to_owned(),
            address: Some("10.1.1.11/24".parse().unwrap()),
            gateway: Some(Ipv4Addr::new(10, 1, 1, 1)),
            dns: vec![Ipv4Addr::new(10, 1, 1, 3)],
            image: "/dev/vda".to_owned(),
            disk: Some("/dev/vdb".to_owned()),
            root: None,
            commands: false,
            parameters: Parameters::default(),
        }
    }

    /// What a guest with this command line and this configuration device reads.
    fn told((line, device): (String, Option<Vec<u8>>)) -> GuestParams {
        let mut line = Cmdline::parse(&line);
        if let Some(device) = device {
            line.extend(crate::parameters::read(&device).unwrap());
        }
        GuestParams::read(&line).unwrap()
    }

    #[test]
    fn a_guests_line_reads_back() {
        let (text, device) = web1().place(Cmdline::parse("console=ttyS0 quiet")).unwrap();
        assert_eq!(device, None);
        assert_eq!(
            text,
            "console=ttyS0 quiet thimble.role=guest thimble.name=web1 thimble.address=10.1.1.11/24 \
             thimble.gateway=10.1.1.1 thimble.dns=10.1.1.3 thimble.image=/dev/vda thimble.disk=/dev/vdb"
        );
        let line = Cmdline::parse(&text);
        assert_eq!(Role::of(&line), Role::Guest);
        assert_eq!(GuestParams::read(&line), Ok(web1()));
        let open = GuestParams { commands: true, ..web1() };
        let (text, _) = open.place(Cmdline::default()).unwrap();
        assert!(text.ends_with(" thimble.commands"), "{text}");
        assert_eq!(GuestParams::read(&Cmdline::parse(&text)), Ok(open));
    }

    #[test]
    fn quotes_are_the_kernels() {
        let line = Cmdline::parse("a=\"b c\" \"d=e f\"  g quiet\n");
        assert_eq!(line.get("a"), Some("b c"));
        assert_eq!(line.get("d"), Some("e f"));
        assert!(line.has("g") && line.has("quiet"));
    }

    #[test]
    fn the_last_value_wins() {
        assert_eq!(Cmdline::parse("a=1 a=2").get("a"), Some("2"));
    }

    #[test]
    fn mistakes_are_named() {
        let read = |text: &str| GuestParams::read(&Cmdline::parse(text)).unwrap_err().to_string();
        assert_eq!(read("quiet"), "thimble.name is missing on the kernel command line");
        assert!(read("thimble.name=web1 thimble.address=10.1.1.11").starts_with("thimble.address=10.1.1.11 on the"));
        assert!(read("thimble.name=web1 thimble.dns=10.1.1.1,x").starts_with("thimble.dns=10.1.1.1,x on the"));
        let mut line = Cmdline::default();
        assert!(matches!(line.set("a", "b\"c").render(), Err(CmdlineError::Character { .. })));
        assert!(matches!(Cmdline::default().set("a", "x".repeat(3000)).render(), Err(CmdlineError::TooLong(_))));
    }

    #[test]
    fn what_does_not_fit_is_on_a_device() {
        let mut guest = web1();
        let place = |guest: &GuestParams| guest.place(Cmdline::default()).unwrap();
        let mut variable = |value: String| {
            guest.parameters.environment.insert("A".to_owned(), value);
            let placed = place(&guest);
            assert_eq!(told(placed.clone()), guest);
            placed
        };
        assert_eq!(variable("b c".to_owned()).1, None);
        assert!(variable("b c".to_owned()).0.ends_with(" thimble.env.A=\"b c\""));
        for value in ["x".repeat(GUEST_MAX_BYTES), "a\nb".to_owned(), "a\"b".to_owned()] {
            let (line, device) = variable(value);
            assert!(line.ends_with(" thimble.config=thimble-config"), "{line}");
            assert_eq!(device.unwrap().len() % 512, 0);
        }
        guest.parameters.environment.insert("A".to_owned(), "a\0b".to_owned());
        assert!(matches!(guest.place(Cmdline::default()), Err(PlaceError::Parameters(_))));
    }

    proptest! {
        #[test]
        fn what_a_guest_is_told_it_reads(parameters in crate::parameters::any_parameters()) {
            let guest = GuestParams { parameters, ..web1() };
            let placed = guest.place(Cmdline::parse("console=ttyS0 quiet")).unwrap();
            prop_assert!(placed.0.len() <= GUEST_MAX_BYTES);
            prop_assert_eq!(told(placed), guest);
        }

        #[test]
        fn what_is_written_reads_back(values in prop::collection::vec(("[a-z.]{1,8}", "[ -!#-~]{0,20}"), 0..8)) {
            let mut line = Cmdline::default();
            for (key, value) in &values { line.set(key, value); }
            let text = line.render().unwrap();
            let again = Cmdline::parse(&text);
            for (key, value) in &values {
                let last = values.iter().rev().find(|(other, _)| other == key).map(|(_, value)| value).unwrap();
                if value == last { prop_assert_eq!(again.get(key), Some(value.as_str())); }
            }
        }

        #[test]
        fn any_line_is_safe(text in any::<String>()) {
            let line = Cmdline::parse(&text);
            let _ = GuestParams::read(&line);
        }
    }
}
