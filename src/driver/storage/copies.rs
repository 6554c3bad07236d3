//! Snapshots on another node than the one they were taken on: `zfs send` there, through the hub, into `zfs receive` here.
//!
//! A received snapshot keeps its guid, and only that proves that it came whole; marks and hold follow. What was cut is continued
//! where ZFS can, and whoever is killed on the way finds by looking how far it came. A copy of a checkpoint's snapshot is
//! `<keep>/c-<checkpoint uid>-disk-<n>`, a dataset of its own, so that older and newer ones come and go in any order.

use super::{CHECKPOINT, HOLD, disk_index, is_marked, must_look};
use crate::driver::{Driver, Error};
use crate::proxmox::Node;
use crate::zfs::{self, Dataset, Properties, Snapshot, SnapshotInfo};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;
use tracing::{Instrument, info};

/// A stream's buffer between its two ends, bytes.
const BUFFER: usize = 1 << 20;
/// How many copies of a Hub are under way at once: each takes what the network has.
const AT_ONCE: usize = 2;
/// How long who asks for a copy waits for it; then it goes on by itself, and is asked for again.
const SLICE: Duration = Duration::from_secs(1);
/// How many origins back a common ancestor is looked for.
const GENERATIONS: usize = 8;

/// A copy to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// On the other node.
    pub source: Snapshot,
    /// Decimal.
    pub guid: String,
    /// Here. Its snapshot is called as the source is.
    pub target: Dataset,
    /// What is set on the dataset when it is whole: what makes it ours.
    pub marks: Properties,
    /// What is set on the snapshot.
    pub snapshot_marks: Properties,
    pub base: Base,
}

/// What a copy builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// The newest snapshot before it that both nodes have; nothing, where there is none.
    Nearest,
    Nothing,
    /// This one, there and here.
    Only {
        there: Snapshot,
        here: Snapshot,
    },
}

type Copying = Shared<BoxFuture<'static, Result<(), Arc<Error>>>>;

/// The copies of a Hub that are under way; cheap to clone.
#[derive(Clone)]
pub struct Copies {
    running: Arc<Mutex<BTreeMap<(Node, Dataset), Copying>>>,
    places: Arc<Semaphore>,
    /// Manifests of exports are written one after the other.
    pub(super) sealing: Arc<tokio::sync::Mutex<()>>,
}

impl Default for Copies {
    fn default() -> Self {
        Self { running: Arc::default(), places: Arc::new(Semaphore::new(AT_ONCE)), sealing: Arc::default() }
    }
}

impl Driver {
    /// Name of the copy of a checkpoint's snapshot of disk `index`.
    pub fn copy(&self, checkpoint_uid: &str, index: usize) -> Dataset {
        Dataset(format!("{}/c-{checkpoint_uid}-disk-{index}", self.connection().keep))
    }

    /// Makes a copy here of what is on another node, in a task of its own, which all that ask for it share; `None` while it goes on.
    ///
    /// Errors: `Missing` when the source is not there any more; `Conflict` when something else has that name.
    pub async fn receive(&self, from: &Self, wanted: Wanted) -> Option<Result<(), Error>> {
        let key = (self.node().clone(), wanted.target.clone());
        let running = || self.copies.running.lock().unwrap_or_else(PoisonError::into_inner);
        let copying = {
            let start = || {
                let (here, from, places) = (self.clone(), from.clone(), self.copies.places.clone());
                let work = async move {
                    let _place = places.acquire_owned().await;
                    here.receive_now(&from, &wanted).await.map_err(Arc::new)
                };
                let copying = work.boxed().shared();
                tokio::spawn(copying.clone().map(drop).in_current_span());
                copying
            };
            running().entry(key.clone()).or_insert_with(start).clone()
        };
        let outcome = tokio::time::timeout(SLICE, copying).await.ok()?;
        running().remove(&key);
        Some(outcome.map_err(|error| again(&error)))
    }

    async fn receive_now(&self, from: &Self, wanted: &Wanted) -> Result<(), Error> {
        let Wanted { source, guid, target, .. } = wanted;
        let arrived = Snapshot { dataset: target.clone(), name: source.name.clone() };
        if self.is_here(&arrived, guid).await? {
            return self.finish(&arrived, wanted).await;
        }
        match from.zfs.snapshot_info(source).await? {
            Some(info) if info.guid == *guid => {}
            _ => return Err(Error::Missing(format!("{source} (guid {guid}) does not exist any more on node {}", from.node()))),
        }
        if let Some((parent, _)) = target.0.rsplit_once('/') {
            self.zfs.create_parent(&Dataset(parent.to_owned())).await?;
        }
        let outcome = match self.zfs.dataset(target).await? {
            Some(_) => self.go_on(from, target).await,
            None => {
                let base = match &wanted.base {
                    Base::Nearest => self.common(from, source).await?,
                    Base::Nothing => None,
                    Base::Only { there, here } => Some((there.clone(), here.clone())),
                };
                info!(zfs.dataset = %target, "copying {source} from node {} to {}{}", from.node(), self.node(), of(base.as_ref()));
                self.pipe(from, source, base.as_ref(), target).await
            }
        };
        if self.is_here(&arrived, guid).await? {
            return self.finish(&arrived, wanted).await;
        }
        outcome?;
        Err(Error::Unknown(format!("{source} was sent to node {}, but {arrived} is not there now", self.node())))
    }

