//! A Checkpoint from a dataset of another pool: what was exported there, copied into the Hub's own checkpoint tree.
//!
//! As from a file, the object is made first, and Ready last. What lies there may be of any namespace of any hub: who imports it must be
//! one who may import into the namespace of that name.

use super::super::{Shared, negotiate::Encoding, query::Query, reply, route::Target, status::Status};
use super::import::{Place, before, begin, begun_failed, finish, hub_of, place};
use super::{drivers, refused};
use crate::api::{Checkpoint, Kind};
use crate::auth::{Action, User, What};
use crate::driver::Driver;
use crate::driver::storage::{Exports, Passage, Sealed, exported_disk};
use crate::proxmox::Node;
use crate::remote::archive::{Disk, Manifest};
use crate::zfs::{Dataset, Snapshot};
use axum::response::Response;
use std::sync::Arc;

/// In place of a name: as it is called in the manifest.
const AS_THERE: &str = "-";

/// A checkpoint that lies there whole.
pub(super) struct Found {
    pub(super) manifest: Manifest,
    /// Each with what the manifest says of it.
    pub(super) disks: Vec<(Snapshot, Disk)>,
}

/// `POST …/checkpoints/NAME/import?fromPool=DATASET`
pub(in crate::apiserver) async fn import_from_pool(
    server: &Arc<Shared>,
    target: &Target,
    query: &Query,
    user: &User,
    action: &Action,
) -> Result<Response, Status> {
    if query.dry_run("CreateOptions")? {
        return Err(Status::bad_request("an import cannot be tried without being done"));
    }
    let (namespace, name) = (target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default());
    let pool = query.get("fromPool").unwrap_or_default();
    let (hub, node) = (query.get("hub").map(str::to_owned), query.get("node").map(|node| Node(node.to_owned())));
    let failed = format!("nothing is imported from {}", pool.escape_debug());
    let drivers = drivers(server).await?;
    let (_, driver) = hub_of(&drivers, hub.as_deref()).map_err(|why| Status::new(422, "Invalid", format!("{failed}: {why}")))?;
    let root = driver.listed_export(pool).map_err(|error| refused(&failed, &error))?;
    let from = driver.with_export(&root).await.map_err(|error| refused(&failed, &error))?;
    let all = all(&from, &root, &failed).await?;
    let mut seen = Vec::new();
    let mut broken = Vec::new();
    for one in all {
        match one {
            Ok(found) if server.access.authorize(user, &within(action, &found.manifest.checkpoint.namespace)).await.is_ok() => {
                seen.push(found);
            }
            Ok(_) => {}
            Err(why) => broken.push(why),
        }
    }
    let found =
        chosen(seen, &broken, query.get("checkpoint"), &root).map_err(|why| Status::new(422, "Invalid", format!("{failed}: {why}")))?;
    // A copy on the same node goes through no network.
    let node = node.or_else(|| Some(from.node().clone()));
    let name = if name == AS_THERE { found.manifest.checkpoint.name.clone() } else { name };
    let server = Arc::clone(server);
    // In a task of its own: it cleans up also when its client went away.
    let work = async move {
        if let Some(done) = before(&server.objects, &namespace, &name, &found.manifest).await? {
            return Ok((200, done));
        }
        // Not before: what is waited for to go would wait for this one.
        let _passing = server.door.enter(&namespace, &name);
        let place = place(&server.objects, &namespace, &name, &found.manifest, &drivers, hub.as_deref(), node).await?;
        let begun = begin(&server, &namespace, &name, &found.manifest, &place).await?;
        let uid = begun.uid().to_owned();
        match receive(&server, begun, &found, &from, &place).await {
            Ok(done) => {
                tracing::info!("imported checkpoint {namespace}/{name} from {root} to node {}", place.driver.node());
                Ok((201, done))
            }
            Err(status) => Err(begun_failed(&server.objects, &namespace, &name, &uid, status).await),
        }
    };
    let (code, done) = tokio::spawn(work).await.map_err(|error| Status::internal(&error))??;
    Ok(reply::encoded(code, &serde_json::to_value(done).map_err(|error| Status::internal(&error))?, Encoding::Json))
}

/// The same action in another namespace, on any object.
fn within(action: &Action, there: &str) -> Action {
    let mut action = action.clone();
    if let What::Resource { namespace, .. } = &mut action.what {
        there.clone_into(namespace);
    }
    action
}

