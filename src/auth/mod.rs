//! Who is asking: bearer tokens against stored hashes. Pure; where tokens are kept is the caller's affair.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

#[cfg(test)]
mod tests;

/// The group that every authenticated user is in.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group that may do everything. Source: Kubernetes' RBAC, which it bypasses.
pub const MASTERS: &str = "system:masters";

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

/// Someone who proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
}

impl User {
    /// The owner of the hub, who holds its kubeconfig.
    pub fn admin() -> Self {
        Self { name: "admin".into(), uid: "admin".into(), groups: vec![MASTERS.into(), AUTHENTICATED.into()] }
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// What a request's credentials prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    User(User),
    /// None were given.
    Anonymous,
    /// Some were given, and they are wrong: refused even where anonymous is welcome.
    Rejected,
}

/// Judges an `Authorization` header.
pub fn authenticate(authorization: Option<&str>, admin: &TokenHash) -> Authentication {
    let Some(header) = authorization else {
        return Authentication::Anonymous;
    };
    match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && admin.matches(token.trim()) => {
            Authentication::User(User::admin())
        }
        _ => Authentication::Rejected,
    }
}
