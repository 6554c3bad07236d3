//! One model call: reserve → forward → meter → settle. It runs on its own, so that an agent that hangs up changes nothing:
//! the provider's answer is read to its end and paid for as it was.

use super::{
    Gateway,
    answer::{Answer, End, Gate, Head},
    before::Judged,
    live::{Due, Live, Measured},
    log,
    refusal::{Again, Refusal},
    resolve::{Route, Upstream},
    transcript,
};
use crate::{
    api::{Kind, Machine, checkpoint::Reason, quantity::NanoUsd},
    boundary::{self, Boundary, Context, Part},
    budget::{self, Demand},
    ledger::Actual,
    llm::{
        self, Protocol, Reply, anthropic,
        kept::{self, Events, Kept, Unchangeable},
        meter::{Caching, Meter, Metered},
        openai, prices,
        request::{Pieces, Request},
        usage_chunk::Filter,
    },
    objects::EventType,
    store::{CallEnd, CallKind, CallState, NewCall},
};
use bytes::Bytes;
use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// No answer of a model is larger; what is, is cut off.
const MAX_ANSWER: usize = 32 << 20;
/// No error text is.
const MAX_ERROR: usize = 64 << 10;
/// Why an answer ends whose call cannot be told that it must not be made.
const UNCHANGEABLE: &str = "a call of it was not approved";
/// How long a client may take to read the end of an answer until it counts as lost.
const READ_OUT: Duration = Duration::from_mins(1);

/// A call to make.
pub(super) struct Call {
    pub(super) gateway: Arc<Gateway>,
    pub(super) machine: Arc<Machine>,
    pub(super) live: Arc<Live>,
    pub(super) route: Route,
    pub(super) request: Request,
    pub(super) context: Context,
    pub(super) boundary: Option<Boundary>,
    pub(super) turn: u64,
    pub(super) checkpoint: Due,
    /// Why a checkpoint is due at the request.
    pub(super) reasons: Vec<Reason>,
    /// The checkpoint of the state that the request was made in, once it was asked for.
    pub(super) gate: Option<Gate>,
    /// The agent got something else than the provider said.
    pub(super) changed: bool,
    pub(super) answer: Arc<Answer>,
    /// The agent's `anthropic-version` and `anthropic-beta`.
    pub(super) version: Option<String>,
    pub(super) betas: Option<String>,
    pub(super) beta: bool,
    /// Among its Machine's calls that are under way.
    pub(super) _place: OwnedSemaphorePermit,
}

/// What bounds the cost of a call.
struct Bounds {
    /// What its input is made of.
    pieces: Pieces,
    input: u64,
    caching: Caching,
    reserved: NanoUsd,
}

impl Call {
    /// Makes the call and settles it.
    pub(super) async fn run(mut self) {
        let bounds = match self.reserve().await {
            Ok(bounds) => bounds,
            Err(refusal) => {
                let (head, body) = refusal.said(self.request.protocol);
                return self.answer.say(head, body);
            }
        };
        let open = Open::new(&self.live, &self.answer);
        self.ask_for_checkpoint();
        let told = self.store_request();
        let began = Instant::now();
        let mut meter = Meter::new(self.request.protocol).of_one_that_thinks(self.request.thinks());
        let end = {
            let (gateway, id) = (self.gateway.clone(), self.answer.id.clone());
            let renewing = gateway.renew(&id);
            tokio::select! {
                biased;
                end = self.forward(&mut meter) => end,
                never = renewing => match never {},
            }
        };
        meter.ran_for(began.elapsed());
        self.settle(&meter, end, bounds, told).await;
        drop(open);
    }

