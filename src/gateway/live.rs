//! What the gateway keeps in memory of a Machine whose agent calls it: contexts, turns, the answers that still may be asked
//! for again. All of it can be lost: the store's log of calls says where a conversation stands.

use super::{
    answer::{Answer, Gate},
    egress::Egress,
    hold::Outcome,
};
use crate::{
    boundary::{Context, Contexts, Part},
    llm::request::Pieces,
    store::LastTurn,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};

/// How long after it was last heard a runner counts as there: it says so every 10 s.
const THERE: Duration = Duration::from_secs(30);
/// What one agent may have asked of its hub at a time, so that it takes no more of the hub's time than others do.
pub(super) const ASKS: usize = 8;

/// How many model calls of one agent may be under way, more than programs with sub-agents have.
const CALLS: usize = 32;

/// A Machine's live state.
pub(super) struct Live {
    state: Mutex<State>,
    /// Calls that are not settled yet.
    pub(super) open: watch::Sender<usize>,
    /// One is taken for each model call, before its body is read and until it is settled.
    pub(super) calls: Arc<Semaphore>,
    /// One is taken for each thing that its agent asks of the hub.
    pub(super) asks: Semaphore,
    /// Whether it was said that its token is used elsewhere.
    pub(super) elsewhere: AtomicBool,
    /// Told of each request and each answer.
    moved: Notify,
    /// Its connections to hosts that it may reach.
    pub(super) egress: Egress,
}

pub(super) struct State {
    pub(super) contexts: Contexts,
    turn: u64,
    conversations: HashMap<Context, Conversation>,
    /// By what it is known, and when it was last heard.
    runner: Option<(String, Instant)>,
    /// A runner whose agent ran a risky tool that it did not ask for.
    distrusted: Option<String>,
    /// The newest checkpoint that was asked for.
    gate: Option<Gate>,
    /// Keys of messages that are stored.
    pub(super) stored: HashSet<String>,
    /// Contexts that were waited for in vain since their last request.
    late: HashSet<Context>,
}

#[derive(Default)]
struct Conversation {
    answer: Option<Arc<Answer>>,
    gate: Option<Gate>,
    /// Ids of the tools that its newest answer calls; and those that this runner must ask for before the next request.
    calls: Vec<String>,
    awaited: Vec<(String, String)>,
    turn: u64,
    measured: Option<Measured>,
}

/// What the last settled call of a conversation came to.
pub(super) struct Measured {
    pub(super) model: String,
    pub(super) pieces: Pieces,
    /// Its input and its output, which the next input has, too.
    pub(super) tokens: u64,
}

/// What a request gets.
pub(super) enum Turn {
    /// The answer to the same request, that is or was under way.
    Again(Arc<Answer>),
    /// A call of its own. `unasked`: it goes on from a risky tool that the runner should have asked for, and did not; that runner is
    /// not believed any more.
    New { turn: u64, checkpoint: Due, unasked: bool },
}

/// Whether a checkpoint is due before the answer.
pub(super) enum Due {
    No,
    /// This one, asked for before, is waited for.
    Asked(Gate),
    /// It is to be asked for; its outcome goes here.
    Ask {
        outcome: watch::Sender<Option<Outcome>>,
        quiescent: bool,
    },
}

/// What is asked of [`Live::turn`].
pub(super) struct Arrival<'a> {
    pub(super) context: &'a Context,
    pub(super) hash: &'a str,
    pub(super) stream: bool,
    /// It stands at a boundary, and this Machine wants checkpoints there.
    pub(super) boundary: bool,
    /// The answer, if it has to be a new one.
    pub(super) answer: &'a Arc<Answer>,
}

impl State {
    /// The runner that answers for the agent's tool calls.
    fn trusted(&self) -> Option<&str> {
        let (known, heard) = self.runner.as_ref()?;
        (heard.elapsed() < THERE && self.distrusted.as_ref() != Some(known)).then_some(known)
    }
}

/// Where a tool call stands.
pub(super) struct Place {
    pub(super) context: Option<Context>,
    pub(super) turn: u64,
    /// The checkpoint of its answer's request, if there is one.
    pub(super) gate: Option<Gate>,
    /// It is the first of its answer.
    pub(super) is_first: bool,
}

