//! The key of the Secrets is changed for another one while servers run, several on one database too.
//!
//! What all must agree on stands in the database, the [`Ring`]: which key is written with, and which servers have which. The
//! keys themselves are only in the servers' files. A change goes on from wherever it stands, whichever server or none was
//! killed meanwhile, for each step is one transaction, and each server does what is due:
//!
//! 1. A new key is in the file of one server, then in the ring as the next one. Nothing is sealed with it.
//! 2. Each server that has it in its file says so. Once all have, the next one becomes the one that is written with: each write
//!    reads that in its own transaction, so from this commit on nothing more is sealed with the old one.
//! 3. All that is stored is sealed anew, slice by slice, first objects and then the history. After that nothing is left of the
//!    old key's, and the ring says so.
//! 4. Each server takes all other keys from its file.

use super::{Error, Locked, Objects, seal};
use crate::store::{self, Expect, Key, Store, Transaction, rewrite::Place};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs::File, path::Path, time::Duration};

/// A burst of commits is looked at once.
const SETTLE: Duration = Duration::from_millis(500);
/// How often the key file is looked at while a key is to be put there, and the lock of it while another process has that.
const LOOK: Duration = Duration::from_secs(1);
/// How long what failed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the servers on one database agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ring {
    /// Id of the key that is written with.
    pub(super) writes: String,
    /// The one that will be, once all servers have it.
    pub(super) next: Option<String>,
    /// The one that was, of a change that is not at its end.
    pub(super) retiring: Option<String>,
    /// Whether it is proven that nothing in the database is sealed with any other key than `writes`.
    pub(super) sealed: bool,
    /// Servers that run, or were killed, and the ids of their keys.
    pub(super) servers: BTreeMap<String, Vec<String>>,
}

/// How far a change of the key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Id of the key that is written with.
    pub key: String,
    pub stage: Stage,
    /// What is in its way; it is tried again.
    pub trouble: Option<String>,
    /// Whether it began before it was asked for.
    pub resumed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// There is none under way: everything is sealed with the one key.
    Done,
    /// For these servers, whose files lack the next key.
    Waiting(Vec<String>),
    Sealing,
}

/// Names a server in the ring: the machine, and the directory of its key.
pub(super) fn server_name(key: &Path) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let directory = key.parent().map(|directory| directory.canonicalize().unwrap_or_else(|_| directory.into())).unwrap_or_default();
    format!("{}:{}", host.trim(), directory.display())
}

impl Ring {
    /// No resource of the API: clients see it nowhere.
    fn key() -> Key {
        Key::new("secretskeys.autovibe.dev", "", "ring")
    }

    fn of(document: Value) -> Result<Self, store::Error> {
        let Value::Object(mut document) = document else { return Err(store::Error::Corrupt("the ring of keys is no object".into())) };
        let ring = document.remove("ring").unwrap_or_default();
        serde_json::from_value(ring).map_err(|e| store::Error::Corrupt(format!("the ring of the Secrets' keys is damaged: {e}")))
    }

    /// `None` before the first server has joined.
    pub(super) async fn read(transaction: &mut Transaction<'_>) -> Result<Option<Self>, store::Error> {
        transaction.get(&Self::key()).await?.map(|object| Self::of(object.document)).transpose()
    }

    async fn look(store: &Store) -> Result<Option<Self>, store::Error> {
        store.get(&Self::key()).await?.map(|object| Self::of(object.document)).transpose()
    }

    /// Replaces it in one transaction; silent when nothing changes.
    pub(super) async fn change<E, F>(store: &Store, change: F) -> Result<Option<Self>, E>
    where
        E: From<store::Error> + Send + 'static,
        F: FnOnce(Option<Self>) -> Result<Option<Self>, E> + Send + 'static,
    {
        let work = store.write(move |transaction| {
            Box::pin(async move {
                let found = transaction.get(&Self::key()).await?;
                let expect = found.as_ref().map_or(Expect::Absent, |object| Expect::At(object.revision));
                let before = found.map(|object| Self::of(object.document)).transpose()?;
                let ring = change(before.clone())?;
                if let Some(ring) = ring.as_ref().filter(|ring| before.as_ref() != Some(*ring)) {
                    let document = json!({"metadata": {"name": "ring"}, "ring": ring});
                    transaction.put(&Self::key(), document, expect).await?;
                }
                Ok::<_, E>(ring)
            })
        });
        work.await
    }

