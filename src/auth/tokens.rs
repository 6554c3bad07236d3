//! Bearer tokens: how they are read, made and compared. A server keeps hashes alone.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 of a token: the only form in which a server keeps one. A plain hash is enough, since tokens are 256 random bits.
#[derive(Clone, Debug)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Reads what [`TokenHash::to_hex`] wrote; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::decode(text.trim()).ok()?.try_into().ok().map(Self)
    }

    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Whether `token` is the one; takes the same time wherever they differ.
    pub fn matches(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

/// Begins the tokens of ServiceAccounts, so that secret scanners and people know one.
const PREFIX: &str = "av-sa-";
/// Hex digits of the part by which a token is found.
const ID: usize = 16;
/// Hex digits of the part that is secret.
const SECRET: usize = 64;

/// A ServiceAccount's token: an id, by which its hash is found, and 256 random bits. Looking up the id says nothing of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountToken<'t> {
    pub id: &'t str,
    pub text: &'t str,
}

impl<'t> AccountToken<'t> {
    /// The text of a new one.
    pub fn write(id: [u8; ID / 2], secret: [u8; SECRET / 2]) -> String {
        format!("{PREFIX}{}-{}", hex::encode(id), hex::encode(secret))
    }

    /// Reads one; `None` for what has another form.
    pub fn parse(text: &'t str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('-')?;
        let hex = |part: &str, length| part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (hex(id, ID) && hex(secret, SECRET)).then_some(Self { id, text })
    }
}

/// The token of an `Authorization` header; `None` when it holds none.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}
