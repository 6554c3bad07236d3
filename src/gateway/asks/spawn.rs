//! Machines that an agent spawns: forks of its own, which can do nothing that it cannot, wait for the same people's approvals, and are
//! paid out of its own limits.

use super::{Again, Gateway, Refusal, create};
use crate::{
    api::{
        API_VERSION, Kind, Machine, Permission,
        machine::{Capture, From, FromMachine, Goal, Limits, MachineSpec, OnTerminate, OperatingMode, Verify},
        quantity::{Currency, GoDuration, Money, NanoUsd},
    },
    gateway::resolve,
    objects::EventType,
    wire::label,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// Machines that one agent has beside it at a time: each takes as much of the node as its own.
const MOST: usize = 4;

/// Spawns a Machine beside your own: a fork of it, which works towards another goal.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wanted {
    /// What its agent is to do, in words. It sees the files of the state that it is forked from, and nothing of your conversation.
    prompt: String,
    /// Its name: lower-case letters, digits and dashes. Default: yours, with a suffix.
    #[serde(default)]
    name: Option<String>,
    /// The state that it begins from.
    #[serde(default)]
    from: Origin,
    /// Program and arguments that must exit 0 in the workspace when its agent is done.
    #[serde(default)]
    verify: Vec<String>,
    /// US dollars that it may spend at most, such as "0.50". They are yours too.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    money: Option<NanoUsd>,
    /// Calls of models that it may make at most.
    #[serde(default)]
    api_calls: Option<u64>,
    /// How long its agent may run, such as "30m".
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    time: Option<GoDuration>,
    /// What its agent may ask of the hub. Default: what you may, but for SpawnMachines.
    #[serde(default)]
    permissions: Option<Vec<Permission>>,
}

/// What a fork begins from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
enum Origin {
    /// Your newest checkpoint.
    #[default]
    LatestCheckpoint,
    /// A checkpoint that is taken for it.
    Now,
    /// The image that you were spawned from, without your work.
    Image,
}

/// Makes the Machine; the hub does the rest.
pub(super) async fn spawn(gateway: &Gateway, parent: &Machine, wanted: Wanted) -> Result<Value, Refusal> {
    let limits = resolve::limits(&gateway.directory, parent).await?;
    let spec = spec(parent, &limits, &wanted)?;
    let _alone = gateway.spawning.lock().await;
    let children = children(gateway, parent).await?;
    // A reply that was lost is asked for again.
    if let Some(there) =
        children.iter().find(|child| Some(child.name()) == wanted.name.as_deref() && child.spec.goal.prompt == wanted.prompt)
    {
        return Ok(shown(there));
    }
    let living: Vec<&str> = children.iter().filter(|child| !is_over(child)).map(Kind::name).collect();
    if living.len() >= MOST {
        let why = format!("{MOST} Machines that it spawned live, which is the most: {}; wait until one has ended", living.join(", "));
        return Err(Refusal::new(429, "rate_limit_error", why, Again::Never));
    }
    let made: Option<Machine> = create(gateway, parent, document(parent, &spec, wanted.name.as_deref())).await?;
    let Some(child) = made else {
        let why = format!("there is a Machine {} already; choose another name", wanted.name.unwrap_or_default());
        return Err(Refusal::new(409, "invalid_request_error", why, Again::Never));
    };
    let message = format!("its agent spawned machine {}", child.name());
    tracing::info!(object.kind = "Machine", object.name = parent.name(), object.uid = parent.uid(), "{message}");
    gateway.objects.record(parent, EventType::Normal, "MachineSpawned", &message).await;
    Ok(shown(&child))
}

/// The Machines that it spawned, and how they do.
pub(super) async fn spawned(gateway: &Gateway, parent: &Machine) -> Result<Value, Refusal> {
    let children = children(gateway, parent).await?;
    Ok(json!({ "machines": children.iter().map(shown).collect::<Vec<_>>() }))
}

