//! Does what a plan says, step by step; each is safe to repeat.

use super::awaited_results;
use super::observe::Observed;
use super::plan::{Capture, Step};
use super::verify::verifier;
use crate::agent;
use crate::api::capability::CapabilityName;
use crate::api::checkpoint::{FINALIZER, Volume};
use crate::api::quantity::GoDuration;
use crate::api::{Checkpoint, Kind, Machine};
use crate::controller::hub::HubHandle;
use crate::controller::{Context, Error};
use crate::driver::Driver;
use crate::lineage::{self, Lineage};
use crate::objects;
use crate::proxmox::{Node, Vmid};
use crate::zfs::{Dataset, Snapshot};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;
use tokio::time::Instant;

/// How long the guest is given to bring the last tool results into the agent's transcript.
const FLUSH: Duration = Duration::from_secs(5);
/// How long the whole flush may take; then the disks are captured as a power cut would leave them.
const FLUSH_CEILING: Duration = Duration::from_secs(15);

/// What came of the steps.
#[derive(Default)]
pub(super) struct Outcome {
    /// The Machine that is there: a snapshot whose record was lost is found by it.
    pub(super) machine_uid: Option<String>,
    pub(super) captured: Option<Captured>,
    /// The object itself went with its finalizer.
    pub(super) gone: bool,
    pub(super) failed: Option<Failure>,
}

/// Why a step was not done.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Nothing that autovibe can do by itself will make it succeed.
    pub(super) permanent: bool,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let permanent = matches!(&error, Error::Driver(crate::driver::Error::Conflict(_)));
        Self { error, permanent }
    }
}

/// A capture that was made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Captured {
    pub(super) machine_uid: String,
    pub(super) volumes: Vec<Volume>,
    pub(super) quiescent: bool,
    pub(super) took: GoDuration,
    pub(super) at: Time,
    pub(super) parent: Option<String>,
    pub(super) goal: Option<String>,
    pub(super) workspace: Option<String>,
    /// What was not as it should be, for an Event.
    pub(super) warning: Option<String>,
}

