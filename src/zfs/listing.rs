//! Reads `zfs get -Hp -o name,property,value,source`: the one listing that OpenZFS and zfs-fuse both print exactly.

use super::{Dataset, DatasetInfo, Error, Properties, Snapshot, SnapshotInfo};
use std::collections::BTreeMap;

/// Of all user properties, ours.
const OURS: &str = "autovibe:";

/// What one dataset or snapshot has: native values by name, and our properties that are set on it itself.
#[derive(Debug, Default)]
pub(super) struct Item {
    native: BTreeMap<String, String>,
    properties: Properties,
}

/// Errors: `Unknown` for anything that is not such a listing.
pub(super) fn read(stdout: &str) -> Result<BTreeMap<String, Item>, Error> {
    let mut items: BTreeMap<String, Item> = BTreeMap::new();
    for line in stdout.lines() {
        let [name, property, value, source] = line.split('\t').collect::<Vec<_>>()[..] else {
            return Err(Error::Unknown(format!("`{}` is no line of a listing", line.escape_debug())));
        };
        let item = items.entry(name.to_owned()).or_default();
        if !property.contains(':') {
            item.native.insert(property.to_owned(), value.to_owned());
        } else if property.starts_with(OURS) && source == "local" {
            item.properties.insert(property.to_owned(), value.to_owned());
        }
    }
    Ok(items)
}

impl Item {
    /// Takes in what another listing says of the same thing.
    pub(super) fn add(&mut self, other: Self) {
        self.native.extend(other.native);
        self.properties.extend(other.properties);
    }

    pub(super) fn properties(&self) -> &Properties {
        &self.properties
    }

    fn guid(&self, name: &str) -> Result<String, Error> {
        let guid = self.native.get("guid").filter(|guid| guid.parse::<u64>().is_ok());
        guid.cloned().ok_or_else(|| Error::Unknown(format!("{name} was listed without a guid")))
    }

    pub(super) fn value(&self, property: &str) -> Option<&str> {
        self.native.get(property).map(String::as_str).filter(|value| *value != "-")
    }

    pub(super) fn into_dataset(self, name: &str) -> Result<DatasetInfo, Error> {
        let origin = self.value("origin").filter(|origin| !origin.is_empty()).and_then(split_snapshot);
        Ok(DatasetInfo {
            name: Dataset(name.to_owned()),
            guid: self.guid(name)?,
            origin,
            snapshots_bytes: self.value("usedbysnapshots").and_then(|text| text.parse().ok()),
            properties: self.properties,
        })
    }

    pub(super) fn into_snapshot(self, name: &str) -> Result<SnapshotInfo, Error> {
        let snapshot = split_snapshot(name).ok_or_else(|| Error::Unknown(format!("`{name}` is no snapshot")))?;
        let holds = self.value("userrefs").and_then(|text| text.parse().ok());
        Ok(SnapshotInfo {
            guid: self.guid(name)?,
            // Without this number a held snapshot would look free.
            holds: holds.ok_or_else(|| Error::Unknown(format!("{name} was listed without its number of holds")))?,
            createtxg: self
                .value("createtxg")
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Error::Unknown(format!("{name} was listed without its transaction group")))?,
            referenced_bytes: self.value("referenced").and_then(|text| text.parse().ok()),
            properties: self.properties,
            name: snapshot,
        })
    }
}

/// `dataset@name` in its two parts.
pub(super) fn split_snapshot(text: &str) -> Option<Snapshot> {
    let (dataset, name) = text.split_once('@')?;
    Some(Snapshot { dataset: Dataset(dataset.to_owned()), name: name.to_owned() })
}