async fn children(gateway: &Gateway, parent: &Machine) -> Result<Vec<Machine>, Refusal> {
    let uid = parent.uid();
    let owned =
        |document: &Value| document["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(|owner| owner["uid"] == *uid);
    Ok(gateway.objects.list_where::<Machine>(parent.namespace(), owned).await?)
}

fn is_over(machine: &Machine) -> bool {
    machine.status.as_ref().is_some_and(|status| status.phase.is_finished())
}

fn shown(machine: &Machine) -> Value {
    let status = machine.status.clone().unwrap_or_default();
    json!({
        "name": machine.name(),
        "prompt": machine.spec.goal.prompt,
        "phase": status.phase,
        "message": status.message,
        "spent": status.spent,
        "finalCheckpoint": status.final_checkpoint,
        "terminationReason": status.termination_reason,
    })
}

/// The parent's own, but for what was asked: where, how large, who decides and who pays is not for its agent to choose.
fn spec(parent: &Machine, most: &Limits, wanted: &Wanted) -> Result<MachineSpec, Refusal> {
    let mut spec = parent.spec.clone();
    spec.from = Some(origin(parent, wanted.from)?);
    spec.goal = Goal { prompt: wanted.prompt.clone(), workspace: Some(parent.workspace().to_owned()), ..Goal::default() };
    if !wanted.verify.is_empty() {
        let timeout = parent.spec.goal.verify.as_ref().map_or(Verify::TIMEOUT, |verify| verify.timeout);
        spec.goal.verify = Some(Verify { command: wanted.verify.clone(), timeout });
    }
    (spec.source, spec.push, spec.restore, spec.operating_mode, spec.on_terminate) =
        (None, None, None, OperatingMode::Running, OnTerminate::Checkpoint);
    spec.permissions = permissions(parent, wanted.permissions.as_deref())?;
    let limits = &mut spec.budget.get_or_insert_default().limits;
    let money = wanted.money.map(|amount| Money { amount, currency: Currency::USD });
    let least = [
        within("money", wanted.money, most.money.map(|money| money.amount)),
        within("apiCalls", wanted.api_calls, most.api_calls),
        within("time", wanted.time.map(|time| time.0), most.time.map(|time| time.0)),
    ];
    least.into_iter().collect::<Result<(), _>>()?;
    limits.money = money.or(limits.money);
    limits.api_calls = wanted.api_calls.or(limits.api_calls);
    limits.time = wanted.time.or(limits.time);
    Ok(spec)
}

fn origin(parent: &Machine, from: Origin) -> Result<From, Refusal> {
    let missing = |why: &str| Refusal::new(409, "invalid_request_error", why, Again::Never);
    match from {
        Origin::LatestCheckpoint => {
            let newest = parent.status.as_ref().and_then(|status| status.last_checkpoint.clone());
            let newest = newest.ok_or_else(|| missing("you have no checkpoint yet; use from: Now, which takes one"))?;
            Ok(From { checkpoint: Some(newest), ..From::default() })
        }
        Origin::Now => Ok(From { machine: Some(FromMachine { name: parent.name().into(), capture: Capture::Now }), ..From::default() }),
        Origin::Image => {
            let image = parent.spec.from.as_ref().and_then(|from| from.image.clone());
            let image = image.ok_or_else(|| missing("you were not spawned from an image; use from: LatestCheckpoint or Now"))?;
            Ok(From { image: Some(image), ..From::default() })
        }
    }
}

/// What the child's agent may ask for: no more than its parent's, and to spawn only where a person says so.
fn permissions(parent: &Machine, asked: Option<&[Permission]>) -> Result<Vec<Permission>, Refusal> {
    let own = &parent.spec.permissions;
    let Some(asked) = asked else {
        return Ok(own.iter().copied().filter(|permission| *permission != Permission::SpawnMachines).collect());
    };
    let refuse = |why: String| Err(Refusal::new(403, "permission_error", why, Again::Never));
    if asked.contains(&Permission::SpawnMachines) {
        return refuse(
            "a Machine that an agent spawned may not spawn others; whoever may edit it can add SpawnMachines to its spec.permissions"
                .into(),
        );
    }
    match asked.iter().find(|permission| !own.contains(permission)) {
        Some(more) => {
            refuse(format!("you cannot give the permission {more:?}, which Machine {}/{} lacks", parent.namespace(), parent.name()))
        }
        None => Ok(asked.to_vec()),
    }
}

fn within<T: PartialOrd + std::fmt::Debug>(what: &str, asked: Option<T>, most: Option<T>) -> Result<(), Refusal> {
    match (asked, most) {
        (Some(asked), Some(most)) if asked > most => {
            let why = format!("{what} asks for more than your own limit, out of which it is paid; leave it out, or ask for less");
            Err(Refusal::new(403, "permission_error", why, Again::Never))
        }
        _ => Ok(()),
    }
}

fn document(parent: &Machine, spec: &MachineSpec, name: Option<&str>) -> Value {
    let mut child = Machine::new(parent.namespace(), name.unwrap_or_default(), spec.clone());
    if name.is_none() {
        (child.metadata.name, child.metadata.generate_name) = (None, Some(format!("{}-", parent.name())));
    }
    child.metadata.labels = Some([(label::SPAWNED_BY.to_owned(), parent.name().to_owned())].into());
    child.metadata.owner_references = Some(vec![OwnerReference {
        api_version: API_VERSION.into(),
        kind: Machine::KIND.into(),
        name: parent.name().into(),
        uid: parent.uid().into(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    serde_json::to_value(child).expect("its keys are strings")
}
