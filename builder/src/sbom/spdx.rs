//! SPDX 2.3 as JSON: as much of it as is written here (specification: clauses 6 to 8 and 11; schema: `spdx-schema.json`).

use serde::Serialize;
use sha1::{Digest, Sha1};

use crate::apt::source;
use crate::files::{self, Digests};

/// A whole document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// `SPDX-2.3`.
    pub spdx_version: &'static str,
    /// The document's own licence: the specification has only one.
    pub data_license: &'static str,
    /// The document's own identifier.
    #[serde(rename = "SPDXID")]
    pub id: &'static str,
    /// Its name.
    pub name: String,
    /// A URI that no other document has.
    pub document_namespace: String,
    /// Who wrote it, when.
    pub creation_info: CreationInfo,
    /// What it is about.
    pub packages: Vec<Package>,
    /// Files of those.
    pub files: Vec<File>,
    /// How they hang together.
    pub relationships: Vec<Relationship>,
}

/// Who wrote a document, when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CreationInfo {
    /// `YYYY-MM-DDThh:mm:ssZ`.
    pub created: String,
    /// `Tool: NAME-VERSION`.
    pub creators: Vec<String>,
}

/// A package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// Its identifier.
    #[serde(rename = "SPDXID")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version_info: String,
    /// Where it can be had.
    pub download_location: &'static str,
    /// Whether files of it stand in this document; then it has a verification code.
    pub files_analyzed: bool,
    /// See [`verification_code`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_verification_code: Option<VerificationCode>,
    /// Hashes of the package file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checksums: Vec<Checksum>,
    /// The name by which other programs know it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub external_refs: Vec<ExternalRef>,
    /// Its licence, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license_declared: Option<&'static str>,
    /// What else is to be said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// A hash over the hashes of a package's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerificationCode {
    /// In hexadecimal.
    pub package_verification_code_value: String,
}

/// A hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checksum {
    /// `SHA1` or `SHA256`.
    pub algorithm: &'static str,
    /// In hexadecimal.
    pub checksum_value: String,
}

/// A name elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalRef {
    /// `PACKAGE-MANAGER`.
    pub reference_category: &'static str,
    /// `purl`.
    pub reference_type: &'static str,
    /// A package URL.
    pub reference_locator: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Its identifier.
    #[serde(rename = "SPDXID")]
    pub id: String,
    /// Its path, beginning with `./`.
    pub file_name: String,
    /// SHA-1 is mandatory (clause 8.4).
    pub checksums: Vec<Checksum>,
}

/// How two elements hang together (clause 11.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Relationship {
    /// The first.
    pub spdx_element_id: String,
    /// How.
    pub relationship_type: &'static str,
    /// The second.
    pub related_spdx_element: String,
}

/// Both hashes of a file.
pub fn checksums(digests: &Digests) -> Vec<Checksum> {
    let checksum = |algorithm, value: &str| Checksum { algorithm, checksum_value: value.to_owned() };
    vec![checksum("SHA1", &digests.sha1), checksum("SHA256", &digests.sha256)]
}

/// The identifier of a file: paths have letters that identifiers have not.
pub fn file_id(path: &str) -> String {
    format!("SPDXRef-File-{}", &files::sha256(path.as_bytes())[..24])
}

/// The identifier of a package, readable as far as letters, digits, `.` and `-` go (clause 7.2).
pub fn package_id(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if name.chars().all(plain) {
        return format!("SPDXRef-Package-{name}");
    }
    let readable: String = name.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    format!("SPDXRef-Package-{readable}-{}", &files::sha256(name.as_bytes())[..8])
}

/// SHA-1 over the sorted SHA-1s of a package's files (clause 7.9).
pub fn verification_code<'a>(sha1s: impl IntoIterator<Item = &'a str>) -> VerificationCode {
    let mut sha1s: Vec<&str> = sha1s.into_iter().collect();
    sha1s.sort_unstable();
    VerificationCode { package_verification_code_value: files::hex(&Sha1::digest(sha1s.concat())) }
}

/// A package URL: `pkg:TYPE/NAMESPACE/NAME@VERSION`, what stands outside letters, digits, `.`, `-`, `_` and `~` as `%XX`
/// (package-url specification, "Character encoding"); of a source package, with `?arch=source` (its "deb" type).
pub fn purl(kind: &str, namespace: &str, name: &str, version: &str) -> ExternalRef {
    let (name, qualifiers) = source::bare(name).map_or((name, ""), |name| (name, "?arch=source"));
    let encoded = |text: &str| {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect::<String>()
    };
    let namespace = if namespace.is_empty() { String::new() } else { format!("{}/", encoded(namespace)) };
    ExternalRef {
        reference_category: "PACKAGE-MANAGER",
        reference_type: "purl",
        reference_locator: format!("pkg:{kind}/{namespace}{}@{}{qualifiers}", encoded(name), encoded(version)),
    }
}

/// Seconds since 1970 as SPDX writes a time (clause 6.9).
pub fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years of 400 years' cycles that begin on a first of March: leap days come last.
    let from_march = days + 719_468;
    let (cycle, day) = (from_march / 146_097, from_march % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + cycle * 400 + next_year;
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_specification_has_them() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(time(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(time(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(time(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn names_become_identifiers_and_package_urls() {
        assert_eq!(package_id("libc6"), "SPDXRef-Package-libc6");
        assert!(package_id("g++-12").starts_with("SPDXRef-Package-g---12-"));
        assert_ne!(package_id("a+"), package_id("a_"));
        let url = purl("deb", "debian", "busybox", "1:1.35.0-4+b5").reference_locator;
        assert_eq!(url, "pkg:deb/debian/busybox@1%3A1.35.0-4%2Bb5");
        let url = purl("deb", "debian", "src:bash", "5.2").reference_locator;
        assert_eq!(url, "pkg:deb/debian/bash@5.2?arch=source");
        assert_eq!(file_id("./a"), file_id("./a"));
    }

    #[test]
    fn a_verification_code_does_not_depend_on_the_order() {
        let (one, two) = ("a".repeat(40), "b".repeat(40));
        let code = verification_code([one.as_str(), two.as_str()]);
        assert_eq!(code, verification_code([two.as_str(), one.as_str()]));
        assert_eq!(code.package_verification_code_value, files::hex(&Sha1::digest(one + &two)));
    }
}
