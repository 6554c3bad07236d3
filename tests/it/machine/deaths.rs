//! Lives on templates, by Proxmox' API alone, with the hub gone after each of its calls: its reply is lost, and nothing of that hub
//! reaches Proxmox or its database any more. The next one comes to the same end, and nothing is destroyed that does not bear both marks.

use super::stage::{NAMESPACE, Stage, die_after_each, status};
use super::templates::{IMAGE, STORAGES, assert_kept, leases, setup, spec, until_collected};
use autovibe::api::machine::{Phase, TerminationReason};
use autovibe::api::{Checkpoint, Machine};
use autovibe::clock::Clock;
use autovibe::lab::Lab;
use autovibe::objects::{self, Cipher, Objects};
use autovibe::store::{self, Store};
use autovibe::wire::Service;
use futures::FutureExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// What stands between a hub and the world.
struct Gate {
    lab: Arc<Lab>,
    /// After so many calls the hub is dead; `u32::MAX` is never.
    left: AtomicU32,
    dead: AtomicBool,
    died: Notify,
    /// The last call.
    last: Mutex<String>,
    broken: Mutex<Vec<String>>,
}

/// A VM's uid of its Machine, as its description says.
fn machine(config: &BTreeMap<String, String>) -> Option<String> {
    let about: serde_json::Value = serde_json::from_str(config.get("description")?).ok()?;
    about["autovibe"]["machine"].as_str().map(str::to_owned)
}

/// Whether the tag and the board of a VM name its Machine, and of a template a tag its Checkpoint.
fn bears_its_marks(config: &BTreeMap<String, String>) -> bool {
    let (Some(uid), value) = (machine(config), |key: &str| config.get(key).cloned().unwrap_or_default()) else { return false };
    let tags = value("tags");
    let is_tagged = tags.split(';').any(|tag| tag == format!("av-{uid}"));
    let is_template = value("template") == "1";
    is_tagged && value("smbios1") == format!("uuid={uid}") && is_template == tags.contains("avc-")
}

impl Gate {
    fn of(stage: &Stage, left: u32) -> Arc<Self> {
        Arc::new(Self {
            lab: stage.lab.clone(),
            left: AtomicU32::new(left),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            last: Mutex::default(),
            broken: Mutex::default(),
        })
    }

    fn proxmox(self: &Arc<Self>) -> Service {
        let gate = self.clone();
        Service::new(move |request| {
            let gate = gate.clone();
            Box::pin(async move {
                let what = format!("{} {}", request.method(), request.url().path().trim_start_matches("/api2/json"));
                if gate.dead.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                gate.before(&what);
                let response = gate.lab.proxmox().call(request).await;
                gate.after(&what).await;
                response
            })
        })
    }

    /// For the store: the dead write nothing.
    fn goes_on(self: &Arc<Self>) -> store::GoesOn {
        let gate = self.clone();
        Arc::new(move |_| !gate.dead.load(Ordering::SeqCst))
    }

    fn before(&self, what: &str) {
        let destroyed = what.strip_prefix("DELETE /nodes/lab/qemu/").and_then(|rest| rest.parse::<u32>().ok());
        if let Some(config) = destroyed.and_then(|vmid| self.lab.configs().remove(&vmid))
            && !bears_its_marks(&config)
        {
            self.broken.lock().unwrap().push(format!("{what}, which does not bear both marks: {config:?}"));
        }
    }

    async fn after(&self, what: &str) {
        let mut vms = BTreeMap::<String, Vec<u32>>::new();
        for (vmid, uid) in self.lab.configs().iter().filter_map(|(vmid, config)| Some((*vmid, machine(config)?))) {
            vms.entry(uid).or_default().push(vmid);
        }
        let doubled = vms.into_iter().filter(|(_, vms)| vms.len() > 1).map(|(uid, vms)| format!("after {what}: {uid} has {vms:?}"));
        self.broken.lock().unwrap().extend(doubled);
        // How often a guest or a task is asked for says how busy this machine is.
        if what.contains("/agent/") || what.contains("/tasks/") {
            return;
        }
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(u32::from(left < u32::MAX)));
        if left == Err(0) || self.dead.load(Ordering::SeqCst) {
            what.clone_into(&mut self.last.lock().unwrap());
            self.died.notify_one();
            self.dead.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }

    fn assert_kept_to_its_own(&self, what: &str) {
        let broken = self.broken.lock().unwrap();
        assert!(broken.is_empty(), "{what}:\n{}", broken.join("\n"));
    }
}