    fn stage(&self) -> Stage {
        match &self.next {
            Some(next) => {
                Stage::Waiting(self.servers.iter().filter(|(_, held)| !held.contains(next)).map(|(name, _)| name.clone()).collect())
            }
            None if self.sealed => Stage::Done,
            None => Stage::Sealing,
        }
    }
}

impl Objects {
    /// How far a change of the key is.
    pub async fn rotation(&self) -> Result<Rotation, Locked> {
        let ring = Ring::look(&self.store).await?;
        let trouble = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Ok(match ring {
            Some(ring) => Rotation { stage: ring.stage(), key: ring.writes, trouble, resumed: false },
            None => Rotation { key: self.cipher.ids().swap_remove(0), stage: Stage::Done, trouble, resumed: false },
        })
    }

    /// Begins to change the key for a new one, or goes on with what was begun. Servers that `gone` names are waited for no
    /// more. A key that does not open everything changes nothing.
    pub async fn rotate(&self, gone: &[String]) -> Result<Rotation, Locked> {
        let under_way = |ring: &Ring| ring.next.is_some() || ring.retiring.is_some();
        let ring = Ring::look(&self.store).await?;
        let resumed = ring.as_ref().is_some_and(under_way);
        let mut new = None;
        let mut lock = None;
        if !resumed {
            self.verify().await?;
            // Until the ring names it: what it does not name would be taken from the file.
            lock = Some(self.lock_file().await?);
            new = Some(self.cipher.add()?);
        }
        let (ids, gone) = (self.cipher.ids(), gone.to_vec());
        let name = self.cipher.file().map(server_name);
        let ring = Ring::change(&self.store, move |ring| {
            // Without a ring what was first in the file was written with.
            let mut ring = ring.unwrap_or_else(|| Ring { writes: ids[usize::from(new.is_some())].clone(), ..Ring::default() });
            ring.servers.retain(|name, _| !gone.contains(name));
            ring.servers.extend(name.map(|name| (name, ids)));
            if !under_way(&ring) {
                ring.next = new;
            }
            Ok::<_, Locked>(Some(ring))
        })
        .await?;
        drop(lock);
        if let Some(Ring { next: Some(next), writes, .. }) = &ring {
            tracing::info!("the key of the Secrets is changed: {next} is to follow {writes}");
        }
        Ok(Rotation { resumed, ..self.rotation().await? })
    }

    /// Does what is due until everything is sealed with one key. Returns how many stored documents were sealed anew.
    ///
    /// Errors: `Waiting` is no error here: it goes on for ever, so nobody else may use the database.
    pub async fn finish_rotation(&self) -> Result<u64, Locked> {
        let mut count = 0;
        while self.advance(&mut count).await? != Stage::Done {
            self.clock.sleep(Duration::from_millis(50)).await;
        }
        Ok(count)
    }

    /// Takes part in changes of the key, until the store closes.
    pub async fn keep_keys(&self) {
        if self.cipher.file().is_none() {
            return std::future::pending().await;
        }
        let mut commits = self.store.news(&Ring::key().resource);
        let mut said = None;
        loop {
            commits.mark_unchanged();
            let mut count = 0;
            let done = self.advance(&mut count).await;
            if count > 0 {
                tracing::info!("{count} stored versions of Secrets were sealed with the key that is written with now");
            }
            let trouble = done.as_ref().err().map(ToString::to_string);
            if let Some(trouble) = trouble.as_ref().filter(|trouble| said.as_ref() != Some(*trouble)) {
                tracing::error!("the change of the Secrets' key waits, and is tried again every {} s: {trouble}", RETRY.as_secs());
            }
            said.clone_from(&trouble);
            *self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = trouble;
            match done {
                Ok(Stage::Done) => {
                    if commits.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                    self.clock.sleep(SETTLE).await;
                }
                Ok(_) => self.clock.sleep(LOOK).await,
                Err(_) => self.clock.sleep(RETRY).await,
            }
        }
    }

