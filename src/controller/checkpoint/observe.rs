//! Reads what a Checkpoint depends on; changes nothing.

use super::verify;
use crate::api::capability::{CapabilityName, impossible};
use crate::api::checkpoint::{CheckpointPhase, VERIFY, Volume};
use crate::api::{Checkpoint, DEFAULT_HUB, Hub, Kind, Machine};
use crate::controller::client::Client;
use crate::controller::hub::HubHandle;
use crate::controller::{Context, Error};
use crate::driver::storage::Image;
use crate::lineage::{Lineage, Use};
use crate::proxmox::Node;
use crate::zfs::Dataset;
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How long after its creation a checkpoint between messages is still what it was asked for: so long an answer is held.
pub(super) const TIMELY: Duration = Duration::from_secs(30);

/// What was seen.
#[derive(Default)]
pub(super) struct Observed {
    /// The Machine that it names.
    pub(super) machine: Option<Machine>,
    /// Images of its Hub, or why there is no such Hub yet.
    pub(super) hub: HubSeen,
    /// Name of a later checkpoint between messages that is Ready, when this one is late.
    pub(super) superseded_by: Option<String>,
    /// What needs it; looked up only while it is being deleted.
    pub(super) uses: Vec<Use>,
    /// What there is of it to collect; looked up only while it is being deleted.
    pub(super) volumes: Vec<Volume>,
    /// Names of Hubs that may hold some of it and cannot be asked now.
    pub(super) hidden_in: Vec<String>,
    /// Whether its disks are exported or imported now, in this process.
    pub(super) streams: bool,
    /// The Machine that it is verified by; looked up where that was asked for.
    pub(super) verifier: Verifier,
    /// Name of the Hub that has its snapshots; looked up before it is verified.
    pub(super) home: Option<String>,
    /// Hubs that may hold some of it, or that it is to be captured on.
    pub(super) handles: Vec<Arc<HubHandle>>,
}

/// What has the name of the Machine that a checkpoint is verified by.
#[derive(Default)]
pub(super) enum Verifier {
    #[default]
    None,
    Own(Box<Machine>),
    /// One that was not made for it.
    Foreign(String),
}

/// The Hub as far as a plan needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HubSeen {
    Open {
        images: BTreeMap<String, Image>,
        /// Why no checkpoint is taken there of a Machine that goes on, if so.
        impossible: Option<String>,
    },
    Waiting {
        why: String,
    },
}

impl Default for HubSeen {
    fn default() -> Self {
        Self::Waiting { why: "no hub was looked for".into() }
    }
}

pub(super) async fn observe(checkpoint: &Checkpoint, context: &Context) -> Result<Observed, Error> {
    let machine = match &checkpoint.spec.machine {
        Some(name) => context.objects.get::<Machine>(checkpoint.namespace(), name).await?,
        None => None,
    };
    let streams = context.config.door.is_busy(checkpoint.namespace(), checkpoint.name());
    let mut observed = Observed { machine, streams, ..Observed::default() };
    if checkpoint.is_deleting() {
        before_collecting(checkpoint, context, &mut observed).await?;
    } else if phase(checkpoint) == CheckpointPhase::Pending {
        before_capture(checkpoint, context, &mut observed).await?;
    }
    if checkpoint.annotation(VERIFY).is_some() || checkpoint.is_deleting() {
        observed.verifier = verifier(checkpoint, context).await?;
        let (hubs, _) = context.hubs.all().await;
        observed.home = verify::home(checkpoint, observed.machine.as_ref(), &hubs);
    }
    Ok(observed)
}

async fn verifier(checkpoint: &Checkpoint, context: &Context) -> Result<Verifier, Error> {
    let name = verify::verifier_name(checkpoint);
    Ok(match context.objects.get::<Machine>(checkpoint.namespace(), &name).await? {
        None => Verifier::None,
        Some(machine) if verify::is_verifier(&machine, checkpoint) => Verifier::Own(Box::new(machine)),
        Some(_) => Verifier::Foreign(name),
    })
}

