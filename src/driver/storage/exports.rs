//! Checkpoints in a dataset of another pool, which may be carried to another hub: copies like those on another node, beside a manifest.
//!
//! A disk is `<dataset>/c-<checkpoint uid>-disk-<n>`, with the guid, hold and mark of a copy. The manifest is cut into numbered
//! properties of the first disk, `autovibe:manifest-<n>`; `autovibe:manifest` says last how many there are and what their sum is.
//! Without that, or when it is not right, what lies there is not whole, and nobody takes it for a checkpoint.

use super::{Base, CHECKPOINT, Wanted, properties};
use crate::api::hub::overlap;
use crate::driver::{Door, Driver, Error};
use crate::zfs::{self, Dataset, Properties, Snapshot, SnapshotInfo};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// Property of an exported checkpoint's first disk: how many pieces its manifest has, and the SHA-256 of it, in hexadecimal.
const MANIFEST: &str = "autovibe:manifest";
/// Bytes of a piece. A value may have 8191 of them (OpenZFS, `ZAP_MAXVALUELEN`); 1023 in zfs-fuse 0.7.
const PIECE: usize = 8000;
const SMALL_PIECE: usize = 1000;
/// So many pieces at most: each is a command.
const PIECES: usize = 1000;

/// What there is in a dataset that checkpoints are exported to.
pub struct Exports {
    pub sealed: Vec<Sealed>,
    snapshots: Vec<SnapshotInfo>,
}

/// A first disk with the end of a manifest.
pub struct Sealed {
    pub disk: Dataset,
    /// Errors: what is wrong with it, in words for people.
    pub manifest: Result<Vec<u8>, String>,
}

/// A disk's snapshot on its way.
pub struct Passage<'a> {
    pub source: &'a Snapshot,
    /// Decimal.
    pub guid: &'a str,
    pub target: &'a Dataset,
    /// Of the Checkpoint whose disk the target is.
    pub checkpoint_uid: &'a str,
    /// What it builds on, there and here.
    pub base: Option<(Snapshot, Snapshot)>,
}

impl Passage<'_> {
    fn wanted(self) -> Wanted {
        Wanted {
            source: self.source.clone(),
            guid: self.guid.to_owned(),
            target: self.target.clone(),
            marks: properties([(CHECKPOINT, self.checkpoint_uid)]),
            snapshot_marks: Properties::new(),
            base: self.base.map_or(Base::Nothing, |(there, here)| Base::Only { there, here }),
        }
    }
}

impl Exports {
    /// Whether a snapshot of this guid is there, under this name.
    pub fn has(&self, snapshot: &Snapshot, guid: &str) -> bool {
        self.snapshots.iter().any(|info| info.name == *snapshot && info.guid == guid)
    }
}

/// Name of a disk of an exported checkpoint.
pub fn disk(root: &Dataset, checkpoint_uid: &str, index: usize) -> Dataset {
    Dataset(format!("{root}/c-{checkpoint_uid}-disk-{index}"))
}

impl Driver {
    /// The dataset of this name, which the Hub must list. Errors: `Settings`.
    pub fn listed_export(&self, name: &str) -> Result<Dataset, Error> {
        let connection = self.connection();
        let Some(root) = connection.exports.iter().find(|root| root.0 == name) else {
            let listed: Vec<&str> = connection.exports.iter().map(|root| root.0.as_str()).collect();
            let listed = if listed.is_empty() { "nothing".to_owned() } else { listed.join(", ") };
            return Err(Error::Settings(format!(
                "{} is none of the datasets that may be exported to: spec.infrastructure.exportTo of its Hub lists {listed}",
                name.escape_debug()
            )));
        };
        if let Some(own) = [&connection.dataset, &connection.keep].into_iter().find(|own| overlap(name, &own.0)) {
            return Err(Error::Settings(format!(
                "{root} is not apart from the Hub's own {own}; list another in spec.infrastructure.exportTo"
            )));
        }
        Ok(root.clone())
    }

    /// The node of the Hub that has this dataset: this one, if it does. Errors: `Missing` with what each node says; `Settings` when what
    /// comes there would be mounted.
    pub async fn with_export(&self, root: &Dataset) -> Result<Self, Error> {
        let others = self.nodes().filter(|node| *node != self.node()).cloned().collect::<Vec<_>>();
        let mut why = Vec::new();
        for node in std::iter::once(self.node().clone()).chain(others) {
            let found = async {
                let there = self.at(&node).await?;
                there.zfs.dataset(root).await.map(|found| found.map(|_| there.clone())).map_err(Error::from)
            };
            match found.await {
                Ok(Some(there)) => return there.mounts_nothing(root).await.map(|()| there),
                Ok(None) => why.push(format!("node {node} has no dataset {root}: `zfs create -o canmount=off -o mountpoint=none {root}`")),
                Err(Error::Zfs(zfs::Error::Unavailable(text))) => why.push(format!("node {node}: {text}")),
                Err(error) => why.push(format!("node {node}: {error}")),
            }
        }
        Err(Error::Missing(why.join("; ")))
    }

    async fn mounts_nothing(&self, root: &Dataset) -> Result<(), Error> {
        // A volume is mounted nowhere.
        if self.zfs.capabilities().volumes || ["none", "legacy"].contains(&self.zfs.mountpoint(root).await?.as_str()) {
            return Ok(());
        }
        Err(Error::Settings(format!("what comes to {root} on node {} would be mounted: `zfs set mountpoint=none {root}`", self.node())))
    }

