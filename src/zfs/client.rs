//! The commands that autovibe runs, one method each.

use super::{
    Capabilities, Dataset, DatasetInfo, Error, Properties, Runner, Snapshot, SnapshotInfo,
    listing::{self, Item},
    name,
    run::{Output, run},
};
use crate::clock::{Clock, Tenure};
use std::{collections::BTreeMap, time::Duration};
use tracing::warn;

/// A dataset that was just unmounted or closed stays busy for a moment.
const BUSY_TRIES: u32 = 6;
const BUSY_PAUSE: Duration = Duration::from_millis(400);
/// Names in one command: far from the longest that a system starts.
const NAMES: usize = 200;
/// How often what changes meanwhile is listed anew.
const LISTINGS: u32 = 4;
const COLUMNS: &str = "name,property,value,source";

/// Runs `zfs`; cheap to clone.
#[derive(Clone)]
pub struct Zfs {
    pub(super) runner: Runner,
    pub(super) tenure: Tenure,
    capabilities: Capabilities,
}

/// The words of a command.
fn argv<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

impl Zfs {
    /// Probes what this ZFS can do.
    pub async fn open(runner: Runner) -> Result<Self, Error> {
        if matches!(runner, Runner::Nowhere) {
            let capabilities = Capabilities { volumes: false, atomic_snapshots: false, resumable: false, list_parsable: false };
            return Ok(Self { runner, tenure: Tenure::unlimited(), capabilities });
        }
        // zfs-fuse 0.7 has no `-p` here, and what it lacks besides goes with it: volumes and several snapshots at once.
        let probe = run(&runner, &Tenure::unlimited(), argv(["list", "-Hp", "-d", "0", "-o", "name"])).await?;
        let modern = match probe.status {
            0 => true,
            2 if probe.stderr.contains("invalid option") => false,
            _ => return Err(Error::from_text("the pool", &probe.stderr)),
        };
        Ok(Self {
            runner,
            tenure: Tenure::unlimited(),
            capabilities: Capabilities { volumes: modern, atomic_snapshots: modern, resumable: modern, list_parsable: modern },
        })
    }

    /// The same, where nothing is changed that `tenure` does not allow.
    #[must_use]
    pub fn under(self, tenure: Tenure) -> Self {
        Self { tenure, ..self }
    }

    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Every dataset below (and with) `root`, however many snapshots there are. One command where ZFS can tell them apart.
    pub async fn datasets(&self, root: &Dataset) -> Result<Vec<DatasetInfo>, Error> {
        let text = name::dataset(root)?;
        let items = if self.capabilities.list_parsable {
            self.listing(vec!["get", "-Hp", "-r", "-t", "filesystem,volume"], &[text]).await?
        } else {
            self.named_one_by_one(text).await?
        };
        items.into_iter().map(|(name, item)| item.into_dataset(&name)).collect()
    }

    /// As a listing with `-r`, where that goes through all snapshots too: the names first, then what they have.
    async fn named_one_by_one(&self, root: &str) -> Result<BTreeMap<String, Item>, Error> {
        let mut tries = 1;
        loop {
            let list = argv(["list", "-H", "-r", "-t", "filesystem", "-o", "name", root]);
            let listed = checked(root, run(&self.runner, &self.tenure, list).await?)?;
            let names: Vec<&str> = listed.lines().collect();
            let mut items = BTreeMap::new();
            let mut gone = None;
            for names in names.chunks(NAMES) {
                match self.listing(vec!["get", "-Hp"], names).await {
                    Ok(found) => items.extend(found),
                    Err(error @ Error::NotFound(_)) => gone = Some(error),
                    Err(error) => return Err(error),
                }
            }
            match gone {
                None => return Ok(items),
                // One went in between.
                Some(_) if tries < LISTINGS => tries += 1,
                Some(_) => return Err(Error::Unknown(format!("the datasets below {root} change faster than they are listed"))),
            }
        }
    }

    /// Whether a dataset that was just seen has snapshots. They are listed only where they take no room: there may be thousands.
    pub async fn has_snapshots(&self, seen: &DatasetInfo) -> Result<bool, Error> {
        Ok(seen.snapshots_bytes.is_some_and(|bytes| bytes > 0) || !self.snapshots(&seen.name).await?.is_empty())
    }

