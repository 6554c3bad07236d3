//! A Hub that drives a real lab by Proxmox' API alone: real guests on linked clones of templates. The volumes lie in this machine's ZFS, of
//! which the hub runs no command. Skips aloud where this machine lacks the parts.

use super::hub::Side;
use super::{PATIENCE, Place, lacking, micro_image};
use autovibe::api::Checkpoint;
use autovibe::api::checkpoint::{CheckpointPhase, CheckpointStatus};
use autovibe::api::machine::{MachineStatus, Phase, TerminationReason};
use autovibe::lab::real::pool;
use autovibe::proxmox::{Power, Vmid};
use autovibe::zfs::Dataset;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// VMID of the image's template, outside the Hub's range.
const IMAGE: u32 = 900;
const CONVERSATION: &str = "\
tokensPerSecond: 100000
thinkSeconds: 0
conversations:
  - name: any
    match: work
    turns:
      - text: Well done.
";
/// Asks the model, and adds its own name to what is in its workspace once it was answered.
const AGENT: &str = r#"set -e
wget -q -O answer --header "x-api-key: $AUTOVIBE_TOKEN" --header 'content-type: application/json' \
  --header 'anthropic-version: 2023-06-01' \
  --post-data '{"model":"claude-sonnet-4-5","max_tokens":64,"messages":[{"role":"user","content":"work"}]}' "$AUTOVIBE_GATEWAY/v1/messages"
grep -q 'Well done' answer
hostname >>lives
"#;

