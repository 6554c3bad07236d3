//! The checkpoint between messages: asks for it when a request arrives, and tells when the answer may be let go.
//!
//! The object's status decides once between captured and released: whichever is stored first.

use crate::{
    api::{
        Checkpoint, Kind, Machine,
        checkpoint::{CheckpointPhase, CheckpointSpec, FINALIZER, Reason, Session},
    },
    boundary,
    clock::Clock,
    objects::{self, EventType, Objects},
    wire::{annotation, label},
};
use futures::StreamExt;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Attempts to store `released` against a status that keeps changing.
const ATTEMPTS: u32 = 8;

type Waiters = HashMap<(String, String), watch::Sender<Option<Checkpoint>>>;

/// Asks for checkpoints and waits for them; cheap to clone.
#[derive(Clone)]
pub(super) struct Checkpoints {
    objects: Objects,
    hold: Duration,
    waiters: Arc<Mutex<Waiters>>,
}

/// What is captured.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// Name of its checkpoint.
    pub(super) name: String,
    pub(super) session: Session,
    pub(super) quiescent: bool,
    /// Tool results that must be in the agent's transcript on disk first.
    pub(super) results: Vec<String>,
    /// Why; the first that its Machine wants is what caused it.
    pub(super) reasons: Vec<Reason>,
}

/// Why an answer was let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The state before it is safe, in this checkpoint.
    Captured(String),
    /// It took too long: a later snapshot, under this name, is a plain one.
    Released(String),
    /// There will be none.
    Failed(String),
}