pub(super) fn phase(checkpoint: &Checkpoint) -> CheckpointPhase {
    checkpoint.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// How old it is; unknown counts as new.
pub(super) fn age(checkpoint: &Checkpoint, now: Timestamp) -> Duration {
    let created = checkpoint.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    Duration::try_from(now.duration_since(created)).unwrap_or_default()
}

async fn before_capture(checkpoint: &Checkpoint, context: &Context, observed: &mut Observed) -> Result<(), Error> {
    let of_import = checkpoint.spec.import.as_ref().map(|import| import.hub.clone());
    let of_machine = observed.machine.as_ref().map(|machine| machine.spec.hub.clone());
    if let Some(hub) = of_import.or(of_machine) {
        match context.hubs.get(hub.as_deref().unwrap_or(DEFAULT_HUB)).await {
            Ok(handle) => {
                let impossible = impossible(&handle.driver.capabilities().told(), CapabilityName::CheckpointInLife);
                observed.hub = HubSeen::Open { images: handle.images.clone(), impossible };
                observed.handles.push(handle);
            }
            Err(waiting) => observed.hub = HubSeen::Waiting { why: waiting.to_string() },
        }
    }
    let late = age(checkpoint, context.objects.clock().now()) > TIMELY;
    if late && checkpoint.spec.trigger.is_boundary() {
        observed.superseded_by = later(checkpoint, &context.objects).await?;
    }
    Ok(())
}

/// A Ready checkpoint of a boundary of the same Machine that was asked for later.
async fn later(checkpoint: &Checkpoint, objects: &Client) -> Result<Option<String>, Error> {
    let of_it = |document: &serde_json::Value| document["spec"]["machine"].as_str() == checkpoint.spec.machine.as_deref();
    let all = objects.list_where::<Checkpoint>(checkpoint.namespace(), of_it).await?;
    let order = |c: &Checkpoint| (c.metadata.creation_timestamp.clone(), c.name().to_owned());
    let mine = order(checkpoint);
    let same = |c: &&Checkpoint| c.spec.machine == checkpoint.spec.machine && c.spec.trigger.is_boundary();
    Ok(all.iter().filter(same).find(|c| phase(c) == CheckpointPhase::Ready && order(c) > mine).map(|c| c.name().to_owned()))
}

async fn before_collecting(checkpoint: &Checkpoint, context: &Context, observed: &mut Observed) -> Result<(), Error> {
    let namespace = Some(checkpoint.namespace());
    let (checkpoints, _) = context.objects.list::<Checkpoint>(namespace).await?;
    let (machines, _) = context.objects.list::<Machine>(namespace).await?;
    observed.uses = Lineage::new(&checkpoints, &machines).uses(checkpoint.name());
    if !observed.uses.is_empty() {
        return Ok(());
    }
    if let Some(import) = checkpoint.spec.import.as_ref().filter(|import| import.image.is_some()) {
        return before_collecting_import(checkpoint, import.hub.as_deref(), context, observed).await;
    }
    let taken_of = checkpoint.status.as_ref().and_then(|status| status.machine_uid.as_deref());
    // A namesake's Hub knows nothing of it.
    match observed.machine.as_ref().filter(|machine| taken_of.is_none_or(|uid| uid == machine.uid())) {
        Some(machine) => {
            let name = machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB);
            match context.hubs.get(name).await {
                Ok(handle) => observed.handles.push(handle),
                Err(_) => observed.hidden_in.push(name.to_owned()),
            }
        }
        // Its Hub is not known any more: whichever has a snapshot of that name and guid.
        None => {
            (observed.handles, observed.hidden_in) = context.hubs.all().await;
            let (stored, _) = context.objects.list::<Hub>(None).await?;
            let asked = observed.handles.iter().map(|hub| hub.name.as_str()).collect();
            observed.hidden_in = hidden(stored.iter().map(Kind::name), &asked, std::mem::take(&mut observed.hidden_in));
        }
    }
    let status = checkpoint.status.clone().unwrap_or_default();
    observed.volumes = status.volumes;
    let uid = status.machine_uid.or_else(|| observed.machine.as_ref().map(|machine| machine.uid().to_owned()));
    if let (true, Some(uid)) = (observed.volumes.is_empty(), uid) {
        // A capture whose record was lost. A namesake's disks are not its Machine's.
        let machine = observed.machine.as_ref().filter(|machine| machine.uid() == uid);
        let status = machine.and_then(|machine| machine.status.clone()).unwrap_or_default();
        let node = status.vm.as_ref().map(|vm| vm.node.clone()).or(status.node).map(Node);
        let disks: Vec<Dataset> = status.vm.map(|vm| vm.disks).unwrap_or_default().into_iter().map(Dataset).collect();
        for handle in &observed.handles {
            // Where it was is not known any more: on whichever node.
            let nodes: Vec<Node> = node.clone().map_or_else(|| handle.driver.nodes().cloned().collect(), |node| vec![node]);
            for node in nodes {
                observed.volumes.extend(handle.at(&node).await?.find_captured(&disks, checkpoint.uid(), &uid).await?);
            }
        }
    }
    Ok(())
}

/// Hubs that cannot be asked: those that wait, and those that nobody has looked at yet, as right after a start.
pub(super) fn hidden<'a>(stored: impl Iterator<Item = &'a str>, asked: &BTreeSet<&str>, waiting: Vec<String>) -> Vec<String> {
    let unknown = stored.filter(|name| !asked.contains(name)).map(str::to_owned);
    waiting.into_iter().chain(unknown).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Of an imported one there are only the copies to collect: the image is the Hub's.
async fn before_collecting_import(
    checkpoint: &Checkpoint,
    hub: Option<&str>,
    context: &Context,
    observed: &mut Observed,
) -> Result<(), Error> {
    let volumes = checkpoint.status.clone().unwrap_or_default().volumes;
    if volumes.iter().all(|volume| volume.copies.is_empty()) {
        return Ok(());
    }
    let name = hub.unwrap_or(DEFAULT_HUB);
    match context.hubs.get(name).await {
        Ok(handle) => observed.handles.push(handle),
        Err(_) => observed.hidden_in.push(name.to_owned()),
    }
    observed.volumes = volumes;
    Ok(())
}
