//! What an agent asks of its hub with its own token, within its Machine's permissions: a checkpoint, what it may spend, what led to
//! its state, Machines beside it. By plain HTTP here and as tools of MCP in `mcp`; both end in [`answer`].
//!
//! What is made is made by the one path to objects, as the Machine's own user.

mod checkpoint;
mod mcp;
mod reading;
mod spawn;

use super::{
    Gateway,
    http::{authenticate, respond_json, said, unknown},
    live::ASKS,
    refusal::{Again, Refusal},
    resolve::{Unresolved, ended},
};
use crate::{
    admission,
    api::{Budget, Checkpoint, GROUP, Kind, Machine, Permission},
    auth::{self, Action, User},
    llm::Protocol,
    objects::{self, WriteOptions},
    wire::asks::{BUDGET_PATH, CHECKPOINTS_PATH, LINEAGE_PATH, MACHINES_PATH, MCP_PATH},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get, post},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// A goal in words is the longest that is asked.
const MAX_BODY: usize = 256 << 10;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Checkpoint,
    Budget,
    Lineage,
    Spawn,
    /// Which Machines it spawned.
    Spawned,
}

impl Ask {
    const ALL: [Self; 5] = [Self::Checkpoint, Self::Budget, Self::Lineage, Self::Spawn, Self::Spawned];

    /// What its Machine must have.
    fn permission(self) -> Permission {
        match self {
            Self::Checkpoint => Permission::Checkpoint,
            Self::Budget => Permission::ReadBudget,
            Self::Lineage => Permission::ReadLineage,
            Self::Spawn | Self::Spawned => Permission::SpawnMachines,
        }
    }

    /// The same as the rules of access know it.
    fn action(self, namespace: &str) -> Action {
        let (verb, resource) = match self {
            Self::Checkpoint => ("create", Checkpoint::PLURAL),
            Self::Budget => ("get", Budget::PLURAL),
            Self::Lineage => ("get", Checkpoint::PLURAL),
            Self::Spawn => ("create", Machine::PLURAL),
            Self::Spawned => ("list", Machine::PLURAL),
        };
        Action::on(verb, GROUP, resource, namespace, "")
    }

    /// In words.
    fn words(self) -> &'static str {
        match self {
            Self::Checkpoint => "ask for a checkpoint",
            Self::Budget => "read its budget",
            Self::Lineage => "read its lineage",
            Self::Spawn => "spawn a Machine",
            Self::Spawned => "list the Machines that it spawned",
        }
    }

    fn route(self) -> MethodRouter<Arc<Gateway>> {
        let code = if matches!(self, Self::Checkpoint | Self::Spawn) { StatusCode::CREATED } else { StatusCode::OK };
        let ask = move |State(gateway): State<Arc<Gateway>>, headers: HeaderMap, body: Body| async move {
            let answered = by_http(&gateway, self, &headers, body).await;
            answered.map_or_else(|refusal| said(refusal.said(Protocol::Messages)), |answer| (code, answer).into_response())
        };
        if code == StatusCode::CREATED { post(ask) } else { get(ask) }
    }
}

/// Where agents ask.
pub(super) fn routes() -> Router<Arc<Gateway>> {
    Router::new()
        .route(CHECKPOINTS_PATH, Ask::Checkpoint.route())
        .route(BUDGET_PATH, Ask::Budget.route())
        .route(LINEAGE_PATH, Ask::Lineage.route())
        .route(MACHINES_PATH, Ask::Spawn.route().merge(Ask::Spawned.route()))
        .route(MCP_PATH, any(mcp::serve))
}

async fn by_http(gateway: &Arc<Gateway>, ask: Ask, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let machine = authenticate(gateway, headers).await?;
    let too_large = |_| Refusal::new(413, "request_too_large", "the request is larger than 256 KiB or broke off", Again::Maybe);
    let bytes = to_bytes(body, MAX_BODY).await.map_err(too_large)?;
    let input = if bytes.trim_ascii().is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&bytes) };
    let input = input.map_err(|error| Refusal::wrong(format!("autovibe: the body is no JSON: {error}")))?;
    Ok(respond_json(&answer(gateway, &machine, ask, input).await?))
}

