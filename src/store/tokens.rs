//! The Machines' tokens, by hash: which Machine a caller of the gateway is.

use super::{Error, Store, Transaction, connection::query};

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOwner {
    pub machine_uid: String,
    pub namespace: String,
    pub name: String,
}

impl Store {
    /// The owner of the token with this SHA-256 (hex); `None` when there is none or it was revoked.
    pub async fn find_token(&self, hash: &str) -> Result<Option<TokenOwner>, Error> {
        let sql = "SELECT machine_uid, namespace, name FROM tokens WHERE hash = $1";
        let row: Option<(String, String, String)> = query(sql).bind(hash).fetch_optional(self.reader().await?.connection()).await?;
        Ok(row.map(|(machine_uid, namespace, name)| TokenOwner { machine_uid, namespace, name }))
    }
}

impl Transaction<'_> {
    /// Makes the token with this SHA-256 (hex) valid for a Machine; its other tokens stay valid.
    pub async fn put_token(&mut self, hash: &str, machine_uid: &str, namespace: &str, name: &str) -> Result<(), Error> {
        let sql = "INSERT INTO tokens (hash, machine_uid, namespace, name) VALUES ($1, $2, $3, $4) ON CONFLICT (hash) DO NOTHING";
        query(sql).bind(hash).bind(machine_uid).bind(namespace).bind(name).execute(self.connection()).await?;
        Ok(())
    }

    /// Ends every token of a Machine.
    pub async fn revoke_tokens(&mut self, machine_uid: &str) -> Result<(), Error> {
        query("DELETE FROM tokens WHERE machine_uid = $1").bind(machine_uid).execute(self.connection()).await?;
        Ok(())
    }
}