    /// Does what is due on this server. Without a ring nobody has joined, and nothing is.
    async fn advance(&self, count: &mut u64) -> Result<Stage, Locked> {
        let (Some(ring), Some(file)) = (Ring::look(&self.store).await?, self.cipher.file()) else { return Ok(Stage::Done) };
        let name = server_name(file);
        if ring.next.is_some() {
            self.cipher.reload()?;
        }
        let held = self.cipher.ids();
        let ring = if ring.servers.get(&name) == Some(&held) && ring.next.is_none() {
            ring
        } else {
            self.change_ring(move |ring| {
                ring.servers.insert(name, held);
                if let Some(next) = ring.next.take_if(|next| ring.servers.values().all(|held| held.contains(next))) {
                    ring.retiring = Some(std::mem::replace(&mut ring.writes, next));
                    ring.sealed = false;
                }
            })
            .await?
        };
        let ring = if ring.stage() == Stage::Sealing {
            *count += self.seal_anew(&ring.writes).await?;
            let writes = ring.writes;
            self.change_ring(move |ring| {
                // Another change may have come meanwhile, of which nothing is proven.
                if ring.writes == writes {
                    ring.sealed = true;
                    ring.retiring = None;
                }
            })
            .await?
        } else {
            ring
        };
        if ring.stage() == Stage::Done && self.cipher.ids() != [ring.writes.as_str()] {
            self.forget().await?;
        }
        Ok(ring.stage())
    }

    /// Changes the ring that there is.
    pub(super) async fn change_ring(&self, change: impl FnOnce(&mut Ring) + Send + 'static) -> Result<Ring, Locked> {
        let changed = Ring::change(&self.store, move |ring| {
            Ok::<_, Locked>(ring.map(|mut ring| {
                change(&mut ring);
                ring
            }))
        });
        Ok(changed.await?.unwrap_or_default())
    }

    /// Takes from the file what the ring, as it is then, does not name.
    async fn forget(&self) -> Result<(), Locked> {
        let _lock = self.lock_file().await?;
        let Some(ring) = Ring::look(&self.store).await? else { return Ok(()) };
        if ring.sealed && ring.retiring.is_none() {
            let named: Vec<&str> = std::iter::once(&ring.writes).chain(&ring.next).map(String::as_str).collect();
            self.cipher.reload()?;
            if self.cipher.ids().contains(&ring.writes) {
                self.cipher.keep(&named)?;
            }
        }
        Ok(())
    }

    /// Seals everything that is stored with one key, and returns how many documents that was new to.
    async fn seal_anew(&self, id: &str) -> Result<u64, Locked> {
        let (cipher, id) = (self.cipher.clone(), id.to_owned());
        self.each_stored(move |document| {
            if seal::is_wholly_sealed_with(&id, &document) {
                return Ok(None);
            }
            let plain = cipher.unseal_document(seal::SECRETS, document)?;
            let lacks = || store::Error::Unavailable(format!("the key {id} of the Secrets is not in this server's file"));
            cipher.seal_with(&id, plain).map(Some).ok_or_else(|| lacks().into())
        })
        .await
    }

    /// Opens everything, and changes nothing.
    async fn verify(&self) -> Result<(), Locked> {
        let cipher = self.cipher.clone();
        self.each_stored(move |document| cipher.unseal_document(seal::SECRETS, document).map(|_| None)).await.map(drop)
    }

    /// Slice by slice, so that others write between; returns how many documents `anew` replaced.
    async fn each_stored(
        &self,
        anew: impl Fn(Value) -> Result<Option<Value>, Error> + Clone + Send + Sync + 'static,
    ) -> Result<u64, Locked> {
        let (mut place, mut count) = (Some(Place::begin()), 0);
        while let Some(from) = place.take() {
            let anew = anew.clone();
            let work = self.store.write(move |transaction| Box::pin(async move { transaction.rewrite(seal::SECRETS, from, anew).await }));
            let (replaced, next) = work.await.map_err(|error| match error {
                Error::Store(store::Error::Corrupt(_)) => Locked::Wrong(error),
                Error::Store(error) => Locked::Store(error),
                other => Locked::Wrong(other),
            })?;
            count += replaced;
            place = next;
        }
        Ok(count)
    }

    /// Keeps other processes from changing the key file. Given back when dropped, and when this process ends.
    async fn lock_file(&self) -> Result<Option<File>, Locked> {
        let Some(path) = self.cipher.file() else { return Ok(None) };
        let file = File::options().create(true).append(true).open(path.with_added_extension("lock"))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(std::fs::TryLockError::WouldBlock) => self.clock.sleep(LOOK).await,
                Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
            }
        }
    }
}
