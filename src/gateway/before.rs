//! The checkpoints of a call: of the state that its request was made in. One is asked for when the request comes, if it stands at
//! a boundary; otherwise when the answer shows that one is due before the agent acts on it, and then that part of the answer waits.
//! Then, of what leaves the VM, a person's word.

use super::{
    approvals::{Asked, Ruling, is_needed},
    call::Call,
    hold::{Moment, Outcome},
    live::Due,
};
use crate::{
    api::{
        Kind,
        checkpoint::{Reason, Session, Trigger},
    },
    boundary::{self, Boundary, Part, can_be_told, told, wanted},
    llm::{kept::Inputs, meter::Meter},
};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

/// How much of an answer was looked at.
#[derive(Default)]
pub(super) struct Judged {
    calls: usize,
    ended: bool,
    /// Until when its calls may wait for a person, once one had to.
    until: Option<Instant>,
    /// Inputs of calls that must not be made: what the agent gets instead.
    pub(super) told: Inputs,
}

/// Whether nothing of the agent runs that could write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Sure,
    /// Sub-agents act, and may come to rest soon.
    Awaited,
    None,
}

impl Judged {
    /// Whether there is something of the answer that was not looked at.
    pub(super) fn is_behind(&self, meter: &Meter) -> bool {
        meter.calls().len() > self.calls || (meter.is_complete() && !self.ended)
    }
}

impl Call {
    /// Asks for the checkpoint that is due at the request, beside the call itself.
    pub(super) fn ask_for_checkpoint(&mut self) {
        let reasons = std::mem::take(&mut self.reasons);
        match std::mem::replace(&mut self.checkpoint, Due::No) {
            Due::No => {}
            Due::Asked(gate) => {
                self.answer.set_gate(gate.clone());
                self.gate = Some(gate);
                self.add_reasons(reasons);
            }
            Due::Ask { outcome, quiescent } => {
                self.answer.set_gate(outcome.subscribe());
                self.capture(outcome, if quiescent { Rest::Sure } else { Rest::Awaited }, reasons);
            }
        }
    }

    /// Looks at what has come of the answer: before the agent gets a tool call that a checkpoint is due before, or the end of its
    /// turn, there is one, and it says so; and before it gets one that leaves the VM, a person said yes. Where someone said no,
    /// `judged` says what the agent gets instead.
    ///
    /// Errors: the agent must not get the call, for there is no checkpoint before it or nobody can be asked; what is to be said.
    pub(super) async fn secure(&mut self, meter: &Meter, judged: &mut Judged) -> Result<(), String> {
        if !judged.is_behind(meter) {
            return Ok(());
        }
        let calls = meter.calls();
        let (new, ends) = (calls.get(judged.calls..).unwrap_or_default(), meter.is_complete() && !judged.ended);
        // Who asks before each tool is answered there, and without haste.
        let new = if self.live.has_runner() {
            let risky =
                new.iter().filter(|call| boundary::risk(call["name"].as_str().unwrap_or_default(), &call["input"]).class.is_risky());
            risky.for_each(|call| self.live.await_question(&self.context, call["id"].as_str().unwrap_or_default()));
            &[]
        } else {
            new
        };
        let is_first = judged.calls == 0;
        (judged.calls, judged.ended) = (calls.len(), judged.ended || ends);
        if self.boundary.is_some() {
            let reasons = boundary::in_answer(&self.context, new.iter().copied(), meter.stop_reason().filter(|_| ends));
            self.checkpointed(is_first, reasons).await?;
        }
        for call in new {
            self.approved(call, judged).await?;
        }
        Ok(())
    }

    async fn checkpointed(&mut self, is_first: bool, reasons: Vec<Reason>) -> Result<(), String> {
        let due = |reason: &Reason| wanted(&self.machine.spec.checkpoints, reason.trigger);
        let risky = reasons.iter().any(|reason| due(reason) && reason.trigger == Trigger::BeforeRiskyOperation);
        let mut waits = risky;
        if self.gate.is_none() {
            if !reasons.iter().any(due) {
                return Ok(());
            }
            // Tools of this answer that the agent has already may run.
            let quiescent = is_first && self.live.state().contexts.quiescent_beside(&self.context);
            let outcome = watch::channel(None).0;
            self.capture(outcome, if quiescent { Rest::Sure } else { Rest::None }, reasons.clone());
            waits = true;
        }
        if !waits {
            self.add_reasons(reasons);
            return Ok(());
        }
        let Some(mut gate) = self.gate.clone() else { return Ok(()) };
        let secured = async {
            let decided = gate.wait_for(Option::is_some).await.ok().and_then(|decided| decided.clone());
            let outcome = decided.unwrap_or_else(|| Outcome::Failed("nobody takes it any more".into()));
            self.gateway.checkpoints.secure(&self.machine, outcome, &reasons).await
        };
        let stops = || Err("the gateway stops".to_owned());
        let Err(why) = self.gateway.abort.run_until_cancelled(secured).await.unwrap_or_else(stops) else { return Ok(()) };
        // It asks again, and so is the checkpoint.
        let done = if risky { "the answer was ended, for there is no checkpoint" } else { "the agent went on without a checkpoint" };
        let said = self.gateway.checkpoints.missing(&self.machine, &reasons, &why, done).await;
        if risky { Err(said) } else { Ok(()) }
    }