    async fn reserve(&mut self) -> Result<Bounds, Refusal> {
        let now = self.gateway.clock().now();
        let caching = self.request.caching();
        let pieces = self.request.pieces();
        let input = self.live.input_bound(&self.context, &self.request.model, &pieces, self.request.input_bound());
        let rate = match prices::worst_case(&self.route.price_lists, &self.request.model, input, caching, now) {
            Ok(rate) => rate,
            Err(error) => {
                self.gateway.tell_unsent(&self.machine, &error.to_string()).await;
                return Err(Refusal::new(400, "invalid_request_error", error.to_string(), Again::Never));
            }
        };
        let demand = Demand { fixed: rate.fixed, per_token: rate.per_token, wanted: self.request.max_tokens, floor: self.request.floor() };
        let call = NewCall {
            id: self.answer.id.clone(),
            machine_uid: self.machine.uid().into(),
            kind: match self.context.part {
                Part::Main => CallKind::Main,
                Part::Sub(_) => CallKind::Sub,
                Part::Side => CallKind::Side,
            },
            session: self.context.session.clone(),
            turn: self.turn,
            body_hash: self.answer.hash.clone(),
            provider: self.route.provider.clone(),
            model: self.request.model.clone(),
            price_source: prices::SOURCE.into(),
        };
        match self.gateway.ledger.reserve(call, self.route.accounts.clone(), demand).await {
            Ok(Ok(grant)) => {
                self.request.clamp(grant.tokens);
                Ok(Bounds { input, caching, reserved: grant.money, pieces })
            }
            Ok(Err(refused)) => {
                self.exhausted(&refused).await;
                Err(Refusal::over_budget(&refused))
            }
            Err(error) => {
                tracing::error!(call.id = self.answer.id, "the ledger failed: {error}");
                Err(Refusal::later("the ledger cannot be written; try again", 5))
            }
        }
    }

    async fn exhausted(&self, refused: &budget::Refusal) {
        if !refused.passing {
            tracing::info!(object.kind = "Machine", object.name = self.machine.name(), "budget exhausted: {refused}");
            self.gateway.objects.record(&*self.machine, EventType::Warning, "BudgetExhausted", &refused.to_string()).await;
        }
    }

    /// Stores what the user said that is not stored yet; returns when it is, if awaited.
    fn store_request(&self) -> tokio::task::JoinHandle<()> {
        if self.context.part != Part::Main {
            return tokio::spawn(async {});
        }
        let (gateway, live, uid) = (self.gateway.clone(), self.live.clone(), self.machine.uid().to_owned());
        let (session, messages) = (self.context.session.clone(), self.request.messages().to_vec());
        self.gateway.tasks.spawn(async move {
            let mut messages = transcript::from_request(&session, &messages);
            messages.retain(|message| !live.state().stored.contains(&message.key));
            gateway.store_messages(&live, &uid, messages).await;
        })
    }