/// Does what is asked, if the Machine's agent may.
async fn answer(gateway: &Gateway, machine: &Machine, ask: Ask, input: Value) -> Result<Value, Refusal> {
    let live = gateway.live(machine.uid()).await?;
    let Ok(_one) = live.asks.try_acquire() else {
        let why = format!("{ASKS} requests of this agent are answered already; wait for one of them");
        return Err(Refusal::new(429, "rate_limit_error", why, Again::After(1)));
    };
    let machine = allowed(gateway, machine, ask).await?;
    match ask {
        Ask::Checkpoint => checkpoint::take(gateway, &machine, read(input)?).await,
        Ask::Budget => reading::budget(gateway, &machine).await,
        Ask::Lineage => reading::lineage(gateway, &machine).await,
        Ask::Spawn => spawn::spawn(gateway, &machine, read(input)?).await,
        Ask::Spawned => spawn::spawned(gateway, &machine).await,
    }
}

/// The Machine as it is stored now: what was permitted a moment ago may not be any more.
async fn allowed(gateway: &Gateway, known: &Machine, ask: Ask) -> Result<Machine, Refusal> {
    let stored: Option<Machine> = gateway.objects.get(known.namespace(), known.name()).await?;
    let machine = stored.filter(|machine| machine.uid() == known.uid()).ok_or_else(unknown)?;
    let refused = |why: String| {
        tracing::warn!(object.kind = "Machine", object.name = machine.name(), object.uid = machine.uid(), "its agent was refused: {why}");
        Refusal::new(403, "permission_error", why, Again::Never)
    };
    if let Some(why) = ended(&machine) {
        return Err(refused(format!("{why}, so its agent may no longer {}", ask.words())));
    }
    if !auth::policy_of(&machine).decide(&User::machine(&machine), &ask.action(machine.namespace())).is_allowed() {
        let name = format!("Machine {}/{}", machine.namespace(), machine.name());
        let (words, permission) = (ask.words(), ask.permission());
        return Err(refused(format!(
            "the agent of {name} may not {words}: that takes the permission {permission:?}. Whoever may edit the Machine can add it to its \
             spec.permissions"
        )));
    }
    tracing::info!(object.kind = "Machine", object.name = machine.name(), object.uid = machine.uid(), "its agent may {}", ask.words());
    Ok(machine)
}

/// Reads what is asked. Errors name the field.
fn read<T: DeserializeOwned>(input: Value) -> Result<T, Refusal> {
    let input = if input.is_null() { Value::Object(serde_json::Map::new()) } else { input };
    let wrong = |error: serde_path_to_error::Error<serde_json::Error>| {
        let at = error.path().to_string();
        let at = if at == "." { String::new() } else { format!("{at}: ") };
        Refusal::wrong(format!("autovibe: {at}{}", error.inner()))
    };
    serde_path_to_error::deserialize(input).map_err(wrong)
}

/// Creates an object in the Machine's namespace, as its own user. Errors: admission's, as [`refused`] says them, or `None` when there is
/// one of that name.
async fn create<K: Kind>(gateway: &Gateway, machine: &Machine, document: Value) -> Result<Option<K>, Refusal> {
    let options = WriteOptions { user: Some(User::machine(machine).name), ..WriteOptions::default() };
    let resource = admission::resource::<K>();
    match gateway.objects.create_document(resource, machine.namespace(), document, &options).await {
        Ok(written) => {
            let name = written.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            Ok(Some(objects::typed(&resource.key(machine.namespace(), &name), &written.object)?))
        }
        Err(objects::Error::AlreadyExists { .. }) => Ok(None),
        Err(error) => Err(refused(error)),
    }
}

/// What admission says against it is for the agent to read; what failed is tried again.
fn refused(error: objects::Error) -> Refusal {
    match error {
        objects::Error::Invalid { .. } | objects::Error::BadRequest(_) | objects::Error::Unprocessable(_) => {
            Refusal::wrong(format!("autovibe: {error}"))
        }
        objects::Error::Forbidden(_) | objects::Error::Terminating { .. } => {
            Refusal::new(403, "permission_error", error.to_string(), Again::Never)
        }
        error => error.into(),
    }
}

impl From<Unresolved> for Refusal {
    fn from(why: Unresolved) -> Self {
        match why {
            Unresolved::Ended(text) | Unresolved::NotAllowed(text) => Self::new(403, "permission_error", text, Again::Never),
            Unresolved::Unavailable(text) => Self::later(text, 5),
        }
    }
}
