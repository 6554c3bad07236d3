//! The server's own certificate authority, and its certificate. The CA lasts; the certificate is made anew at each start.

use super::Error;
use crate::clock::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{io::Write, net::IpAddr, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

/// TLS for the server, and the CA's certificate (PEM) for its clients.
pub(super) struct Tls {
    pub(super) server: Arc<rustls::ServerConfig>,
    pub(super) ca_pem: String,
}

/// Reads the CA from `directory`, or makes it on the first start, and issues a certificate for localhost and `listen`.
pub(super) fn prepare(directory: &Path, listen: IpAddr, clock: &Clock) -> Result<Tls, Error> {
    let today = clock.now().to_zoned(jiff::tz::TimeZone::UTC).date();
    // The certificates' dates are told in whole days, a day early, for clocks that are late.
    let day = |days: i64| {
        let date = today.saturating_add(jiff::Span::new().days(days));
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(date.year().into(), month, day)
    };
    let (key_path, certificate_path) = (directory.join("ca.key"), directory.join("ca.crt"));
    let made = |e: rcgen::Error| Error::Certificate(e.to_string());
    let mut params = CertificateParams::new(Vec::new()).map_err(made)?;
    params.distinguished_name = name("autovibe CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = day(-1);
    params.not_after = day(20 * 365);
    // The certificate is written last: both files are there, or the pair is made again.
    let (key, ca_pem) = if certificate_path.exists() {
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(made)?;
        (key, read(&certificate_path)?)
    } else {
        let key = KeyPair::generate().map_err(made)?;
        let pem = params.self_signed(&key).map_err(made)?.pem();
        write_private(&key_path, &key.serialize_pem())?;
        write_private(&certificate_path, &pem)?;
        (key, pem)
    };
    let issuer = Issuer::new(params, key);

    let server_key = KeyPair::generate().map_err(made)?;
    let mut server = CertificateParams::new(vec!["localhost".to_owned()]).map_err(made)?;
    server.distinguished_name = name("autovibe");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.use_authority_key_identifier_extension = true;
    server.not_before = day(-1);
    server.not_after = day(820); // what Apple's verifier allows at most is 825 days
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    if !addresses.contains(&listen) && !listen.is_unspecified() {
        addresses.push(listen);
    }
    server.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    let certificate = server.signed_by(&server_key, &issuer).map_err(made)?;

    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
            builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)
        })
        .map_err(|e| Error::Certificate(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { server: Arc::new(config), ca_pem })
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

pub(super) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File { path: path.into(), source })
}

/// Writes a file that only its owner can read, whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| Error::File { path: path.into(), source })
}
