//! The key of the Secrets over time: that a hub starts with the right one, and how it is changed for another.

use super::{
    Cipher, Error, Objects,
    cipher::{new_key, read, write},
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
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Objects {
    /// Objects whose Secrets the key file opens. The file is made when there is neither one nor a Secret.
    pub async fn unlock(store: Store, clock: Clock, key: &Path) -> Result<Self, Locked> {
        let tried = store.list(&Query { resource: SECRETS.into(), limit: TRIED, ..Query::default() }).await?.items;
        if !tried.is_empty() && !key.exists() {
            return Err(Locked::Missing(key.display().to_string()));
        }
        let objects = Self::new(store, clock, Cipher::load(key)?);
        for secret in tried {
            objects.unseal(SECRETS, secret.document).map_err(Locked::Wrong)?;
        }
        Ok(objects)
    }
}

/// What [`rotate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Stored documents that were encrypted anew, the history's among them.
    pub documents: u64,
    /// Whether it went on with one that was cut off before.
    pub resumed: bool,
}

/// Encrypts every Secret with a new key, the history's too, and forgets the old one.
///
/// The key file holds both while the database is rewritten, in one transaction; so wherever this is cut off, the file opens
/// what the database holds, and the next call goes on. A key that does not open everything leaves file and database alone.
pub async fn rotate(store: &Store, path: &Path) -> Result<Rotation, Locked> {
    let kept = read(path)?;
    let old = Cipher::of(&kept);
    verify(store, old).await?;
    let resumed = kept.len() > 1;
    let both = if resumed { kept } else { [vec![new_key()], kept].concat() };
    if !resumed {
        write(path, &both)?;
    }
    let cipher = Cipher::of(&both);
    let anew = move |document| Ok::<_, Error>(cipher.seal_document(SECRETS, cipher.unseal_document(SECRETS, document)?));
    let work = store.write(move |transaction| Box::pin(async move { transaction.rewrite(SECRETS, anew).await }));
    let documents = work.await.map_err(Locked::Wrong)?;
    write(path, &both[..1])?;
    Ok(Rotation { documents, resumed })
}

/// Opens everything, in a transaction that ends without a change.
async fn verify(store: &Store, cipher: Cipher) -> Result<(), Locked> {
    enum Verified {
        Whole,
        Failed(Error),
    }
    impl From<store::Error> for Verified {
        fn from(error: store::Error) -> Self {
            Self::Failed(error.into())
        }
    }
    let open = move |document: serde_json::Value| match cipher.unseal_document(SECRETS, document.clone()) {
        Ok(_) => Ok(document),
        Err(error) => Err(Verified::Failed(error)),
    };
    let work = store.write::<(), _, _>(move |transaction| {
        Box::pin(async move {
            transaction.rewrite(SECRETS, open).await?;
            Err(Verified::Whole)
        })
    });
    match work.await {
        Err(Verified::Failed(error)) => Err(Locked::Wrong(error)),
        Ok(()) | Err(Verified::Whole) => Ok(()),
    }
}