    /// Whether the snapshot is whole here. Errors: `Conflict` when another one has its name.
    pub(super) async fn is_here(&self, arrived: &Snapshot, guid: &str) -> Result<bool, Error> {
        match self.zfs.snapshot_info(arrived).await? {
            Some(info) if info.guid == guid => Ok(true),
            Some(info) => {
                Err(Error::Conflict(format!("{arrived} exists on node {}, but has guid {} and not {guid}", self.node(), info.guid)))
            }
            None => Ok(false),
        }
    }

    /// Hold and marks of what is whole; the dataset's last, by which it is known as ours.
    pub(super) async fn finish(&self, arrived: &Snapshot, wanted: &Wanted) -> Result<(), Error> {
        self.zfs.hold(HOLD, std::slice::from_ref(arrived)).await?;
        for (property, value) in &wanted.snapshot_marks {
            self.zfs.mark_snapshot(arrived, property, value).await?;
        }
        for (property, value) in &wanted.marks {
            self.zfs.mark(&arrived.dataset, property, value).await?;
        }
        Ok(())
    }

    /// Continues a receive that was cut. One whose rest cannot be had any more is given up, and begun anew the next time.
    async fn go_on(&self, from: &Self, target: &Dataset) -> Result<(), Error> {
        let Some(token) = self.zfs.resume_token(target).await? else {
            return Err(Error::InUse(format!(
                "{target} on node {} is being received, or is what is left of that; if nothing receives it, `zfs destroy {target}`",
                self.node()
            )));
        };
        info!(zfs.dataset = %target, "going on with what came from node {}", from.node());
        let (mut writer, reader) = tokio::io::duplex(BUFFER);
        let sending = async move { from.zfs.send_rest(&token, &mut writer).await };
        let outcome = joined(sending, self.take(target, None, reader)).await;
        if let Err(zfs::Error::Other(text)) = &outcome
            && text.contains("cannot resume send")
        {
            self.zfs.abort_receive(target).await?;
            return Err(Error::Unknown(format!("what came of {target} cannot be continued ({text}); it is begun anew")));
        }
        outcome.map_err(Error::from)
    }

    /// Sends and receives; `base` is what both have, there and here.
    async fn pipe(&self, from: &Self, source: &Snapshot, base: Option<&(Snapshot, Snapshot)>, target: &Dataset) -> Result<(), Error> {
        let (mut writer, reader) = tokio::io::duplex(BUFFER);
        let sending = async move { from.zfs.send(source, base.map(|(there, _)| there), &mut writer).await };
        Ok(joined(sending, self.take(target, base.map(|(_, here)| here), reader)).await?)
    }

    /// Takes the reader with it: a receive that fails ends what is sent to it.
    async fn take(&self, target: &Dataset, origin: Option<&Snapshot>, mut reader: tokio::io::DuplexStream) -> Result<(), zfs::Error> {
        match origin {
            Some(origin) => self.zfs.receive_onto(origin, target, &mut reader).await,
            None => self.zfs.receive(target, &mut reader).await,
        }
    }

    /// The newest snapshot before `source` that is on both nodes, with its names there and here: of its own disk, or of what that
    /// is a clone of. What is here is looked for under the names that it can have, and known by its guid.
    async fn common(&self, from: &Self, source: &Snapshot) -> Result<Option<(Snapshot, Snapshot)>, Error> {
        let keep = &self.connection().keep;
        let kept: BTreeSet<Dataset> = self.zfs.datasets(keep).await?.into_iter().map(|found| found.name).collect();
        // Below the checkpoint trees names are the same; a disk of a VM is of its node alone.
        let (theirs, storage) = (format!("{}/", from.connection().keep), format!("{}/", from.connection().dataset));
        let called = |there: &Dataset| match there.0.strip_prefix(&theirs) {
            Some(rest) => Some(Dataset(format!("{keep}/{rest}"))).filter(|name| kept.contains(name)),
            None => (!there.0.starts_with(&storage)).then(|| there.clone()),
        };
        let index = disk_index(&source.dataset).unwrap_or_default();
        let names = |there: &Snapshot| {
            let copied = there.name.strip_prefix("av-").map(|uid| self.copy(uid, index as usize)).filter(|name| kept.contains(name));
            let names = copied.into_iter().chain(called(&there.dataset));
            names.map(|dataset| Snapshot { dataset, name: there.name.clone() }).collect::<Vec<_>>()
        };
        let mut at = source.clone();
        for generation in 0..GENERATIONS {
            let mut earlier = match from.zfs.snapshots(&at.dataset).await {
                Ok(earlier) => earlier,
                // What someone's image is a clone of is none of ours.
                Err(zfs::Error::Refused(_)) if generation > 0 => break,
                Err(error) => return Err(error.into()),
            };
            let until = earlier.iter().find(|info| info.name == at).map_or(0, |info| info.createtxg);
            earlier.retain(|info| info.createtxg <= until && info.name != *source);
            earlier.sort_by_key(|info| std::cmp::Reverse(info.createtxg));
            // Old ZFS sends to a new dataset only what a clone has that its origin has not.
            let usable = |info: &SnapshotInfo| self.zfs.capabilities().resumable || (generation == 1 && info.name == at);
            for info in earlier.iter().filter(|info| usable(info)) {
                for here in names(&info.name) {
                    if self.zfs.snapshot_info(&here).await?.is_some_and(|found| found.guid == info.guid) {
                        return Ok(Some((info.name.clone(), here)));
                    }
                }
            }
            match from.zfs.dataset(&at.dataset).await?.and_then(|found| found.origin) {
                Some(origin) => at = origin,
                None => break,
            }
        }
        Ok(None)
    }

