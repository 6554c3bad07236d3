//! The Machines' tokens, by hash: which Machine a caller of the gateway is.

use super::{Error, Store, Transaction};

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOwner {
    pub machine_uid: String,
    pub namespace: String,
    pub name: String,
}

impl Store {
    /// The owner of the token with this SHA-256 (hex); `None` when there is none or it was revoked.
    pub async fn find_token(&self, _hash: &str) -> Result<Option<TokenOwner>, Error> {
        unimplemented!()
    }
}

impl Transaction<'_> {
    /// Makes the token with this SHA-256 (hex) valid for a Machine; its other tokens stay valid.
    pub async fn put_token(&mut self, _hash: &str, _machine_uid: &str, _namespace: &str, _name: &str) -> Result<(), Error> {
        unimplemented!()
    }

    /// Ends every token of a Machine.
    pub async fn revoke_tokens(&mut self, _machine_uid: &str) -> Result<(), Error> {
        unimplemented!()
    }
}