    /// Sends the request and passes the answer on as it comes. Its readers learn of the end in [`Call::settle`].
    async fn forward(&mut self, meter: &mut Meter) -> Ended {
        let Some(sent) = self.gateway.abort.run_until_cancelled(self.send()).await else {
            return self.instead(Cause::Unknown, &Refusal::later("the gateway stops; try again", 5));
        };
        let mut reply = match sent {
            Ok(reply) => reply,
            Err(error) => return self.unsent(&error),
        };
        if reply.status != 200 {
            return self.refused(reply).await;
        }
        let content_type = reply.content_type.take().unwrap_or_else(|| "application/json".into());
        let is_stream = content_type.starts_with("text/event-stream");
        let mut whole = Vec::new();
        let mut filter = (is_stream && self.request.hides_usage()).then(Filter::default);
        self.answer.begin(Head { status: 200, content_type, headers: self.passed_on(&mut reply) });
        let (mut size, mut tools, mut judged) = (0, 0, Judged::default());
        let (mut events, mut kept) = (Events::default(), Kept::default());
        loop {
            let Some(next) = self.gateway.abort.run_until_cancelled(reply.body.next()).await else {
                return Ended::Streamed(Some("the gateway stops".into()));
            };
            let chunk = match next {
                Some(Ok(chunk)) => chunk,
                Some(Err(broken)) => {
                    if !is_stream {
                        meter.whole(&whole);
                    } else if kept.is_empty() {
                        self.pass(events.end(), filter.as_mut());
                    }
                    return Ended::Streamed(Some(broken.to_string()));
                }
                None => break,
            };
            size += chunk.len();
            if size > MAX_ANSWER {
                return Ended::Streamed(Some(format!("the provider's answer is larger than {MAX_ANSWER} bytes")));
            }
            if !is_stream {
                whole.extend_from_slice(&chunk);
                continue;
            }
            let complete = match events.push(&chunk) {
                Ok(complete) => complete,
                Err(too_long) => return Ended::Streamed(Some(too_long.to_string())),
            };
            // What came together leaves together, but for what waits.
            let mut passed = Vec::new();
            for event in complete {
                meter.stream(&event);
                if meter.tools_begun() > tools {
                    tools = meter.tools_begun();
                    self.note_tools(meter.tools());
                }
                if judged.is_behind(meter) {
                    self.pass(std::mem::take(&mut passed).into(), filter.as_mut());
                    // The agent does nothing that it has not read to its end.
                    if let Err(why) = self.secure(meter, &mut judged).await {
                        return Ended::Streamed(Some(why));
                    }
                }
                let calling = meter.is_calling(boundary::can_be_told);
                match kept.push(event, calling, self.request.protocol, &judged.told) {
                    Ok(bytes) => passed.extend_from_slice(&bytes),
                    Err(Unchangeable) => {
                        self.pass(passed.into(), filter.as_mut());
                        return Ended::Streamed(Some(UNCHANGEABLE.into()));
                    }
                }
            }
            self.pass(passed.into(), filter.as_mut());
        }
        if is_stream {
            if kept.is_empty() {
                self.pass(events.end(), filter.as_mut());
            }
            self.answer.push(filter.map(|mut filter| filter.end()).unwrap_or_default());
        } else {
            meter.whole(&whole);
            if let Err(why) = self.secure(meter, &mut judged).await {
                return Ended::Streamed(Some(why));
            }
            if judged.told.is_empty() {
                self.answer.push(whole.into());
            } else {
                match kept::whole(&whole, self.request.protocol, &judged.told) {
                    Ok(body) => self.answer.push(body),
                    Err(Unchangeable) => return Ended::Streamed(Some(UNCHANGEABLE.into())),
                }
            }
        }
        self.changed = !judged.told.is_empty();
        let cut = match meter.error() {
            Some(error) => Some(format!("the provider broke its answer off: {error}")),
            None if !meter.is_complete() => Some("the provider's answer ended early".into()),
            None => None,
        };
        // An error event and an early end were passed on as they came: the client sees what the provider sent.
        Ended::Whole(cut)
    }

    fn pass(&self, bytes: Bytes, filter: Option<&mut Filter>) {
        match filter {
            Some(filter) => self.answer.push(filter.push(&bytes)),
            None => self.answer.push(bytes),
        }
    }

    async fn send(&self) -> Result<Reply, llm::Error> {
        match &self.route.upstream {
            Upstream::Replay { file } => Ok(self.gateway.replays.answer(file, &self.request, self.context.part == Part::Side)),
            Upstream::Anthropic { endpoint, key } => {
                let call = anthropic::Call {
                    endpoint,
                    path: "/v1/messages",
                    beta: self.beta,
                    key,
                    version: self.version.as_deref(),
                    betas: self.betas.as_deref(),
                    body: self.request.bytes(),
                };
                anthropic::send(&self.gateway.client, call).await
            }
            Upstream::OpenAi { endpoint, key } => {
                let path = if self.request.protocol == Protocol::Responses { "/responses" } else { "/chat/completions" };
                let call = openai::Call { endpoint, path, key: key.as_ref(), body: self.request.bytes() };
                openai::send(&self.gateway.client, call).await
            }
        }
    }