    /// Every dataset and every snapshot below (and with) `root`, one command. Slow where there are many: for audits alone.
    pub async fn tree(&self, root: &Dataset) -> Result<(Vec<DatasetInfo>, Vec<SnapshotInfo>), Error> {
        let (mut datasets, mut snapshots) = (Vec::new(), Vec::new());
        for (name, item) in self.listing(vec!["get", "-Hp", "-r"], &[name::dataset(root)?]).await? {
            if name.contains('@') {
                snapshots.push(item.into_snapshot(&name)?);
            } else {
                datasets.push(item.into_dataset(&name)?);
            }
        }
        Ok((datasets, snapshots))
    }

    /// One dataset; `None` only when ZFS says that it does not exist, and shows its pool.
    pub async fn dataset(&self, name: &Dataset) -> Result<Option<DatasetInfo>, Error> {
        let text = name::dataset(name)?;
        let Some(mut items) = self.one(text, name).await? else { return Ok(None) };
        let item = items.remove(text).ok_or_else(|| Error::Unknown(format!("{name} was not listed")))?;
        item.into_dataset(text).map(Some)
    }

    /// As [`Self::dataset`].
    pub async fn snapshot_info(&self, name: &Snapshot) -> Result<Option<SnapshotInfo>, Error> {
        let text = name::snapshot(name)?;
        let Some(mut items) = self.one(&text, &name.dataset).await? else { return Ok(None) };
        let item = items.remove(&text).ok_or_else(|| Error::Unknown(format!("{name} was not listed")))?;
        item.into_snapshot(&text).map(Some)
    }

    /// Snapshots of one dataset.
    pub async fn snapshots(&self, dataset: &Dataset) -> Result<Vec<SnapshotInfo>, Error> {
        let mut words = vec!["get", "-Hp", "-r", "-d", "1"];
        if self.capabilities.list_parsable {
            words.extend(["-t", "snapshot"]);
        }
        let text = name::dataset(dataset)?;
        let items = self.listing(words, &[text]).await?;
        let of_it = |name: &str| name.strip_prefix(text).is_some_and(|rest| rest.starts_with('@'));
        items.into_iter().filter(|(name, _)| of_it(name)).map(|(name, item)| item.into_snapshot(&name)).collect()
    }

    /// Snapshots all of them, in one atomic command where this ZFS can. Otherwise some exist when it fails half-way.
    pub async fn snapshot(&self, snapshots: &[Snapshot], properties: &Properties) -> Result<(), Error> {
        let names = snapshots.iter().map(name::snapshot).collect::<Result<Vec<_>, _>>()?;
        let options = name::options(properties)?;
        let batches = if self.capabilities.atomic_snapshots { vec![names] } else { names.into_iter().map(|name| vec![name]).collect() };
        for names in batches.into_iter().filter(|names| !names.is_empty()) {
            let subject = names.join(", ");
            self.act(&subject, [argv(["snapshot"]), options.clone(), names].concat()).await?;
        }
        Ok(())
    }

    /// Holds them; one that has this tag already is fine.
    pub async fn hold(&self, tag: &str, snapshots: &[Snapshot]) -> Result<(), Error> {
        self.each_tagged("hold", tag, snapshots, "tag already exists on this dataset").await
    }

    /// Releases them; one without this tag is fine.
    pub async fn release(&self, tag: &str, snapshots: &[Snapshot]) -> Result<(), Error> {
        self.each_tagged("release", tag, snapshots, "no such tag on this dataset").await
    }

    pub async fn clone_snapshot(&self, from: &Snapshot, to: &Dataset, properties: &Properties) -> Result<(), Error> {
        let (from, to) = (name::snapshot(from)?, name::dataset(to)?);
        let output =
            run(&self.runner, &self.tenure, [argv(["clone"]), name::options(properties)?, vec![from.clone(), to.to_owned()]].concat())
                .await?;
        // "does not exist" is about the snapshot, "already exists" about the clone.
        checked(if output.stderr.contains("exist") && !output.stderr.contains("already") { &from } else { to }, output).map(drop)
    }

