//! What the gateway keeps in memory of a Machine whose agent calls it: contexts, turns, the answers that still may be asked
//! for again. All of it can be lost: the store's log of calls says where a conversation stands.

use super::{
    answer::{Answer, Gate},
    hold::Outcome,
};
use crate::{
    boundary::{Context, Contexts, Part},
    store::LastTurn,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// A Machine's live state.
pub(super) struct Live {
    state: Mutex<State>,
    /// Calls that are not settled yet.
    pub(super) open: watch::Sender<usize>,
}

pub(super) struct State {
    pub(super) contexts: Contexts,
    turn: u64,
    conversations: HashMap<Context, Conversation>,
    /// The newest checkpoint that was asked for.
    gate: Option<Gate>,
    /// Keys of messages that are stored.
    pub(super) stored: HashSet<String>,
}

#[derive(Default)]
struct Conversation {
    answer: Option<Arc<Answer>>,
    gate: Option<Gate>,
    turn: u64,
    /// Body size and total input of the last settled call.
    measured: Option<(u64, u64)>,
}

/// What a request gets.
pub(super) enum Turn {
    /// The answer to the same request, that is or was under way.
    Again(Arc<Answer>),
    /// A call of its own.
    New { turn: u64, checkpoint: Due },
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

impl Live {
    pub(super) fn new(last: LastTurn) -> Self {
        let mut contexts = Contexts::default();
        let mut conversations = HashMap::new();
        if let Some((session, hash)) = last.main {
            let context = Context { session, part: Part::Main };
            contexts.resume(context.clone(), hash);
            conversations.insert(context, Conversation { turn: last.turn, ..Conversation::default() });
        }
        let state = State { contexts, turn: last.turn, conversations, gate: None, stored: HashSet::new() };
        Self { state: Mutex::new(state), open: watch::channel(0).0 }
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
            return Turn::New { turn: 0, checkpoint: Due::No };
        }
        let repeat = state.contexts.request(context, hash);
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
        let turn = conversation.turn;
        if !boundary {
            return Turn::New { turn, checkpoint: Due::No };
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
        Turn::New { turn, checkpoint }
    }

    /// A bound of the input tokens that is tighter than `bound`, from the last settled call of the context: what was added
    /// to its body is at most one token a byte.
    pub(super) fn input_bound(&self, context: &Context, size: u64, bound: u64) -> u64 {
        let state = self.state();
        let measured = state.conversations.get(context).and_then(|conversation| conversation.measured);
        match measured {
            Some((then, tokens)) if size >= then => bound.min(tokens + (size - then) + MARGIN),
            _ => bound,
        }
    }

    /// Notes what a call's input came to.
    pub(super) fn measured(&self, context: &Context, size: u64, tokens: u64) {
        if let Some(conversation) = self.state().conversations.get_mut(context) {
            conversation.measured = Some((size, tokens));
        }
    }
}

/// What the provider may add by itself from one turn to the next, in tokens.
const MARGIN: u64 = 2000;
