//! What can go wrong before and while a guest runs, each as a sentence that says what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a guest cannot be started, or cannot go on.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of the guest's description cannot be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as an infinitive: `open the disk`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// The kernel image is neither of the two kinds that the VMM can enter, or is damaged.
    #[error("{} cannot be booted: {reason}", path.display())]
    Kernel {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A guest description that cannot be honoured.
    #[error("{0}")]
    Config(String),
    /// `/dev/kvm` cannot be opened.
    #[error(
        "cannot open /dev/kvm: load the modules kvm and kvm-intel or kvm-amd, and see that virtualization is enabled \
         in the firmware and that this user may open the device"
    )]
    KvmMissing(#[source] io::Error),
    /// The host's KVM lacks something.
    #[error("the host's KVM lacks {0}: use a kernel of version 4.12 or newer")]
    KvmLacks(&'static str),
    /// A KVM call failed.
    #[error("KVM cannot {action}")]
    Kvm {
        /// What was tried.
        action: &'static str,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// Guest memory cannot be made or filled.
    #[error("cannot {action} guest memory: {reason}")]
    Memory {
        /// What was tried.
        action: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// A host interface cannot be used as a guest's network.
    #[error("cannot {action} the tap interface {tap}")]
    Tap {
        /// What was tried.
        action: &'static str,
        /// Its name.
        tap: String,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// A layer of the jail cannot be had.
    #[error("the jail cannot {action}; with --jail none the VMM does without any")]
    Jail {
        /// What was tried.
        action: &'static str,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// A call on the host failed.
    #[error("cannot {action}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// What the host's kernel said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err` behind a KVM call.
    pub(crate) fn kvm(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Kvm { action, source: io::Error::from_raw_os_error(error.errno()) }
    }

    /// For `map_err` behind any other call on the host.
    pub(crate) fn host<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Host { action, source: error.into() }
    }

    /// For `map_err` behind a call that the jail needs.
    pub(crate) fn jail<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Jail { action, source: error.into() }
    }

    /// For `map_err` behind an access to guest memory.
    pub(crate) fn memory<E: std::fmt::Display>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Memory { action, reason: error.to_string() }
    }

    /// The error and what caused it, in one line.
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_holds_the_cause() {
        let error = Error::File {
            action: "open the disk",
            path: "/x".into(),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        };
        assert_eq!(error.sentence(), "cannot open the disk /x: No such file or directory (os error 2)");
    }
}
