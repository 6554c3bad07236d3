//! What `zfs send` prints and `zfs receive` reads in the model: a line that says what comes, and the disk.
//!
//! A stream that is cut leaves what came, as `receive -s` does, and a token with which the sender goes on from there.

use super::{
    disk::Disk,
    pool::{Dataset, Pool, Refusal, Snapshot},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What comes, and from where on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The snapshot as its sender calls it.
    to: String,
    guid: u64,
    /// Guid of the snapshot that it builds on.
    base: Option<u64>,
    volume: Option<u64>,
    /// Bytes of the disk that were sent before.
    offset: usize,
}

/// A dataset of which only a part has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Half {
    header: Header,
    body: String,
}

impl Half {
    pub(super) fn token(&self) -> String {
        let header = Header { offset: self.body.len(), ..self.header.clone() };
        format!("1-{}", hex::encode(serde_json::to_vec(&header).unwrap_or_default()))
    }
}

fn whole(header: &Header, disk: &Disk) -> Result<String, Refusal> {
    let text = |value: Result<String, serde_json::Error>| value.map_err(|error| format!("internal error: {error}"));
    let (header_line, body) = (text(serde_json::to_string(header))?, text(serde_json::to_string(disk))?);
    let rest = body.get(header.offset..).ok_or("cannot resume send: the token is beyond its end")?;
    Ok(format!("{header_line}\n{rest}"))
}

/// `zfs send [-i base] snapshot`
pub(super) fn send(pool: &Pool, base: Option<&str>, snapshot: &str) -> Result<String, Refusal> {
    let found = pool.snapshot_of(snapshot)?;
    let base = match base {
        None => None,
        Some(name) => {
            // Of the same dataset it may be written short.
            let full =
                if name.starts_with('@') { snapshot.split('@').next().unwrap_or_default().to_owned() + name } else { name.to_owned() };
            let earlier = pool.snapshot_of(&full).map_err(|_| format!("incremental source ({name}) does not exist"))?;
            if !is_before(pool, earlier, snapshot) {
                return Err(format!("warning: cannot send '{snapshot}': not an earlier snapshot from the same fs"));
            }
            Some(earlier.guid)
        }
    };
    let volume = snapshot.split('@').next().and_then(|dataset| pool.datasets.get(dataset)).and_then(|dataset| dataset.volume);
    whole(&Header { to: snapshot.to_owned(), guid: found.guid, base, volume, offset: 0 }, &found.disk)
}

/// `zfs send -t token`
pub(super) fn send_rest(pool: &Pool, token: &str) -> Result<String, Refusal> {
    let text = token.strip_prefix("1-").and_then(|text| hex::decode(text).ok()).unwrap_or_default();
    let header: Header = serde_json::from_slice(&text).map_err(|_| "cannot resume send: the token is corrupt".to_owned())?;
    let found = pool.snapshot_of(&header.to).ok().filter(|found| found.guid == header.guid);
    let found = found.ok_or_else(|| format!("cannot resume send: '{}' used in the initial send no longer exists", header.to))?;
    whole(&header, &found.disk)
}

/// Whether a snapshot is in the past of another: of its dataset, or of those that this is a clone of.
fn is_before(pool: &Pool, earlier: &Snapshot, later: &str) -> bool {
    let mut later = later.to_owned();
    loop {
        let Some(dataset) = later.split('@').next().and_then(|name| pool.datasets.get(name)) else { return false };
        let until = pool.snapshot_of(&later).map_or(0, |snapshot| snapshot.createtxg);
        if dataset.snapshots.iter().any(|snapshot| snapshot.guid == earlier.guid) {
            return earlier.createtxg <= until;
        }
        let Some(origin) = dataset.origin.and_then(|guid| pool.snapshot_name(guid, &later)) else { return false };
        later = origin;
    }
}

