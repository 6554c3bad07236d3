//! Client certificates of the hub's own authority: CN is the user, each O a group.

use super::{Error, tls};
use jiff::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SigningKey};
use rustls::pki_types::CertificateDer;
use std::{path::Path, time::Duration};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate lasts at most: it cannot be revoked, only what its user and groups may do can.
pub const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Issues a certificate for a user in groups, by the authority in the hub's data directory. Returns it and its key, both PEM.
///
/// Errors: where there is no authority, for no hub ever ran there.
pub fn client(data: &Path, user: &str, groups: &[String], duration: Duration, now: Timestamp) -> Result<(String, String), Error> {
    let issuer = tls::issuer(data, now)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(tls::made)?;
    params.distinguished_name = tls::name(user);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    // A little early, for clocks that are late.
    tls::lasts(&mut params, now, -300, i64::try_from(duration.min(LONGEST).as_secs()).expect("a year is few seconds"));
    let key = KeyPair::generate().map_err(tls::made)?;
    let certificate = params.signed_by(&key, &issuer).map_err(tls::made)?;
    let named = with_subject(certificate.der(), &subject(user, groups), issuer.key())?;
    Ok((pem("CERTIFICATE", &named), key.serialize_pem()))
}

/// The certificate with another subject, signed anew: rcgen's names hold one value of a type, and groups are many.
fn with_subject(certificate: &CertificateDer<'_>, subject: &[u8], key: &KeyPair) -> Result<Vec<u8>, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| Error::Certificate(e.to_string()))?;
    let (signed, old) = (parsed.tbs_certificate.as_ref(), parsed.subject().as_raw());
    let find = |whole: &[u8], part: &[u8]| part.as_ptr().addr() - whole.as_ptr().addr();
    let (at, begin) = (find(signed, old), header(signed));
    let signed_anew = der(0x30, &[&signed[begin..at], subject, &signed[at + old.len()..]].concat());
    let rest = &certificate[find(certificate, signed) + signed.len()..];
    let algorithm = &rest[..header(rest) + usize::from(rest[1])];
    let signature = key.sign(&signed_anew).map_err(tls::made)?;
    Ok(der(0x30, &[&signed_anew, algorithm, &der(0x03, &[&[0], signature.as_slice()].concat())].concat()))
}

/// A name (X.501) of a common name (2.5.4.3) and organizations (2.5.4.10).
fn subject(user: &str, groups: &[String]) -> Vec<u8> {
    let attribute = |kind: u8, text: &str| {
        let kind = der(0x06, &[0x55, 0x04, kind]);
        der(0x31, &der(0x30, &[kind, der(0x0c, text.as_bytes())].concat()))
    };
    let groups = groups.iter().map(|group| attribute(10, group));
    der(0x30, &groups.chain([attribute(3, user)]).collect::<Vec<_>>().concat())
}

/// One DER value: tag, length, content. Source: X.690 §8.1.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let bytes = content.len().to_be_bytes();
    let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    let length = match significant {
        [] => vec![0],
        [short @ 0..0x80] => vec![*short],
        long => [&[0x80 | u8::try_from(long.len()).expect("at most 8")], long].concat(),
    };
    [&[tag], length.as_slice(), content].concat()
}

/// Bytes before the content of a DER value.
fn header(value: &[u8]) -> usize {
    if value[1] < 0x80 { 2 } else { 2 + usize::from(value[1] & 0x7f) }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
