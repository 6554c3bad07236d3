//! Machines of a Hub that uses its storage by Proxmox' API alone: clones of templates, which end as templates. The lab refuses what
//! Proxmox refuses, and no `zfs` is ever asked.

use super::stage::{AT_ONCE, Death, NAMESPACE, Stage, die_after_each, status};
use crate::ssh::lives::tls;
use autovibe::api::capability::CapabilityName;
use autovibe::api::checkpoint::{CheckpointPhase, CheckpointStatus};
use autovibe::api::hub::{AUDIT, FindingKind, Hub};
use autovibe::api::machine::{OperatingMode, Phase, TerminationReason};
use autovibe::api::{Checkpoint, FieldError, Kind, Machine};
use autovibe::clock::Clock;
use autovibe::controller::machine::AfterStep;
use autovibe::objects::{Cipher, Error, Objects, Part};
use autovibe::proxmox::{Client, Config, Credential, Node, TaskStatus, Upid, Vmid};
use autovibe::store::Store;
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The image's template, outside the Hub's range.
pub(super) const IMAGE: u32 = 900;
/// qcow2 in a directory, whose linked clones are files with a backing file; and ZFS that nobody may run `zfs` on.
pub(super) const STORAGES: [(&str, &str); 2] = [("files", "files:1,format=qcow2"), ("tank", "tank:1")];

pub(super) fn setup((_, disk): (&str, &str), faults: &str) -> String {
    format!(
        "storages: [{{ storage: files, type: dir }}]\n\
         vms: [{{ vmid: {IMAGE}, config: {{ name: micro, scsi0: \"{disk}\", net0: \"virtio,bridge=vmbr9\" }}, template: true }}]\n{faults}"
    )
}

async fn stage_on(storage: (&str, &str), faults: &str, after_step: Option<AfterStep>) -> Stage {
    let mut stage = Stage::of_setup(&setup(storage, faults)).await;
    stage.start(after_step).await;
    let (address, fingerprint) = tls(&stage.lab).await;
    let at = stage.lab.endpoint().clone();
    stage.create_secret("pve", &[("tokenId", &at.token_id), ("secret", &at.secret)]).await;
    let infrastructure = json!({
        "proxmox": {
            "endpoint": format!("https://{address}"), "fingerprint": fingerprint, "tokenSecretRef": { "name": "pve" },
            "vmids": { "from": at.vmid_from, "to": at.vmid_to }, "bridge": at.bridge,
        },
        "templates": { "storage": storage.0 },
    });
    stage.create_hub_with(infrastructure, Some(&at.gateway_url), json!({ "name": "micro", "template": IMAGE })).await;
    stage
}

pub(super) async fn stage() -> Stage {
    stage_on(STORAGES[0], "", None).await
}

fn agent() -> Value {
    json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" })
}

/// What Proxmox' own user does.
struct Hands(Client, Node);

impl Hands {
    fn of(stage: &Stage) -> Self {
        let at = stage.lab.endpoint().clone();
        let credential = Credential::token(at.token_id, at.secret);
        let client = Client::new(Config { endpoint: at.endpoint, fingerprint: None, credential }).unwrap();
        Self(client, Node(at.node))
    }

    async fn done(&self, task: Upid) -> TaskStatus {
        loop {
            match self.0.task(&task).await.unwrap() {
                TaskStatus::Running => tokio::time::sleep(Duration::from_millis(5)).await,
                ended => return ended,
            }
        }
    }

    /// Takes or deletes one that is called `theirs`.
    async fn snapshot(&self, stage: &Stage, method: reqwest::Method, vmid: u32, rest: &str) {
        let at = stage.lab.endpoint();
        let url = format!("{}/api2/json/nodes/{}/qemu/{vmid}/snapshot{rest}", at.endpoint, at.node);
        let mut request = reqwest::Client::new().request(method.clone(), url);
        // Not the Hub's own token, which may not.
        let id = "root@pam!hands";
        request = request.header("Authorization", format!("PVEAPIToken={id}={}", stage.lab.token(id, false)));
        if method == reqwest::Method::POST {
            request = request.form(&[("snapname", "theirs")]);
        }
        let answer: Value = request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        let task = Upid(answer["data"].as_str().unwrap().to_owned());
        assert_eq!(self.done(task).await, TaskStatus::Done { warnings: 0 });
    }

