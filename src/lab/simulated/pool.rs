//! A model of a ZFS pool: datasets, snapshots, holds, clones, and what ZFS refuses, in OpenZFS' words.

use super::disk::Disk;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What `zfs` would print on standard error.
pub(crate) type Refusal = String;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pool {
    pub(super) txg: u64,
    pub(crate) datasets: BTreeMap<String, Dataset>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Dataset {
    /// Size of a volume; a filesystem has none.
    pub(crate) volume: Option<u64>,
    pub(super) guid: u64,
    pub(super) createtxg: u64,
    /// Guid of the snapshot it is a clone of.
    pub(super) origin: Option<u64>,
    /// Set on it itself: user properties, and native ones such as `mountpoint`.
    pub(super) properties: BTreeMap<String, String>,
    /// Oldest first.
    pub(super) snapshots: Vec<Snapshot>,
    pub(crate) disk: Disk,
    /// It is being received, and only a part has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) half: Option<super::stream::Half>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(super) name: String,
    pub(super) guid: u64,
    pub(super) createtxg: u64,
    pub(super) holds: BTreeSet<String>,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) disk: Disk,
    /// Goes when the last hold and clone go.
    pub(super) deferred: bool,
}

fn absent(name: &str) -> Refusal {
    format!("cannot open '{name}': dataset does not exist")
}

/// The pool that a dataset or snapshot is in.
fn root(name: &str) -> &str {
    name.split(['/', '@']).next().unwrap_or_default()
}

fn parent(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(parent, _)| parent)
}

impl Pool {
    pub(super) fn next(&mut self) -> (u64, u64) {
        self.txg += 1;
        // Never 0, and rarely small: real guids are 64 random bits, written in decimal.
        (crate::random::draw::<u64>() | 1 << 62, self.txg)
    }

    pub(super) fn get(&self, name: &str) -> Result<&Dataset, Refusal> {
        self.datasets.get(name).ok_or_else(|| absent(name))
    }

    pub(super) fn snapshot_of(&self, full: &str) -> Result<&Snapshot, Refusal> {
        let (dataset, short) = full.split_once('@').ok_or_else(|| absent(full))?;
        self.datasets.get(dataset).and_then(|d| d.snapshots.iter().find(|s| s.name == short)).ok_or_else(|| absent(full))
    }

    /// What is on a dataset or snapshot.
    pub(crate) fn disk(&self, name: &str) -> Option<&Disk> {
        if name.contains('@') {
            self.snapshot_of(name).ok().map(|snapshot| &snapshot.disk)
        } else {
            self.datasets.get(name).map(|dataset| &dataset.disk)
        }
    }

    pub(crate) fn holds(&self, snapshot: &str) -> usize {
        self.snapshot_of(snapshot).map_or(0, |snapshot| snapshot.holds.len())
    }

    /// Names of all datasets and snapshots.
    pub(crate) fn names(&self) -> Vec<String> {
        let own = |(name, dataset): (&String, &Dataset)| {
            std::iter::once(name.clone()).chain(dataset.snapshots.iter().map(|s| format!("{name}@{}", s.name))).collect::<Vec<_>>()
        };
        self.datasets.iter().flat_map(own).collect()
    }

    pub(super) fn snapshot_mut(&mut self, full: &str) -> Result<&mut Snapshot, Refusal> {
        let (dataset, short) = full.split_once('@').ok_or_else(|| absent(full))?;
        self.datasets.get_mut(dataset).and_then(|d| d.snapshots.iter_mut().find(|s| s.name == short)).ok_or_else(|| absent(full))
    }

    /// Full name of the snapshot with this guid, in the pool of a dataset: another pool may have one that was received from there.
    pub(super) fn snapshot_name(&self, guid: u64, near: &str) -> Option<String> {
        let here = self.datasets.iter().filter(|(name, _)| root(name) == root(near));
        here.into_iter().find_map(|(name, d)| d.snapshots.iter().find(|s| s.guid == guid).map(|s| format!("{name}@{}", s.name)))
    }

