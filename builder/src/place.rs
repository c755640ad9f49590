//! Where a key stands in a TOML file, for mistakes that show only when other files are known.

use std::ops::Range;

use thimble_spec::definition::{Mistake, Mistakes};
use toml::de::{DeTable, DeValue};

use crate::error::Error;

/// A TOML file that mistakes are told about.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name as the user knows it.
    pub file: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// A mistake at a key such as `guest[0].image`; a key that is not there gives the nearest one above it.
    pub fn mistake(&self, key: &str, message: impl Into<String>) -> Mistake {
        Mistake::at(&self.file, &self.text, span(&self.text, key), key.to_owned(), message)
    }

    /// [`Self::mistake`] as an error of its own.
    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        Error::Definition(Mistakes::from(vec![self.mistake(key, message)]))
    }

    /// `FILE:LINE: KEY`.
    pub fn place(&self, key: &str) -> String {
        let mistake = self.mistake(key, "");
        format!("{}:{}: {key}", mistake.file, mistake.line)
    }
}

/// Fails with all of `mistakes` if there are any.
///
/// # Errors
/// There are.
pub fn refuse(mistakes: Vec<Mistake>) -> Result<(), Error> {
    if mistakes.is_empty() { Ok(()) } else { Err(Error::Definition(mistakes.into())) }
}

/// Bytes of the value of `key`.
fn span(text: &str, key: &str) -> Range<usize> {
    let Ok(table) = DeTable::parse(text) else { return 0..0 };
    let mut found = table.span();
    let mut value = Value::Table(table.get_ref());
    for segment in segments(key) {
        let next = match value {
            Value::Table(table) => table.get(segment),
            Value::Other(DeValue::Table(table)) => table.get(segment),
            Value::Other(DeValue::Array(array)) => segment.parse::<usize>().ok().and_then(|index| array.get(index)),
            Value::Other(_) => None,
        };
        let Some(next) = next else { break };
        found = next.span();
        value = Value::Other(next.get_ref());
    }
    found
}

enum Value<'a> {
    Table(&'a DeTable<'a>),
    Other(&'a DeValue<'a>),
}

/// `guest[0].image` as `guest`, `0`, `image`; a part in double quotes may hold dots and brackets.
fn segments(key: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    key.split(move |character| {
        quoted ^= character == '"';
        !quoted && matches!(character, '.' | '[' | ']')
    })
    .map(|segment| segment.trim_matches('"'))
    .filter(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_key() {
        let text = "[appliance]\nname = \"x\"\n[links]\n\"/bin/a.b\" = \"c\"\n[[guest]]\nname = \"a\"\n[[guest]]\n\nimage = \"b\"\n";
        let source = Source { file: "f.toml".into(), text: text.into() };
        let line = |key: &str| source.mistake(key, "").line;
        assert_eq!(line("appliance.name"), 2);
        assert_eq!(line("guest[1].image"), 9);
        assert_eq!(line("links.\"/bin/a.b\""), 4);
        assert_eq!(source.place("guest[0].name"), "f.toml:6: guest[0].name");
    }

    #[test]
    fn a_key_that_is_not_there_gives_the_one_above() {
        let source = Source { file: "f".into(), text: "[a]\nb = 1\n[c]\nd = 2\n".into() };
        assert_eq!(source.mistake("c.e", "").line, 3);
    }
}
