//! What lets a program start where Secure Boot is enforced (UEFI 2.10, 32): the distribution's signatures, or one's own.

use std::fs;
use std::path::{Path, PathBuf};

use thimble_spec::secure_boot::SecureBoot;

use super::read::Program;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::files;
use crate::formats::Format;
use crate::tool::Tool;

/// The packages of the distribution's signed loaders.
pub const PACKAGES: &[&str] = &[SHIM.0, GRUB.0];
/// Microsoft's keys, which machines have, know the shim; it knows the distribution's.
pub const SHIM: (&str, &str) = ("shim-signed", "usr/lib/shim/shimx64.efi.signed");
/// What the shim starts.
pub const GRUB: (&str, &str) = ("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed");
/// The program that signs.
const TOOL: &str = "osslsigncode";
/// The time that a signature says it was made at, in seconds since 1970: the first day that FAT knows. Firmware does not
/// compare it, and the same key gives the same signature on every day.
const TIME: &str = "315532800";

/// Who is trusted, with all files at hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nobody asks.
    #[default]
    None,
    /// The distribution.
    Debian,
    /// The owner of a key.
    Own(Signer),
}

impl Trust {
    /// Finds the files that a definition names, in `dir` if it names them relatively.
    ///
    /// # Errors
    /// The key of the definition that is wrong, and the end of a sentence about it.
    pub fn find(wanted: Option<&SecureBoot>, dir: &Path) -> Result<Self, (&'static str, String)> {
        match wanted {
            None => Ok(Self::None),
            Some(SecureBoot::Debian) => Ok(Self::Debian),
            Some(SecureBoot::Own { key, certificate }) => {
                let wrong = |name| move |reason| (name, reason);
                let key = pem(&dir.join(key), "PRIVATE KEY-----").map_err(wrong("secure-boot.key"))?;
                let certificate =
                    pem(&dir.join(certificate), "BEGIN CERTIFICATE-----").map_err(wrong("secure-boot.certificate"))?;
                Ok(Self::Own(Signer { key, certificate }))
            }
        }
    }

    /// The distribution's packages that a format takes besides its own.
    pub fn packages(&self, format: Format) -> &'static [&'static str] {
        match (self, format) {
            (Self::Debian, Format::Flash | Format::Iso) => PACKAGES,
            (Self::Own(_), Format::Iso) => &[crate::formats::uki::PACKAGE],
            _ => &[],
        }
    }

    /// Programs of this machine that making a format takes besides its own.
    pub fn tools(&self, format: Format) -> &'static [&'static str] {
        match (self, format) {
            (Self::Own(_), Format::Iso | Format::Uki) => &[TOOL],
            _ => &[],
        }
    }

    /// What is to be said of a format whose artefact firmware will not start where it asks for signatures.
    pub fn warning(&self, format: Format) -> Option<String> {
        let (mode, instead) = match (self, format) {
            (Self::Debian, Format::Netboot | Format::Nfs | Format::Uki) => ("debian", "flash and iso"),
            (Self::Own(_), Format::Flash | Format::Netboot | Format::Nfs) => ("own", "iso and uki"),
            _ => return None,
        };
        Some(format!(
            "with secure-boot.mode = \"{mode}\", {instead} start where Secure Boot is enforced; {format} does not"
        ))
    }
}

/// A file in PEM format (RFC 7468) that holds something of the kind `label`.
fn pem(path: &Path, label: &str) -> Result<PathBuf, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if !text.lines().any(|line| line.starts_with("-----BEGIN") && line.ends_with(label)) {
        let what = label.trim_start_matches("BEGIN ").trim_end_matches("-----").to_lowercase();
        return Err(format!("{shown} holds no {what} in PEM format"));
    }
    if text.contains("ENCRYPTED") {
        return Err(format!("{shown} is encrypted, and a build asks no questions: `openssl pkey` writes a plain one"));
    }
    std::path::absolute(path).map_err(|error| format!("cannot find {shown}: {error}"))
}

/// A key and its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    key: PathBuf,
    certificate: PathBuf,
}

impl Signer {
    /// Writes `program` as `signed`, with a signature.
    ///
    /// # Errors
    /// The tool is missing or fails: key and certificate do not belong together, the disk is full.
    pub fn sign(&self, context: &Context, program: &Path, signed: &Path) -> Result<()> {
        Tool::new(TOOL)
            .bare_environment()
            .args(["sign", "-h", "sha256", "-time", TIME, "-certs"])
            .arg(&self.certificate)
            .arg("-key")
            .arg(&self.key)
            .arg("-in")
            .arg(program)
            .arg("-out")
            .arg(signed)
            .run(context)?;
        if Program::open(signed)?.headers.certificates.is_empty() {
            return Err(Error::environment(format!("{TOOL} left {} without a signature", signed.display())));
        }
        Ok(())
    }

    /// A signed copy of `program`, in `dir`.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn signed(&self, context: &Context, program: &Path, dir: &Path) -> Result<Vec<u8>> {
        let signed = dir.join("signed.efi");
        self.sign(context, program, &signed)?;
        files::read(&signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::efi::testing::program;
    use crate::progress::Progress;
    use std::process::Command;

    #[test]
    fn what_is_no_key_or_certificate_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let find = || {
            let own = SecureBoot::Own { key: "db.key".to_owned(), certificate: "db.pem".to_owned() };
            Trust::find(Some(&own), dir.path())
        };
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let told = || find().unwrap_err();
        assert_eq!(told().0, "secure-boot.key");
        assert!(told().1.contains("cannot read"));
        write("db.key", "-----BEGIN CERTIFICATE-----\n");
        assert!(told().1.ends_with("db.key holds no private key in PEM format"), "{}", told().1);
        write("db.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
        assert!(told().1.contains("is encrypted"));
        write("db.key", "-----BEGIN RSA PRIVATE KEY-----\n");
        write("db.pem", "nothing");
        assert_eq!(told().0, "secure-boot.certificate");
        assert!(told().1.ends_with("db.pem holds no certificate in PEM format"), "{}", told().1);
        write("db.pem", "-----BEGIN CERTIFICATE-----\n");
        assert!(matches!(find(), Ok(Trust::Own(_))));
    }

    #[test]
    fn a_signature_is_the_same_each_time_and_the_program_still_sound() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let openssl = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "9"];
        let mut command = Command::new("openssl");
        command.args(openssl).arg("-keyout").arg(path("db.key")).arg("-out").arg(path("db.pem"));
        assert!(command.output().unwrap().status.success());
        let own = SecureBoot::Own { key: "db.key".to_owned(), certificate: "db.pem".to_owned() };
        let Ok(Trust::Own(signer)) = Trust::find(Some(&own), dir.path()) else { panic!("key and certificate") };
        let context = Context { cache: Cache::open_at(&path("cache")).unwrap(), progress: Progress::quiet() };
        fs::write(path("p.efi"), program(&[(".text", b"code")])).unwrap();
        signer.sign(&context, &path("p.efi"), &path("one.efi")).unwrap();
        signer.sign(&context, &path("p.efi"), &path("two.efi")).unwrap();
        let one = fs::read(path("one.efi")).unwrap();
        assert!(one == fs::read(path("two.efi")).unwrap());
        assert!(!Program::open(&path("one.efi")).unwrap().headers.certificates.is_empty());
    }
}
