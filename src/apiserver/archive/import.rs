//! A Checkpoint from a file.
//!
//! The object is made first, and says what of it may come to lie where: so whoever deletes it destroys that too, however far it
//! came. It is Ready when all disks were received, are what the manifest says, and every sum is right; before that nothing can be
//! spawned from it. An import that fails deletes it; one whose process was killed is found by the controller, which says so.

use super::super::{Shared, negotiate::Encoding, query::Query, reply, route::Target, status::Status};
use super::{Sums, drivers, reader::Reader, refused};
use crate::api::checkpoint::{
    Archive, CheckpointPhase, CheckpointSpec, CheckpointStatus, FINALIZER, Import, Imported, Keep, Trigger, Volume,
};
use crate::api::meta::set_condition;
use crate::api::{Checkpoint, DEFAULT_HUB, Kind};
use crate::driver::Driver;
use crate::objects::{self, Objects};
use crate::proxmox::Node;
use crate::remote::archive::{BUNDLE, Begin, MANIFEST, MAX_MANIFEST, MAX_SUMS, Manifest, PIECE, SUMS, piece_name};
use crate::zfs::{Dataset, Snapshot};
use axum::{body::Body, response::Response};
use futures::TryStreamExt;
use serde_json::json;
use std::{io, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream};
use tokio_util::io::StreamReader;

/// Bytes between the client and `zfs receive`.
const BUFFER: usize = 256 << 10;
/// How long a failed import of the same name is waited for to be gone.
const GONE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
/// As for any bundle.
const MAX_BUNDLE: u64 = 65 << 20;

/// Where the disks come to lie.
pub(super) struct Place {
    hub: String,
    pub(super) driver: Driver,
    /// The Checkpoint that they build on, with the snapshot of each disk.
    pub(super) base: Option<(Checkpoint, Vec<Snapshot>)>,
}

pub(in crate::apiserver) async fn import(server: &Arc<Shared>, target: &Target, query: &Query, body: Body) -> Result<Response, Status> {
    if query.dry_run("CreateOptions")? {
        return Err(Status::bad_request("an import cannot be tried without being done"));
    }
    let (namespace, name) = (target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default());
    let (hub, node) = (query.get("hub").map(str::to_owned), query.get("node").map(|node| Node(node.to_owned())));
    let server = Arc::clone(server);
    // In a task of its own: it cleans up also when its client went away.
    let work = async move {
        let mut file = Reader::new(StreamReader::new(body.into_data_stream().map_err(io::Error::other)));
        let wrong = |why: String| Status::new(422, "Invalid", format!("checkpoint {name} is not imported: the file is not right: {why}"));
        let text = file.entry(MANIFEST, MAX_MANIFEST).await.map_err(wrong)?;
        let manifest = Manifest::read(&text).map_err(wrong)?;
        let drivers = drivers(&server).await?;
        if let Some(done) = before(&server.objects, &namespace, &name, &manifest).await? {
            return Ok((200, done));
        }
        // Not before: what is waited for to go would wait for this one.
        let _passing = server.door.enter(&namespace, &name);
        let place = place(&server.objects, &namespace, &name, &manifest, &drivers, hub.as_deref(), node).await?;
        let begun = begin(&server, &namespace, &name, &manifest, &place).await?;
        let uid = begun.uid().to_owned();
        match receive(&server, begun, &manifest, &text, &place, &mut file).await {
            Ok(done) => {
                tracing::info!("imported checkpoint {namespace}/{name} to node {}", place.driver.node());
                Ok((201, done))
            }
            Err(status) => Err(begun_failed(&server.objects, &namespace, &name, &uid, status).await),
        }
    };
    let (code, done) = tokio::spawn(work).await.map_err(|error| Status::internal(&error))??;
    Ok(reply::encoded(code, &serde_json::to_value(done).map_err(|error| Status::internal(&error))?, Encoding::Json))
}

/// What was begun is deleted again.
pub(super) async fn begun_failed(objects: &Objects, namespace: &str, name: &str, uid: &str, why: Status) -> Status {
    tracing::warn!("{}; it is deleted again", why.message);
    match objects.delete::<Checkpoint>(namespace, name, Some(uid)).await {
        Ok(()) | Err(objects::Error::NotFound { .. } | objects::Error::Conflict { .. }) => {}
        Err(error) => tracing::warn!("{error}; it is found by the controllers, and of no use to anyone before"),
    }
    why
}

fn archive_of(manifest: &Manifest) -> Archive {
    Archive {
        checkpoint: manifest.checkpoint.name.clone(),
        uid: manifest.checkpoint.uid.clone(),
        installation: manifest.installation.clone(),
    }
}