    /// Ends with what the gateway says instead of an answer.
    fn instead(&self, cause: Cause, refusal: &Refusal) -> Ended {
        Ended::Refused { cause, said: refusal.said(self.request.protocol) }
    }

    fn unsent(&self, error: &llm::Error) -> Ended {
        tracing::warn!(call.id = self.answer.id, provider = self.route.provider, "{error}");
        let text = format!("provider {}: {error}", self.route.provider);
        let cause = match error {
            llm::Error::Unreachable(_) => Cause::NothingDone,
            llm::Error::NoAnswer(_) => Cause::Unknown,
        };
        self.instead(cause, &Refusal::later(text, 2))
    }

    /// An answer other than 200: an error is passed on, but for what only the hub's people can mend.
    async fn refused(&self, mut reply: Reply) -> Ended {
        let provider = &self.route.provider;
        let (status, headers) = (reply.status, self.passed_on(&mut reply));
        let own = match status {
            300..=399 => {
                Some((502, "api_error", format!("provider {provider} answered with a redirect, which is not followed"), Again::Maybe))
            }
            401 | 403 => {
                tracing::error!(provider, status, "the provider refused the hub's key");
                Some((
                    403,
                    "permission_error",
                    format!("provider {provider} refused the hub's key ({status}). Put a valid one into its Secret"),
                    Again::Never,
                ))
            }
            200..=299 => Some((502, "api_error", format!("provider {provider} answered {status}, which is no answer"), Again::Maybe)),
            _ => None,
        };
        if let Some((status, kind, text, again)) = own {
            return self.instead(Cause::NothingDone, &Refusal::new(status, kind, text, again));
        }
        let mut body = Vec::new();
        while let Some(Ok(chunk)) = reply.body.next().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ERROR {
                body.truncate(MAX_ERROR);
                break;
            }
        }
        let body = self.route.without_key(body);
        let content_type = reply.content_type.unwrap_or_else(|| "application/json".into());
        Ended::Refused { cause: Cause::NothingDone, said: (Head { status, content_type, headers }, body) }
    }

    fn passed_on(&self, reply: &mut Reply) -> Vec<(&'static str, String)> {
        let headers = [
            (self.request.protocol.request_id(), reply.request_id.take()),
            ("retry-after", reply.retry_after.take()),
            ("x-should-retry", reply.should_retry.take()),
        ];
        headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn note_tools(&self, tools: Vec<(String, String)>) {
        self.live.answered(&self.context, tools);
    }

    async fn settle(&self, meter: &Meter, end: Ended, bounds: Bounds, told: tokio::task::JoinHandle<()>) {
        let id = &self.answer.id;
        let (cut, said) = match end {
            Ended::Refused { cause: Cause::NothingDone, said: (head, body) } => {
                let detail = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
                let end = CallEnd { status: Some(head.status), detail: Some(detail), ..CallEnd::of(CallState::Failed) };
                log(id, self.gateway.ledger.release(id, end).await);
                return self.answer.say(head, body);
            }
            Ended::Refused { cause: Cause::Unknown, said } => (Some("no answer came".to_owned()), Some(said)),
            Ended::Whole(cut) | Ended::Streamed(cut) if cut.is_none() => (None, None),
            Ended::Whole(cut) => {
                self.answer.end(End::Complete(None));
                (cut, None)
            }
            Ended::Streamed(cut) => {
                self.answer.end(End::Cut(cut.clone().unwrap_or_default()));
                (cut, None)
            }
        };
        self.note_tools(meter.tools());
        if cut.is_none() {
            // What was changed on the way is not told in another form.
            self.answer.end(End::Complete((!self.changed).then(|| Arc::new(meter.message()))));
        }
        let metered = meter.metered(bounds.input, self.request.max_tokens, bounds.caching);
        let (cost, estimated) = self.cost(&metered, &bounds);
        // What was left out of the input may be in the next one.
        let cleared = meter.cleared().or((!self.request.is_edited()).then_some(0));
        if let Some(cleared) = cleared.filter(|_| !metered.estimated) {
            let tokens = metered.usage.total_input() + metered.usage.output + cleared;
            self.live.measured(&self.context, Measured { model: self.request.model.clone(), pieces: bounds.pieces, tokens });
        }
        // What counts is whether the agent got it: an answer that was lost is as good as a cut one.
        let got = said.is_none() && self.gateway.until_read_out(&self.answer, READ_OUT).await;
        let state = match (&said, &cut) {
            (Some(_), _) => CallState::Failed,
            (None, None) if got => CallState::Settled,
            (None, Some(_)) if got && meter.stop_reason().is_some() => CallState::Settled,
            _ => CallState::Cut,
        };
        let lost = state == CallState::Cut && cut.is_none();
        let end = CallEnd {
            state,
            status: Some(said.as_ref().map_or(200, |(head, _)| head.status)),
            stop_reason: meter.stop_reason().map(str::to_owned),
            estimated,
            usage: serde_json::to_string(&metered.usage).ok(),
            cost: Some(cost.0),
            detail: cut,
        };
        if let Some((head, body)) = said {
            self.answer.say(head, body);
        }
        let usage = metered.usage;
        tracing::info!(
            call.id = id,
            object.name = self.machine.name(),
            llm.model = self.request.model,
            llm.tokens_in = usage.total_input(),
            llm.tokens_out = usage.output,
            cost_nano_usd = cost.0,
            estimated,
            "call ended as {state:?}"
        );
        let actual = Actual { cost, tokens_in: usage.total_input(), tokens_out: usage.output };
        let content = if self.context.part == Part::Main { meter.content() } else { Vec::new() };
        let said = (!content.is_empty()).then(|| transcript::from_answer(id, content));
        // The answer stands behind what it answers.
        let _ = told.await;
        if lost {
            let now = CallEnd { detail: Some("the agent hung up before it had the answer".into()), ..end.clone() };
            log(id, self.gateway.ledger.settle(id, actual, now, said).await);
            self.gateway.settle_when_delivered(self.answer.clone(), CallEnd { state: CallState::Settled, ..end });
        } else {
            log(id, self.gateway.ledger.settle(id, actual, end, said).await);
        }
    }

    fn cost(&self, metered: &Metered, bounds: &Bounds) -> (NanoUsd, bool) {
        let (lists, model, now) = (&self.route.price_lists, &self.request.model, self.gateway.clock().now());
        let cost = if metered.assumed_input {
            prices::cost_at_most(lists, model, &metered.usage, bounds.caching, now)
        } else {
            prices::cost(lists, model, &metered.usage, now)
        };
        match cost {
            Ok(cost) => (cost, metered.estimated),
            Err(error) => {
                tracing::error!(call.id = self.answer.id, "charged at its worst case: {error}");
                (bounds.reserved, true)
            }
        }
    }
}

/// How the forwarding ended.
enum Ended {
    /// All bytes were passed on; why the answer is none all the same.
    Whole(Option<String>),
    /// The bytes stopped; why.
    Streamed(Option<String>),
    /// There is no answer of a model; what the agent is told instead.
    Refused { cause: Cause, said: (Head, Bytes) },
}

/// What a call without an answer may have cost.
enum Cause {
    NothingDone,
    Unknown,
}

/// Counts a call as open while it lives, and ends its answer if nothing else did: nobody must wait for a task that died.
struct Open(Arc<Live>, Arc<Answer>);

impl Open {
    fn new(live: &Arc<Live>, answer: &Arc<Answer>) -> Self {
        live.open.send_modify(|count| *count += 1);
        Self(live.clone(), answer.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.1.abandon();
        self.0.open.send_modify(|count| *count -= 1);
    }
}