impl Live {
    pub(super) fn new(last: LastTurn) -> Self {
        let mut contexts = Contexts::default();
        let mut conversations = HashMap::new();
        if let Some((session, hash)) = last.main {
            let context = Context { session, part: Part::Main };
            contexts.resume(context.clone(), hash);
            conversations.insert(context, Conversation { turn: last.turn, ..Conversation::default() });
        }
        let state = State {
            contexts,
            turn: last.turn,
            conversations,
            runner: None,
            distrusted: None,
            gate: None,
            stored: HashSet::new(),
            late: HashSet::new(),
        };
        Self {
            state: Mutex::new(state),
            open: watch::channel(0).0,
            calls: Arc::new(Semaphore::new(CALLS)),
            asks: Semaphore::new(ASKS),
            elsewhere: AtomicBool::new(false),
            moved: Notify::new(),
            egress: Egress::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what a request gets: the answer of an equal one, or a call of its own, with or without a checkpoint.
    pub(super) fn turn(&self, arrival: &Arrival) -> Turn {
        let mut state = self.state();
        let state = &mut *state;
        let Arrival { context, hash, stream, boundary, answer } = *arrival;
        if context.part == Part::Side {
            return Turn::New { turn: 0, checkpoint: Due::No, unasked: false };
        }
        let repeat = state.contexts.request(context, hash);
        state.late.remove(context);
        self.moved.notify_waiters();
        let trusted = state.trusted().map(str::to_owned);
        let conversation = state.conversations.entry(context.clone()).or_default();
        if repeat
            && let Some(last) = &conversation.answer
            && last.hash == hash
            // A program with sessions never asks the same twice but when the answer was lost.
            && last.serves(stream, |delivered| !delivered || !context.session.is_empty())
        {
            return Turn::Again(last.clone());
        }
        conversation.answer = Some(answer.clone());
        if !repeat {
            state.turn += 1;
            conversation.turn = state.turn;
            conversation.gate = None;
        }
        // A repeat gets its calls anew.
        let awaited = std::mem::take(&mut conversation.awaited).into_iter().next().filter(|_| !repeat);
        let unasked = awaited.as_ref().is_some_and(|(runner, _)| trusted.as_ref() == Some(runner));
        if unasked {
            state.distrusted = trusted;
        }
        let turn = conversation.turn;
        if !boundary {
            return Turn::New { turn, checkpoint: Due::No, unasked };
        }
        let is_pending = |gate: &Gate| gate.borrow().is_none() && gate.has_changed().is_ok();
        let own = conversation.gate.clone().filter(|gate| gate.borrow().is_some() || is_pending(gate));
        // One snapshot serves all requests that are held.
        let asked = own.or_else(|| state.gate.clone().filter(is_pending));
        let checkpoint = if let Some(gate) = asked {
            conversation.gate = Some(gate.clone());
            Due::Asked(gate)
        } else {
            let (outcome, gate) = watch::channel(None);
            conversation.gate = Some(gate.clone());
            state.gate = Some(gate);
            Due::Ask { outcome, quiescent: state.contexts.quiescent() }
        };
        Turn::New { turn, checkpoint, unasked }
    }

    /// Waits, at most `patience`, until no other context acts; says whether so. One that was waited for in vain is not waited for again
    /// before it is heard: it may be in a long tool, or gone.
    pub(super) async fn gathered(&self, patience: Duration) -> bool {
        let all = async {
            loop {
                let moved = self.moved.notified();
                tokio::pin!(moved);
                // From here on: what comes between the look and the wait is not missed.
                moved.as_mut().enable();
                {
                    let state = self.state();
                    if state.contexts.quiescent() {
                        return true;
                    }
                    if state.contexts.acting().all(|context| state.late.contains(context)) {
                        return false;
                    }
                }
                moved.await;
            }
        };
        if let Ok(gathered) = tokio::time::timeout(patience, all).await {
            return gathered;
        }
        let mut state = self.state();
        let acting: Vec<Context> = state.contexts.acting().cloned().collect();
        state.late.extend(acting);
        state.contexts.quiescent()
    }

    /// Notes that a runner was heard; `known` is what it is known by.
    pub(super) fn runner_is_there(&self, known: String) {
        self.state().runner = Some((known, Instant::now()));
    }

    /// Whether a runner answers for the agent's tool calls.
    pub(super) fn has_runner(&self) -> bool {
        self.state().trusted().is_some()
    }

    /// Notes that the runner must ask for this call before its conversation goes on.
    pub(super) fn await_question(&self, context: &Context, call: &str) {
        let mut state = self.state();
        let Some(runner) = state.trusted().map(str::to_owned) else { return };
        if let Some(conversation) = state.conversations.get_mut(context) {
            conversation.awaited.push((runner, call.to_owned()));
        }
    }

    /// Notes that it did.
    pub(super) fn questioned(&self, call: &str) {
        self.state().conversations.values_mut().for_each(|conversation| conversation.awaited.retain(|(_, id)| id != call));
    }

    /// Notes the tools that a conversation's newest answer calls: id and name.
    pub(super) fn answered(&self, context: &Context, tools: Vec<(String, String)>) {
        let (ids, names) = tools.into_iter().unzip();
        let mut state = self.state();
        state.contexts.answered(context, names);
        self.moved.notify_waiters();
        if let Some(conversation) = state.conversations.get_mut(context) {
            conversation.calls = ids;
        }
    }

    /// Where a tool call stands, as far as it is known.
    pub(super) fn place_of(&self, call: &str) -> Place {
        let state = self.state();
        let mut all = state.conversations.iter();
        let found = all.find_map(|(context, conversation)| {
            let at = conversation.calls.iter().position(|id| id == call)?;
            let gate = conversation.gate.clone();
            Some(Place { context: Some(context.clone()), turn: conversation.turn, gate, is_first: at == 0 })
        });
        found.unwrap_or(Place { context: None, turn: state.turn, gate: None, is_first: false })
    }

    /// A bound of the input tokens that is tighter than `bound`, from the last settled call of the context: what that call did not
    /// have is at most one token a byte. Of another model its tokens say nothing.
    pub(super) fn input_bound(&self, context: &Context, model: &str, pieces: &Pieces, bound: u64) -> u64 {
        let state = self.state();
        let measured = state.conversations.get(context).and_then(|conversation| conversation.measured.as_ref());
        let tight = |measured: &Measured| measured.tokens.saturating_add(pieces.beyond(&measured.pieces)).saturating_add(MARGIN);
        measured.filter(|measured| measured.model == model).map_or(bound, |measured| bound.min(tight(measured)))
    }

    /// Notes what a call's input came to.
    pub(super) fn measured(&self, context: &Context, measured: Measured) {
        if let Some(conversation) = self.state().conversations.get_mut(context) {
            conversation.measured = Some(measured);
        }
    }
}

/// What the provider may add by itself from one turn to the next, in tokens.
const MARGIN: u64 = 2000;
