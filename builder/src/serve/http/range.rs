//! Which bytes of a file are wanted (RFC 9110 section 14).

/// What a `Range` header means for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no header, several ranges at once, another unit or nonsense. The RFC lets a server pass those over, and
    /// nothing that boots asks for them.
    All,
    /// From here, so many bytes, at least one.
    Part {
        /// The first byte.
        from: u64,
        /// How many.
        length: u64,
    },
    /// Nothing of it: the range begins behind the end.
    Nothing,
}

/// Reads the header for a file of `size` bytes.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) = header.and_then(|text| text.trim().strip_prefix("bytes=")?.split_once('-')) else {
        return Wanted::All;
    };
    let (first, last) = (number(first), number(last));
    match (first, last) {
        (Ok(Some(from)), Ok(Some(last))) if from > last => Wanted::All,
        (Ok(Some(from)), Ok(_)) if from >= size => Wanted::Nothing,
        (Ok(Some(from)), Ok(last)) => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            Wanted::Part { from, length: end - from }
        }
        (Ok(None), Ok(Some(0))) => Wanted::Nothing,
        (Ok(None), Ok(Some(_))) if size == 0 => Wanted::Nothing,
        (Ok(None), Ok(Some(suffix))) => {
            let length = suffix.min(size);
            Wanted::Part { from: size - length, length }
        }
        _ => Wanted::All,
    }
}

/// Digits, or nothing. What is larger than any file counts as the largest.
fn number(text: &str) -> Result<Option<u64>, ()> {
    let text = text.trim();
    if text.bytes().any(|byte| !byte.is_ascii_digit()) {
        return Err(());
    }
    Ok((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_as_the_rfc_has_them() {
        let part = |from, length| Wanted::Part { from, length };
        for (header, expected) in [
            ("bytes=0-99", part(0, 100)),
            ("bytes=100-", part(100, 900)),
            ("bytes=-1", part(999, 1)),
            ("bytes=-5000", part(0, 1000)),
            ("bytes=999-99999999999999999999999", part(999, 1)),
            ("bytes=1000-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("bytes=+1-2", Wanted::All),
        ] {
            assert_eq!(wanted(Some(header), 1000), expected, "{header}");
        }
        assert_eq!(wanted(None, 1000), Wanted::All);
        assert_eq!(wanted(Some("bytes=-1"), 0), Wanted::Nothing);
    }

    proptest! {
        #[test]
        fn a_part_is_never_outside(header in "(bytes=)?[0-9]{0,22}-[0-9]{0,22}|\\PC{0,20}", size: u64) {
            if let Wanted::Part { from, length } = wanted(Some(&header), size) {
                prop_assert!(length > 0 && from.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
}
