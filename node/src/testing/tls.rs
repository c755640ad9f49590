//! Certificates for tests.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// An authority, which signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

impl Authority {
    /// A new one of this name.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A directory with a certificate of these names.
    pub fn signs(&self, directory: &Path, names: &[SanType]) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names = names.to_vec();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        fs::create_dir_all(directory).unwrap();
        for (name, text) in [("ca.pem", &self.pem), ("cert.pem", &certificate), ("key.pem", &key.serialize_pem())] {
            fs::write(directory.join(name), text).unwrap();
        }
        directory.to_owned()
    }
}

/// One of a certificate's names.
pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// One of a certificate's names.
pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}
