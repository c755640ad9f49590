//! Certificates (RFC 5280): what stands in them. Keys are of the curve P-256, which every browser takes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use sha2::{Digest, Sha256};
use thimble_spec::api::identity::Identity;

/// Bytes of a serial number, of 20 at most (RFC 5280, 4.1.2.2).
const SERIAL: usize = 16;

/// The authority's: it signs those of nodes and clients, and no other authority's.
pub fn authority(name: &str, key: &KeyPair) -> Result<String, Error> {
    let mut params = params(&format!("Thimble {name}"), key)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.pem())
}

/// The node's. It is none of a client's.
pub fn server(issuer: &Issuer<'_, KeyPair>, name: &str, names: &[String], key: &KeyPair) -> Result<String, Error> {
    let mut params = params(name, key)?;
    // The serial number tells two certificates of one key apart.
    params.serial_number = Some(serial(&[key.public_key_pem().as_bytes(), names.join(" ").as_bytes()]));
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    leaf(&mut params, ExtendedKeyUsagePurpose::ServerAuth);
    Ok(params.signed_by(key, issuer)?.pem())
}

/// A client's, and its private key.
pub fn client(issuer: &Issuer<'_, KeyPair>, identity: &Identity, days: Option<u32>) -> Result<(String, String), Error> {
    let key = KeyPair::generate()?;
    let mut params = params(identity.name(), &key)?;
    params.subject_alt_names.push(SanType::URI(identity.to_string().as_str().try_into()?));
    if let Some(days) = days {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(u64::from(days) * 24 * 60 * 60);
    }
    leaf(&mut params, ExtendedKeyUsagePurpose::ClientAuth);
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

/// Good from 1970 on, for a machine whose clock has no battery begins there; and without an end (RFC 5280, 4.1.2.5).
fn params(name: &str, key: &KeyPair) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new([])?;
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(serial(&[key.public_key_pem().as_bytes()]));
    Ok(params)
}

fn leaf(params: &mut CertificateParams, purpose: ExtendedKeyUsagePurpose) {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
}

fn serial(of: &[&[u8]]) -> SerialNumber {
    let mut hash = Sha256::new();
    of.iter().for_each(|part| hash.update(part));
    let mut bytes = hash.finalize()[..SERIAL].to_vec();
    // Positive, and not shortened.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}
