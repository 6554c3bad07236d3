//! What a Machine's disks are cloned from: looked up, and asked for where it is yet to be taken.

use super::step::{Ask, Base};
use super::{ASKED_BY, base_names, is_own};
use crate::api::capability::{CapabilityName, impossible};
use crate::api::checkpoint::{CheckpointPhase, VolumeCopy};
use crate::api::machine::{Capture, From, Machine, MachineStatus, Phase};
use crate::api::{Checkpoint, Kind};
use crate::controller::hub::HubHandle;
use crate::controller::{Context, Error};
use crate::driver::storage::Image;
use crate::driver::{self, Driver};
use std::path::Path;

/// What was found of a base.
pub(super) enum Looked {
    At(Result<Base, String>),
    /// It is to be asked for first; and what is waited for then.
    Asks(Ask, String),
}

/// What the disks are cloned from: what was decided when it was spawned, or what `from` and `after` lead to now.
pub(super) async fn base(
    machine: &Machine,
    status: &MachineStatus,
    hub: Option<&HubHandle>,
    driver: Option<&Driver>,
    context: &Context,
) -> Result<Looked, Error> {
    let from = machine.spec.from.clone().unwrap_or_default();
    let decided = status.restored.as_ref().map_or(&status.spawned_from, |restored| &restored.checkpoint);
    if status.phase == Phase::Spawning
        && let Some(name) = decided
    {
        return checkpoint_base(machine, name, context).await.map(Looked::At);
    }
    let found = match from {
        From { image: Some(image), .. } => match hub.map(|hub| (hub, hub.images.get(&image))) {
            None => Err("for its hub".into()),
            Some((hub, None)) => Err(format!("for image {image} of hub {}, which is not there (yet): see the hub's status", hub.name)),
            Some((hub, Some(found))) => image_base(&image, found, hub, driver.filter(|_| status.node.is_some())).await,
        },
        From { checkpoint: Some(name), .. } => checkpoint_base(machine, &name, context).await?,
        From { machine: Some(from), .. } => {
            let Some(source) = context.objects.get::<Machine>(machine.namespace(), &from.name).await? else {
                return Ok(Looked::At(Err(format!("for machine {}, which does not exist; create it", from.name))));
            };
            let last = source.status.as_ref().and_then(|status| status.last_checkpoint.clone());
            match (from.capture, last) {
                (Capture::Now, last) => {
                    let why = hub.and_then(|hub| impossible(&hub.driver.capabilities().told(), CapabilityName::ForkNow));
                    return captured_for(machine, &source, last, why, context).await;
                }
                (Capture::Latest, Some(name)) => checkpoint_base(machine, &name, context).await?,
                (Capture::Latest, None) => Err(format!("for machine {} to have a checkpoint", source.name())),
            }
        }
        _ => {
            let Some(last) = machine.spec.goal.after.last() else { return Ok(Looked::At(Err("for spec.from".into()))) };
            let last = context.objects.get::<Machine>(machine.namespace(), last).await?;
            match last.and_then(|last| last.status?.final_checkpoint) {
                Some(name) => checkpoint_base(machine, &name, context).await?,
                None => Err(format!("for the final checkpoint of machine {}", machine.spec.goal.after.last().map_or("", String::as_str))),
            }
        }
    };
    Ok(Looked::At(found))
}

/// An image: as it is on the Machine's node, where it is there, else as another node has it.
pub(super) async fn image_base(name: &str, image: &Image, hub: &HubHandle, driver: Option<&Driver>) -> Result<Base, String> {
    let base = |image: &Image| {
        let mut volumes = image.volumes();
        for volume in &mut volumes {
            // Each node has one of its own of that name.
            let others = image.nodes.iter().skip(1);
            volume.copies = others.map(|node| VolumeCopy { node: node.0.clone(), received: true, ..VolumeCopy::default() }).collect();
        }
        Base { checkpoint: None, machine_uid: None, volumes, image: Some(name.into()), workspace: None }
    };
    let Some(driver) = driver.filter(|driver| image.nodes.first() != Some(driver.node())) else { return Ok(base(image)) };
    let spec = hub.spec.images.iter().find(|image| image.name == name);
    let own = match spec.map(|image| (&image.file, &image.dataset)) {
        Some((Some(file), _)) => driver.imported(Path::new(file), name).await,
        Some((None, Some(snapshot))) => driver.find_image(snapshot).await.map(Some),
        _ => Ok(None),
    };
    let own = match own {
        Ok(Some(own)) => Some(own),
        // A copy that is not finished bears no mark yet.
        Ok(None) | Err(driver::Error::Missing(_) | driver::Error::Conflict(_)) => {
            driver.copied_image(image, name).await.map_err(|error| error.to_string())?
        }
        Err(error) => return Err(format!("to see image {name} on node {}: {error}", driver.node())),
    };
    let first = Image { nodes: image.nodes.iter().take(1).cloned().collect(), ..image.clone() };
    Ok(base(&own.unwrap_or(first)))
}