/// Does one step. `checkpoint` is replaced when a step writes it.
pub(super) async fn act(
    step: &Step,
    checkpoint: &mut Checkpoint,
    observed: &Observed,
    context: &Context,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    match step {
        Step::AddFinalizer => {
            let mut changed = checkpoint.clone();
            changed.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
            *checkpoint = context.objects.update(&changed).await?;
        }
        Step::Capture(capture) => outcome.captured = Some(self::capture(capture, checkpoint, observed, context).await?),
        Step::Collect => {
            collect(checkpoint, observed, context).await?;
        }
        Step::PassParentOn => pass_parent_on(checkpoint, context).await?,
        Step::DropFinalizer => {
            let mut changed = checkpoint.clone();
            changed.metadata.finalizers.get_or_insert_default().retain(|name| name != FINALIZER);
            match context.objects.update(&changed).await {
                Ok(_) | Err(objects::Error::NotFound { .. }) => outcome.gone = true,
                Err(error) => return Err(error.into()),
            }
        }
        Step::Verify { hub, asked } => match context.objects.create(&verifier(checkpoint, observed.machine.as_ref(), hub, asked)).await {
            // One that came in between is looked at in the next pass.
            Ok(_) | Err(objects::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        },
        Step::EndVerification { machine, uid } => {
            match context.objects.delete::<Machine>(checkpoint.namespace(), machine, Some(uid)).await {
                Ok(()) | Err(objects::Error::NotFound { .. } | objects::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

async fn capture(capture: &Capture, checkpoint: &Checkpoint, observed: &Observed, context: &Context) -> Result<Captured, Failure> {
    let begun = Instant::now();
    let hub = observed.handles.first().ok_or_else(|| Error::Waiting("the hub went away".into()))?;
    let driver = &hub.at(&capture.node).await?;
    let flushed = flush(capture, checkpoint, observed, context, driver).await;
    let in_guest = begun.elapsed();
    let volumes = driver.capture(&capture.disks, checkpoint.uid(), &capture.machine_uid).await?;
    tracing::debug!("flushed in {in_guest:.1?}, snapshots taken and held in {:.1?}", begun.elapsed().saturating_sub(in_guest));
    let took = GoDuration(Duration::from_millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)));
    let machine = observed.machine.as_ref();
    let status = machine.and_then(|machine| machine.status.clone()).unwrap_or_default();
    let own = Some(checkpoint.name());
    let parent = context.newest.before(&capture.machine_uid, &volumes).filter(|name| Some(name.as_str()) != own);
    let mut found = before(parent, checkpoint, context).await?;
    if found.is_none() {
        let last = status.last_checkpoint.filter(|name| Some(name.as_str()) != own);
        found = before(last, checkpoint, context).await?;
    }
    let put_back_at = status.restored.and_then(|restored| restored.at);
    let newest = found.as_ref().and_then(|found| found.status.as_ref()?.captured_at.clone()).max(put_back_at);
    let parent = found.map(|found| found.name().to_owned()).or(status.spawned_from);
    Ok(Captured {
        machine_uid: capture.machine_uid.clone(),
        volumes,
        quiescent: capture.quiet && matches!(flushed, Flushed::Yes),
        took,
        at: lineage::stamp(context.objects.clock().api_now(), newest.as_ref()),
        parent,
        goal: machine.map(|machine| machine.spec.goal.prompt.clone()).filter(|goal| !goal.is_empty()),
        workspace: machine.map(|machine| machine.workspace().to_owned()),
        warning: match flushed {
            Flushed::No(why) => Some(format!("captured as a power cut would leave it: {why}")),
            Flushed::Yes | Flushed::Partly => None,
        },
    })
}

/// The checkpoint of this name, if there is one, that this one may come after.
async fn before(name: Option<String>, checkpoint: &Checkpoint, context: &Context) -> Result<Option<Checkpoint>, Error> {
    match name {
        Some(name) => Ok(context.objects.get::<Checkpoint>(checkpoint.namespace(), &name).await?),
        None => Ok(None),
    }
}

/// Whether the guest's disks have all that the agent did.
enum Flushed {
    Yes,
    /// Synced, but the transcript did not have the last tool results in time.
    Partly,
    No(String),
}

/// One command in the guest: wait for the transcript, then sync.
async fn flush(capture: &Capture, checkpoint: &Checkpoint, observed: &Observed, context: &Context, driver: &Driver) -> Flushed {
    let (Some(vmid), Some(machine)) = (capture.guest, &observed.machine) else { return Flushed::Yes };
    let results = awaited_results(checkpoint);
    let clock = context.objects.clock();
    let guest = driver.guest(vmid, clock);
    let flushing = guest.flush(agent::session_files(machine.spec.agent.r#type), &results, FLUSH);
    tokio::select! {
        biased;
        done = flushing => match done {
            Ok(true) => Flushed::Yes,
            Ok(false) => Flushed::Partly,
            Err(error) => Flushed::No(error.to_string()),
        },
        () = clock.sleep(FLUSH_CEILING) => Flushed::No(format!("the guest did not flush within {FLUSH_CEILING:?}")),
    }
}

/// Destroys its snapshots where they were taken, and their copies; or its template, whose VMID is free then. None is exported now: a hold of
/// an export is that of a process that was killed, wherever it read.
async fn collect(checkpoint: &Checkpoint, observed: &Observed, context: &Context) -> Result<(), Failure> {
    let recorded = checkpoint.status.as_ref().and_then(|status| status.machine_uid.clone());
    let machine_uid = recorded.or_else(|| observed.machine.as_ref().map(|machine| machine.uid().to_owned())).unwrap_or_default();
    for volume in &observed.volumes {
        for copy in &volume.copies {
            let copied = Dataset(copy.dataset.clone());
            for driver in on(&copy.node, observed).await? {
                driver.export_ended(&named(&copied, volume)).await?;
                driver.discard_copy(&copied, &volume.snapshot, &volume.guid, checkpoint.uid()).await?;
                tracing::info!(zfs.dataset = %copied, "no copy of {} is left on node {}", checkpoint.name(), driver.node());
            }
        }
        if checkpoint.is_of_image() {
            // The image is the Hub's: only the reference goes.
            continue;
        }
        if checkpoint.spec.import.is_some() {
            for driver in on(&volume.node, observed).await? {
                driver.export_ended(&named(&Dataset(volume.dataset.clone()), volume)).await?;
                driver.collect_import(volume, checkpoint.uid()).await?;
                tracing::info!(zfs.dataset = volume.dataset, "nothing of import {} is left on node {}", checkpoint.name(), driver.node());
            }
            continue;
        }
        if let Some(template) = volume.template {
            collect_template(Vmid(template), &volume.node, &machine_uid, checkpoint, observed, context).await?;
            continue;
        }
        for driver in on(&volume.node, observed).await? {
            if let Some(snapshot) = driver.locate(volume, Some(&machine_uid)).await? {
                driver.export_ended(&snapshot).await?;
            }
            let collected = driver.collect(volume, checkpoint.uid(), &machine_uid).await?;
            if let Some(snapshot) = collected.snapshot {
                tracing::info!(zfs.dataset = %snapshot.dataset, "destroyed snapshot {snapshot}");
            }
            if let Some(disk) = collected.disk {
                tracing::info!(zfs.dataset = %disk, "destroyed kept disk {disk}: no snapshot was left on it");
            }
        }
    }
    Ok(())
}

/// A volume's snapshot on this dataset.
fn named(dataset: &Dataset, volume: &Volume) -> Snapshot {
    Snapshot { dataset: dataset.clone(), name: volume.snapshot.clone() }
}

async fn collect_template(
    template: Vmid,
    node: &str,
    machine_uid: &str,
    checkpoint: &Checkpoint,
    observed: &Observed,
    context: &Context,
) -> Result<(), Failure> {
    let holds = |handle: &&std::sync::Arc<HubHandle>| {
        let connection = handle.driver.connection();
        handle.driver.node().0 == node && (connection.vmids.from..=connection.vmids.to).contains(&template.0)
    };
    let Some(handle) = observed.handles.iter().filter(holds).find(|handle| !handle.driver.capabilities().has(CapabilityName::DetachDisks))
    else {
        let text = format!("it is template {template} on node {node}, which no hub has any more; see spec.infrastructure of hubs");
        return Err(Error::Waiting(text).into());
    };
    let clock = context.objects.clock();
    handle.driver.destroy_template(template, machine_uid, checkpoint.uid(), checkpoint.namespace(), clock).await?;
    context.objects.end_vmid_lease_of(&handle.name, checkpoint, machine_uid).await?;
    tracing::info!(vm.id = %template, "destroyed template {template}");
    Ok(())
}

/// The verbs on a node, of each Hub that has it. Errors: none has, so what lies there cannot be seen.
async fn on(node: &str, observed: &Observed) -> Result<Vec<Driver>, Failure> {
    let (node, mut found) = (Node(node.to_owned()), Vec::new());
    for handle in &observed.handles {
        if handle.driver.nodes().any(|known| *known == node) {
            found.push(handle.at(&node).await?);
        }
    }
    if found.is_empty() {
        let text = format!("its snapshot lies on node {node}, which no hub lists any more; list it in spec.infrastructure.nodes");
        return Err(Error::Waiting(text).into());
    }
    Ok(found)
}

/// Gives the children of a checkpoint that goes the nearest ancestor that stays.
///
/// An ancestor may itself be asked to go meanwhile, and have passed its children on before it got these: so it is looked at
/// again afterwards, and passed over.
async fn pass_parent_on(checkpoint: &Checkpoint, context: &Context) -> Result<(), Failure> {
    let mut going = vec![checkpoint.name().to_owned()];
    loop {
        let (all, _) = context.objects.list::<Checkpoint>(Some(checkpoint.namespace())).await?;
        let lineage = Lineage::new(&all, &[]);
        let heir = lineage.living_ancestor(checkpoint.name()).map(str::to_owned);
        for child in going.iter().flat_map(|name| lineage.children(name)) {
            let mut child = child.clone();
            if let Some(status) = &mut child.status {
                status.parent.clone_from(&heir);
            }
            match context.objects.update_status(&child).await {
                Ok(_) | Err(objects::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some(heir) = heir else { return Ok(()) };
        let stays = context.objects.get::<Checkpoint>(checkpoint.namespace(), &heir).await?.is_some_and(|heir| !heir.is_deleting());
        if stays || going.contains(&heir) {
            return Ok(());
        }
        going.push(heir);
    }
}
