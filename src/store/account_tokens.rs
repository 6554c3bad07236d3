//! The ServiceAccounts' tokens: whose one is, and until when. Whether its account still exists is for the reader to see.

use super::{Error, Store, Transaction, connection::query};

/// A token that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountTokenRow {
    /// The part of the token that is no secret.
    pub id: String,
    /// SHA-256 of the whole token, hex.
    pub hash: String,
    pub account_uid: String,
    pub namespace: String,
    pub name: String,
    /// Seconds since 1970.
    pub expires_at: i64,
}

impl Store {
    /// The token with this id; `None` when there is none.
    pub async fn account_token(&self, id: &str) -> Result<Option<AccountTokenRow>, Error> {
        let sql = "SELECT id, hash, account_uid, namespace, name, expires_at FROM account_tokens WHERE id = $1";
        let row: Option<(String, String, String, String, String, i64)> =
            query(sql).bind(id).fetch_optional(self.reader().await?.connection()).await?;
        Ok(row.map(|(id, hash, account_uid, namespace, name, expires_at)| AccountTokenRow {
            id,
            hash,
            account_uid,
            namespace,
            name,
            expires_at,
        }))
    }
}

impl Transaction<'_> {
    /// Remembers a token, and forgets those that expired before `now` (seconds since 1970).
    pub async fn put_account_token(&mut self, row: &AccountTokenRow, now: i64) -> Result<(), Error> {
        query("DELETE FROM account_tokens WHERE expires_at <= $1").bind(now).execute(self.connection()).await?;
        let sql = "INSERT INTO account_tokens (id, hash, account_uid, namespace, name, expires_at) VALUES ($1, $2, $3, $4, $5, $6)";
        query(sql)
            .bind(&row.id)
            .bind(&row.hash)
            .bind(&row.account_uid)
            .bind(&row.namespace)
            .bind(&row.name)
            .bind(row.expires_at)
            .execute(self.connection())
            .await?;
        Ok(())
    }
}
