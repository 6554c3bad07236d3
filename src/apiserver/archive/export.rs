//! A Checkpoint to a file.

use super::super::{Shared, query::Query, reply, route::Target, status::Status};
use super::{Sums, drivers, refused};
use crate::api::checkpoint::{Ancestor, CheckpointPhase, Volume};
use crate::api::{Checkpoint, Kind, Machine};
use crate::driver::{Driver, Passing};
use crate::git::Workspace;
use crate::objects::Objects;
use crate::proxmox::Node;
use crate::remote::archive::{BLOCK, BUNDLE, Disk, Exported, FORMAT, MANIFEST, Manifest, PIECE, SUMS, Since, header, padding, piece_name};
use crate::zfs::Snapshot;
use axum::{body::Body, response::Response};
use std::{collections::BTreeSet, io, sync::Arc};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_util::io::ReaderStream;

/// Bytes between `zfs send` and the client.
const BUFFER: usize = 256 << 10;
/// More ancestors than any lineage that is of use to people.
const ANCESTORS: usize = 1000;

/// A disk, and where it is read.
pub(super) struct Source {
    pub(super) driver: Driver,
    pub(super) snapshot: Snapshot,
    pub(super) base: Option<Snapshot>,
}

/// A checkpoint that can be exported, and stays until this is dropped.
pub(super) struct Opened {
    pub(super) checkpoint: Checkpoint,
    pub(super) since: Option<Checkpoint>,
    pub(super) sources: Vec<Source>,
    pub(super) disks: Vec<Disk>,
    _passing: Passing,
}

impl Opened {
    /// Finds what is asked for, and where its disks are.
    pub(super) async fn find(server: &Shared, target: &Target, query: &Query) -> Result<Self, Status> {
        let (namespace, name) = (target.namespace.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default());
        let found = server.objects.get::<Checkpoint>(namespace, name).await?;
        found.ok_or_else(|| Status::not_found(&target.entry.name(), name))?;
        let drivers = drivers(server).await?;
        // Before it is looked at: what is Ready then stays until it is read.
        let passing = server.door.enter(namespace, name);
        let checkpoint = ready(&server.objects, target, namespace, name).await?;
        let since = match query.get("since") {
            Some(since) => Some(ready(&server.objects, target, namespace, since).await?),
            None => None,
        };
        let (sources, disks) = sources(&checkpoint, since.as_ref(), &drivers).await?;
        Ok(Self { checkpoint, since, sources, disks, _passing: passing })
    }

    /// `workspace` is the commit of what goes with it.
    pub(super) async fn manifest(&self, objects: &Objects, workspace: Option<String>) -> Result<Manifest, Status> {
        Ok(Manifest {
            format_version: FORMAT,
            autovibe: env!("CARGO_PKG_VERSION").into(),
            installation: objects.store().installation().to_owned(),
            checkpoint: exported(objects, &self.checkpoint).await?,
            since: self.since.as_ref().map(|since| Since { name: since.name().into(), uid: since.uid().into() }),
            disks: self.disks.clone(),
            workspace,
        })
    }

    pub(super) async fn hold(&self) -> Result<(), Status> {
        for source in &self.sources {
            if let Err(error) = source.driver.hold_for_export(std::slice::from_ref(&source.snapshot)).await {
                let_go(&self.sources).await;
                return Err(refused(&format!("checkpoint {} is not exported", self.checkpoint.name()), &error));
            }
        }
        Ok(())
    }
}

pub(in crate::apiserver) async fn export(server: &Arc<Shared>, target: &Target, query: &Query) -> Result<Response, Status> {
    let opened = Opened::find(server, target, query).await?;
    let (commit, bundle) = bundle(server, &opened.checkpoint).await?.unzip();
    let manifest = opened.manifest(&server.objects, commit).await?;
    opened.hold().await?;
    let (mut writer, reader) = tokio::io::duplex(BUFFER);
    // In a task of its own: it lets the snapshots go also when the client went away.
    tokio::spawn(async move {
        // All of it, or the checkpoint would not stay.
        let opened = opened;
        let name = opened.checkpoint.name();
        match write(&mut writer, &manifest, bundle.as_deref(), &opened.sources).await {
            Ok(()) => tracing::info!("exported checkpoint {name}"),
            // Without the sums the client knows that it is not whole.
            Err(why) => tracing::warn!("the export of checkpoint {name} was cut off: {why}"),
        }
        let_go(&opened.sources).await;
    });
    Ok(reply::with_type(200, Body::from_stream(ReaderStream::new(reader)), "application/x-tar"))
}

pub(super) async fn let_go(sources: &[Source]) {
    for source in sources {
        if let Err(error) = source.driver.export_ended(&source.snapshot).await {
            tracing::warn!("{} is still held by autovibe-export: {error}; it is let go when its checkpoint is deleted", source.snapshot);
        }
    }
}

