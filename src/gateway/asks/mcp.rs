//! The same as tools of the Model Context Protocol, over its streamable HTTP: each request by itself, without sessions, so that any gateway
//! of a hub answers it, also after a restart.

use super::{Ask, Gateway, MAX_BODY, answer, authenticate, checkpoint, said, spawn};
use crate::{api::Machine, llm::Protocol};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult, PaginatedRequestParams,
        ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::{StreamableHttpServerConfig, StreamableHttpService, streamable_http_server::session::never::NeverSessionManager},
};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};
use std::sync::Arc;

const INSTRUCTIONS: &str = "Your own VM's hub: checkpoints of it, what you may still spend, what led to its state, and Machines beside it.";

/// Answers a request of a Machine's agent.
pub(super) async fn serve(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let machine = match authenticate(&gateway, request.headers()).await {
        Ok(machine) => machine,
        Err(refusal) => return said(refusal.said(Protocol::Messages)),
    };
    let tools = Tools { gateway, machine };
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_sse_keep_alive(None)
        .with_max_request_body_bytes(MAX_BODY)
        // The token is what proves who asks; a page in a browser has none, and is refused besides.
        .disable_allowed_hosts()
        .enforce_origin_validation();
    let service = StreamableHttpService::new(move || Ok(tools.clone()), Arc::new(NeverSessionManager::default()), config);
    let mut response = service.handle(request).await.map(Body::new).into_response();
    // One that a restored VM believes in is never waited on.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The tools of one Machine's agent.
#[derive(Clone)]
struct Tools {
    gateway: Arc<Gateway>,
    machine: Arc<Machine>,
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("autovibe", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: RequestContext<RoleServer>) -> Result<ListToolsResult, ErrorData> {
        let permitted = |ask: &Ask| self.machine.spec.permissions.contains(&ask.permission());
        Ok(ListToolsResult::with_all_items(Ask::ALL.into_iter().filter(permitted).map(Ask::tool).collect()))
    }

    async fn call_tool(&self, request: CallToolRequestParams, _: RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        let named = Ask::ALL.into_iter().find(|ask| ask.name() == request.name);
        let ask = named.ok_or_else(|| ErrorData::invalid_params(format!("there is no tool {}", request.name), None))?;
        let input = request.arguments.map_or(Value::Null, Value::Object);
        let text = |text: String| vec![ContentBlock::text(text)];
        // What is refused is for the model to read.
        Ok(match answer(&self.gateway, &self.machine, ask, input).await {
            Ok(answer) => CallToolResult::success(text(answer.to_string())),
            Err(refusal) => CallToolResult::error(text(refusal.text().to_owned())),
        }
        .into())
    }
}

impl Ask {
    fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Budget => "read_budget",
            Self::Lineage => "read_lineage",
            Self::Spawn => "spawn_machine",
            Self::Spawned => "list_machines",
        }
    }

    fn tool(self) -> Tool {
        let (description, schema) = match self {
            Self::Checkpoint => (
                "Takes a checkpoint of your own VM: its disk as it is now, to which a person can put it back and from which others can be \
                 spawned. The hub takes checkpoints by itself too; ask for one when a state is worth finding again.",
                schema::<checkpoint::Wanted>(),
            ),
            Self::Budget => ("Tells what you may still spend on calls of models, and what pays for it.", nothing()),
            Self::Lineage => ("Tells the checkpoints that led to the present state of your VM, newest first.", nothing()),
            Self::Spawn => (
                "Spawns a Machine beside yours: a fork of your VM with an agent of its own, which works towards the goal that you give it and \
                 is paid out of your budget. It ends in a checkpoint; see list_machines for how it does.",
                schema::<spawn::Wanted>(),
            ),
            Self::Spawned => {
                ("Lists the Machines that you spawned: how they do, what they spent, in which checkpoint they ended.", nothing())
            }
        };
        Tool::new(self.name(), description, schema)
    }
}

/// Without references, which some providers of models do not follow.
fn schema<T: JsonSchema>() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    // The name of a type in here.
    schema.remove("title");
    match schema.to_value() {
        Value::Object(schema) => schema,
        _ => nothing(),
    }
}

/// The schema of a tool that takes nothing.
fn nothing() -> Map<String, Value> {
    [("type".to_owned(), "object".into()), ("additionalProperties".to_owned(), false.into())].into_iter().collect()
}
