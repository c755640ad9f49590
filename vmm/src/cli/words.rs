//! Options of the form `WORD,key=value,flag`.

use std::fmt::Display;
use std::str::FromStr;

use thimble_spec::units::ByteSize;
use thimble_spec::vmm::{Limits, Rate};

/// What is left of such an option; each part is taken by its name, and [`Self::finish`] refuses what nobody took.
#[derive(Debug)]
pub struct Words<'a> {
    parts: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// Takes `text` apart at its commas.
    pub fn new(text: &'a str) -> Self {
        Self { parts: text.split(',').collect() }
    }

    /// The first part, whatever it is.
    pub fn head(&mut self) -> &'a str {
        self.parts.remove(0)
    }

    /// Whether the part `name` is there.
    pub fn flag(&mut self, name: &str) -> bool {
        let place = self.parts.iter().position(|part| *part == name);
        place.map(|place| self.parts.remove(place)).is_some()
    }

    /// The text behind `name=`.
    pub fn text(&mut self, name: &str) -> Option<&'a str> {
        let value = |part: &&'a str| part.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        let place = self.parts.iter().position(|part| value(part).is_some())?;
        value(&self.parts.remove(place))
    }

    /// The value behind `name=`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn value<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, String> {
        self.text(name).map(|text| text.parse().map_err(|error| format!("{name}={text}: {error}"))).transpose()
    }

    /// One of the names that a type of the specification has in JSON.
    ///
    /// # Errors
    /// It is none of them; the sentence says which there are.
    pub fn name<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, String> {
        self.text(name).map(|text| named(text).map_err(|error| format!("{name}={error}"))).transpose()
    }

    /// `PREFIXbandwidth=RATE` and `PREFIXoperations=RATE`.
    ///
    /// # Errors
    /// A rate cannot be read.
    pub fn limits(&mut self, prefix: &str) -> Result<Limits, String> {
        let mut rate = |name: &str| {
            let name = format!("{prefix}{name}");
            self.text(&name).map(|text| parse_rate(text).map_err(|error| format!("{name}={text}: {error}"))).transpose()
        };
        Ok(Limits { bandwidth: rate("bandwidth")?, operations: rate("operations")? })
    }

    /// Refuses what is left.
    ///
    /// # Errors
    /// Something is left; `known` says what there could be.
    pub fn finish(self, known: &str) -> Result<(), String> {
        match self.parts.first() {
            Some(part) => Err(format!("`{part}` is none of {known}, or is there twice")),
            None => Ok(()),
        }
    }
}

/// A value that a type of the specification calls `text`.
///
/// # Errors
/// It has no such value.
pub fn named<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| format!("{text}: {error}"))
}

/// `PER_SECOND[:BURST]`, each a number or a size: `10MiB`, `10MiB:1MiB`, `500`.
fn parse_rate(text: &str) -> Result<Rate, String> {
    let number = |text: &str| text.parse::<ByteSize>().map(ByteSize::bytes).map_err(|error| error.to_string());
    let (per_second, burst) = match text.split_once(':') {
        Some((per_second, burst)) => (per_second, Some(number(burst)?)),
        None => (text, None),
    };
    match number(per_second)? {
        0 => Err("a rate of 0 would be a stop: leave the limit out, or give 1 or more".to_owned()),
        per_second => Ok(Rate { per_second, burst }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thimble_spec::vmm::DiskFormat;

    #[test]
    fn parts_are_taken_by_name() {
        let mut words = Words::new("path,direct,format=qcow2,queues=2,bandwidth=1MiB:64KiB,operations=50");
        assert_eq!(words.head(), "path");
        assert!(words.flag("direct") && !words.flag("direct"));
        assert_eq!(words.name("format"), Ok(Some(DiskFormat::Qcow2)));
        assert_eq!(words.value::<u8>("queues"), Ok(Some(2)));
        let limits = words.limits("").unwrap();
        assert_eq!(limits.bandwidth, Some(Rate { per_second: 1 << 20, burst: Some(64 << 10) }));
        assert_eq!(limits.operations, Some(Rate { per_second: 50, burst: None }));
        assert_eq!(words.finish("x"), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(Words::new("format=vhd").name::<DiskFormat>("format").unwrap_err().contains("qcow2"));
        assert!(Words::new("queues=x").value::<u8>("queues").unwrap_err().starts_with("queues=x: "));
        assert!(Words::new("bandwidth=0").limits("").unwrap_err().contains("would be a stop"));
        assert!(Words::new("quick").finish("direct").unwrap_err().contains("`quick` is none of direct"));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,40}") {
            let mut words = Words::new(&text);
            let _ = (words.limits(""), words.value::<u8>("a"), words.flag("b"), words.finish(""));
        }
    }
}