    /// Waits for a person's word on a call that needs one.
    async fn approved(&self, call: &Value, judged: &mut Judged) -> Result<(), String> {
        let (tool, input) = (call["name"].as_str().unwrap_or_default(), &call["input"]);
        let risk = boundary::risk(tool, input);
        if !is_needed(&self.machine, &risk) {
            return Ok(());
        }
        let until = *judged.until.get_or_insert_with(|| Instant::now() + self.gateway.patience);
        let checkpoint = match self.gate.as_ref().and_then(|gate| gate.borrow().clone()) {
            Some(Outcome::Captured(name) | Outcome::Released(name)) => Some(name),
            Some(Outcome::Failed(_)) | None => None,
        };
        let id = call["id"].as_str().unwrap_or_default();
        let asked = Asked { tool, input, id, risk: &risk, checkpoint };
        let (approvals, clock) = (&self.gateway.approvals, self.gateway.clock());
        let enough = clock.sleep(until.saturating_duration_since(Instant::now()));
        let ruled = self.gateway.shutdown.run_until_cancelled(approvals.ask(&self.machine, &asked, enough)).await;
        match ruled {
            Some(Ok(Ruling::Allowed)) => Ok(()),
            // A call without an id cannot be found again to put another in its place.
            Some(Ok(Ruling::Refused(words) | Ruling::Undecided(words))) if can_be_told(tool) && !id.is_empty() => {
                judged.told.insert(id.to_owned(), told(input, &words));
                Ok(())
            }
            Some(Ok(Ruling::Refused(words) | Ruling::Undecided(words))) => Err(words),
            Some(Err(error)) => Err(approvals.failed(&self.machine, &risk, &error).await),
            None => Err("the gateway stops".to_owned()),
        }
    }

    /// Asks for a checkpoint; `outcome` learns what came of it.
    fn capture(&mut self, outcome: watch::Sender<Option<Outcome>>, rest: Rest, reasons: Vec<Reason>) {
        self.gate = Some(outcome.subscribe());
        let results = match (&self.boundary, &self.context.part) {
            (Some(Boundary::Results(ids)), Part::Main) => ids.clone(),
            _ => Vec::new(),
        };
        let session = Session { id: self.context.session.clone(), turn: self.turn, request: self.answer.id.clone() };
        let name = format!("{}-{:04}", self.machine.name(), self.turn);
        let mut moment = Moment { name, session, quiescent: rest == Rest::Sure, results, reasons };
        let (gateway, machine, live) = (self.gateway.clone(), self.machine.clone(), self.live.clone());
        self.gateway.tasks.spawn(async move {
            // Those that come meanwhile wait for this same checkpoint.
            if rest == Rest::Awaited {
                moment.quiescent = live.gathered(gateway.barrier).await;
            }
            let decided = match gateway.abort.run_until_cancelled(gateway.checkpoints.capture(&machine, &moment)).await {
                Some(decided) => decided,
                None => Outcome::Failed("the gateway stops".into()),
            };
            outcome.send_replace(Some(decided));
        });
    }

    /// Notes on its checkpoint, once that is decided, what else it is worth keeping for.
    fn add_reasons(&self, reasons: Vec<Reason>) {
        let Some(mut gate) = self.gate.clone().filter(|_| !reasons.is_empty()) else { return };
        let (gateway, machine) = (self.gateway.clone(), self.machine.clone());
        self.gateway.tasks.spawn(async move {
            let noted = async {
                let decided = gate.wait_for(Option::is_some).await.ok().and_then(|decided| decided.clone());
                let Some(Outcome::Captured(name) | Outcome::Released(name)) = decided else { return };
                if let Err(why) = gateway.checkpoints.add_reasons(&machine, &name, &reasons).await {
                    tracing::warn!(
                        object.kind = "Checkpoint",
                        object.name = name,
                        "what else it is worth keeping for was not noted: {why}"
                    );
                }
            };
            gateway.abort.run_until_cancelled(noted).await;
        });
    }
}
