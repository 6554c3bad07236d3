//! The runner in a guest: it says that it answers for its agent's tool calls, and asks before each. With it every risky call has a
//! checkpoint of its own, and a person may take as long as they like: nothing that the agent's program watches stands still.

use super::{
    Gateway,
    approvals::{Asked, Ruling, is_needed},
    hold::{Moment, Outcome},
    http::{authenticate_by, respond_json, said},
    live::Live,
    refusal::{Again, Refusal},
    resolve::ended,
};
use crate::{
    agent,
    api::{
        Kind, Machine,
        checkpoint::{Reason, Session, Trigger},
    },
    boundary::{self, Context, Part, Risk, wanted},
    llm::Protocol,
    wire::runner::{ToolAnswer, ToolQuestion, token_of},
};
use axum::{
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, header::AUTHORIZATION},
    response::Response,
};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};

/// A tool's input is at most as large as an answer of a model.
const MAX_QUESTION: usize = 32 << 20;
/// How long a question waits for a person until the runner must ask again.
const WAIT: Duration = Duration::from_secs(40);

/// `POST` of a runner that is there.
pub(super) async fn present(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    let noted = async {
        let (machine, known) = authenticate(&gateway, &headers).await?;
        gateway.live(machine.uid()).await?.runner_is_there(known);
        Ok::<_, Refusal>(respond_json(&()))
    };
    noted.await.unwrap_or_else(|refusal| said(refusal.said(Protocol::Messages)))
}

/// `POST` of a question.
pub(super) async fn tool(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, body: Body) -> Response {
    let stops = || Refusal::later("the gateway stops", 2);
    let answered = gateway.shutdown.run_until_cancelled(Box::pin(answer(&gateway, &headers, body))).await.unwrap_or_else(|| Err(stops()));
    answered.map_or_else(|refusal| said(refusal.said(Protocol::Messages)), |answer| respond_json(&answer))
}

/// The Machine whose runner it is, and what that is known by. Its agent's token alone is not enough.
async fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<(Arc<Machine>, String), Refusal> {
    let key = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let hash = key.and_then(token_of).map(|token| hex::encode(Sha256::digest(token)));
    Ok((authenticate_by(gateway, hash.clone()).await?, hash.unwrap_or_default()))
}

async fn answer(gateway: &Arc<Gateway>, headers: &HeaderMap, body: Body) -> Result<ToolAnswer, Refusal> {
    let (machine, known) = authenticate(gateway, headers).await?;
    let too_large = |_| Refusal::new(413, "request_too_large", "the question is larger than 32 MiB or broke off", Again::Maybe);
    let bytes = to_bytes(body, MAX_QUESTION).await.map_err(too_large)?;
    let question: ToolQuestion =
        serde_json::from_slice(&bytes).map_err(|error| Refusal::wrong(format!("autovibe: this is no question of a runner: {error}")))?;
    let live = gateway.live(machine.uid()).await?;
    live.runner_is_there(known);
    live.questioned(&question.id);
    if let Some(why) = ended(&machine) {
        return Ok(ToolAnswer::Deny { words: why });
    }
    let risk = boundary::risk(&question.tool, &question.input);
    let mut checkpoint = None;
    if risk.class.is_risky() && wanted(&machine.spec.checkpoints, Trigger::BeforeRiskyOperation) {
        match gateway.checkpoint_before(&machine, &live, &question, &risk).await {
            Ok(name) => checkpoint = Some(name),
            Err(words) => return Ok(ToolAnswer::Deny { words }),
        }
    }
    if !is_needed(&machine, &risk) {
        return Ok(ToolAnswer::Allow);
    }
    let asked = Asked { tool: &question.tool, input: &question.input, id: &question.id, risk: &risk, checkpoint };
    Ok(match gateway.approvals.ask(&machine, &asked, gateway.clock().sleep(WAIT)).await? {
        Ruling::Allowed => ToolAnswer::Allow,
        Ruling::Refused(words) => ToolAnswer::Deny { words },
        Ruling::Undecided(_) => ToolAnswer::Wait,
    })
}

impl Gateway {
    /// The checkpoint of the state before a call: its answer's, when nothing of that answer ran before; else one of its own. Errors: there
    /// is none, in words for the model.
    async fn checkpoint_before(&self, machine: &Machine, live: &Live, question: &ToolQuestion, risk: &Risk) -> Result<String, String> {
        let message = format!("before {}, which {}", risk.rule, risk.class.words());
        let reasons = vec![Reason { trigger: Trigger::BeforeRiskyOperation, message }];
        let place = live.place_of(&question.id);
        let mut outcome = Outcome::Failed(String::new());
        if let Some(mut gate) = place.gate.filter(|_| place.is_first) {
            let decided = gate.wait_for(Option::is_some).await.ok().and_then(|decided| decided.clone());
            outcome = decided.unwrap_or(outcome);
        }
        if let Outcome::Failed(_) = outcome {
            let context = place.context.unwrap_or_else(|| Context { session: agent::session(machine.uid()), part: Part::Main });
            let quiescent = live.state().contexts.quiescent_beside(&context);
            // The same for a question that is asked again.
            let call = hex::encode(&Sha256::digest(&question.id)[..4]);
            let session = Session { id: context.session, turn: place.turn, request: question.id.clone() };
            let name = format!("{}-{:04}-{call}", machine.name(), place.turn);
            let moment = Moment { name, session, quiescent, results: Vec::new(), reasons: reasons.clone() };
            outcome = self.checkpoints.capture(machine, &moment).await;
        }
        let name = match &outcome {
            Outcome::Captured(name) | Outcome::Released(name) => name.clone(),
            Outcome::Failed(_) => String::new(),
        };
        match self.checkpoints.secure(machine, outcome, &reasons).await {
            Ok(()) => Ok(name),
            Err(why) => {
                let said = self.checkpoints.missing(machine, &reasons, &why, "a tool was refused, for there is no checkpoint").await;
                Err(format!("autovibe: {said}. Make the call again to try once more."))
            }
        }
    }
}
