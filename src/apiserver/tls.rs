//! The server's own certificate authority, and its certificate. The CA lasts; the certificate is made anew at each start.

use super::Error;
use crate::clock::Clock;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use std::{io::Write, net::IpAddr, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::Duration};

/// TLS for the server, and the CA's certificate (PEM) for its clients.
pub(super) struct Tls {
    pub(super) server: Arc<rustls::ServerConfig>,
    pub(super) ca_pem: String,
}

/// Reads the CA from `directory`, or makes it on the first start, and issues a certificate for localhost, `listen` and `names`.
pub(super) fn prepare(directory: &Path, listen: IpAddr, names: &[String], clock: &Clock) -> Result<Tls, Error> {
    let now = clock.now();
    let (key_path, certificate_path) = (directory.join("ca.key"), directory.join("ca.crt"));
    let authority = authority(now)?;
    // The certificate is written last; a key that is there alone, as one that was copied here, keeps what it signed good.
    let (key, ca_pem) = if certificate_path.exists() {
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(made)?;
        (key, read(&certificate_path)?)
    } else {
        let key = if key_path.exists() { KeyPair::from_pem(&read(&key_path)?) } else { KeyPair::generate() }.map_err(made)?;
        let pem = authority.self_signed(&key).map_err(made)?.pem();
        write_private(&key_path, &key.serialize_pem())?;
        write_private(&certificate_path, &pem)?;
        (key, pem)
    };
    let issuer = Issuer::new(authority, key);

    let server_key = KeyPair::generate().map_err(made)?;
    let mut server = CertificateParams::new([&["localhost".to_owned()], names].concat()).map_err(made)?;
    server.distinguished_name = name("autovibe");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.use_authority_key_identifier_extension = true;
    lasts(&mut server, now, -DAY, 820 * DAY); // what Apple's verifier allows at most is 825 days
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    if !addresses.contains(&listen) && !listen.is_unspecified() {
        addresses.push(listen);
    }
    server.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    let certificate = server.signed_by(&server_key, &issuer).map_err(made)?;

    // Client certificates are asked for, not demanded: most clients have a token.
    let broken = |e: &dyn std::fmt::Display| Error::Certificate(e.to_string());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| broken(&e))?).map_err(|e| broken(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated();
    let clients = clients.build().map_err(|e| broken(&e))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
            builder.with_client_cert_verifier(clients).with_single_cert(vec![certificate.der().clone()], key)
        })
        .map_err(|e| broken(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { server: Arc::new(config), ca_pem })
}

pub(super) fn made(error: rcgen::Error) -> Error {
    Error::Certificate(error.to_string())
}

/// What the authority's certificate says.
fn authority(now: Timestamp) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(made)?;
    params.distinguished_name = name("autovibe CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, now, -DAY, 20 * 365 * DAY);
    Ok(params)
}

/// The authority in `directory`, to issue with.
pub(super) fn issuer(directory: &Path, now: Timestamp) -> Result<Issuer<'static, KeyPair>, Error> {
    let key = KeyPair::from_pem(&read(&directory.join("ca.key"))?).map_err(made)?;
    Ok(Issuer::new(authority(now)?, key))
}

/// Seconds.
const DAY: i64 = 86_400;

/// Says from when to when a certificate holds, in seconds after `now`.
pub(super) fn lasts(params: &mut CertificateParams, now: Timestamp, begin: i64, end: i64) {
    let at = |seconds: i64| Duration::from_secs(u64::try_from(now.as_second().saturating_add(seconds)).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + at(begin);
    params.not_after = epoch + at(end);
}

pub(super) fn name(common: &str) -> DistinguishedName {
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