    /// Short names of a dataset's snapshots, oldest first.
    pub(crate) fn snapshots_of(&self, name: &str) -> Vec<String> {
        self.datasets.get(name).into_iter().flat_map(|dataset| &dataset.snapshots).map(|snapshot| snapshot.name.clone()).collect()
    }

    /// Names of the clones of a snapshot, by its full name.
    pub(crate) fn clones_of(&self, full: &str) -> Vec<String> {
        self.snapshot_of(full).map(|snapshot| self.clones(snapshot.guid, full).into_iter().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// The base that a dataset is a clone of, when it is one of a template's.
    pub(crate) fn base_of(&self, name: &str) -> Option<String> {
        let origin = self.snapshot_name(self.datasets.get(name)?.origin?, name)?;
        origin.strip_suffix("@__base__").map(str::to_owned)
    }

    /// Names of the clones of a snapshot, in the pool of a dataset.
    pub(super) fn clones(&self, guid: u64, near: &str) -> Vec<&str> {
        let here = self.datasets.iter().filter(|(name, d)| d.origin == Some(guid) && root(name) == root(near));
        here.map(|(name, _)| name.as_str()).collect()
    }

    fn room_for(&self, name: &str) -> Result<(), Refusal> {
        if self.datasets.contains_key(name) {
            return Err(format!("cannot create '{name}': dataset already exists"));
        }
        match parent(name) {
            Some(parent) if self.datasets.contains_key(parent) => Ok(()),
            Some(_) => Err(format!("cannot create '{name}': parent does not exist")),
            None => Err(format!("cannot create '{name}': missing dataset name")),
        }
    }

    pub(crate) fn create(
        &mut self,
        name: &str,
        volume: Option<u64>,
        properties: BTreeMap<String, String>,
        disk: Disk,
    ) -> Result<(), Refusal> {
        self.room_for(name)?;
        self.put(name, volume, properties, disk);
        Ok(())
    }

    /// A pool beside those that there are, as `zpool create` makes one.
    pub(crate) fn add(&mut self, name: &str) {
        self.put(name, None, BTreeMap::new(), Disk::default());
    }

    fn put(&mut self, name: &str, volume: Option<u64>, properties: BTreeMap<String, String>, disk: Disk) {
        let (guid, createtxg) = self.next();
        let made = Dataset { volume, guid, createtxg, origin: None, properties, snapshots: Vec::new(), disk, half: None };
        self.datasets.insert(name.to_owned(), made);
    }

    /// All or none.
    pub(crate) fn snapshot(&mut self, names: &[String], properties: &BTreeMap<String, String>) -> Result<(), Refusal> {
        for name in names {
            let (dataset, short) = name
                .split_once('@')
                .ok_or_else(|| format!("cannot create snapshot '{name}': empty component or misplaced '@' or '#' delimiter in name"))?;
            if self.get(dataset)?.snapshots.iter().any(|s| s.name == short) {
                return Err(format!("cannot create snapshot '{name}': dataset already exists\nno snapshots were created"));
            }
        }
        self.txg += 1;
        let createtxg = self.txg;
        for name in names {
            let (guid, _) = self.next();
            let Some((dataset, short)) = name.split_once('@') else { continue };
            if let Some(dataset) = self.datasets.get_mut(dataset) {
                let disk = dataset.disk.clone();
                dataset.snapshots.push(Snapshot {
                    name: short.to_owned(),
                    guid,
                    createtxg,
                    holds: BTreeSet::new(),
                    properties: properties.clone(),
                    disk,
                    deferred: false,
                });
            }
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, tag: &str, name: &str) -> Result<(), Refusal> {
        if self.snapshot_mut(name)?.holds.insert(tag.to_owned()) {
            Ok(())
        } else {
            Err(format!("cannot hold snapshot '{name}': tag already exists on this dataset"))
        }
    }

    pub(super) fn release(&mut self, tag: &str, name: &str) -> Result<(), Refusal> {
        let snapshot = self.snapshot_mut(name)?;
        if !snapshot.holds.remove(tag) {
            return Err(format!("cannot release hold from snapshot '{name}': no such tag on this dataset"));
        }
        if snapshot.deferred && snapshot.holds.is_empty() {
            return self.destroy_snapshot(name, true);
        }
        Ok(())
    }

    pub(crate) fn clone_snapshot(&mut self, from: &str, to: &str, properties: BTreeMap<String, String>) -> Result<(), Refusal> {
        let snapshot = self.snapshot_of(from)?.clone();
        let volume = from.split_once('@').and_then(|(dataset, _)| self.datasets.get(dataset)).and_then(|d| d.volume);
        if root(from) != root(to) {
            return Err(format!("cannot create '{to}': source and target pools differ"));
        }
        self.room_for(to)?;
        let (guid, createtxg) = self.next();
        self.datasets.insert(
            to.to_owned(),
            Dataset {
                volume,
                guid,
                createtxg,
                origin: Some(snapshot.guid),
                properties,
                snapshots: Vec::new(),
                disk: snapshot.disk,
                half: None,
            },
        );
        Ok(())
    }

    /// `open` are the datasets that a running guest uses.
    pub(crate) fn rename(&mut self, from: &str, to: &str, open: &BTreeSet<String>) -> Result<(), Refusal> {
        self.get(from)?;
        if self.datasets.contains_key(to) {
            return Err(format!("cannot rename to '{to}': dataset already exists"));
        }
        self.room_for(to)?;
        let below = format!("{from}/");
        let moved: Vec<String> = self.datasets.keys().filter(|name| *name == from || name.starts_with(&below)).cloned().collect();
        if moved.iter().any(|name| open.contains(name)) {
            return Err(format!("cannot rename '{from}': dataset is busy"));
        }
        for name in moved {
            if let Some(dataset) = self.datasets.remove(&name) {
                self.datasets.insert(format!("{to}{}", &name[from.len()..]), dataset);
            }
        }
        Ok(())
    }

    pub(super) fn promote(&mut self, name: &str) -> Result<(), Refusal> {
        let origin = self.get(name)?.origin.ok_or_else(|| format!("cannot promote '{name}': not a cloned filesystem"))?;
        let source = self.snapshot_name(origin, name).and_then(|full| full.split_once('@').map(|(dataset, _)| dataset.to_owned()));
        let source = source.ok_or_else(|| absent(name))?;
        let Some(parent) = self.datasets.get_mut(&source) else { return Err(absent(&source)) };
        let end = parent.snapshots.iter().position(|s| s.guid == origin).map_or(0, |at| at + 1);
        let (moved, parents_origin) = (parent.snapshots[..end].to_vec(), parent.origin);
        if let Some(clash) = self.get(name)?.snapshots.iter().find(|s| moved.iter().any(|m| m.name == s.name)) {
            return Err(format!("cannot promote '{name}': conflicting snapshot '{}' from parent '{source}'", clash.name));
        }
        if let Some(parent) = self.datasets.get_mut(&source) {
            parent.snapshots.drain(..end);
            parent.origin = Some(origin);
        }
        if let Some(dataset) = self.datasets.get_mut(name) {
            dataset.snapshots.splice(0..0, moved);
            dataset.origin = parents_origin;
        }
        Ok(())
    }

    /// What a file with snapshots in it does: any of them, and the others stay.
    pub(crate) fn restore(&mut self, name: &str) -> Result<(), Refusal> {
        let disk = self.snapshot_of(name)?.disk.clone();
        let dataset = name.split_once('@').and_then(|(dataset, _)| self.datasets.get_mut(dataset)).ok_or_else(|| absent(name))?;
        dataset.disk = disk;
        Ok(())
    }

    pub(crate) fn rollback(&mut self, name: &str) -> Result<(), Refusal> {
        let snapshot = self.snapshot_of(name)?.clone();
        let (dataset, _) = name.split_once('@').ok_or_else(|| absent(name))?;
        let Some(dataset) = self.datasets.get_mut(dataset) else { return Err(absent(name)) };
        if dataset.snapshots.last().is_some_and(|last| last.guid != snapshot.guid) {
            return Err(format!(
                "cannot rollback to '{name}': more recent snapshots or bookmarks exist\nuse '-r' to force deletion of the following snapshots and bookmarks:"
            ));
        }
        dataset.disk = snapshot.disk;
        Ok(())
    }

    pub(crate) fn destroy_snapshot(&mut self, name: &str, defer: bool) -> Result<(), Refusal> {
        let Ok(snapshot) = self.snapshot_of(name) else {
            return Err("could not find any snapshots to destroy; check snapshot names.".into());
        };
        let (held, guid) = (!snapshot.holds.is_empty(), snapshot.guid);
        let clones = self.clones(guid, name).join("\n");
        if defer && (held || !clones.is_empty()) {
            self.snapshot_mut(name)?.deferred = true;
            return Ok(());
        }
        if !clones.is_empty() {
            return Err(format!(
                "cannot destroy '{name}': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\n{clones}"
            ));
        }
        if held {
            return Err(format!("cannot destroy snapshot {name}: it's being held. Run 'zfs holds -r {name}' to see holders."));
        }
        if let Some(dataset) = name.split_once('@').and_then(|(dataset, _)| self.datasets.get_mut(dataset)) {
            dataset.snapshots.retain(|s| s.guid != guid);
        }
        Ok(())
    }

    /// With `recursive`, its snapshots and what is below it; never a clone elsewhere. All or none.
    pub(crate) fn destroy(&mut self, name: &str, recursive: bool, open: &BTreeSet<String>) -> Result<(), Refusal> {
        let kind = if self.get(name)?.volume.is_some() { "volume" } else { "filesystem" };
        let below = format!("{name}/");
        let all: Vec<String> = self.datasets.keys().filter(|other| *other == name || other.starts_with(&below)).cloned().collect();
        let snapshots: Vec<(String, u64, bool)> = all
            .iter()
            .flat_map(|d| self.datasets[d].snapshots.iter().map(move |s| (format!("{d}@{}", s.name), s.guid, !s.holds.is_empty())))
            .collect();
        if !recursive && (all.len() > 1 || !snapshots.is_empty()) {
            let list = all.iter().skip(1).cloned().chain(snapshots.iter().map(|(name, ..)| name.clone())).collect::<Vec<_>>().join("\n");
            return Err(format!("cannot destroy '{name}': {kind} has children\nuse '-r' to destroy the following datasets:\n{list}"));
        }
        let clones: Vec<&str> = snapshots
            .iter()
            .flat_map(|(_, guid, _)| self.clones(*guid, name))
            .filter(|clone| !all.iter().any(|own| own == clone))
            .collect();
        if !clones.is_empty() {
            return Err(format!(
                "cannot destroy '{name}': {kind} has dependent clones\nuse '-R' to destroy the following datasets:\n{}",
                clones.join("\n")
            ));
        }
        if let Some((held, ..)) = snapshots.iter().find(|(.., held)| *held) {
            return Err(format!("cannot destroy snapshot {held}: it's being held. Run 'zfs holds -r {held}' to see holders."));
        }
        if all.iter().any(|name| open.contains(name)) {
            return Err(format!("cannot destroy '{name}': dataset is busy"));
        }
        let origins: Vec<u64> = all.iter().filter_map(|name| self.datasets.remove(name)).filter_map(|d| d.origin).collect();
        for origin in origins {
            let Some(full) = self.snapshot_name(origin, name) else { continue };
            if self.snapshot_of(&full).is_ok_and(|s| s.deferred && s.holds.is_empty()) {
                self.destroy_snapshot(&full, true)?;
            }
        }
        Ok(())
    }
}