fn spec(from: &Value, lives: &str) -> Value {
    json!({
        "from": from,
        "goal": { "prompt": "work", "verify": { "command": ["sh", "-c", format!(r#"test "$(tr '\n' ' ' <lives)" = "{lives} ""#)] } },
        "agent": { "type": "Command", "command": ["sh", "-c", AGENT] },
        "resources": { "memory": "256Mi" },
    })
}

impl Side {
    async fn taken(&self, name: &str) -> Option<CheckpointStatus> {
        let found = self.objects.get::<Checkpoint>("default", name).await.unwrap();
        found.map(|checkpoint| checkpoint.status.unwrap_or_default())
    }

    /// Waits for the end of a Machine, and gives the VMID of the template that it ended in, which is a linked clone of this one.
    async fn ends_as_template_of(&self, name: &str, base: u32) -> (u32, MachineStatus) {
        let ended = self.until(name, "finished", |status| status.phase.is_finished()).await;
        assert_eq!((ended.phase, ended.termination_reason), (Phase::Succeeded, Some(TerminationReason::Completed)), "{ended:?}");
        assert_eq!((ended.usage.api_calls, ended.vm.as_ref()), (1, None), "{ended:?}");
        let last = self.taken(ended.final_checkpoint.as_deref().unwrap()).await.unwrap();
        assert_eq!((last.phase, last.volumes.len()), (CheckpointPhase::Ready, 1), "{last:?}");
        let vmid = last.volumes[0].template.unwrap();
        let volume = format!("base-{base}-disk-0/base-{vmid}-disk-0");
        assert_eq!(last.volumes[0].dataset, format!("tank:{volume}"));
        let config = self.driver.proxmox.config(self.driver.node(), Vmid(vmid)).await.unwrap().values;
        assert_eq!((config["template"].as_str(), config["protection"].as_str()), ("1", "1"), "{config:?}");
        assert_eq!(config["smbios1"], format!("uuid={}", self.uid(name).await));
        // What Proxmox shows is so in the pool.
        let listed = self.driver.proxmox.images(self.driver.node(), "tank", Some(Vmid(vmid))).await.unwrap();
        assert!(listed.len() == 1 && listed[0].0.ends_with(&volume), "{listed:?}");
        let disk = Dataset(format!("{}/base-{vmid}-disk-0", self.endpoint.dataset));
        let origin = self.driver.zfs.dataset(&disk).await.unwrap().unwrap().origin.unwrap();
        assert_eq!(origin.to_string(), format!("{}/base-{base}-disk-0@__base__", self.endpoint.dataset));
        (vmid, ended)
    }

    async fn volumes(&self) -> BTreeSet<String> {
        let (all, prefix) = (Dataset(self.endpoint.dataset.clone()), format!("{}/", self.endpoint.dataset));
        let found = self.driver.zfs.datasets(&all).await.unwrap();
        found.into_iter().filter_map(|info| Some(info.name.0.strip_prefix(&prefix)?.to_owned())).collect()
    }

    async fn until_checkpoint(&self, name: &str, what: &str, wanted: impl Fn(Option<&CheckpointStatus>) -> bool) {
        let started = Instant::now();
        loop {
            let taken = self.taken(name).await;
            if wanted(taken.as_ref()) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{name} is not {what}: {taken:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_guests_live_on_templates_and_end_as_templates() {
    if let Some(reason) = lacking() {
        eprintln!("SKIPPED real_guests_live_on_templates_and_end_as_templates: {reason}");
        return;
    }
    let image = micro_image().await;
    let data = tempfile::tempdir().unwrap();
    let pool = pool::name(data.path());
    let mut place = Place { data, pool, vms: Vec::new(), lab: None };
    let files = tempfile::tempdir().unwrap();
    let setup = files.path().join("lab.yaml");
    let config = json!({
        "name": "micro", "scsi0": format!("tank:0,import-from={}", image.display()), "scsihw": "virtio-scsi-single",
        "boot": "order=scsi0", "serial0": "socket", "net0": "virtio,bridge=vmbr0",
    });
    // JSON is YAML.
    std::fs::write(&setup, json!({ "vms": [{ "vmid": IMAGE, "config": config, "template": true }] }).to_string()).unwrap();
    let side = Side::start(&mut place, Some(&setup)).await;
    let conversation = side.data.path().join("conversation.yaml");
    std::fs::write(&conversation, CONVERSATION).unwrap();
    let template = side.driver.proxmox.config(side.driver.node(), Vmid(IMAGE)).await.unwrap();
    assert!(template.values["scsi0"].starts_with(&format!("tank:base-{IMAGE}-disk-0")), "{template:?}");
    side.create_hub(json!({
        "infrastructure": { "lab": {}, "templates": { "storage": "tank" } },
        "images": [{ "name": "micro", "template": IMAGE }],
        "providers": [{ "name": "replay", "type": "Replay", "models": ["claude-*"], "replay": { "file": conversation } }],
    }))
    .await;

    side.create("a", spec(&json!({ "image": "micro" }), "a")).await;
    let (a, _) = side.ends_as_template_of("a", IMAGE).await;
    // The next one finds its files, and is another.
    side.create("b", spec(&json!({ "checkpoint": "a-final" }), "a b")).await;
    let (b, ended) = side.ends_as_template_of("b", a).await;
    assert_eq!(ended.spawned_from.as_deref(), Some("a-final"));
    let all = [IMAGE, a, b].map(|vmid| format!("base-{vmid}-disk-0"));
    assert_eq!(side.volumes().await, all.into());

    // What is cloned stays until its clone goes; then nothing is left of either.
    for name in ["a-final", "b-final"] {
        side.objects.delete::<Checkpoint>("default", name, None).await.unwrap();
        if name == "a-final" {
            let says = |taken: Option<&CheckpointStatus>| taken.and_then(|taken| taken.message.as_ref()).cloned().unwrap_or_default();
            side.until_checkpoint(name, "told what needs it", |taken| says(taken).contains("checkpoint b-final")).await;
        }
    }
    for name in ["b-final", "a-final"] {
        side.until_checkpoint(name, "gone", |taken| taken.is_none()).await;
    }
    assert_eq!(side.volumes().await, [format!("base-{IMAGE}-disk-0")].into());
    assert_eq!(side.driver.proxmox.node_vms(side.driver.node()).await.unwrap(), [(Vmid(IMAGE), Power::Stopped)]);
    assert_eq!(side.store.vmid_leases("default").await.unwrap(), []);
    assert_eq!(side.driver.proxmox.config(side.driver.node(), Vmid(IMAGE)).await.unwrap(), template, "the image is its owner's");
    side.stop().await;
}