    /// All exports in a dataset, in one command.
    pub async fn exports(&self, root: &Dataset) -> Result<Exports, Error> {
        let (datasets, snapshots) = self.zfs.tree(root).await?;
        let mut sealed: Vec<Sealed> = Vec::new();
        for found in datasets {
            let marked = found.properties.get(CHECKPOINT).is_some_and(|uid| disk(root, uid, 0) == found.name);
            if let Some(manifest) = read(&found.properties).filter(|_| marked) {
                sealed.push(Sealed { disk: found.name, manifest });
            }
        }
        Ok(Exports { sealed, snapshots })
    }

    /// Brings a disk's snapshot to its place among the exports, from another node or from here. Repeated, it goes on, or finds that it is
    /// there. No mark is set on the snapshot: no audit takes it for one of its Hub's.
    pub async fn export_disk(&self, from: &Self, passage: Passage<'_>) -> Result<(), Error> {
        self.receive_whole(from, passage.wanted()).await
    }

    /// Brings an exported disk's snapshot into the checkpoint tree, with the marks of an import.
    pub async fn import_disk(&self, from: &Self, passage: Passage<'_>) -> Result<(), Error> {
        let wanted = passage.wanted();
        self.receive_whole(from, Wanted { snapshot_marks: wanted.marks.clone(), ..wanted }).await
    }

    async fn receive_whole(&self, from: &Self, wanted: Wanted) -> Result<(), Error> {
        loop {
            if let Some(outcome) = self.receive(from, wanted.clone()).await {
                return outcome;
            }
        }
    }

    /// Writes the manifest beside the first disk, its end last; `false` when a whole one is there, which stays. Tells `door` of each step.
    ///
    /// Errors: `Settings` when it is too large for properties.
    pub async fn seal(&self, first: &Dataset, manifest: &[u8], door: &Door) -> Result<bool, Error> {
        let _sealing = self.copies.sealing.lock().await;
        let found = self.zfs.dataset(first).await?.ok_or_else(|| Error::Missing(format!("{first} is gone")))?;
        if matches!(read(&found.properties), Some(Ok(_))) {
            return Ok(false);
        }
        let text = STANDARD.encode(manifest);
        let size = if self.zfs.capabilities().volumes { PIECE } else { SMALL_PIECE };
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        if pieces.len() > PIECES {
            return Err(Error::Settings(format!(
                "its manifest has {} bytes, and properties of {first} take {}: export it to a file",
                manifest.len(),
                PIECES * size / 4 * 3
            )));
        }
        for (number, piece) in pieces.iter().enumerate() {
            self.zfs.mark(first, &piece_name(number), &String::from_utf8_lossy(piece)).await?;
            door.passed("piece of a manifest").await;
        }
        let end = format!("{} {}", pieces.len(), hex::encode(Sha256::digest(manifest)));
        self.zfs.mark(first, MANIFEST, &end).await?;
        door.passed("sealed").await;
        Ok(true)
    }
}

fn piece_name(number: usize) -> String {
    format!("{MANIFEST}-{number}")
}

/// The manifest of these properties; `None` when it has no end, and so was never whole.
fn read(properties: &Properties) -> Option<Result<Vec<u8>, String>> {
    let end = properties.get(MANIFEST)?;
    let damaged = || Some(Err("its manifest is damaged; export it again".to_owned()));
    let Some((count, sum)) = end.split_once(' ') else { return damaged() };
    let Some(count) = count.parse::<usize>().ok().filter(|count| *count <= PIECES) else { return damaged() };
    let pieces: Option<String> = (0..count).map(|number| properties.get(&piece_name(number)).map(String::as_str)).collect();
    match pieces.and_then(|text| STANDARD.decode(text).ok()) {
        Some(manifest) if hex::encode(Sha256::digest(&manifest)) == sum => Some(Ok(manifest)),
        _ => damaged(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_whole_with_all_of_its_pieces_and_their_sum_or_not_at_all() {
        let manifest = b"what it is".to_vec();
        let text = STANDARD.encode(&manifest);
        let end = format!("2 {}", hex::encode(Sha256::digest(&manifest)));
        let whole = properties([("autovibe:manifest-0", &text[..5]), ("autovibe:manifest-1", &text[5..]), (MANIFEST, &end)]);
        assert_eq!(read(&whole), Some(Ok(manifest)));
        // More pieces than it has, of a longer one before, are none of it.
        let mut more = whole.clone();
        more.insert("autovibe:manifest-2".into(), "AAAA".into());
        assert_eq!(read(&more), read(&whole));
        let mut endless = whole.clone();
        endless.remove(MANIFEST);
        assert_eq!(read(&endless), None);
        for (name, value) in [
            ("autovibe:manifest-0", "d2hhe"),
            ("autovibe:manifest-1", "!"),
            (MANIFEST, "2"),
            (MANIFEST, "1 00"),
            (MANIFEST, "-1 00"),
            (MANIFEST, "99999999999 00"),
        ] {
            let mut damaged = whole.clone();
            damaged.insert(name.into(), value.into());
            assert!(matches!(read(&damaged), Some(Err(_))), "{name}={value}");
        }
        for name in ["autovibe:manifest-0", "autovibe:manifest-1"] {
            let mut damaged = whole.clone();
            damaged.remove(name);
            assert!(matches!(read(&damaged), Some(Err(_))), "without {name}");
        }
    }
}
