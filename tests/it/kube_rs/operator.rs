//! A small operator as anyone would write one: each Budget gets a ConfigMap of notes, through kube-rs' Controller,
//! `finalizer` and event recorder.

use super::{Budget, client, resource};
use crate::served::Served;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event as StoredEvent;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event as Said, EventType, Recorder};
use kube::runtime::finalizer::{self, Event, finalizer};
use kube::runtime::wait::{await_condition, conditions, delete::delete_and_finalize};
use kube::runtime::watcher;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, sync::atomic::AtomicUsize, sync::atomic::Ordering, time::Duration};

const NAMESPACE: &str = "kube-operator";
const FINALIZER: &str = "example.dev/notes";
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("the finalizer: {0}")]
    Finalizer(#[source] Box<finalizer::Error<Error>>),
}

struct Operator {
    budgets: Api<Budget>,
    notes: Api<ConfigMap>,
    resource: ApiResource,
    recorder: Recorder,
    runs: AtomicUsize,
}

async fn reconcile(budget: Arc<Budget>, operator: Arc<Operator>) -> Result<Action, Error> {
    operator.runs.fetch_add(1, Ordering::Relaxed);
    let run = |event| async {
        match event {
            Event::Apply(budget) => operator.apply(&budget).await,
            Event::Cleanup(budget) => operator.clean_up(&budget).await,
        }
    };
    match finalizer(&operator.budgets, FINALIZER, budget, run).await {
        // Woken by the note's deletion, it may still remember a Budget that has just gone.
        Err(finalizer::Error::RemoveFinalizer(kube::Error::Api(status))) if status.is_not_found() => Ok(Action::await_change()),
        result => result.map_err(|error| Error::Finalizer(Box::new(error))),
    }
}

impl Operator {
    fn notes_of(&self, budget: &Budget) -> ConfigMap {
        let owner = budget.controller_owner_ref(&self.resource).expect("a stored object has a uid");
        let metadata =
            ObjectMeta { name: Some(format!("{}-notes", budget.name_any())), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
        let calls = budget.spec.limits.api_calls.unwrap_or_default().to_string();
        ConfigMap { metadata, data: Some(BTreeMap::from([("calls".into(), calls)])), ..ConfigMap::default() }
    }

    async fn apply(&self, budget: &Budget) -> Result<Action, Error> {
        let wanted = self.notes_of(budget);
        let name = wanted.name_any();
        match self.notes.get_opt(&name).await? {
            None => drop(self.notes.create(&PostParams::default(), &wanted).await?),
            Some(found) if found.data != wanted.data => {
                self.notes.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"data": wanted.data}))).await?;
                let said = Said {
                    type_: EventType::Normal,
                    reason: "Noted".into(),
                    note: Some("the limit was noted".into()),
                    action: "Note".into(),
                    secondary: None,
                };
                self.recorder.publish(&said, &budget.object_ref(&self.resource)).await?;
            }
            Some(_) => {}
        }
        // Written at each run: the same status again must wake no one.
        let status = json!({"status": {"observedGeneration": budget.metadata.generation, "spent": "$0.00"}});
        self.budgets.patch_status(&budget.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(Action::await_change())
    }

    async fn clean_up(&self, budget: &Budget) -> Result<Action, Error> {
        match self.notes.delete(&self.notes_of(budget).name_any(), &DeleteParams::default()).await {
            Ok(_) => Ok(Action::await_change()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Action::await_change()),
            Err(error) => Err(error.into()),
        }
    }
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

async fn operate(
    client: Client,
    config: watcher::Config,
) -> (Arc<Operator>, tokio::task::JoinHandle<()>, tokio::sync::oneshot::Sender<()>) {
    let resource = resource(&client, "Budget").await;
    let operator = Arc::new(Operator {
        budgets: Api::namespaced_with(client.clone(), NAMESPACE, &resource),
        notes: Api::namespaced(client.clone(), NAMESPACE),
        resource: resource.clone(),
        recorder: Recorder::new(client, "notes.example.dev".into()),
        runs: AtomicUsize::new(0),
    });
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let controller = Controller::new_with(operator.budgets.clone(), config.clone(), resource)
        .owns(operator.notes.clone(), config)
        .graceful_shutdown_on(async { drop(stopped.await) })
        .run(reconcile, |_, error, _| panic!("{error}"), operator.clone());
    let running = tokio::spawn(controller.for_each(|_| async {}));
    (operator, running, stop)
}

#[tokio::test]
async fn an_operator_keeps_what_it_owns_and_lets_go_at_the_end() {
    let server = Served::shared();
    server.namespace(NAMESPACE).await;
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (operator, running, stop) = operate(client(&server).await, config).await;
        let spec = serde_json::from_value(json!({"limits": {"apiCalls": 5}})).unwrap();
        let (budgets, notes) = (&operator.budgets, &operator.notes);
        let made = budgets.create(&PostParams::default(), &Budget::new("team", &operator.resource, spec)).await.unwrap();
        let uid = made.uid().unwrap();

        // It makes what belongs to the Budget, says so in its status, and holds it by a finalizer.
        let seen = |budget: Option<&Budget>| budget.and_then(|b| b.status.as_ref()).is_some_and(|s| s.spent.as_deref() == Some("$0.00"));
        let ready = tokio::time::timeout(PATIENCE, await_condition(budgets.clone(), "team", seen)).await.unwrap().unwrap().unwrap();
        assert_eq!((ready.finalizers(), ready.status.as_ref().unwrap().observed_generation), (&[FINALIZER.to_owned()][..], Some(1)));
        let note = notes.get("team-notes").await.unwrap();
        assert_eq!(note.owner_references()[0].uid, uid);

        // What it owns comes back when someone deletes it, and follows the spec.
        notes.delete("team-notes", &DeleteParams::default()).await.unwrap();
        eventually("the note's return", async || notes.get_opt("team-notes").await.unwrap()).await;
        budgets.patch("team", &PatchParams::default(), &Patch::Merge(json!({"spec": {"limits": {"apiCalls": 6}}}))).await.unwrap();
        eventually("the change", async || (notes.get("team-notes").await.unwrap().data?["calls"] == "6").then_some(())).await;
        let events: Api<StoredEvent> = Api::namespaced(client(&server).await, NAMESPACE);
        let about = format!("regarding.name=team,regarding.uid={uid}");
        let said =
            eventually("the event", async || events.list(&ListParams::default().fields(&about)).await.unwrap().items.into_iter().next())
                .await;
        assert_eq!((said.reason.as_deref(), said.note.as_deref()), (Some("Noted"), Some("the limit was noted")));

        // Writing the same status again is no change, so it comes to rest.
        eventually("rest", async || {
            let before = operator.runs.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
            (operator.runs.load(Ordering::Relaxed) == before).then_some(())
        })
        .await;
        assert!(operator.runs.load(Ordering::Relaxed) < 20, "{} runs for a handful of changes", operator.runs.load(Ordering::Relaxed));

        // At the end the finalizer's cleanup runs first.
        let options = DeleteParams::default();
        let ending = delete_and_finalize(budgets.clone(), "team", &options);
        tokio::time::timeout(PATIENCE, ending).await.expect("it ends in time").unwrap();
        assert!(notes.get_opt("team-notes").await.unwrap().is_none(), "cleaned up before the Budget went");
        let gone = await_condition(budgets.clone(), "team", conditions::is_deleted(&uid));
        tokio::time::timeout(PATIENCE, gone).await.expect("deletions are told").unwrap();
        stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, running).await.expect("the controller stops").unwrap();
    }
}
