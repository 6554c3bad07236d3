//! First bases: raw disk images imported into the checkpoint tree, and snapshots that are in the pool already.

use super::{Base, HOLD, IMAGE, SOURCE, Wanted, is_marked, must_look, parse_snapshot, properties};
use crate::api::checkpoint::Volume;
use crate::driver::{Driver, Error};
use crate::proxmox::{Node, Vmid};
use crate::zfs::{Dataset, Properties, Snapshot};
use std::path::Path;

/// Short name of an imported image's snapshot.
const BASE: &str = "base";

/// An image as it stands in the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Nodes that have one of its name, at least one. What stands here is of the first.
    pub nodes: Vec<Node>,
    pub snapshot: Snapshot,
    /// Decimal.
    pub guid: String,
    /// The file that it was imported from is not what it was then: the pool still has the old one.
    pub stale: bool,
    /// Where it is a template of Proxmox: its VMID and the names of its disks.
    pub template: Option<(Vmid, Vec<String>)>,
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.template {
            Some((vmid, _)) => write!(f, "template {vmid}"),
            None => self.snapshot.fmt(f),
        }
    }
}

impl Image {
    /// What a Machine's disks are cloned from, one a disk, as its first node has it.
    pub fn volumes(&self) -> Vec<Volume> {
        let node = self.nodes.first().map(|node| node.0.clone()).unwrap_or_default();
        let one = Volume {
            node,
            dataset: self.snapshot.dataset.0.clone(),
            snapshot: self.snapshot.name.clone(),
            guid: self.guid.clone(),
            ..Volume::default()
        };
        match &self.template {
            Some((vmid, disks)) => {
                disks.iter().map(|disk| Volume { dataset: disk.clone(), template: Some(vmid.0), ..one.clone() }).collect()
            }
            None => vec![one],
        }
    }
}

impl Driver {
    /// Name of an imported image.
    pub fn image_dataset(&self, name: &str) -> Dataset {
        Dataset(format!("{}/image-{name}", self.connection().keep))
    }

    /// The image of that name, if it was imported to its end.
    pub async fn imported(&self, file: &Path, name: &str) -> Result<Option<Image>, Error> {
        let snapshot = Snapshot { dataset: self.image_dataset(name), name: BASE.into() };
        let Some(info) = self.zfs.snapshot_info(&snapshot).await? else { return Ok(None) };
        if !is_marked(&info.properties, IMAGE, name) {
            return Err(Error::Conflict(format!("{snapshot} exists, but is not an image that autovibe imported")));
        }
        let stale = match source_mark(file).await {
            Ok(mark) => !is_marked(&info.properties, SOURCE, &mark),
            // Without the file, what was imported of it is as good as ever.
            Err(_) => false,
        };
        Ok(Some(Image { nodes: vec![self.node().clone()], snapshot, guid: info.guid, stale, template: None }))
    }

    /// Imports a raw disk image, unless it is there. An import that was cut off is destroyed (by both marks: name and
    /// property) and done again. Takes as long as reading the file does.
    pub async fn import_image(&self, file: &Path, name: &str) -> Result<Image, Error> {
        if let Some(image) = self.imported(file, name).await? {
            self.zfs.hold(HOLD, std::slice::from_ref(&image.snapshot)).await?;
            return Ok(image);
        }
        let mark = source_mark(file).await.map_err(|error| {
            Error::Missing(format!("image file {} cannot be read: {error}; make it with `autovibe image build`", file.display()))
        })?;
        let dataset = self.image_dataset(name);
        if let Some(half) = self.zfs.dataset(&dataset).await? {
            if !is_marked(&half.properties, IMAGE, name) || self.zfs.has_snapshots(&half).await? {
                return Err(Error::Conflict(format!("{dataset} exists, but is not an image that autovibe imported")));
            }
            self.destroy_empty(&dataset).await?;
        }
        let marks: Properties = properties([(IMAGE, name), (SOURCE, &mark)]);
        self.zfs.create_parent(&self.connection().keep).await?;
        self.zfs.import_disk(file, &dataset, &marks).await?;
        let snapshot = Snapshot { dataset, name: BASE.into() };
        match self.zfs.snapshot(std::slice::from_ref(&snapshot), &marks).await {
            Ok(()) => {}
            Err(error) if must_look(&error) => {}
            Err(error) => return Err(error.into()),
        }
        self.zfs.hold(HOLD, std::slice::from_ref(&snapshot)).await?;
        self.imported(file, name).await?.ok_or_else(|| Error::Unknown(format!("{snapshot} was taken, but is not there now")))
    }

    /// An image as it was copied here from another node, whole and marked.
    pub async fn copied_image(&self, image: &Image, name: &str) -> Result<Option<Image>, Error> {
        let snapshot = Snapshot { dataset: self.image_dataset(name), name: image.snapshot.name.clone() };
        let found = self.zfs.snapshot_info(&snapshot).await?;
        let whole = found.is_some_and(|info| info.guid == image.guid && is_marked(&info.properties, IMAGE, name));
        Ok(whole.then(|| Image { nodes: vec![self.node().clone()], snapshot, ..image.clone() }))
    }

    /// What is to be made here of an image that another node has.
    pub async fn image_wanted(&self, from: &Self, image: &Image, name: &str) -> Result<Wanted, Error> {
        let mut marks = properties([(IMAGE, name)]);
        let found = from.zfs.snapshot_info(&image.snapshot).await?;
        marks.extend(found.and_then(|info| Some((SOURCE.to_owned(), info.properties.get(SOURCE)?.clone()))));
        Ok(Wanted {
            source: image.snapshot.clone(),
            guid: image.guid.clone(),
            target: self.image_dataset(name),
            snapshot_marks: marks.clone(),
            marks,
            base: Base::Nearest,
        })
    }

    /// A snapshot that is in the pool already: `rpool/images/debian@v1`. It stays its owner's: nothing here holds or marks it.
    pub async fn find_image(&self, text: &str) -> Result<Image, Error> {
        let snapshot =
            parse_snapshot(text).ok_or_else(|| Error::Settings(format!("`{text}` is not a snapshot; write pool/dataset@snapshot")))?;
        match self.zfs.snapshot_info(&snapshot).await? {
            Some(info) => Ok(Image { nodes: vec![self.node().clone()], snapshot, guid: info.guid, stale: false, template: None }),
            None => Err(Error::Missing(format!("snapshot {snapshot} does not exist"))),
        }
    }
}

/// What tells one version of a file from another without reading it: path, size, time of change.
async fn source_mark(file: &Path) -> std::io::Result<String> {
    let metadata = tokio::fs::metadata(file).await?;
    let changed = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(format!("{} {} {changed}", file.display(), metadata.len()))
}
