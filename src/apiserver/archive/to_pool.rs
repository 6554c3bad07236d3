//! A Checkpoint to a dataset of another pool: each disk by `zfs send` and `zfs receive`, and then the manifest beside it.

use super::super::{Shared, negotiate::Encoding, query::Query, reply, route::Target, status::Status};
use super::export::{Opened, let_go};
use super::{from_pool, refused};
use crate::api::Kind;
use crate::driver::Driver;
use crate::driver::storage::{Passage, exported_disk};
use crate::remote::archive::Manifest;
use crate::zfs::{Dataset, Snapshot};
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;

/// `POST …/checkpoints/NAME/export?toPool=DATASET`
pub(in crate::apiserver) async fn export_to_pool(server: &Arc<Shared>, target: &Target, query: &Query) -> Result<Response, Status> {
    if query.dry_run("CreateOptions")? {
        return Err(Status::bad_request("an export cannot be tried without being done"));
    }
    let pool = query
        .get("toPool")
        .ok_or_else(|| Status::bad_request("toPool: name a dataset that spec.infrastructure.exportTo of the Hub lists"))?;
    let opened = Opened::find(server, target, query).await?;
    let manifest = opened.manifest(&server.objects, None).await?;
    let failed = format!("checkpoint {} is not exported to {}", opened.checkpoint.name(), pool.escape_debug());
    let found = async {
        let from = &opened.sources.first().ok_or_else(|| crate::driver::Error::Missing("it has no disks".into()))?.driver;
        let root = from.listed_export(pool)?;
        Ok((from.with_export(&root).await?, root))
    };
    let (to, root) = found.await.map_err(|error: crate::driver::Error| refused(&failed, &error))?;
    opened.hold().await?;
    let (node, server) = (to.node().0.clone(), Arc::clone(server));
    // In a task of its own: it goes on when its client went away, and lets the snapshots go.
    let work = async move {
        let sent = send(&server, &opened, &manifest, &to, &root, &failed).await;
        let_go(&opened.sources).await;
        match &sent {
            Ok(_) => tracing::info!(zfs.dataset = %root, "exported checkpoint {}", opened.checkpoint.name()),
            Err(status) => tracing::warn!("{}; what came of it is not whole, and is gone on with the next time", status.message),
        }
        let (name, uid) = (opened.checkpoint.name(), opened.checkpoint.uid());
        let disks = |index| exported_disk(&root, uid, index).0;
        let datasets: Vec<String> = (0..opened.sources.len()).map(disks).collect();
        sent.map(|new| (new, json!({ "checkpoint": name, "node": node, "datasets": datasets })))
    };
    let (new, done) = tokio::spawn(work).await.map_err(|error| Status::internal(&error))??;
    Ok(reply::encoded(if new { 201 } else { 200 }, &done, Encoding::Json))
}

/// Whether it was not there before.
async fn send(server: &Shared, opened: &Opened, manifest: &Manifest, to: &Driver, root: &Dataset, failed: &str) -> Result<bool, Status> {
    let refuse = |error: crate::driver::Error| refused(failed, &error);
    let uid = opened.checkpoint.uid();
    let bases = bases(manifest, to, root, failed).await?;
    for (index, (source, disk)) in opened.sources.iter().zip(&opened.disks).enumerate() {
        let target = exported_disk(root, uid, index);
        let base = source.base.clone().zip(bases.get(index).cloned());
        let passage = Passage { source: &source.snapshot, guid: &disk.guid, target: &target, checkpoint_uid: uid, base };
        to.export_disk(&source.driver, passage).await.map_err(refuse)?;
        server.door.passed("exported").await;
    }
    let text = serde_json::to_vec(manifest).map_err(|error| Status::internal(&error))?;
    to.seal(&exported_disk(root, uid, 0), &text, &server.door).await.map_err(refuse)
}

/// The disks there of the checkpoint that this one builds on; none of one that builds on nothing.
async fn bases(manifest: &Manifest, to: &Driver, root: &Dataset, failed: &str) -> Result<Vec<Snapshot>, Status> {
    let Some(since) = &manifest.since else { return Ok(Vec::new()) };
    let all = from_pool::whole(to, root, failed).await?;
    let base = all.into_iter().find(|found| {
        found.disks.len() == manifest.disks.len()
            && manifest.disks.iter().zip(&found.disks).all(|(disk, base)| disk.since.as_ref() == Some(&base.1.guid))
    });
    let why = format!("{failed}: checkpoint {} is not in {root}; export that first, or this one without --since", since.name);
    Ok(base.ok_or_else(|| Status::new(422, "Invalid", why))?.disks.into_iter().map(|(snapshot, _)| snapshot).collect())
}
