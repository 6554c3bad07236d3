//! That a server starts with the right key of the Secrets, and says which ones it has.

use super::{
    Cipher, Error, Objects,
    rotation::{Ring, server_name},
    seal::SECRETS,
};
use crate::clock::Clock;
use crate::store::{self, Query, Store};
use std::{io, path::Path};

/// Secrets that are tried with the key at start; one that does not open is enough.
const TRIED: u32 = 100;

/// Why a key was refused. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Locked {
    #[error("the key file {0} is missing, but the database holds Secrets; restore the file that belongs to this database")]
    Missing(String),
    #[error("the key file cannot be used: {0}")]
    File(#[from] io::Error),
    #[error("the key does not open what it should: {0}")]
    Wrong(Error),
    /// The servers on this database write with another one.
    #[error("Secrets are written with the key {id}, which is not in {file}; copy the secrets.key of another server on this database there")]
    Other { id: String, file: String },
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Objects {
    /// Objects whose Secrets the key file opens. The file is made when there is neither one nor a Secret. Until
    /// [`Self::leave`], a change of the key waits for this server.
    pub async fn unlock(store: Store, clock: Clock, key: &Path) -> Result<Self, Locked> {
        let tried = store.list(&Query { resource: SECRETS.into(), limit: TRIED, ..Query::default() }).await?.items;
        if !tried.is_empty() && !key.exists() {
            return Err(Locked::Missing(key.display().to_string()));
        }
        let objects = Self::new(store, clock, Cipher::load(key)?);
        let begins = tried.is_empty();
        for secret in tried {
            objects.unseal(SECRETS, secret.document).map_err(Locked::Wrong)?;
        }
        objects.join(begins, key).await?;
        Ok(objects)
    }

    /// Enters this server among those that have keys; refused when it lacks the one that is written with. Without any Secret
    /// (`begins`) its own key becomes that.
    async fn join(&self, begins: bool, key: &Path) -> Result<(), Locked> {
        let (ids, alone, file) = (self.cipher.ids(), self.store.is_alone(), key.display().to_string());
        let name = server_name(key);
        Ring::change(&self.store, move |ring| {
            let mut next = ring.unwrap_or_else(|| Ring { writes: ids[0].clone(), ..Ring::default() });
            if !ids.contains(&next.writes) {
                if !begins {
                    return Err(Locked::Other { id: next.writes, file });
                }
                next = Ring { writes: ids[0].clone(), ..Ring::default() };
            }
            if alone {
                next.servers.clear();
            }
            next.servers.insert(name, ids);
            Ok(Some(next))
        })
        .await
        .map(drop)
    }

    /// Takes this server from those that a change of the key waits for: it ends.
    pub async fn leave(&self) {
        let Some(file) = self.cipher.file() else { return };
        let name = server_name(file);
        if let Err(error) = self.change_ring(move |ring| drop(ring.servers.remove(&name))).await {
            tracing::warn!("a change of the Secrets' key may wait for this server, which has ended: {error}");
        }
    }
}