impl Checkpoints {
    pub(super) fn start(objects: &Objects, hold: Duration, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let this = Self { objects: objects.clone(), hold, waiters: Arc::default() };
        let (mut events, shutdown, checkpoints) = (objects.watch::<Checkpoint>(), shutdown.clone(), this.clone());
        tasks.spawn(async move {
            let all = async {
                while let Some(event) = events.next().await {
                    let key = (event.object.namespace().to_owned(), event.object.name().to_owned());
                    if let Some(waiter) = checkpoints.waiters().get(&key) {
                        waiter.send_replace(Some(event.object));
                    }
                }
            };
            shutdown.run_until_cancelled(all).await
        });
        this
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> &Clock {
        self.objects.clock()
    }

    /// Asks for the checkpoint of a moment and returns when its answer may be let go, at most `hold` later.
    ///
    /// Asking again for the same turn of the same Machine waits for the same checkpoint.
    pub(super) async fn capture(&self, machine: &Machine, moment: &Moment) -> Outcome {
        let deadline = self.clock().sleep(self.hold);
        tokio::pin!(deadline);
        // A namesake that was deleted may have left checkpoints of the same turn.
        let own = format!("{}-{}", moment.name, machine.uid().split('-').next().unwrap_or_default());
        for name in [moment.name.clone(), own] {
            let key = (machine.namespace().to_owned(), name.clone());
            let mut seen = self.waiters().entry(key.clone()).or_insert_with(|| watch::channel(None).0).subscribe();
            let ask = async {
                let asked = self.ask(machine, &name, moment).await;
                match asked {
                    Ok(Some(checkpoint)) => Ok(Some(wait(&mut seen, checkpoint).await)),
                    Ok(None) => Ok(None),
                    Err(error) => Err(error),
                }
            };
            let result = tokio::select! {
                biased;
                result = ask => Some(result),
                () = &mut deadline => None,
            };
            let known = seen.borrow().clone();
            drop(seen);
            let outcome = match result {
                Some(Ok(Some(outcome))) => Some(outcome),
                Some(Ok(None)) => None,
                Some(Err(error)) => Some(Outcome::Failed(error.to_string())),
                None => Some(self.release(machine, &name, known).await),
            };
            self.waiters().retain(|other, waiter| *other != key || waiter.receiver_count() > 0);
            if let Some(outcome) = outcome {
                self.report(machine, &name, &outcome).await;
                return outcome;
            }
        }
        Outcome::Failed("checkpoints of its name belong to another Machine".into())
    }

    /// Creates the object, or finds it when it was asked for before; `None` when the name belongs to something else.
    async fn ask(&self, machine: &Machine, name: &str, moment: &Moment) -> Result<Option<Checkpoint>, objects::Error> {
        let cause = moment.reasons.iter().find(|reason| boundary::wanted(&machine.spec.checkpoints, reason.trigger));
        let trigger = cause.map(|reason| reason.trigger).unwrap_or_default();
        let spec = CheckpointSpec { machine: Some(machine.name().into()), trigger, ..CheckpointSpec::default() };
        let mut checkpoint = Checkpoint::new(machine.namespace(), name, spec);
        let session = serde_json::to_string(&moment.session).unwrap_or_default();
        // Its controller's, put on here: one write less while the answer waits.
        checkpoint.metadata.finalizers = Some(vec![FINALIZER.into()]);
        checkpoint.metadata.labels = Some([(label::MACHINE.to_owned(), machine.name().to_owned())].into());
        checkpoint.metadata.annotations = Some(
            [
                (annotation::SESSION, session),
                (annotation::QUIESCENT, moment.quiescent.to_string()),
                (annotation::AWAIT_RESULTS, moment.results.join(",")),
                (annotation::REASONS, serde_json::to_string(&moment.reasons).unwrap_or_default()),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        );
        match self.objects.create(&checkpoint).await {
            Ok(created) => Ok(Some(created)),
            Err(objects::Error::AlreadyExists { .. }) => {
                let there: Option<Checkpoint> = self.objects.get(machine.namespace(), name).await?;
                Ok(there.filter(|there| is_of(there, machine, &moment.session)))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the answer go first, unless the capture was stored before.
    async fn release(&self, machine: &Machine, name: &str, mut known: Option<Checkpoint>) -> Outcome {
        for _ in 0..ATTEMPTS {
            let read = match known.take() {
                Some(checkpoint) => Ok(Some(checkpoint)),
                None => self.objects.get::<Checkpoint>(machine.namespace(), name).await,
            };
            let mut checkpoint = match read {
                Ok(Some(checkpoint)) => checkpoint,
                Ok(None) => return Outcome::Failed("it was deleted".into()),
                Err(error) => return Outcome::Failed(error.to_string()),
            };
            if let Some(outcome) = decided(&checkpoint) {
                return outcome;
            }
            checkpoint.status.get_or_insert_default().released = true;
            match self.objects.update_status(&checkpoint).await {
                Ok(_) => return Outcome::Released(name.into()),
                Err(objects::Error::Conflict { .. }) => {}
                Err(error) => return Outcome::Failed(error.to_string()),
            }
        }
        Outcome::Failed("its status changed all the time".into())
    }

    /// Waits once more for the checkpoint of a call, where it is late, and notes on it what it is worth keeping for. Errors: there is
    /// none, and why.
    pub(super) async fn secure(&self, machine: &Machine, outcome: Outcome, reasons: &[Reason]) -> Result<(), String> {
        let name = match outcome {
            Outcome::Captured(name) => name,
            Outcome::Released(name) => {
                self.late(machine, &name).await?;
                name
            }
            Outcome::Failed(why) => return Err(why),
        };
        // The state is safe, named or not.
        if let Err(why) = self.add_reasons(machine, &name, reasons).await {
            tracing::warn!(object.kind = "Checkpoint", object.name = name, "what else it is worth keeping for was not noted: {why}");
        }
        Ok(())
    }

    /// Records that there was no checkpoint, and what was done about it.
    pub(super) async fn missing(&self, machine: &Machine, reasons: &[Reason], why: &str, done: &str) -> String {
        let what = reasons.iter().map(|reason| reason.message.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("{done} {what}: {why}");
        tracing::warn!(object.kind = "Machine", object.name = machine.name(), "{message}");
        self.objects.record(machine, EventType::Warning, "NoCheckpointBefore", &message).await;
        message
    }

    /// Waits for the capture of a checkpoint whose answer was let go.
    pub(super) async fn late(&self, machine: &Machine, name: &str) -> Result<(), String> {
        let key = (machine.namespace().to_owned(), name.to_owned());
        let mut seen = self.waiters().entry(key.clone()).or_insert_with(|| watch::channel(None).0).subscribe();
        let captured = async {
            let mut newest = self.objects.get::<Checkpoint>(machine.namespace(), name).await.map_err(|error| error.to_string())?;
            loop {
                let status = newest.as_ref().ok_or("it was deleted")?.status.clone().unwrap_or_default();
                match status.phase {
                    CheckpointPhase::Ready => return Ok(()),
                    CheckpointPhase::Failed | CheckpointPhase::Deleting => return Err(status.message.unwrap_or_default()),
                    CheckpointPhase::Pending => {}
                }
                if seen.changed().await.is_err() {
                    return Err("nobody watches it any more".into());
                }
                newest.clone_from(&seen.borrow_and_update());
            }
        };
        let result = tokio::select! {
            biased;
            result = captured => result,
            () = self.clock().sleep(self.hold) => Err(format!("checkpoint {name} was not taken in {:?}", self.hold)),
        };
        drop(seen);
        self.waiters().retain(|other, waiter| *other != key || waiter.receiver_count() > 0);
        result
    }

    /// Notes on a checkpoint what else it is worth keeping for.
    pub(super) async fn add_reasons(&self, machine: &Machine, name: &str, reasons: &[Reason]) -> Result<(), String> {
        for _ in 0..ATTEMPTS {
            let read = self.objects.get::<Checkpoint>(machine.namespace(), name).await;
            let mut checkpoint = read.map_err(|error| error.to_string())?.ok_or("it was deleted")?;
            if !checkpoint.status.get_or_insert_default().add_reasons(reasons.iter().cloned()) {
                return Ok(());
            }
            match self.objects.update_status(&checkpoint).await {
                Ok(_) => return Ok(()),
                Err(objects::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("its status changed all the time".into())
    }

    async fn report(&self, machine: &Machine, name: &str, outcome: &Outcome) {
        let (reason, message) = match outcome {
            Outcome::Captured(_) => return,
            Outcome::Released(_) => {
                ("CheckpointLate", format!("the answer was let go after {:?}, before checkpoint {name} was taken", self.hold))
            }
            Outcome::Failed(why) => ("CheckpointFailed", format!("the answer was let go without checkpoint {name}: {why}")),
        };
        tracing::warn!(object.kind = "Machine", object.name = machine.name(), "{message}");
        self.objects.record(machine, EventType::Warning, reason, &message).await;
    }
}

/// Waits until it is decided.
async fn wait(seen: &mut watch::Receiver<Option<Checkpoint>>, first: Checkpoint) -> Outcome {
    if let Some(outcome) = decided(&first) {
        return outcome;
    }
    loop {
        if let Some(outcome) = seen.borrow_and_update().as_ref().and_then(decided) {
            return outcome;
        }
        if seen.changed().await.is_err() {
            return Outcome::Failed("nobody watches it any more".into());
        }
    }
}

fn decided(checkpoint: &Checkpoint) -> Option<Outcome> {
    let status = checkpoint.status.as_ref()?;
    match status.phase {
        CheckpointPhase::Ready => Some(Outcome::Captured(checkpoint.name().into())),
        CheckpointPhase::Failed | CheckpointPhase::Deleting => Some(Outcome::Failed(status.message.clone().unwrap_or_default())),
        CheckpointPhase::Pending => status.released.then(|| Outcome::Released(checkpoint.name().into())),
    }
}

/// Whether a checkpoint is the one of this turn, rather than what a deleted namesake left.
fn is_of(checkpoint: &Checkpoint, machine: &Machine, session: &Session) -> bool {
    let annotations = checkpoint.metadata.annotations.as_ref();
    let theirs: Option<Session> = annotations.and_then(|a| serde_json::from_str(a.get(annotation::SESSION)?).ok());
    let same_uid = checkpoint.status.as_ref().and_then(|s| s.machine_uid.as_ref()).is_none_or(|uid| uid == machine.uid());
    let not_older =
        checkpoint.metadata.creation_timestamp.as_ref().map(|t| t.0) >= machine.metadata.creation_timestamp.as_ref().map(|t| t.0);
    same_uid && not_older && theirs.is_some_and(|theirs| theirs.id == session.id && theirs.turn == session.turn)
}