    /// Creates an empty parent dataset (and its parents) that nothing mounts; fine when it exists.
    pub async fn create_parent(&self, name: &Dataset) -> Result<(), Error> {
        let text = name::dataset(name)?;
        if self.dataset(name).await?.is_some() {
            return Ok(());
        }
        // One by one: `create -p` would ignore the properties for those in between, and mount them.
        for (end, _) in text.match_indices('/').skip(1).chain([(text.len(), "")]) {
            let part = &text[..end];
            match self.act(part, argv(["create", "-o", "mountpoint=none", "-o", "canmount=off", part])).await {
                Ok(()) | Err(Error::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Creates an empty, thin volume of so many bytes; where there are none, a filesystem for a file.
    pub async fn create_volume(&self, name: &Dataset, size: u64) -> Result<(), Error> {
        let (text, size) = (name::dataset(name)?, size.to_string());
        if self.capabilities.volumes {
            return self.act(text, argv(["create", "-s", "-V", &size, text])).await;
        }
        self.act(text, argv(["create", text])).await?;
        self.mount(text).await;
        Ok(())
    }

    /// Renames; unmounts first where a dataset is a filesystem. Snapshots, holds and clones follow.
    pub async fn rename(&self, from: &Dataset, to: &Dataset) -> Result<(), Error> {
        let (from, to) = (name::dataset(from)?, name::dataset(to)?);
        let files = !self.capabilities.volumes;
        if files {
            self.unmount(from).await?;
        }
        let output = self.patiently(from, argv(["rename", from, to])).await?;
        checked(if output.stderr.contains("already") { to } else { from }, output)?;
        if files {
            self.mount(to).await;
        }
        Ok(())
    }

    /// Turns the relation to its origin round; fine when it is no clone (any more).
    pub async fn promote(&self, dataset: &Dataset) -> Result<(), Error> {
        let text = name::dataset(dataset)?;
        let output = run(&self.runner, &self.tenure, argv(["promote", text])).await?;
        if output.stderr.contains("not a cloned filesystem") {
            return Ok(());
        }
        checked(text, output).map(drop)
    }

    /// Destroys one snapshot; never its clones.
    pub async fn destroy_snapshot(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let text = name::snapshot(snapshot)?;
        match self.act(&text, argv(["destroy", &text])).await {
            // Older ZFS says no more than that; a hold does not go away by itself.
            Err(Error::Busy(_)) if self.snapshot_info(snapshot).await?.is_some_and(|info| info.holds > 0) => Err(Error::Held(text)),
            result => result,
        }
    }

    /// Destroys one snapshot as soon as neither hold nor clone needs it, which may be now. It can still be seen until then.
    pub async fn destroy_snapshot_later(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let text = name::snapshot(snapshot)?;
        self.act(&text, argv(["destroy", "-d", &text])).await
    }

    /// Destroys one dataset without snapshots or children.
    pub async fn destroy_dataset(&self, dataset: &Dataset) -> Result<(), Error> {
        let text = name::dataset(dataset)?;
        let output = self.patiently(text, argv(["destroy", text])).await?;
        checked(text, output).map(drop)
    }

    /// Runs a command that changes something and prints nothing.
    pub(super) async fn act(&self, subject: &str, argv: Vec<String>) -> Result<(), Error> {
        checked(subject, run(&self.runner, &self.tenure, argv).await?).map(drop)
    }

    /// Mounts a dataset that has somewhere to be mounted; what keeps it from that is only logged.
    pub(super) async fn mount(&self, dataset: &str) {
        match run(&self.runner, &self.tenure, argv(["mount", dataset])).await {
            Ok(output)
                if output.status == 0
                    || ["no mountpoint", "legacy", "already mounted", "canmount"].iter().any(|text| output.stderr.contains(text)) => {}
            Ok(output) => warn!(zfs.dataset = dataset, "not mounted: {}", output.stderr.trim()),
            Err(error) => warn!(zfs.dataset = dataset, "not mounted: {error}"),
        }
    }

    pub(super) async fn unmount(&self, dataset: &str) -> Result<(), Error> {
        let output = self.patiently(dataset, argv(["unmount", dataset])).await?;
        if output.stderr.contains("not currently mounted") {
            return Ok(());
        }
        checked(dataset, output).map(drop)
    }

    /// Errors are about the first of `subjects`.
    async fn listing(&self, words: Vec<&str>, subjects: &[&str]) -> Result<BTreeMap<String, Item>, Error> {
        let get = async |sources: &str, properties: &str| {
            let words = words.iter().copied().chain(["-s", sources, "-o", COLUMNS, properties]).chain(subjects.iter().copied());
            listing::read(&checked(subjects.first().copied().unwrap_or_default(), run(&self.runner, &self.tenure, argv(words)).await?)?)
        };
        if self.capabilities.list_parsable {
            return get("local,none", "all").await;
        }
        // `all` of zfs-fuse leaves out what is asked for here. Marks are set when a thing is made, so the later listing has
        // those of all that the first one shows; what was made in between is not shown yet.
        let mut items = get("none", "type,guid,createtxg,origin,userrefs,referenced,usedbysnapshots").await?;
        for (name, marks) in get("local", "all").await? {
            if let Some(item) = items.get_mut(&name) {
                item.add(marks);
            }
        }
        Ok(items)
    }

    /// Lists one dataset or snapshot. A pool that is not imported hides all of it, so the pool must be seen for `None`.
    async fn one(&self, text: &str, dataset: &Dataset) -> Result<Option<BTreeMap<String, Item>>, Error> {
        match self.listing(vec!["get", "-Hp"], &[text]).await {
            Ok(items) => Ok(Some(items)),
            Err(Error::NotFound(_)) => self.pool_guid(dataset).await.map(|_| None),
            Err(error) => Err(error),
        }
    }

    /// What a dataset and all below it use, and what is left to them, bytes.
    pub async fn room(&self, dataset: &Dataset) -> Result<(u64, u64), Error> {
        let text = name::dataset(dataset)?;
        let shown = checked(text, run(&self.runner, &self.tenure, argv(["get", "-Hp", "-o", "value", "used,available", text])).await?)?;
        let numbers: Vec<u64> = shown.lines().map_while(|line| line.trim().parse().ok()).collect();
        let [used, available] = numbers[..] else { return Err(Error::Unknown(format!("the room of {text} cannot be read: {shown}"))) };
        Ok((used, available))
    }

    /// Guid of the pool's root dataset, decimal: what tells one pool from another of the same name.
    pub async fn pool_guid(&self, dataset: &Dataset) -> Result<String, Error> {
        let pool = name::dataset(dataset)?.split('/').next().unwrap_or_default();
        match checked(pool, run(&self.runner, &self.tenure, argv(["get", "-Hp", "-o", "value", "guid", pool])).await?) {
            Ok(guid) => Ok(guid.trim().to_owned()),
            Err(Error::NotFound(_)) => Err(Error::Unavailable(format!("pool {pool} is not there"))),
            Err(error) => Err(error),
        }
    }

    async fn each_tagged(&self, verb: &str, tag: &str, snapshots: &[Snapshot], done_already: &str) -> Result<(), Error> {
        let tag = name::tag(tag)?;
        let names = snapshots.iter().map(name::snapshot).collect::<Result<Vec<_>, _>>()?;
        // One by one: of several, one that has the tag already would keep the others from it.
        for name in names {
            let output = run(&self.runner, &self.tenure, argv([verb, tag, &name])).await?;
            if output.status == 0 || !output.stderr.contains(done_already) {
                checked(&name, output)?;
            }
        }
        Ok(())
    }

    /// Tries again a few times while the dataset is busy; what is still busy then is left to the caller.
    async fn patiently(&self, dataset: &str, argv: Vec<String>) -> Result<Output, Error> {
        let mut tries = 1;
        loop {
            let output = run(&self.runner, &self.tenure, argv.clone()).await?;
            if output.status == 0 || tries == BUSY_TRIES || !output.stderr.contains("busy") {
                return Ok(output);
            }
            tries += 1;
            Clock::system().sleep(BUSY_PAUSE).await;
            if !self.capabilities.volumes && argv.first().is_some_and(|verb| verb != "unmount") {
                // zfs-fuse sometimes keeps a dataset busy for good after an unmount, and lets it go after another one.
                self.mount(dataset).await;
                run(&self.runner, &self.tenure, vec!["unmount".into(), dataset.into()]).await?;
            }
        }
    }
}

/// The text of a command that succeeded without a word on standard error.
pub(super) fn checked(subject: &str, output: Output) -> Result<String, Error> {
    match output.status {
        0 if output.stderr.trim().is_empty() => Ok(output.stdout),
        // It says that it worked and complains: only a look can tell.
        0 => Err(Error::Unknown(format!("{subject}: exit status 0, but: {}", output.stderr.trim()))),
        _ => Err(Error::from_text(subject, &output.stderr)),
    }
}
