//! The Machines' tokens, by hash: which Machine a caller of the gateway is.

use super::{Error, Store, Transaction, connection::query};

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOwner {
    pub machine_uid: String,
    pub namespace: String,
    pub name: String,
    /// Where it was used first, by family; see `gateway::elsewhere`.
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
}

type Row = (String, String, String, Option<String>, Option<String>);

impl Store {
    /// The owner of the token with this SHA-256 (hex); `None` when there is none or it was revoked.
    pub async fn find_token(&self, hash: &str) -> Result<Option<TokenOwner>, Error> {
        let sql = "SELECT machine_uid, namespace, name, ipv4, ipv6 FROM tokens WHERE hash = $1";
        let row: Option<Row> = query(sql).bind(hash).fetch_optional(self.reader().await?.connection()).await?;
        Ok(row.map(|(machine_uid, namespace, name, ipv4, ipv6)| TokenOwner { machine_uid, namespace, name, ipv4, ipv6 }))
    }
}

impl Transaction<'_> {
    /// Makes the token with this SHA-256 (hex) valid for a Machine; its other tokens stay valid.
    pub async fn put_token(&mut self, hash: &str, machine_uid: &str, namespace: &str, name: &str) -> Result<(), Error> {
        let sql = "INSERT INTO tokens (hash, machine_uid, namespace, name) VALUES ($1, $2, $3, $4) ON CONFLICT (hash) DO NOTHING";
        query(sql).bind(hash).bind(machine_uid).bind(namespace).bind(name).execute(self.connection()).await?;
        Ok(())
    }

    /// Notes where a token is used, unless that is known; returns what is known then. One that was revoked meanwhile has no place.
    pub async fn bind_token(&mut self, hash: &str, address: &str, is_ipv4: bool) -> Result<String, Error> {
        let (update, select) = if is_ipv4 {
            ("UPDATE tokens SET ipv4 = $2 WHERE hash = $1 AND ipv4 IS NULL", "SELECT ipv4 FROM tokens WHERE hash = $1")
        } else {
            ("UPDATE tokens SET ipv6 = $2 WHERE hash = $1 AND ipv6 IS NULL", "SELECT ipv6 FROM tokens WHERE hash = $1")
        };
        query(update).bind(hash).bind(address).execute(self.connection()).await?;
        let row: Option<(Option<String>,)> = query(select).bind(hash).fetch_optional(self.connection()).await?;
        Ok(row.and_then(|(known,)| known).unwrap_or_default())
    }

    /// Ends every token of a Machine.
    pub async fn revoke_tokens(&mut self, machine_uid: &str) -> Result<(), Error> {
        query("DELETE FROM tokens WHERE machine_uid = $1").bind(machine_uid).execute(self.connection()).await?;
        Ok(())
    }
}