/// Errors: 404, and 422 for one that cannot be exported.
async fn ready(objects: &Objects, target: &Target, namespace: &str, name: &str) -> Result<Checkpoint, Status> {
    let found = objects.get::<Checkpoint>(namespace, name).await?;
    let checkpoint = found.ok_or_else(|| Status::not_found(&target.entry.name(), name))?;
    let phase = checkpoint.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if checkpoint.is_deleting() || phase != CheckpointPhase::Ready {
        let phase = if checkpoint.is_deleting() { CheckpointPhase::Deleting } else { phase };
        return Err(Status::new(422, "Invalid", format!("checkpoint {name} is {phase:?}; only one that is Ready can be exported")));
    }
    Ok(checkpoint)
}

/// Where each disk is read, and what the manifest says of it.
async fn sources(
    checkpoint: &Checkpoint,
    since: Option<&Checkpoint>,
    drivers: &[(String, Driver)],
) -> Result<(Vec<Source>, Vec<Disk>), Status> {
    let status = checkpoint.status.clone().unwrap_or_default();
    let before: Option<Vec<Volume>> = since.and_then(|since| since.status.as_ref()).map(|status| status.volumes.clone());
    let (name, mut sources, mut disks) = (checkpoint.name(), Vec::new(), Vec::new());
    for (index, volume) in status.volumes.iter().enumerate() {
        let (driver, snapshot) = locate(volume, status.machine_uid.as_deref(), drivers, name).await?;
        let (mut base, mut base_guid) = (None, None);
        if let (Some(before), Some(since)) = (&before, since) {
            let guid = before.get(index).map(|volume| volume.guid.clone()).unwrap_or_default();
            let found = driver.in_the_past_of(&snapshot, &guid).await;
            let what = format!("checkpoint {name} cannot be exported since {}", since.name());
            base = Some(found.map_err(|error| refused(&what, &error))?);
            base_guid = Some(guid);
        }
        disks.push(Disk {
            snapshot: snapshot.name.clone(),
            guid: volume.guid.clone(),
            since: base_guid,
            volume: driver.zfs.capabilities().volumes,
            referenced: volume.referenced,
        });
        sources.push(Source { driver, snapshot, base });
    }
    Ok((sources, disks))
}

/// A node that has the snapshot, and what it is called there.
async fn locate(
    volume: &Volume,
    machine_uid: Option<&str>,
    drivers: &[(String, Driver)],
    checkpoint: &str,
) -> Result<(Driver, Snapshot), Status> {
    let what = format!("checkpoint {checkpoint} is not exported");
    if volume.template.is_some() {
        let text = format!("{what}: its disks are templates of Proxmox, which are no streams; only a Hub with ZFS exports");
        return Err(Status::new(422, "Invalid", text));
    }
    let copies = volume.copies.iter().filter(|copy| copy.received).map(|copy| &copy.node);
    let mut why = Status::new(503, "ServiceUnavailable", format!("{what}: no hub that can be used now has node {}", volume.node));
    for node in std::iter::once(&volume.node).chain(copies) {
        let node = Node(node.clone());
        for (_, driver) in drivers.iter().filter(|(_, driver)| driver.nodes().any(|known| *known == node)) {
            let seen = async { driver.at(&node).await?.locate(volume, machine_uid).await };
            match seen.await {
                Ok(Some(snapshot)) => return Ok((driver.at(&node).await.map_err(|error| refused(&what, &error))?, snapshot)),
                Ok(None) => {
                    let text = format!("{what}: snapshot {}@{} is not on node {node}", volume.dataset, volume.snapshot);
                    why = Status::new(422, "Invalid", text);
                }
                Err(error) => why = refused(&what, &error),
            }
        }
    }
    Err(why)
}

/// Its workspace with all that came before, in one bundle.
async fn bundle(server: &Shared, checkpoint: &Checkpoint) -> Result<Option<(String, Vec<u8>)>, Status> {
    let chain = server.objects.store().bundle_chain(checkpoint.uid()).await?;
    let Some(commit) = chain.last().map(|row| row.commit.clone()) else { return Ok(None) };
    let bundles: Vec<Vec<u8>> = chain.into_iter().map(|row| row.bytes).collect();
    let whole = async { Workspace::open(&bundles, &commit).await?.to_bundle("workspace").await };
    let whole = whole.await.map_err(|error| Status::internal(&error))?;
    Ok(Some((commit, whole)))
}