/// A stage whose Hub makes this Machine, and dies after so many calls; whether it did.
async fn dies(machine: serde_json::Value, after: u32, scenario: impl AsyncFn(&Stage)) -> (Stage, Option<String>) {
    let mut stage = Stage::of_setup(&setup(STORAGES[0], "")).await;
    let gate = Gate::of(&stage, after);
    stage.start_behind(gate.proxmox(), gate.goes_on()).await;
    // Before its Hub, which makes the first call.
    stage.create("a", machine).await;
    stage
        .create_hub_with(
            json!({ "lab": {}, "templates": { "storage": STORAGES[0].0 } }),
            None,
            json!({ "name": "micro", "template": IMAGE }),
        )
        .await;
    let ended = tokio::select! {
        biased;
        () = gate.died.notified() => None,
        ended = AssertUnwindSafe(scenario(&stage)).catch_unwind() => Some(ended),
    };
    let died = ended.is_none() || gate.dead.load(Ordering::SeqCst);
    if let Some(Err(panic)) = ended
        && !died
    {
        std::panic::resume_unwind(panic);
    }
    let last = died.then(|| format!("died after call {after}, {}", gate.last.lock().unwrap()));
    gate.assert_kept_to_its_own(last.as_deref().unwrap_or("nobody died"));
    (stage, last)
}

/// To its end, and on until its checkpoint is deleted, whatever of that was done before.
async fn lives(stage: &Stage, what: &str) {
    let machine = stage.until_finished("a").await;
    let state = status(&machine);
    assert_eq!((state.phase, state.termination_reason), (Phase::Succeeded, Some(TerminationReason::Completed)), "{what}: {state:?}");
    let last = stage.checkpoint("a-final").await;
    if last.is_some_and(|last| last.metadata.deletion_timestamp.is_none()) {
        let vmid = assert_kept(stage, &machine).await;
        assert_eq!(stage.vms().into_keys().collect::<Vec<_>>(), [IMAGE, vmid], "{what}");
        match stage.objects().delete::<Checkpoint>(NAMESPACE, "a-final", None).await {
            Ok(()) | Err(objects::Error::NotFound { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }
    until_collected(stage, "a-final").await;
    assert_nothing_is_left(stage, what).await;
}

async fn assert_nothing_is_left(stage: &Stage, what: &str) {
    assert_eq!(stage.vms().into_keys().collect::<Vec<_>>(), [IMAGE], "{what}");
    assert!(leases(stage).await.is_empty(), "{what}: {:?}", leases(stage).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_dies_after_any_call_comes_to_the_same_end() {
    let calls = die_after_each(|after| async move {
        let (mut stage, died) = dies(spec(), after, async |stage| lives(stage, "nobody died").await).await;
        if let Some(what) = &died {
            stage.kill().await;
            let gate = Gate::of(&stage, u32::MAX);
            stage.start_behind(gate.proxmox(), gate.goes_on()).await;
            lives(&stage, what).await;
            gate.assert_kept_to_its_own(what);
        }
        stage.stop().await;
        died.is_some()
    })
    .await;
    eprintln!("{calls} calls");
    assert!(calls > 14, "only {calls} calls were counted in a life");
}

/// Also of a clone that has no marks yet nothing is left, and it is marked before it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_deleted_while_its_hub_is_dead_leaves_nothing() {
    let unmarked = Arc::new(AtomicU32::new(0));
    let calls = die_after_each(|after| {
        let unmarked = unmarked.clone();
        async move {
            let idle = json!({ "goal": { "prompt": "#sim idle=true" }, "onTerminate": "Discard" });
            let running = async |stage: &Stage| drop(stage.until_phase("a", Phase::Running).await);
            let (mut stage, died) = dies(idle, after, running).await;
            if let Some(what) = &died {
                stage.kill().await;
                let made = stage.lab.configs().into_iter().filter(|(_, config)| machine(config).is_some() && !config.contains_key("lock"));
                unmarked.fetch_add(u32::from(made.into_iter().any(|(_, config)| !bears_its_marks(&config))), Ordering::SeqCst);
                let store = Store::open(&stage.data().join("state.db")).await.unwrap();
                let objects = Objects::new(store.clone(), Clock::system(), Cipher::load(&stage.data().join("key")).unwrap());
                objects.delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
                store.close().await;
                let gate = Gate::of(&stage, u32::MAX);
                stage.start_behind(gate.proxmox(), gate.goes_on()).await;
                stage.until_gone("a").await;
                assert_nothing_is_left(&stage, what).await;
                assert!(stage.checkpoint("a-final").await.is_none(), "{what}");
                gate.assert_kept_to_its_own(what);
            }
            stage.stop().await;
            died.is_some()
        }
    })
    .await;
    eprintln!("{calls} calls; in {unmarked:?} runs a clone had no marks yet");
    assert!(calls > 5 && unmarked.load(Ordering::SeqCst) > 0, "{calls} calls, {unmarked:?} unmarked");
}