/// What has the name: the same one, imported before, is the answer; one whose import failed goes.
pub(super) async fn before(objects: &Objects, namespace: &str, name: &str, manifest: &Manifest) -> Result<Option<Checkpoint>, Status> {
    let Some(found) = objects.get::<Checkpoint>(namespace, name).await? else { return Ok(None) };
    let same = found.spec.import.as_ref().and_then(|import| import.archive.as_deref()) == Some(&archive_of(manifest));
    let phase = found.status.as_ref().map(|status| status.phase).unwrap_or_default();
    match (same, phase) {
        (true, CheckpointPhase::Ready) if !found.is_deleting() => return Ok(Some(found)),
        (true, CheckpointPhase::Failed) => match objects.delete::<Checkpoint>(namespace, name, Some(found.uid())).await {
            Ok(()) | Err(objects::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        },
        (true, _) if found.is_deleting() => {}
        _ => {
            let text =
                format!("checkpoint {name} exists in namespace {namespace}, and is not this one; import it under another name (--name)");
            return Err(Status { details: json!({"name": name, "kind": Checkpoint::PLURAL}), ..Status::new(409, "AlreadyExists", text) });
        }
    }
    let gone = async {
        while objects.get::<Checkpoint>(namespace, name).await?.is_some_and(|now| now.uid() == found.uid()) {
            objects.clock().sleep(LOOK).await;
        }
        Ok::<_, objects::Error>(())
    };
    match tokio::time::timeout(GONE, gone).await {
        Ok(gone) => Ok(gone.map(|()| None)?),
        Err(_) => {
            let text =
                format!("checkpoint {name}, of an import that failed, is still being deleted; `kubectl describe` says for what it waits");
            Err(Status::new(409, "Conflict", text))
        }
    }
}

/// The Hub that is named, or else the only one, or the one named default. Errors: words for people.
pub(super) fn hub_of(drivers: &[(String, Driver)], hub: Option<&str>) -> Result<(String, Driver), String> {
    let wanted = hub.unwrap_or_else(|| if let [(only, _)] = drivers { only } else { DEFAULT_HUB });
    let known = || drivers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let found = drivers.iter().find(|(name, _)| name == wanted).cloned();
    found.ok_or_else(|| format!("hub {wanted} cannot be used now; name one of {} with --hub", known()))
}

/// The node to receive on. Errors: 422 with what to name instead.
pub(super) async fn place(
    objects: &Objects,
    namespace: &str,
    name: &str,
    manifest: &Manifest,
    drivers: &[(String, Driver)],
    hub: Option<&str>,
    node: Option<Node>,
) -> Result<Place, Status> {
    let invalid = |why: String| Status::new(422, "Invalid", format!("checkpoint {name} is not imported: {why}"));
    let (hub, driver) = hub_of(drivers, hub).map_err(invalid)?;
    let at = async |node: &Node| driver.at(node).await.map_err(|error| refused(&format!("checkpoint {name} is not imported"), &error));
    let (all, _) = objects.list::<Checkpoint>(Some(namespace)).await?;
    let own = |checkpoint: &Checkpoint| checkpoint.status.clone().unwrap_or_default().volumes;
    let twin = |checkpoint: &&Checkpoint| own(checkpoint).iter().any(|volume| manifest.disks.iter().any(|disk| disk.guid == volume.guid));
    if let Some(twin) = all.iter().find(twin) {
        let text = format!("checkpoint {name} is not imported: its disks are here already, as checkpoint {}; spawn from that", twin.name());
        return Err(Status::new(409, "AlreadyExists", text));
    }
    let mut place = Place { hub, driver: driver.clone(), base: None };
    if let Some(node) = node {
        place.driver = at(&node).await?;
    }
    if let Some(since) = &manifest.since {
        let guids: Vec<&str> = manifest.disks.iter().filter_map(|disk| disk.since.as_deref()).collect();
        let is_base = |checkpoint: &&Checkpoint| {
            let status = checkpoint.status.clone().unwrap_or_default();
            let own: Vec<&str> = status.volumes.iter().map(|volume| volume.guid.as_str()).collect();
            status.phase == CheckpointPhase::Ready && !checkpoint.is_deleting() && own == guids
        };
        let base = all.iter().find(is_base).ok_or_else(|| {
            let since = since.name.escape_debug();
            invalid(format!("it holds what changed since checkpoint {since}, which is not in namespace {namespace}; import that first, or export this one whole"))
        })?;
        let status = base.status.clone().unwrap_or_default();
        let mut origins = Vec::new();
        for volume in &status.volumes {
            let here = at(&Node(volume.node.clone())).await?;
            let found = here.locate(volume, status.machine_uid.as_deref()).await;
            let found = found.map_err(|error| refused(&format!("checkpoint {name} is not imported"), &error))?;
            origins.push(
                found.ok_or_else(|| invalid(format!("the snapshots of its base {} are gone from node {}", base.name(), volume.node)))?,
            );
            place.driver = here;
        }
        place.base = Some((base.clone(), origins));
    }
    let volumes = place.driver.zfs.capabilities().volumes;
    if let Some(index) = manifest.disks.iter().position(|disk| disk.volume != volumes) {
        let word = |volume| if volume { "a volume" } else { "a file system, as zfs-fuse has it" };
        let text = format!("disks[{index}] is {}, and on node {} a disk is {}", word(!volumes), place.driver.node(), word(volumes));
        return Err(invalid(format!("{text}; import it on a Hub of the same kind")));
    }
    Ok(place)
}

/// The object, which says where its disks may come to lie.
pub(super) async fn begin(server: &Shared, namespace: &str, name: &str, manifest: &Manifest, place: &Place) -> Result<Checkpoint, Status> {
    let (objects, door) = (&server.objects, &server.door);
    let from = &manifest.checkpoint;
    let import = Import { archive: Some(Box::new(archive_of(manifest))), hub: Some(place.hub.clone()), image: None };
    let spec = CheckpointSpec {
        import: Some(import),
        trigger: Trigger::Import,
        description: from.description.clone(),
        keep: Keep::Policy,
        ..CheckpointSpec::default()
    };
    let mut checkpoint = Checkpoint::new(namespace, name, spec);
    checkpoint.metadata.finalizers = Some(vec![FINALIZER.into()]);
    let mut checkpoint = objects.create(&checkpoint).await?;
    door.passed("created").await;
    let volume = |(index, disk): (usize, &crate::remote::archive::Disk)| Volume {
        node: place.driver.node().0.clone(),
        dataset: place.driver.copy(checkpoint.uid(), index).0,
        snapshot: disk.snapshot.clone(),
        guid: disk.guid.clone(),
        referenced: disk.referenced,
        ..Volume::default()
    };
    let volumes = manifest.disks.iter().enumerate().map(volume).collect();
    let now = objects.clock().api_now();
    let message = format!("it is being imported to node {}", place.driver.node());
    let mut status = CheckpointStatus {
        observed_generation: Some(checkpoint.generation()),
        volumes,
        message: Some(message.clone()),
        parent: place.base.as_ref().map(|(base, _)| base.name().to_owned()),
        goal: from.goal.clone(),
        workspace: from.directory.clone(),
        session: from.session.clone(),
        quiescent: from.quiescent,
        captured_at: from.captured_at.clone(),
        digests: from.digests.clone(),
        imported: Some(Box::new(Imported {
            machine: from.machine.clone(),
            agent: from.agent.clone(),
            trigger: from.trigger,
            ancestors: from.ancestors.clone(),
        })),
        ..CheckpointStatus::default()
    };
    status.add_reasons(from.reasons.iter().cloned());
    set_condition(&mut status.conditions, checkpoint.generation(), &now, ("Ready", false, "Importing", &message));
    checkpoint.status = Some(status);
    let uid = checkpoint.uid().to_owned();
    match objects.update_status(&checkpoint).await {
        Ok(written) => {
            door.passed("said where").await;
            Ok(written)
        }
        Err(error) => {
            // Nothing lies anywhere yet.
            objects.delete::<Checkpoint>(namespace, name, Some(&uid)).await.ok();
            Err(error.into())
        }
    }
}

async fn receive<R: AsyncRead + Unpin + Send>(
    server: &Shared,
    checkpoint: Checkpoint,
    manifest: &Manifest,
    text: &[u8],
    place: &Place,
    file: &mut Reader<R>,
) -> Result<Checkpoint, Status> {
    let (name, door) = (checkpoint.name().to_owned(), &server.door);
    let wrong = |why: String| Status::new(422, "Invalid", format!("checkpoint {name} is not imported: the file is not right: {why}"));
    let failed = |error: crate::driver::Error| refused(&format!("checkpoint {name} is not imported"), &error);
    let mut sums = Sums::default();
    sums.add(MANIFEST, text);
    let mut bundle = None;
    if let Some(commit) = &manifest.workspace {
        let bytes = file.entry(BUNDLE, MAX_BUNDLE).await.map_err(wrong)?;
        sums.add(BUNDLE, &bytes);
        bundle = Some((commit.clone(), bytes));
    }
    let status = checkpoint.status.clone().unwrap_or_default();
    for (index, volume) in status.volumes.iter().enumerate() {
        let target = Dataset(volume.dataset.clone());
        let origin = place.base.as_ref().and_then(|(_, origins)| origins.get(index));
        let (writer, mut reader) = tokio::io::duplex(BUFFER);
        let receiving = async move {
            // It takes its end with it: who feeds it learns when it is over.
            place.driver.import_stream(&target, origin, &mut reader).await
        };
        let feeding = feed(file, index, &manifest.disks[index], writer, &mut sums);
        let (received, fed) = tokio::join!(receiving, feeding);
        match (fed, received) {
            (Err(Some(why)), _) => return Err(wrong(why)),
            (_, Err(error)) => return Err(failed(error)),
            (Err(None), Ok(())) => return Err(wrong(format!("disk-{index} goes on behind the end of its stream"))),
            (Ok(()), Ok(())) => {}
        }
        door.passed("received").await;
    }
    let claimed = file.entry(SUMS, MAX_SUMS).await.map_err(wrong)?;
    if claimed != sums.0.as_bytes() {
        let all = String::from_utf8_lossy(&claimed);
        let differs =
            sums.0.lines().zip(all.lines()).find(|(own, theirs)| own != theirs).map_or(SUMS, |(own, _)| own.get(66..).unwrap_or(SUMS));
        return Err(wrong(format!("the sum of {differs} is not what {SUMS} says: it was damaged or changed; export it again")));
    }
    for volume in &status.volumes {
        place.driver.accept_import(volume, checkpoint.uid(), door).await.map_err(failed)?;
    }
    let ready = finish(&server.objects, checkpoint, bundle).await?;
    door.passed("ready").await;
    Ok(ready)
}

/// How often the last write is tried that somebody else's came before, such as a label's.
const TRIES: usize = 5;

/// Writes that it is Ready, and the workspace, both or neither.
pub(super) async fn finish(objects: &Objects, mut checkpoint: Checkpoint, bundle: Option<(String, Vec<u8>)>) -> Result<Checkpoint, Status> {
    let bundle = bundle.map(Arc::new);
    for _ in 0..TRIES {
        let generation = checkpoint.generation();
        let status = checkpoint.status.get_or_insert_default();
        status.phase = CheckpointPhase::Ready;
        status.message = None;
        status.commit = bundle.as_ref().map(|bundle| bundle.0.clone());
        let told = ("Ready", true, "Imported", "its snapshots are received, verified and held");
        set_condition(&mut status.conditions, generation, &objects.clock().api_now(), told);
        let (uid, bundle) = (checkpoint.uid().to_owned(), bundle.clone());
        let written = objects.update_status_beside(&checkpoint, move |t| {
            Box::pin(async move {
                let Some(bundle) = bundle else { return Ok(()) };
                t.put_bundle(&uid, &bundle.0, None, &bundle.1).await
            })
        });
        match written.await {
            Err(objects::Error::Conflict { .. }) => {}
            written => return Ok(written?),
        }
        let now = objects.get::<Checkpoint>(checkpoint.namespace(), checkpoint.name()).await?;
        let now = now.filter(|now| now.uid() == checkpoint.uid() && !now.is_deleting());
        let gone = || Status::new(409, "Conflict", format!("checkpoint {} was deleted while it was imported", checkpoint.name()));
        checkpoint = now.ok_or_else(gone)?;
    }
    Err(Status::new(409, "Conflict", format!("checkpoint {} is being changed by others all the time", checkpoint.name())))
}

/// Passes the pieces of a disk on. Errors: what is wrong with them; `None` when nobody takes them any more.
async fn feed<R: AsyncRead + Unpin>(
    file: &mut Reader<R>,
    index: usize,
    disk: &crate::remote::archive::Disk,
    mut to: DuplexStream,
    sums: &mut Sums,
) -> Result<(), Option<String>> {
    let of_disk = format!("disk-{index}/");
    for number in 0.. {
        match file.peek().await? {
            Some((name, _)) if name.starts_with(&of_disk) => {}
            _ if number == 0 => return Err(Some(format!("disk-{index} has no stream"))),
            _ => return Ok(()),
        }
        let name = piece_name(index, number);
        let bytes = file.entry(&name, PIECE as u64).await?;
        if number == 0
            && let Some(why) = Begin::read(&bytes).and_then(|begin| begin.differs(disk))
        {
            return Err(Some(format!("the stream of disk-{index} {why}")));
        }
        sums.add(&name, &bytes);
        if to.write_all(&bytes).await.is_err() {
            return Err(None);
        }
    }
    Ok(())
}