async fn exported(objects: &Objects, checkpoint: &Checkpoint) -> Result<Exported, Status> {
    let status = checkpoint.status.clone().unwrap_or_default();
    let machine = machine(objects, checkpoint).await?;
    let mut ancestors = Vec::new();
    let (mut seen, mut next) = (BTreeSet::from([checkpoint.name().to_owned()]), status.parent.clone());
    while let Some(name) = next.take().filter(|name| ancestors.len() < ANCESTORS && seen.insert(name.clone())) {
        let Some(ancestor) = objects.get::<Checkpoint>(checkpoint.namespace(), &name).await? else { break };
        let spent = machine_status(self::machine(objects, &ancestor).await?);
        let was = ancestor.status.clone().unwrap_or_default();
        next.clone_from(&was.parent);
        ancestors.push(Ancestor {
            name,
            uid: ancestor.uid().to_owned(),
            trigger: ancestor.spec.trigger,
            machine: ancestor.spec.machine.clone(),
            goal: was.goal,
            spent,
            captured_at: was.captured_at,
        });
        if next.is_none() {
            ancestors.extend(was.imported.map(|imported| imported.ancestors).unwrap_or_default());
        }
    }
    let imported = *status.imported.unwrap_or_default();
    ancestors.extend(if ancestors.is_empty() { imported.ancestors } else { Vec::new() });
    Ok(Exported {
        namespace: checkpoint.namespace().to_owned(),
        name: checkpoint.name().to_owned(),
        uid: checkpoint.uid().to_owned(),
        trigger: checkpoint.spec.trigger,
        description: checkpoint.spec.description.clone(),
        agent: machine.map(|machine| format!("{:?}", machine.spec.agent.r#type)).or(imported.agent),
        machine: checkpoint.spec.machine.clone().or(imported.machine),
        goal: status.goal,
        directory: status.workspace,
        reasons: status.reasons,
        session: status.session,
        quiescent: status.quiescent,
        captured_at: status.captured_at,
        digests: status.digests,
        ancestors,
    })
}

/// Its own Machine, and not a namesake of that.
async fn machine(objects: &Objects, checkpoint: &Checkpoint) -> Result<Option<Machine>, Status> {
    let Some(name) = &checkpoint.spec.machine else { return Ok(None) };
    let uid = checkpoint.status.as_ref().and_then(|status| status.machine_uid.clone());
    let found = objects.get::<Machine>(checkpoint.namespace(), name).await?;
    Ok(found.filter(|machine| Some(machine.uid()) == uid.as_deref()))
}

fn machine_status(machine: Option<Machine>) -> Option<String> {
    machine.and_then(|machine| machine.status).map(|status| status.usage.money.dollars())
}

async fn write(to: &mut DuplexStream, manifest: &Manifest, bundle: Option<&[u8]>, sources: &[Source]) -> Result<(), String> {
    let mut sums = Sums::default();
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| error.to_string())?;
    entry(to, MANIFEST, &text, &mut sums).await.map_err(|error| gone(&error))?;
    if let Some(bundle) = bundle {
        entry(to, BUNDLE, bundle, &mut sums).await.map_err(|error| gone(&error))?;
    }
    for (index, source) in sources.iter().enumerate() {
        let (mut stream, pieces) = tokio::io::duplex(BUFFER);
        let sending = async move { source.driver.export(&source.snapshot, source.base.as_ref(), &mut stream).await };
        // It takes its reader with it: where the client went away the sender ends too.
        let writing = pieces_of(to, index, pieces, &mut sums);
        let (sent, written) = tokio::join!(sending, writing);
        written.map_err(|error| gone(&error))?;
        sent.map_err(|error| error.to_string())?;
    }
    let all = sums.0.into_bytes();
    entry(to, SUMS, &all, &mut Sums::default()).await.map_err(|error| gone(&error))?;
    let end = async {
        to.write_all(&[0; 2 * BLOCK]).await?;
        to.shutdown().await
    };
    end.await.map_err(|error| gone(&error))
}

fn gone(error: &io::Error) -> String {
    format!("its reader went away ({error})")
}

/// A stream as entries, each hashed before it is sent.
async fn pieces_of(to: &mut (impl AsyncWrite + Unpin), disk: usize, mut from: DuplexStream, sums: &mut Sums) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    for number in 0.. {
        let mut filled = 0;
        while filled < PIECE {
            match from.read(&mut piece[filled..]).await? {
                0 => break,
                read => filled += read,
            }
        }
        if filled > 0 {
            entry(to, &piece_name(disk, number), &piece[..filled], sums).await?;
        }
        if filled < PIECE {
            break;
        }
    }
    Ok(())
}

async fn entry(to: &mut (impl AsyncWrite + Unpin), name: &str, bytes: &[u8], sums: &mut Sums) -> io::Result<()> {
    sums.add(name, bytes);
    let size = bytes.len() as u64;
    to.write_all(&header(name, size)).await?;
    to.write_all(bytes).await?;
    to.write_all(&[0; BLOCK][..padding(size)]).await
}