    async fn clone(&self, from: u32, to: u32) {
        let task = self.0.clone_linked(&self.1, Vmid(from), Vmid(to), "theirs", "someone's").await.unwrap();
        assert_eq!(self.done(task).await, TaskStatus::Done { warnings: 0 });
    }

    async fn delete(&self, vmid: u32) {
        let unprotected = [("protection".to_owned(), "0".to_owned())].into();
        self.0.configure(&self.1, Vmid(vmid), &unprotected, &[], None).await.unwrap();
        let task = self.0.delete(&self.1, Vmid(vmid)).await.unwrap();
        assert_eq!(self.done(task).await, TaskStatus::Done { warnings: 0 });
    }
}

async fn taken(stage: &Stage, name: &str) -> CheckpointStatus {
    stage.checkpoint(name).await.unwrap_or_else(|| panic!("there is no checkpoint {name}")).status.unwrap_or_default()
}

/// VMID of the template that a Machine ended in: it is there, marked, leased, and all that is left.
pub(super) async fn assert_kept(stage: &Stage, machine: &Machine) -> u32 {
    let state = status(machine);
    let name = state.final_checkpoint.clone().unwrap_or_else(|| panic!("{} has no final checkpoint: {state:?}", machine.name()));
    let last = stage.checkpoint(&name).await.unwrap();
    let found = last.status.clone().unwrap();
    assert_eq!((found.phase, found.machine_uid.as_deref(), found.volumes.len()), (CheckpointPhase::Ready, Some(machine.uid()), 1));
    let vmid = found.volumes[0].template.unwrap_or_else(|| panic!("{found:?}"));
    let config = stage.config(vmid).await.values;
    assert_eq!((config["template"].as_str(), config["protection"].as_str()), ("1", "1"), "{config:?}");
    assert_eq!(config["smbios1"], format!("uuid={}", machine.uid()));
    assert!(
        config["tags"].contains(&format!("av-{}", machine.uid())) && config["tags"].contains(&format!("avc-{}", last.uid())),
        "{config:?}"
    );
    assert!(config["scsi0"].starts_with(&found.volumes[0].dataset) && config["scsi0"].contains("base-"), "{config:?}");
    assert_eq!(leases(stage).await.get(&vmid).map(String::as_str), Some(machine.uid()));
    assert!(state.vm.is_none() && state.checkpoints == 1, "{state:?}");
    vmid
}

pub(super) async fn leases(stage: &Stage) -> BTreeMap<u32, String> {
    stage.store().vmid_leases("default").await.unwrap().into_iter().map(|lease| (lease.vmid, lease.machine_uid)).collect()
}

async fn delete(stage: &Stage, name: &str) {
    stage.objects().delete::<Checkpoint>(NAMESPACE, name, None).await.unwrap();
}

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let all = async {
        while !holds().await {
            Clock::system().sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_mins(1), all).await.is_ok(), "waited in vain: {what}");
}

