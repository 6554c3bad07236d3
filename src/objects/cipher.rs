//! Encrypts the values of Secrets at rest: XChaCha20-Poly1305 with a random nonce, bound to the place where they stand.

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// Begins every encrypted value, so that another scheme can follow.
const PREFIX: &str = "xchacha20poly1305:v1:";
const NONCE: usize = 24;

/// The keys of this hub's Secrets: the first one encrypts, all of them decrypt. There is one, but while keys are changed.
pub struct Cipher {
    first: XChaCha20Poly1305,
    others: Vec<XChaCha20Poly1305>,
}

/// A key as it stands in the file.
type Key = chacha20poly1305::Key;

/// An encrypted value that no key opens, at this place.
#[derive(Debug, thiserror::Error)]
#[error(
    "the value `{place}` cannot be decrypted: it was written with another key, or changed; restore the secrets.key that belongs to this database"
)]
pub(super) struct Undecryptable {
    place: String,
}

impl Cipher {
    /// Reads the key file (64 hex digits a line), or makes it, readable by its owner alone.
    pub fn load(path: &Path) -> io::Result<Self> {
        let keys = match read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let keys = vec![new_key()];
                write(path, &keys)?;
                keys
            }
            other => other?,
        };
        Ok(Self::of(&keys))
    }

    /// A key that nobody keeps, for tests.
    pub fn ephemeral() -> Self {
        Self::of(&[new_key()])
    }

    /// `keys` holds one at least.
    pub(super) fn of(keys: &[Key]) -> Self {
        let mut ciphers = keys.iter().map(XChaCha20Poly1305::new);
        let first = ciphers.next().expect("the callers have a key");
        Self { first, others: ciphers.collect() }
    }

    /// Encrypts `value` for `place` (`namespace/name/key`): moved elsewhere it does not open.
    pub(super) fn seal(&self, place: &str, value: &[u8]) -> String {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let sealed = self
            .first
            .encrypt(&nonce, Payload { msg: value, aad: place.as_bytes() })
            .expect("a value is far shorter than the cipher's limit");
        format!("{PREFIX}{}", STANDARD.encode([nonce.as_slice(), &sealed].concat()))
    }

    pub(super) fn open(&self, place: &str, text: &str) -> Result<Vec<u8>, Undecryptable> {
        let wrong = || Undecryptable { place: place.into() };
        let bytes = text.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok()).filter(|b| b.len() > NONCE).ok_or_else(wrong)?;
        let (nonce, sealed) = bytes.split_at(NONCE);
        let open = |key: &XChaCha20Poly1305| key.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: place.as_bytes() }).ok();
        std::iter::once(&self.first).chain(&self.others).find_map(open).ok_or_else(wrong)
    }
}

pub(super) fn new_key() -> Key {
    XChaCha20Poly1305::generate_key(&mut OsRng)
}

/// The keys of a file, one at least.
pub(super) fn read(path: &Path) -> io::Result<Vec<Key>> {
    let wrong =
        || io::Error::new(io::ErrorKind::InvalidData, format!("{} does not hold keys of 64 hex digits, one a line", path.display()));
    let text = fs::read_to_string(path)?;
    let key = |line: &str| -> Option<Key> {
        let bytes: [u8; 32] = hex::decode(line.trim()).ok()?.try_into().ok()?;
        Some(bytes.into())
    };
    let keys: Vec<Key> = text.lines().filter(|line| !line.trim().is_empty()).map(key).collect::<Option<_>>().ok_or_else(wrong)?;
    if keys.is_empty() { Err(wrong()) } else { Ok(keys) }
}

/// Written aside and renamed: a crash leaves either what was there or all of it.
pub(super) fn write(path: &Path, keys: &[Key]) -> io::Result<()> {
    let aside = path.with_added_extension("new");
    if let Err(e) = fs::remove_file(&aside)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(e);
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&aside)?;
    for key in keys {
        writeln!(file, "{}", hex::encode(key))?;
    }
    file.sync_all()?;
    fs::rename(&aside, path)?;
    if let Some(directory) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}
