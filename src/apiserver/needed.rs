//! Whether a Checkpoint that someone asks to delete is a base of something that stays; then the request is refused, and says of what.
//!
//! Not here: what comes to need it right after this look. Such a one is being deleted for as long as it is needed, which its controller
//! sees to, and nothing new is spawned from it.

use super::status::Status;
use crate::{
    admission::{self, Resource},
    api::{Checkpoint, GROUP, Kind, Machine},
    lineage::{Lineage, Use},
    objects::{self, Objects},
};
use std::collections::BTreeSet;

/// Uses that are named.
const NAMED: usize = 3;

/// Errors: 409 of the first of these Checkpoints that something needs which is not going itself. In a namespace that is being deleted none
/// is refused, for all of it goes; nor is one that is being deleted already.
pub(super) async fn refuse_needed(objects: &Objects, resource: &Resource, namespace: &str, names: &[&str]) -> Result<(), Status> {
    if (resource.group, resource.kind) != (GROUP, Checkpoint::KIND) || names.is_empty() {
        return Ok(());
    }
    let home = match admission::named("", "namespaces") {
        Some(namespaces) => objects.read(namespaces, "", namespace).await.ok(),
        None => None,
    };
    if home.is_some_and(|home| home["metadata"]["deletionTimestamp"].is_string()) {
        return Ok(());
    }
    let all = async {
        let (checkpoints, _) = objects.list::<Checkpoint>(Some(namespace)).await?;
        let (machines, _) = objects.list::<Machine>(Some(namespace)).await?;
        Ok::<_, objects::Error>((checkpoints, machines))
    };
    // With one that cannot be read what needs what is not known: then its controller waits, as for any that is needed.
    let Ok((checkpoints, machines)) = all.await else { return Ok(()) };
    let lineage = Lineage::new(&checkpoints, &machines);
    let named: BTreeSet<&str> = names.iter().copied().collect();
    let going: BTreeSet<&str> = checkpoints.iter().filter(|one| one.is_deleting()).map(Kind::name).chain(named.iter().copied()).collect();
    for one in checkpoints.iter().filter(|one| named.contains(one.name()) && !one.is_deleting()) {
        // What it is verified by ends with it.
        let verifies = |name: &str| {
            let machine = machines.iter().find(|machine| machine.name() == name && machine.spec.verifies());
            let owners = machine.into_iter().filter_map(|machine| machine.metadata.owner_references.as_ref()).flatten();
            owners.into_iter().any(|owner| owner.uid == one.uid())
        };
        let stays = |needs: &Use| match needs {
            Use::Base { checkpoint } => !going.contains(checkpoint.as_str()),
            Use::Disk { machine } | Use::Spawn { machine } | Use::Ending { machine } => !verifies(machine),
        };
        let uses: Vec<String> = lineage.uses(one.name()).iter().filter(|needs| stays(needs)).map(ToString::to_string).collect();
        if !uses.is_empty() {
            let more = uses.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let why = format!("it is needed: {}{more}; delete what needs it first", uses[..uses.len().min(NAMED)].join(", "));
            return Err(Status::conflict(&resource.name(), one.name(), &why));
        }
    }
    Ok(())
}