    /// Destroys a copy of a checkpoint's snapshot here, or what came of it; fine when there is none. It goes only if its name says
    /// that it is this checkpoint's, and its snapshot's guid or mark too. Errors: `InUse` when something needs it.
    pub async fn discard_copy(&self, copy: &Dataset, snapshot: &str, guid: &str, checkpoint_uid: &str) -> Result<(), Error> {
        let index = disk_index(copy).and_then(|index| usize::try_from(index).ok());
        if index.is_none_or(|index| self.copy(checkpoint_uid, index) != *copy) {
            return Err(Error::Conflict(format!("{copy} is not named like a copy for checkpoint {checkpoint_uid}")));
        }
        let Some(found) = self.zfs.dataset(copy).await? else { return Ok(()) };
        let arrived = Snapshot { dataset: copy.clone(), name: snapshot.to_owned() };
        match self.zfs.snapshot_info(&arrived).await? {
            Some(info) if info.guid != guid => {
                return Err(Error::Conflict(format!("{arrived} has guid {} and not {guid}: it is not the copy that was made", info.guid)));
            }
            Some(info) if info.holds > 1 => {
                return Err(Error::InUse(format!("{arrived} is held by something else; `zfs holds {arrived}` says by what")));
            }
            Some(_) => {
                // Whoever made it was ended before it was marked: its name and guid prove what it is.
                self.zfs.mark_snapshot(&arrived, CHECKPOINT, checkpoint_uid).await?;
                self.zfs.mark(copy, CHECKPOINT, checkpoint_uid).await?;
                self.release_and_destroy(&arrived, guid).await?;
            }
            None if is_marked(&found.properties, CHECKPOINT, checkpoint_uid) => {}
            None if self.zfs.resume_token(copy).await?.is_some() => return Ok(self.zfs.abort_receive(copy).await?),
            None => return Err(Error::InUse(format!("{copy} on node {} is being received", self.node()))),
        }
        self.destroy_empty(copy).await
    }

    /// Ends our hold on a snapshot and destroys it. If it stays, its hold does too: that is what keeps others from destroying it.
    pub(super) async fn release_and_destroy(&self, snapshot: &Snapshot, guid: &str) -> Result<(), Error> {
        let one = std::slice::from_ref(snapshot);
        self.zfs.release(HOLD, one).await?;
        match self.zfs.destroy_snapshot(snapshot).await {
            Ok(()) => Ok(()),
            Err(error) if must_look(&error) && self.look(snapshot, guid).await?.is_none() => Ok(()),
            Err(error) => {
                self.zfs.hold(HOLD, one).await?;
                match error {
                    zfs::Error::HasClones(_) => Err(Error::InUse(format!("{snapshot} has clones"))),
                    zfs::Error::Held(_) => Err(Error::InUse(format!("{snapshot} is held by something else"))),
                    error => Err(error.into()),
                }
            }
        }
    }
}

/// Both ends of a stream. Where one fails the other does too, and the first cause is told: not the pipe that broke.
async fn joined(
    sending: impl Future<Output = Result<(), zfs::Error>>,
    receiving: impl Future<Output = Result<(), zfs::Error>>,
) -> Result<(), zfs::Error> {
    match tokio::join!(sending, receiving) {
        (Err(sent), Ok(())) => Err(sent),
        (Ok(()) | Err(zfs::Error::Unknown(_)), received) => received,
        (Err(sent), Err(_)) => Err(sent),
    }
}

fn of(base: Option<&(Snapshot, Snapshot)>) -> String {
    base.map_or(String::new(), |(there, _)| format!(", what changed since {there}"))
}

/// The same error once more, for each that waited for it.
fn again(error: &Error) -> Error {
    match error {
        Error::Conflict(why) => Error::Conflict(why.clone()),
        Error::Missing(why) => Error::Missing(why.clone()),
        Error::InUse(why) => Error::InUse(why.clone()),
        Error::Settings(why) => Error::Settings(why.clone()),
        Error::Zfs(zfs::Error::OutOfSpace(why)) => Error::Zfs(zfs::Error::OutOfSpace(why.clone())),
        Error::Zfs(zfs::Error::Refused(why)) => Error::Zfs(zfs::Error::Refused(why.clone())),
        other => Error::Unknown(other.to_string()),
    }
}