/// The one that was named, by name or uid; without a word, the only one. Errors: words for people.
fn chosen(mut all: Vec<Found>, broken: &[String], word: Option<&str>, root: &Dataset) -> Result<Found, String> {
    let line = |found: &Found| {
        let it = &found.manifest.checkpoint;
        format!("{} (namespace {}, uid {})", it.name.escape_debug(), it.namespace.escape_debug(), it.uid.escape_debug())
    };
    let list = |all: &[Found]| all.iter().map(line).collect::<Vec<_>>().join(", ");
    let is = |found: &Found, word: &str| found.manifest.checkpoint.name == word || found.manifest.checkpoint.uid == word;
    let whole = list(&all);
    all.retain(|found| word.is_none_or(|word| is(found, word)));
    let hint = if broken.is_empty() { String::new() } else { format!("; not whole: {}", broken.join(", ")) };
    match (all.len(), word) {
        (1, _) => Ok(all.remove(0)),
        (0, Some(word)) if !whole.is_empty() => {
            Err(format!("no whole checkpoint {} is there; there are {whole}{hint}", word.escape_debug()))
        }
        (0, _) => Err(format!("no whole checkpoint that you may import is in {root}{hint}")),
        (_, Some(_)) => Err(format!("several have that name; give the uid of one: {}", list(&all))),
        (_, None) => Err(format!("there are several; name one: {}{hint}", list(&all))),
    }
}

/// All that was exported there; of what is not whole, why. Errors: it could not be read.
async fn all(there: &Driver, root: &Dataset, failed: &str) -> Result<Vec<Result<Found, String>>, Status> {
    let exports = there.exports(root).await.map_err(|error| refused(failed, &error))?;
    Ok(exports.sealed.iter().map(|sealed| read(sealed, &exports, root).map_err(|why| format!("{} ({why})", sealed.disk))).collect())
}

/// Those that are whole.
pub(super) async fn whole(there: &Driver, root: &Dataset, failed: &str) -> Result<Vec<Found>, Status> {
    Ok(all(there, root, failed).await?.into_iter().flatten().collect())
}

fn read(sealed: &Sealed, exports: &Exports, root: &Dataset) -> Result<Found, String> {
    let manifest = Manifest::read(sealed.manifest.as_ref().map_err(Clone::clone)?)?;
    let uid = &manifest.checkpoint.uid;
    if exported_disk(root, uid, 0) != sealed.disk {
        return Err("its manifest is of another checkpoint".into());
    }
    let disks = manifest.disks.iter().enumerate().map(|(index, disk)| {
        let snapshot = Snapshot { dataset: exported_disk(root, uid, index), name: disk.snapshot.clone() };
        if exports.has(&snapshot, &disk.guid) {
            Ok((snapshot, disk.clone()))
        } else {
            Err(format!("it has no {snapshot} of guid {}", disk.guid))
        }
    });
    let disks = disks.collect::<Result<_, _>>()?;
    Ok(Found { manifest, disks })
}

async fn receive(server: &Shared, checkpoint: Checkpoint, found: &Found, from: &Driver, place: &Place) -> Result<Checkpoint, Status> {
    let (name, door) = (checkpoint.name().to_owned(), &server.door);
    let failed = |error: crate::driver::Error| refused(&format!("checkpoint {name} is not imported"), &error);
    let bases = match &found.manifest.since {
        Some(_) => bases(found, from).await.map_err(failed)?,
        None => Vec::new(),
    };
    let origins = place.base.as_ref().map(|(_, origins)| origins.clone()).unwrap_or_default();
    let status = checkpoint.status.clone().unwrap_or_default();
    for (index, (snapshot, disk)) in found.disks.iter().enumerate() {
        let Some(volume) = status.volumes.get(index) else { break };
        let target = Dataset(volume.dataset.clone());
        let base = bases.get(index).cloned().zip(origins.get(index).cloned());
        let passage = Passage { source: snapshot, guid: &disk.guid, target: &target, checkpoint_uid: checkpoint.uid(), base };
        place.driver.import_disk(from, passage).await.map_err(failed)?;
        door.passed("received").await;
    }
    let ready = finish(&server.objects, checkpoint, None).await?;
    door.passed("ready").await;
    Ok(ready)
}

/// What each disk builds on there: what it is a clone of.
async fn bases(found: &Found, from: &Driver) -> Result<Vec<Snapshot>, crate::driver::Error> {
    let mut bases = Vec::new();
    for (snapshot, disk) in &found.disks {
        bases.push(from.in_the_past_of(snapshot, disk.since.as_deref().unwrap_or_default()).await?);
    }
    Ok(bases)
}
