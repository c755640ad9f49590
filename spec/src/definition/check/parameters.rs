//! What must hold of what guests are told beside their network.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;

use super::{Checker, inner};
use crate::parameters::Parameters;
use crate::rules;

/// What stands in the definition.
pub(super) struct Told {
    pub ssh_keys: Vec<Spanned<String>>,
    pub role: Option<Spanned<String>>,
    pub environment: BTreeMap<Spanned<String>, Spanned<String>>,
    pub identity: Option<Spanned<String>>,
}

impl Checker<'_> {
    /// Of the guest with this key, whose name stands at `place`.
    pub(super) fn parameters(&mut self, told: Told, place: Range<usize>, guest: &str) -> Parameters {
        for (index, key) in told.ssh_keys.iter().enumerate() {
            self.expect(rules::ssh_key(key.get_ref()), key.span(), &format!("{guest}.ssh-keys[{index}]"));
        }
        if let Some(role) = &told.role {
            self.expect(rules::role(role.get_ref()), role.span(), &format!("{guest}.role"));
        }
        if let Some(identity) = &told.identity {
            self.expect(rules::identity(identity.get_ref()), identity.span(), &format!("{guest}.identity"));
        }
        for name in told.environment.keys() {
            self.expect(rules::variable(name.get_ref()), name.span(), &format!("{guest}.environment"));
        }
        let parameters = Parameters {
            ssh_keys: inner(told.ssh_keys),
            role: told.role.map(Spanned::into_inner),
            environment: told
                .environment
                .into_iter()
                .map(|(name, value)| (name.into_inner(), value.into_inner()))
                .collect(),
            identity: told.identity.map(Spanned::into_inner),
        };
        self.expect(parameters.check(), place, guest);
        parameters
    }
}

#[cfg(test)]
mod tests {
    use crate::definition::parse;
    use crate::parameters::Parameters;

    fn check(keys: &str) -> Result<Parameters, String> {
        let text = format!(
            r#"
appliance = {{ name = "demo" }}
kernel.host = {{ package = "linux-image-amd64", hardware = [] }}
kernel.guest = {{ source = "linux-source-6.12", fragments = [] }}
[[guest]]
name = "web1"
image = "web"
memory = "64MiB"
{keys}
"#
        );
        let mut definition = parse("a.toml", &text).map_err(|mistakes| mistakes.to_string())?;
        Ok(definition.appliance.guests.remove(0).parameters)
    }

    #[test]
    fn they_are_read() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPxXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX me";
        let keys = format!(
            "ssh-keys = [\"{key}\"]\nrole = \"db-1\"\nidentity = \"7f3c.A_b-1\"\nenvironment = {{ A_1 = \"b\\nc\" }}"
        );
        let wanted = Parameters {
            ssh_keys: vec![key.to_owned()],
            role: Some("db-1".to_owned()),
            environment: [("A_1".to_owned(), "b\nc".to_owned())].into(),
            identity: Some("7f3c.A_b-1".to_owned()),
        };
        assert_eq!(check(&keys), Ok(wanted));
        assert_eq!(check(""), Ok(Parameters::default()));
    }

    #[test]
    fn mistakes_have_their_place() {
        for (keys, sentence) in [
            ("ssh-keys = [\"me\"]", "a.toml:9: guest[0].ssh-keys[0]: begin with the kind of the key"),
            ("role = \"Db\"", "a.toml:9: guest[0].role: use 1 to 63 lower-case letters"),
            ("identity = \"a b\"", "a.toml:9: guest[0].identity: use 1 to 64 letters"),
            ("identity = \"\"", "a.toml:9: guest[0].identity: use 1 to 64 letters"),
            ("environment = { 1A = \"b\" }", "a.toml:9: guest[0].environment: `1A` is no name of a variable"),
            ("environment = { \"A=B\" = \"\" }", "a.toml:9: guest[0].environment: `A=B` is no name of a variable"),
            ("environment = { A = \"\\u0000\" }", "a.toml:6: guest[0]: thimble.env.A cannot hold a zero byte"),
        ] {
            let told = check(keys).unwrap_err();
            assert!(told.contains(sentence), "{keys}: {told}");
        }
        let long = format!("environment = {{ A = \"{}\" }}", "x".repeat(70_000));
        assert!(check(&long).unwrap_err().contains("65536 are the most"));
    }
}
