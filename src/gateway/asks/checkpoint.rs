//! A checkpoint that an agent asks for.

use super::{Again, Gateway, Refusal, create};
use crate::{
    api::{
        Checkpoint, Kind, Machine,
        checkpoint::{CheckpointPhase, CheckpointSpec, Trigger},
    },
    wire::label,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// Seconds in which an agent gets one: what it asks for costs a freeze of its VM and a snapshot each.
const BETWEEN: i64 = 10;
/// Bytes of a description that are kept.
const DESCRIPTION: usize = 1000;

/// Takes a checkpoint of your own VM.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// What this state is, for people who look for it later.
    #[serde(default)]
    description: Option<String>,
}

/// Asks for it and waits until it is taken, as long as an answer would be held for one.
pub(super) async fn take(gateway: &Gateway, machine: &Machine, wanted: Wanted) -> Result<Value, Refusal> {
    let now = gateway.clock().now().as_second();
    let since = now - now.rem_euclid(BETWEEN);
    // The name is the limit: it holds for every gateway of the hub, and after each restart.
    let stamp = jiff::Timestamp::from_second(since).unwrap_or_default().strftime("%Y%m%d-%H%M%S");
    let name = format!("{}-asked-{stamp}", machine.name());
    let mut description = wanted.description.unwrap_or_else(|| "asked for by its agent".into());
    description.truncate(description.floor_char_boundary(DESCRIPTION));
    let spec = CheckpointSpec {
        machine: Some(machine.name().into()),
        trigger: Trigger::Requested,
        description: Some(description),
        ..CheckpointSpec::default()
    };
    let mut checkpoint = Checkpoint::new(machine.namespace(), &name, spec);
    checkpoint.metadata.labels = Some([(label::MACHINE.to_owned(), machine.name().to_owned())].into());
    let made: Option<Checkpoint> = create(gateway, machine, serde_json::to_value(&checkpoint).unwrap_or_default()).await?;
    if made.is_none() {
        let left = u32::try_from(since + BETWEEN - now).unwrap_or(1);
        let why = format!("checkpoint {name} was asked for less than {BETWEEN} s ago; ask again in {left} s");
        return Err(Refusal::new(429, "rate_limit_error", why, Again::After(left)));
    }
    // Whether it came in time is read off the object.
    let _ = gateway.checkpoints.late(machine, &name).await;
    let taken: Option<Checkpoint> = gateway.objects.get(machine.namespace(), &name).await?;
    let status = taken.and_then(|checkpoint| checkpoint.status).unwrap_or_default();
    match status.phase {
        CheckpointPhase::Ready => Ok(json!({ "name": name, "phase": status.phase, "took": status.took })),
        CheckpointPhase::Pending => Ok(json!({
            "name": name, "phase": status.phase, "message": status.message.unwrap_or_else(|| "it is not taken yet; the hub goes on with it".into()),
        })),
        CheckpointPhase::Failed | CheckpointPhase::Deleting => {
            let why = status.message.unwrap_or_else(|| "it was deleted".into());
            Err(Refusal::new(502, "api_error", format!("checkpoint {name} was not taken: {why}"), Again::Maybe))
        }
    }
}
