//! The certificates for a syslog server that is reached by TLS: a directory as `thimble client-cert` makes them, or part of one.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use super::is_certificate;

/// What the log is sent with: all PEM.
#[derive(Clone)]
pub struct LogKeys {
    /// Who signs the server's certificate (`ca.pem`).
    pub ca: String,
    /// The host's certificate (`cert.pem`) and its key (`key.pem`), for a server that asks for one.
    pub client: Option<[String; 2]>,
}

impl fmt::Debug for LogKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key.
        f.debug_struct("LogKeys").field("client", &self.client.is_some()).finish_non_exhaustive()
    }
}

impl LogKeys {
    /// Reads a directory.
    ///
    /// # Errors
    /// In a sentence: `ca.pem` is not there, one of the other two is there alone, something is no PEM.
    pub fn read(dir: &Path) -> Result<Self, String> {
        let ca = pem(dir, "ca.pem")?.ok_or_else(|| {
            format!("{} is not there: who has signed the server's certificate?", dir.join("ca.pem").display())
        })?;
        let client = match (pem(dir, "cert.pem")?, pem(dir, "key.pem")?) {
            (Some(certificate), Some(key)) => Some([certificate, key]),
            (None, None) => None,
            (certificate, _) => {
                let [there, missing] =
                    if certificate.is_some() { ["cert.pem", "key.pem"] } else { ["key.pem", "cert.pem"] };
                return Err(format!("{} is there without {missing}", dir.join(there).display()));
            }
        };
        Ok(Self { ca, client })
    }
}

fn pem(dir: &Path, name: &str) -> Result<Option<String>, String> {
    let path = dir.join(name);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let (sound, what) = match name {
        "key.pem" => (text.contains("PRIVATE KEY-----"), "private key"),
        _ => (is_certificate(&text), "certificate"),
    };
    if sound { Ok(Some(text)) } else { Err(format!("{} holds no {what} in PEM format", path.display())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_whole_or_what_is_wrong_with_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = |wanted: &str| {
            let told = LogKeys::read(dir.path()).unwrap_err();
            assert!(told.contains(wanted), "{told}");
        };
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        told("ca.pem is not there: who has signed");
        write("ca.pem", "-----BEGIN NOTHING-----");
        told("ca.pem holds no certificate in PEM format");
        write("ca.pem", "-----BEGIN CERTIFICATE-----");
        assert!(LogKeys::read(dir.path()).unwrap().client.is_none());
        write("key.pem", "-----BEGIN EC PRIVATE KEY-----");
        told("key.pem is there without cert.pem");
        write("cert.pem", "-----BEGIN CERTIFICATE-----");
        let read = LogKeys::read(dir.path()).unwrap();
        assert!(read.client.as_ref().is_some_and(|[_, key]| key.contains("PRIVATE")));
        assert!(!format!("{read:?}").contains("PRIVATE"));
        write("key.pem", "");
        told("key.pem holds no private key in PEM format");
    }
}
