//! The log that PID 1 keeps: the kernel's, its own, its services'.

use serde::{Deserialize, Serialize};

/// How grave a line is (RFC 5424, 6.2.1), the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The system is unusable.
    Emergency,
    /// Somebody must act at once.
    Alert,
    /// Critical.
    Critical,
    /// An error.
    Error,
    /// A warning.
    Warning,
    /// Normal, and worth a look.
    Notice,
    /// For information.
    Info,
    /// For those who look for an error.
    Debug,
}

impl Level {
    /// All, the gravest first: the place of each is its number.
    pub const ALL: [Self; 8] = [
        Self::Emergency,
        Self::Alert,
        Self::Critical,
        Self::Error,
        Self::Warning,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

    /// Of a number; one that is too high is [`Level::Debug`].
    pub fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Debug)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emergency => "emergency",
            Self::Alert => "alert",
            Self::Critical => "critical",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// Which lines are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsVerb {
    /// Those with a number from this one on. 0 are all that are left, and [`Logs::next`] are those that came since.
    #[serde(default)]
    pub from: u64,
    /// Only those that are at least so grave.
    #[serde(default)]
    pub level: Option<Level>,
    /// Only those of this source.
    #[serde(default)]
    pub source: Option<String>,
}

/// Lines of the log. An answer holds as many as fit; who wants more asks again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Logs {
    /// The lines, the oldest first.
    pub lines: Vec<LogLine>,
    /// What to ask from the next time.
    pub next: u64,
    /// How many that were asked for had given way to newer ones.
    pub lost: u64,
    /// Whether there are more already.
    pub more: bool,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLine {
    /// Its number.
    pub number: u64,
    /// When it was written, in milliseconds since the kernel started.
    pub ms: u64,
    /// How grave it is.
    pub level: Level,
    /// Who wrote it: `kernel`, `init`, or a service.
    pub source: String,
    /// What it says.
    pub text: String,
}
