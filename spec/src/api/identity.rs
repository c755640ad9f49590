//! Who asks a node over the network: what a client's certificate says of its owner, and what they may.
//!
//! It stands in a subject alternative name of the kind URI (RFC 5280, 4.2.1.6): `thimble:ROLE:NAME`. Libraries that verify
//! certificates give those names out as text, which is why neither a field of the subject nor an extension of our own is used:
//! nobody here takes DER apart.

use std::fmt;
use std::str::FromStr;

/// Every certificate of a node has this DNS name beside its others: clients verify it, by whatever name or address they
/// reach the node. The authority is the appliance's own, so that it names a node of that appliance and nothing else.
pub const NODE_NAME: &str = "node.thimble.internal";
/// The port, if a definition names none.
pub const PORT: u16 = 7443;

/// Scheme of the URI.
const SCHEME: &str = "thimble:";
/// Longest name of a client.
pub const CLIENT_NAME_MAX: usize = 64;

/// What somebody may. Each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Start and stop guests, type on their consoles.
    Operate,
    /// Everything.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Admin];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.name() == name).ok_or(IdentityError::Role)
    }
}

/// The owner of a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    role: Role,
    name: String,
}

impl Identity {
    /// Somebody with this role.
    ///
    /// # Errors
    /// The name has other characters than letters, digits, `-`, `_`, `.`, `@`, or is empty, longer than
    /// [`CLIENT_NAME_MAX`], or begins with a dot or a hyphen.
    pub fn new(role: Role, name: &str) -> Result<Self, IdentityError> {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        let begins = name.bytes().next().is_some_and(|byte| !b".-".contains(&byte));
        if !begins || name.len() > CLIENT_NAME_MAX || !name.bytes().all(sound) {
            return Err(IdentityError::Name);
        }
        Ok(Self { role, name: name.to_owned() })
    }

    /// What they may.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who they are.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// As it stands in the certificate.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}:{}", self.role.name(), self.name)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let rest = uri.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (role, name) = rest.split_once(':').ok_or(IdentityError::Role)?;
        Self::new(role.parse()?, name)
    }
}

/// Why a text names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is another URI.
    #[error("it does not begin with {SCHEME}")]
    Scheme,
    /// Of the role.
    #[error("a role is read, operate or admin")]
    Role,
    /// Of the name.
    #[error("a client's name has 1 to {CLIENT_NAME_MAX} letters, digits and `-_.@`, and begins with no `-` and no `.`")]
    Name,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_identity_is_a_uri() {
        let alice = Identity::new(Role::Operate, "alice@example").unwrap();
        assert_eq!(alice.to_string(), "thimble:operate:alice@example");
        assert_eq!("thimble:operate:alice@example".parse(), Ok(alice));
        for (uri, error) in [
            ("spiffe://x/y", IdentityError::Scheme),
            ("thimble:root:alice", IdentityError::Role),
            ("thimble:Admin:alice", IdentityError::Role),
            ("thimble:admin", IdentityError::Role),
            ("thimble:admin:", IdentityError::Name),
            ("thimble:admin:../x", IdentityError::Name),
            ("thimble:admin:a b", IdentityError::Name),
            ("thimble:admin:a\n", IdentityError::Name),
        ] {
            assert_eq!(uri.parse::<Identity>(), Err(error), "{uri}");
        }
        assert!(Identity::new(Role::Read, &"a".repeat(CLIENT_NAME_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(uri in "(thimble:)?(read|operate|admin|.*):.*") {
            if let Ok(identity) = uri.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), uri);
            }
        }
    }
}
