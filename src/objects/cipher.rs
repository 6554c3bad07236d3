//! Encrypts the values of Secrets at rest: XChaCha20-Poly1305 with a random nonce, bound to the place where they stand.
//!
//! There may be several keys; each sealed value says by which one it is. Which one seals is not decided here: see `rotation`.

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// Begins every sealed value; the key's id and the text follow.
const PREFIX: &str = "xchacha20poly1305:v2:";
/// Of before keys had ids: any may have sealed it.
const WITHOUT_ID: &str = "xchacha20poly1305:v1:";
const NONCE: usize = 24;

/// The keys of this server's Secrets; any of them opens what it sealed.
pub struct Cipher {
    /// `None` for keys that nobody keeps.
    file: Option<PathBuf>,
    keys: RwLock<Keys>,
}

#[derive(Default)]
struct Keys {
    /// Those of the file, in its order.
    kept: Vec<Arc<Known>>,
    /// Those that the file held before: what was read or cached while they were in use still opens.
    before: Vec<Arc<Known>>,
}

struct Known {
    id: String,
    key: Key,
    cipher: XChaCha20Poly1305,
}

/// A key as it stands in the file.
type Key = chacha20poly1305::Key;

/// A sealed value that no key opens, at this place.
#[derive(Debug, thiserror::Error)]
#[error(
    "the value `{place}` cannot be decrypted: it was written with another key{id}, or changed; restore the secrets.key that belongs to this database"
)]
pub(super) struct Undecryptable {
    place: String,
    id: String,
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
        Ok(Self::of(Some(path.into()), &keys))
    }

    /// A key that nobody keeps, for tests.
    pub fn ephemeral() -> Self {
        Self::of(None, &[new_key()])
    }

    fn of(file: Option<PathBuf>, keys: &[Key]) -> Self {
        let kept = keys.iter().copied().map(Known::of).collect();
        Self { file, keys: RwLock::new(Keys { kept, before: Vec::new() }) }
    }

    /// Where the keys are kept.
    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Ids of the keys that the file held when it was last looked at, in its order; one at least.
    pub(super) fn ids(&self) -> Vec<String> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).kept.iter().map(|known| known.id.clone()).collect()
    }

    /// Looks at the file again.
    pub(super) fn reload(&self) -> io::Result<()> {
        if let Some(file) = &self.file {
            self.replace(&read(file)?);
        }
        Ok(())
    }

    fn replace(&self, keys: &[Key]) {
        let mut held = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<Arc<Known>> = held.kept.drain(..).collect();
        held.before.extend(known);
        for key in keys {
            let at = held.before.iter().position(|known| known.key == *key);
            let known = at.map_or_else(|| Known::of(*key), |at| held.before.swap_remove(at));
            held.kept.push(known);
        }
    }

    /// Adds a new key to the file, which must be locked, and returns its id. Durable when this returns.
    pub(super) fn add(&self) -> io::Result<String> {
        let new = new_key();
        let keys = match &self.file {
            Some(file) => [vec![new], read(file)?].concat(),
            None => {
                [vec![new], self.keys.read().unwrap_or_else(PoisonError::into_inner).kept.iter().map(|known| known.key).collect()].concat()
            }
        };
        if let Some(file) = &self.file {
            write(file, &keys)?;
        }
        self.replace(&keys);
        Ok(id(&new))
    }

    /// Takes all keys but these from the file, which must be locked and hold one of them at least.
    pub(super) fn keep(&self, ids: &[&str]) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let keys = read(file)?;
        let kept: Vec<Key> = keys.iter().copied().filter(|key| ids.contains(&&*id(key))).collect();
        if !kept.is_empty() && kept.len() < keys.len() {
            write(file, &kept)?;
            self.replace(&kept);
        }
        Ok(())
    }

    /// The key of this id; the file is looked at when it is not known.
    fn find(&self, id: &str) -> Option<Arc<Known>> {
        let find = || {
            let held = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            held.kept.iter().chain(&held.before).find(|known| known.id == id).cloned()
        };
        find().or_else(|| {
            // A file that is just being written is looked at again by the next one who needs it.
            self.reload().ok()?;
            find()
        })
    }

    /// Encrypts `value` for `place` (`namespace/name/key`): moved elsewhere it does not open. `None` without that key.
    pub(super) fn seal(&self, id: &str, place: &str, value: &[u8]) -> Option<String> {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let sealed = self
            .find(id)?
            .cipher
            .encrypt(&nonce, Payload { msg: value, aad: place.as_bytes() })
            .expect("a value is far shorter than the cipher's limit");
        Some(format!("{PREFIX}{id}:{}", STANDARD.encode([nonce.as_slice(), &sealed].concat())))
    }

    pub(super) fn open(&self, place: &str, text: &str) -> Result<Vec<u8>, Undecryptable> {
        let (id, text) = match text.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':')) {
            Some((id, text)) => (Some(id), text),
            None => (None, text.strip_prefix(WITHOUT_ID).unwrap_or_default()),
        };
        let wrong = || Undecryptable { place: place.into(), id: id.map(|id| format!(" ({id})")).unwrap_or_default() };
        let bytes = STANDARD.decode(text).ok().filter(|b| b.len() > NONCE).ok_or_else(wrong)?;
        let (nonce, sealed) = bytes.split_at(NONCE);
        let open =
            |known: &Arc<Known>| known.cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: place.as_bytes() }).ok();
        let opened = match id {
            Some(id) => self.find(id).as_ref().and_then(open),
            None => {
                let held = self.keys.read().unwrap_or_else(PoisonError::into_inner);
                held.kept.iter().chain(&held.before).find_map(open)
            }
        };
        opened.ok_or_else(wrong)
    }
}

/// Whether a value is sealed with the key of this id.
pub(super) fn is_sealed_with(id: &str, text: &str) -> bool {
    text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(id)).is_some_and(|rest| rest.starts_with(':'))
}

impl Known {
    fn of(key: Key) -> Arc<Self> {
        Arc::new(Self { id: id(&key), cipher: XChaCha20Poly1305::new(&key), key })
    }
}

/// Names a key and tells nothing of it: 16 hex digits of its digest.
fn id(key: &Key) -> String {
    let digest = Sha256::new().chain_update("autovibe: id of a key of Secrets\n").chain_update(key).finalize();
    hex::encode(&digest[..8])
}

fn new_key() -> Key {
    XChaCha20Poly1305::generate_key(&mut OsRng)
}

/// The keys of a file, one at least.
fn read(path: &Path) -> io::Result<Vec<Key>> {
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
fn write(path: &Path, keys: &[Key]) -> io::Result<()> {
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