/// The state of a Machine as it is now: a checkpoint that is taken for this fork, or, where nothing runs, its newest. `impossible` says
/// why none can be taken.
async fn captured_for(
    machine: &Machine,
    source: &Machine,
    last: Option<String>,
    impossible: Option<String>,
    context: &Context,
) -> Result<Looked, Error> {
    let phase = source.status.as_ref().map(|status| status.phase).unwrap_or_default();
    let is_still = phase.is_finished() || phase == Phase::Suspended;
    let mut free = None;
    for name in base_names(machine) {
        match context.objects.get::<Checkpoint>(machine.namespace(), &name).await? {
            None => free = free.or(Some(name)),
            // An annotation alone is anyone's to write: it must be of the Machine that is forked.
            Some(found) if found.annotation(ASKED_BY) == Some(machine.uid()) && found.spec.machine.as_deref() == Some(source.name()) => {
                let base = checkpoint_base(machine, &name, context).await?;
                // Its Machine ended before it could be taken: what it ended in is what it was.
                if base.is_err() && is_still {
                    free = None;
                    break;
                }
                return Ok(Looked::At(base));
            }
            // Someone else's.
            Some(_) => {}
        }
    }
    Ok(match (last, free) {
        (Some(name), _) if is_still => Looked::At(checkpoint_base(machine, &name, context).await?),
        (None, _) if is_still => Looked::At(Err(format!("for machine {} to have a checkpoint; it has ended without one", source.name()))),
        _ if impossible.is_some() => {
            Looked::At(Err(format!("for machine {} to end: its hub {}", source.name(), impossible.unwrap_or_default())))
        }
        (_, Some(checkpoint)) if phase == Phase::Running => {
            let why = format!("for checkpoint {checkpoint} of machine {}", source.name());
            Looked::Asks(Ask { machine: source.name().to_owned(), checkpoint }, why)
        }
        _ => Looked::At(Err(format!("for machine {} to run; it is {phase:?}", source.name()))),
    })
}

/// Whether what is asked to be put back is there and its own; `None` when nothing is asked, or it was done.
pub(super) async fn restore(machine: &Machine, status: &MachineStatus, context: &Context) -> Result<Option<Result<(), String>>, Error> {
    let Some(asked) = &machine.spec.restore else { return Ok(None) };
    if status.vm.is_none() || status.restored.as_ref().and_then(|restored| restored.asked.as_ref()) == Some(asked) {
        return Ok(None);
    }
    let name = &asked.checkpoint;
    let found = context.objects.get::<Checkpoint>(machine.namespace(), name).await?;
    if found.is_some_and(|found| !is_own(&found, machine)) {
        let remedy = "name one of its own in spec.restore, or spawn another machine from it";
        return Ok(Some(Err(format!("checkpoint {name} is not of this machine: {remedy}"))));
    }
    Ok(Some(checkpoint_base(machine, name, context).await?.map(drop)))
}

async fn checkpoint_base(machine: &Machine, name: &str, context: &Context) -> Result<Result<Base, String>, Error> {
    let Some(checkpoint) = context.objects.get::<Checkpoint>(machine.namespace(), name).await? else {
        return Ok(Err(format!("for checkpoint {name}, which does not exist; create it")));
    };
    let deleting = checkpoint.is_deleting();
    let status = checkpoint.status.unwrap_or_default();
    Ok(match status.phase {
        CheckpointPhase::Ready if !deleting => {
            let (machine_uid, volumes, workspace) = (status.machine_uid, status.volumes, status.workspace);
            Ok(Base { checkpoint: Some(name.into()), machine_uid, volumes, image: None, workspace })
        }
        CheckpointPhase::Failed => Err(format!("for checkpoint {name}, which failed: {}", status.message.unwrap_or_default())),
        _ if deleting => Err(format!("for checkpoint {name}, which is being deleted")),
        phase => Err(format!("for checkpoint {name}, which is {phase:?}")),
    })
}
