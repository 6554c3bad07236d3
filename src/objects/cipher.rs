//! Encrypts the values of Secrets at rest: XChaCha20-Poly1305 with a random nonce, bound to the place where they stand.

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// Begins every encrypted value, so that another scheme can follow.
const PREFIX: &str = "xchacha20poly1305:v1:";
const NONCE: usize = 24;

/// The key of this hub's Secrets.
pub struct Cipher(XChaCha20Poly1305);

/// An encrypted value that this key does not open, at this place.
#[derive(Debug, thiserror::Error)]
#[error(
    "the value `{place}` cannot be decrypted: it was written with another key, or changed; restore the secrets.key that belongs to this database"
)]
pub(super) struct Undecryptable {
    place: String,
}

impl Cipher {
    /// Reads the key file (64 hex digits), or makes it, readable by its owner alone.
    pub fn load(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is not a key of 64 hex digits", path.display()));
                let key = hex::decode(text.trim()).map_err(|_| wrong())?;
                XChaCha20Poly1305::new_from_slice(&key).map(Self).map_err(|_| wrong())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(e) => Err(e),
        }
    }

    /// A key that nobody keeps, for tests.
    pub fn ephemeral() -> Self {
        Self(XChaCha20Poly1305::new(&XChaCha20Poly1305::generate_key(&mut OsRng)))
    }

    /// Written aside and renamed: a crash leaves either no key or all of it.
    fn make(path: &Path) -> io::Result<Self> {
        let key = XChaCha20Poly1305::generate_key(&mut OsRng);
        let aside = path.with_added_extension("new");
        if let Err(e) = fs::remove_file(&aside)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(e);
        }
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&aside)?;
        writeln!(file, "{}", hex::encode(key))?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        if let Some(directory) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::File::open(directory)?.sync_all()?;
        }
        Ok(Self(XChaCha20Poly1305::new(&key)))
    }

    /// Encrypts `value` for `place` (`namespace/name/key`): moved elsewhere it does not open.
    pub(super) fn seal(&self, place: &str, value: &[u8]) -> String {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let sealed =
            self.0.encrypt(&nonce, Payload { msg: value, aad: place.as_bytes() }).expect("a value is far shorter than the cipher's limit");
        format!("{PREFIX}{}", STANDARD.encode([nonce.as_slice(), &sealed].concat()))
    }

    pub(super) fn open(&self, place: &str, text: &str) -> Result<Vec<u8>, Undecryptable> {
        let wrong = || Undecryptable { place: place.into() };
        let bytes = text.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok()).filter(|b| b.len() > NONCE).ok_or_else(wrong)?;
        let (nonce, sealed) = bytes.split_at(NONCE);
        self.0.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: place.as_bytes() }).map_err(|_| wrong())
    }
}