pub(super) async fn until_collected(stage: &Stage, name: &str) {
    until(&format!("{name} is gone"), || async { stage.checkpoint(name).await.is_none() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goals_follow_each_other_from_template_to_template() {
    for storage in STORAGES {
        let mut stage = stage_on(storage, "", None).await;
        let after = |before: &str| json!({ "from": null, "goal": { "prompt": "work", "after": [before] }, "agent": agent() });
        stage.create("b", after("a")).await;
        stage.create("a", json!({ "goal": { "prompt": "work" }, "agent": agent(), "resources": { "cpu": "3", "memory": "1Gi" } })).await;
        let (mut parent, mut base) = (None, IMAGE);
        for name in ["a", "b"] {
            let machine = stage.until_finished(name).await;
            let state = status(&machine);
            assert_eq!((state.phase, state.termination_reason), (Phase::Succeeded, Some(TerminationReason::Completed)), "{state:?}");
            assert_eq!((state.spawned_from.clone(), state.usage.api_calls), (parent, 2), "{name}");
            let vmid = assert_kept(&stage, &machine).await;
            let config = stage.config(vmid).await.values;
            assert!(config["scsi0"].contains(&format!("base-{base}-disk-0")), "{name} is a linked clone of {base}: {config:?}");
            assert!(config["net0"].contains("bridge=vmbr0") && config["name"] == name, "{config:?}");
            let (cores, memory) = if name == "a" { ("3", "1024") } else { ("1", "2048") };
            assert_eq!((config["cores"].as_str(), config["memory"].as_str()), (cores, memory));
            if storage.0 == "tank" {
                assert_eq!(stage.lab.disk(&format!("tank/data/base-{vmid}-disk-0")).unwrap()["hostname"], name);
            }
            (parent, base) = (state.final_checkpoint, vmid);
        }
        // Each is all there is of its Machine: nothing was asked for while it ran.
        let (all, _) = stage.objects().list::<Checkpoint>(Some(NAMESPACE)).await.unwrap();
        assert_eq!(all.iter().map(Kind::name).collect::<Vec<_>>(), ["a-final", "b-final"]);
        assert_eq!(taken(&stage, "b-final").await.parent.as_deref(), Some("a-final"));

        // What is cloned stays, with the last clone's checkpoint goes the last clone, and with each its number.
        delete(&stage, "a-final").await;
        until("a-final says what needs it", || async {
            taken(&stage, "a-final").await.message.is_some_and(|message| message.contains("checkpoint b-final"))
        })
        .await;
        delete(&stage, "b-final").await;
        until_collected(&stage, "b-final").await;
        until_collected(&stage, "a-final").await;
        assert_eq!(stage.vms(), [(IMAGE, "micro".to_owned())].into());
        assert!(leases(&stage).await.is_empty());
        assert_eq!(stage.lab.zfs_commands(), 0);
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said_before_it_is_tried() {
    let mut stage = stage().await;
    stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    let running = stage.until_phase("a", Phase::Running).await;
    let why = status(&running).conditions.into_iter().find(|condition| condition.type_ == "CheckpointCurrent").unwrap();
    assert_eq!((why.status.as_str(), why.reason.as_str()), ("False", "NotPossible"), "{why:?}");

    let hub = stage.objects().get::<Hub>("", "default").await.unwrap().unwrap().status.unwrap();
    let possible = |name| hub.capabilities.iter().find(|capability| capability.name == name).map(|capability| capability.possible);
    assert_eq!(possible(CapabilityName::CheckpointInLife), Some(false));
    assert_eq!(possible(CapabilityName::SeveralDisksAtOnce), Some(true));

    let refused = |error: Error| match error {
        Error::Invalid { errors, .. } => errors,
        other => panic!("{other}"),
    };
    let says = |errors: &[FieldError], field: &str, remedy: &str| {
        let found = errors.iter().find(|error| error.field == field).unwrap_or_else(|| panic!("{field}: {errors:?}"));
        let text = found.to_string();
        assert!(text.contains("hub default cannot") && text.contains(remedy), "{text}");
    };
    let by_hand: Checkpoint =
        serde_json::from_value(json!({ "metadata": { "name": "now", "namespace": NAMESPACE }, "spec": { "machine": "a" } })).unwrap();
    says(&refused(stage.objects().create(&by_hand).await.unwrap_err()), "spec.machine", "machine a ends in a final one");
    let wanted: Machine = serde_json::from_value(json!({
        "metadata": { "name": "b", "namespace": NAMESPACE },
        "spec": { "from": { "machine": { "name": "a", "capture": "Now" } }, "goal": { "prompt": "x" }, "retry": { "limit": 1, "mode": "Fork" } },
    }))
    .unwrap();
    let errors = refused(stage.objects().create(&wanted).await.unwrap_err());
    says(&errors, "spec.from.machine.capture", "use Latest");
    says(&errors, "spec.retry.mode", "use Warm");
    let change = json!({ "spec": { "restore": { "checkpoint": "a-final" } } });
    let errors = refused(stage.objects().merge::<Machine>(NAMESPACE, "a", Part::Main, change).await.unwrap_err());
    says(&errors, "spec.restore", "spawn another machine");
    // All else of it may be changed.
    stage.change("a", |machine| machine.spec.ttl_after_finished = None).await;
    stage.objects().merge::<Machine>(NAMESPACE, "a", Part::Main, json!({ "metadata": { "labels": { "x": "y" } } })).await.unwrap();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_suspended_without_a_checkpoint_and_goes_on() {
    let mut stage = stage().await;
    stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    let vm = status(&stage.until_phase("a", Phase::Running).await).vm.unwrap();
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Suspended).await;
    let suspended = stage.until_phase("a", Phase::Suspended).await;
    assert_eq!((status(&suspended).vm.as_ref(), status(&suspended).last_checkpoint), (Some(&vm), None));
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Running).await;
    stage.until("a", "running again", |m| status(m).phase == Phase::Running && status(m).agent.is_some_and(|a| a.launches == 2)).await;

    // It is deleted in mid-life, and ends in its template; one that is discarded leaves nothing.
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_gone("a").await;
    assert_eq!(taken(&stage, "a-final").await.volumes[0].template, Some(vm.vmid));
    stage.create("b", json!({ "onTerminate": "Discard" })).await;
    stage.assert_no_vm(&stage.until_finished("b").await).await;
    assert_eq!(stage.vms().into_keys().collect::<Vec<_>>(), [IMAGE, vm.vmid]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_goes_only_by_its_marks_and_when_nothing_is_cloned_from_it() {
    let mut stage = stage().await;
    stage.create("a", json!({})).await;
    let vmid = assert_kept(&stage, &stage.until_finished("a").await).await;
    let hands = Hands::of(&stage);
    hands.clone(vmid, 500).await;
    delete(&stage, "a-final").await;
    until("a-final says that it is in use", || async {
        taken(&stage, "a-final").await.message.is_some_and(|message| message.contains("linked clones of template"))
    })
    .await;
    let config = stage.config(vmid).await.values;
    assert_eq!((config["template"].as_str(), config["protection"].as_str()), ("1", "1"), "it is as it was");

    // Without its clone it would go, but for a mark that is not its own.
    let tags = config["tags"].clone();
    stage.lab.edit_config(vmid, "tags", Some("autovibe"));
    hands.delete(500).await;
    stage.stop().await;
    stage.start(None).await;
    until("a-final says that it is not proved ours", || async {
        taken(&stage, "a-final").await.message.is_some_and(|message| message.contains("does not bear the marks"))
    })
    .await;
    assert!(stage.vms().contains_key(&vmid) && leases(&stage).await.contains_key(&vmid));
    stage.lab.edit_config(vmid, "tags", Some(&tags));
    stage.stop().await;
    stage.start(None).await;
    until_collected(&stage, "a-final").await;
    assert!(!stage.vms().contains_key(&vmid) && leases(&stage).await.is_empty());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_with_snapshots_is_kept_until_they_are_gone() {
    let mut stage = stage().await;
    stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    let vmid = status(&stage.until_phase("a", Phase::Running).await).vm.unwrap().vmid;
    let hands = Hands::of(&stage);
    hands.snapshot(&stage, reqwest::Method::POST, vmid, "").await;
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage
        .until("a", "told that its VM has snapshots", |m| {
            let stalled = |state: &autovibe::api::machine::MachineStatus| {
                state.conditions.iter().any(|c| c.type_ == "Stalled" && c.message.contains("VM contains snapshots"))
            };
            stalled(&status(m))
        })
        .await;
    let config = stage.config(vmid).await.values;
    assert!(!config.contains_key("template") && config["protection"] == "1", "{config:?}");
    hands.snapshot(&stage, reqwest::Method::DELETE, vmid, "/theirs").await;
    stage.until_gone("a").await;
    assert_eq!(taken(&stage, "a-final").await.phase, CheckpointPhase::Ready);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_knows_templates() {
    let mut stage = stage().await;
    for name in ["a", "b"] {
        stage.create(name, json!({})).await;
    }
    let a = assert_kept(&stage, &stage.until_finished("a").await).await;
    let b = assert_kept(&stage, &stage.until_finished("b").await).await;
    let foreign = (FindingKind::Foreign, "VM 1001".to_owned());
    assert_eq!(audited(&stage, "sound").await, std::slice::from_ref(&foreign));
    // Someone deletes one, and of the other the object is lost, as with an older database.
    Hands::of(&stage).delete(a).await;
    stage.stop().await;
    let store = Store::open(&stage.data().join("state.db")).await.unwrap();
    let objects = Objects::new(store.clone(), Clock::system(), Cipher::ephemeral());
    objects.merge::<Checkpoint>(NAMESPACE, "b-final", Part::Main, json!({ "metadata": { "finalizers": null } })).await.unwrap();
    objects.delete::<Checkpoint>(NAMESPACE, "b-final", None).await.unwrap();
    store.close().await;
    stage.start(None).await;
    let expected = [
        (FindingKind::SnapshotMissing, format!("checkpoint {NAMESPACE}/a-final")),
        foreign,
        (FindingKind::TemplateUnused, format!("VM {b}")),
    ];
    assert_eq!(audited(&stage, "changed").await, expected);
    stage.stop().await;
}

/// What an audit finds that this asks for.
async fn audited(stage: &Stage, asked: &str) -> Vec<(FindingKind, String)> {
    let change = json!({ "metadata": { "annotations": { AUDIT: asked } } });
    stage.objects().merge::<Hub>("", "default", Part::Main, change).await.unwrap();
    let found = || async { stage.objects().get::<Hub>("", "default").await.unwrap().unwrap().status.unwrap_or_default().audit };
    until(asked, || async { found().await.is_some_and(|audit| audit.asked.as_deref() == Some(asked)) }).await;
    let audit = found().await.unwrap();
    assert_eq!(audit.message, None);
    audit.findings.into_iter().map(|finding| (finding.kind, finding.name)).collect()
}

pub(super) fn spec() -> Value {
    json!({ "goal": { "prompt": "work", "verify": { "command": ["sim-turns", "2"] } }, "agent": agent() })
}

/// One template beside the image's, as if nothing had happened; and it can be collected.
async fn assert_same_end(stage: &Stage, what: &str) {
    let machine = stage.until_finished("a").await;
    let state = status(&machine);
    assert_eq!((state.phase, state.termination_reason), (Phase::Succeeded, Some(TerminationReason::Completed)), "{what}: {state:?}");
    let vmid = assert_kept(stage, &machine).await;
    assert_eq!(stage.vms().into_keys().collect::<Vec<_>>(), [IMAGE, vmid], "{what}");
    delete(stage, "a-final").await;
    until_collected(stage, "a-final").await;
    assert_eq!(stage.vms().into_keys().collect::<Vec<_>>(), [IMAGE], "{what}");
    assert!(leases(stage).await.is_empty(), "{what}");
}

/// Whether a life has a step of that number; if so, the hub died after it.
async fn dies_after(step: u32) -> bool {
    let death = Death::after(step);
    let mut stage = stage_on(STORAGES[0], "", Some(death.hook())).await;
    stage.create("a", spec()).await;
    let reached = tokio::select! {
        () = death.came() => true,
        _ = stage.until_finished("a") => false,
    };
    if reached {
        stage.stop().await;
        stage.start(None).await;
        assert_same_end(&stage, &format!("died after step {step}")).await;
    }
    stage.stop().await;
    reached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_dies_after_any_step_comes_to_the_same_end() {
    let reached = die_after_each(dies_after).await;
    assert!(reached > 10, "only {reached} steps were counted in a life");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_unanswered_or_cut_comes_to_the_same_end() {
    let calls = ["POST /nodes/*/qemu/*/clone", "PUT /nodes/*/qemu/*/config", "POST /nodes/*/qemu/*/template", "DELETE /nodes/*/qemu/*"];
    let faults =
        ["dropReply", "{ fail: { status: 500, text: \"can't lock file 'x' - got timeout\" } }", "{ fail: { status: 596, text: \"\" } }"];
    let all = calls.into_iter().flat_map(|call| (1..=3).flat_map(move |nth| faults.map(|fault| (call, nth, fault))));
    futures::stream::iter(all)
        .for_each_concurrent(AT_ONCE, |(call, nth, fault)| async move {
            let faults = format!("faults: [{{ call: {call}, nth: {nth}, fault: {fault} }}]");
            let mut stage = stage_on(STORAGES[0], &faults, None).await;
            stage.create("a", spec()).await;
            assert_same_end(&stage, &format!("{call} {nth}: {fault}")).await;
            stage.stop().await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_of_a_template_keeps_its_memory_too() {
    let mut stage = stage().await;
    stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" }, "suspend": { "memory": "Keep" } })).await;
    let vmid = status(&stage.until_phase("a", Phase::Running).await).vm.unwrap().vmid;
    let memory = async || stage.config(vmid).await.values.get("vmstate").cloned();
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Suspended).await;
    stage.until_phase("a", Phase::Suspended).await;
    assert!(memory().await.is_some());
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Running).await;
    let again = status(&stage.until_phase("a", Phase::Running).await).agent.unwrap();
    assert_eq!((again.launches, again.resumed, memory().await), (1, 1, None));
    // Suspended again, it is made a template all the same: its memory goes first.
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Suspended).await;
    stage.until_phase("a", Phase::Suspended).await;
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_gone("a").await;
    let config = stage.config(vmid).await.values;
    assert_eq!((config["template"].as_str(), config.get("vmstate"), config.get("lock")), ("1", None, None));
    stage.stop().await;
}