/// `zfs receive [-s] [-o origin=…] dataset`
pub(super) fn receive(pool: &mut Pool, to: &str, origin: Option<&str>, keeps: bool, stream: &str) -> Result<(), Refusal> {
    let broken = || "cannot receive: failed to read from stream".to_owned();
    let (line, body) = stream.split_once('\n').ok_or_else(broken)?;
    let header: Header = serde_json::from_str(line).map_err(|_| broken())?;
    let half = pool.datasets.get(to).and_then(|dataset| dataset.half.clone());
    let body = match (half, header.offset) {
        (None, 0) => body.to_owned(),
        (None, _) => return Err(format!("cannot receive resume stream: destination '{to}' does not exist")),
        (Some(half), offset) if half.header.guid == header.guid && half.body.len() == offset && offset > 0 => half.body + body,
        (Some(_), _) => {
            return Err(format!(
                "cannot receive new filesystem stream: destination '{to}' contains partially-complete state from \"zfs receive -s\"."
            ));
        }
    };
    let earlier = pool.datasets.get(to).filter(|dataset| dataset.half.is_none());
    if let Some(earlier) = earlier {
        return further(pool, to, earlier.snapshots.last().map(|last| last.guid), &header, &body);
    }
    let base = header.base.map(|guid| pool.snapshot_name(guid, to).ok_or(guid)).transpose();
    let base = base.map_err(|_| format!("cannot receive: local origin for clone {to} does not exist"))?;
    if origin.is_some() && origin != base.as_deref() {
        return Err("cannot receive: local origin is not the base of the stream".into());
    }
    let first = Header { offset: 0, ..header };
    match serde_json::from_str::<Disk>(&body) {
        Ok(disk) => {
            pool.datasets.remove(to);
            pool.create(to, first.volume, BTreeMap::new(), disk.clone())?;
            let snapshot = arrived(pool, &first, disk);
            if let Some(dataset) = pool.datasets.get_mut(to) {
                dataset.origin = first.base;
                dataset.snapshots.push(snapshot);
            }
            Ok(())
        }
        Err(_) if keeps => {
            if !pool.datasets.contains_key(to) {
                pool.create(to, first.volume, BTreeMap::new(), Disk::default())?;
            }
            if let Some(dataset) = pool.datasets.get_mut(to) {
                dataset.origin = first.base;
                dataset.half = Some(Half { header: first, body });
            }
            Err("cannot receive: checksum mismatch or incomplete stream.\nPartially received snapshot is saved.".into())
        }
        Err(_) => Err("cannot receive: checksum mismatch or incomplete stream".into()),
    }
}

/// Brings a dataset a snapshot further; of a stream that was cut nothing stays.
fn further(pool: &mut Pool, to: &str, newest: Option<u64>, header: &Header, body: &str) -> Result<(), Refusal> {
    if header.base.is_none() {
        return Err(format!("cannot receive new filesystem stream: destination '{to}' exists\nmust specify -F to overwrite it"));
    }
    if newest != header.base {
        return Err(format!("cannot receive incremental stream: most recent snapshot of {to} does not\nmatch incremental source"));
    }
    let disk: Disk = serde_json::from_str(body).map_err(|_| "cannot receive: checksum mismatch or incomplete stream".to_owned())?;
    let snapshot = arrived(pool, header, disk.clone());
    if let Some(dataset) = pool.datasets.get_mut(to) {
        dataset.disk = disk;
        dataset.snapshots.push(snapshot);
    }
    Ok(())
}

/// The snapshot as it is here: its guid came with it, its marks and holds did not.
fn arrived(pool: &mut Pool, header: &Header, disk: Disk) -> Snapshot {
    let (_, createtxg) = pool.next();
    let name = header.to.rsplit('@').next().unwrap_or_default().to_owned();
    Snapshot { name, guid: header.guid, createtxg, holds: BTreeSet::new(), properties: BTreeMap::new(), disk, deferred: false }
}

/// `zfs receive -A dataset`
pub(super) fn abort(pool: &mut Pool, name: &str) -> Result<(), Refusal> {
    match pool.datasets.get(name).map(|dataset: &Dataset| dataset.half.is_some()) {
        Some(true) => {
            pool.datasets.remove(name);
            Ok(())
        }
        Some(false) => Err(format!("'{name}' does not have any resumable receive state to abort")),
        None => Err(format!("cannot open '{name}': dataset does not exist")),
    }
}
