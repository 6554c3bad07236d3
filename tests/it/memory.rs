//! The memory of a real guest: a hub in this process suspends a Machine of a real lab with it, and it goes on. Skips aloud where this
//! machine lacks the parts.

use crate::real::{PATIENCE, Place, as_root, hub::Side, lacking, micro_image};
use autovibe::api::machine::{MachineStatus, OperatingMode, Phase, Suspend, SuspendMemory};
use autovibe::lab::real::pool;
use autovibe::objects::WriteOptions;
use autovibe::proxmox::Vmid;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The model thinks long enough for a suspension to come meanwhile.
const CONVERSATION: &str = "\
tokensPerSecond: 100000
conversations:
  - name: any
    match: work
    turns:
      - text: Well done.
        thinkSeconds: 4
";
/// A provider's key, which no guest may ever have.
const PROVIDER_KEY: &str = "sk-canary-5b1e7f0a9c3d";
/// Counts in a shell's variable, and asks the model three things, each for as long as there is no answer. What it writes is in memory too.
const AGENT: &str = r#"
ask() {
  until wget -q -O "/dev/shm/answer.$1" --header "x-api-key: $AUTOVIBE_TOKEN" --header 'content-type: application/json' \
    --header 'anthropic-version: 2023-06-01' \
    --post-data '{"model":"claude-sonnet-4-5","max_tokens":64,"messages":[{"role":"user","content":"work '"$1"'"}]}' \
    "$AUTOVIBE_GATEWAY/v1/messages"; do echo again >>/dev/shm/again; sleep 1; done
}
(ask 1; ask 2; ask 3) &
n=0
while :; do n=$((n + 1)); echo "$n" >/dev/shm/count.new; mv /dev/shm/count.new /dev/shm/count; sleep 0.1; done
"#;

impl Side {
    async fn create_counting(&self, name: &str) {
        let spec = json!({
            "from": { "image": "micro" },
            "goal": { "prompt": "work" },
            "agent": { "type": "Command", "command": ["sh", "-c", AGENT] },
            "resources": { "memory": "256Mi" },
            "suspend": { "memory": "Keep" },
        });
        self.create(name, spec).await;
    }

    async fn set(&self, name: &str, mode: OperatingMode) {
        self.change(name, move |machine| machine.spec.operating_mode = mode).await;
    }

    async fn in_guest(&self, vmid: Vmid, script: &str) -> String {
        as_root(&self.driver, vmid, script).await.trim().to_owned()
    }

    /// How far it has counted, in this boot.
    async fn counted(&self, vmid: Vmid) -> u64 {
        let started = Instant::now();
        loop {
            if let Ok(count) = self.in_guest(vmid, "cat /dev/shm/count 2>/dev/null").await.parse() {
                return count;
            }
            assert!(started.elapsed() < PATIENCE, "it does not count");
        }
    }

    /// From the wish that it runs until its agent counts on.
    async fn goes_on(&self, name: &str, vmid: Vmid) -> Duration {
        let began = Instant::now();
        self.set(name, OperatingMode::Running).await;
        self.until(name, "running again", |status| status.phase == Phase::Running).await;
        self.counted(vmid).await;
        began.elapsed()
    }
}

/// Whether a file has this text anywhere.
fn holds(file: &Path, text: &str) -> bool {
    let found = Command::new("grep").args(["-aFq", "-e", text]).arg(file).status().unwrap();
    assert!(found.code().is_some_and(|code| code < 2), "{} cannot be read", file.display());
    found.success()
}

/// The token that a guest was given.
async fn token(side: &Side, vmid: Vmid) -> String {
    let line = side.in_guest(vmid, "grep -o 'av_[0-9a-f]*' /var/lib/autovibe/agent.env | head -n 1").await;
    assert!(line.len() > 20, "no token: {line}");
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_guest_goes_on_from_its_memory() {
    if let Some(reason) = lacking() {
        eprintln!("SKIPPED a_real_guest_goes_on_from_its_memory: {reason}");
        return;
    }
    let image = micro_image().await;
    let data = tempfile::tempdir().unwrap();
    let pool = pool::name(data.path());
    let mut place = Place { data, pool, vms: Vec::new(), lab: None };
    let side = Side::start(&mut place, None).await;
    let conversation = side.data.path().join("conversation.yaml");
    std::fs::write(&conversation, CONVERSATION).unwrap();
    let secrets = autovibe::admission::resources().iter().find(|resource| resource.plural == "secrets").unwrap();
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "provider", "namespace": "autovibe-system" },
        "stringData": { "api-key": PROVIDER_KEY } });
    side.objects.create_document(secrets, "autovibe-system", secret, &WriteOptions::default()).await.unwrap();
    let providers = json!([
        { "name": "replay", "type": "Replay", "models": ["claude-*"], "replay": { "file": conversation } },
        { "name": "other", "type": "Anthropic", "models": ["other-*"], "apiKeySecretRef": { "name": "provider" } },
    ]);
    side.create_hub(json!({ "infrastructure": { "lab": {} }, "images": [{ "name": "micro", "file": image }], "providers": providers }))
        .await;
    side.create_counting("a").await;
    side.create_counting("b").await;
    let vmid = |status: MachineStatus| Vmid(status.vm.unwrap().vmid);
    let a = vmid(side.until("a", "running", |status| status.phase == Phase::Running).await);
    let b = vmid(side.until("b", "running", |status| status.phase == Phase::Running).await);
    let (own, others) = (token(&side, a).await, token(&side, b).await);
    assert_ne!(own, others);
    side.set("b", OperatingMode::Suspended).await;

    // It is suspended while the model thinks about what it asked.
    side.until("a", "calling", |status| status.usage.api_calls > 0 || status.usage.reserved.0 > 0).await;
    let before = side.counted(a).await;
    let boot = side.in_guest(a, "cat /proc/sys/kernel/random/boot_id; pidof sh").await;
    let uptime = || async { side.in_guest(a, "cut -d. -f1 /proc/uptime").await.parse::<u64>().unwrap() };
    let (up, wall) = (uptime().await, Instant::now());
    let began = Instant::now();
    side.set("a", OperatingMode::Suspended).await;
    let suspended = side.until("a", "suspended", |status| status.phase == Phase::Suspended).await;
    eprintln!("suspended with its memory after {:.1} s", began.elapsed().as_secs_f64());
    assert!(suspended.memory_kept_at.is_some(), "{suspended:?}");
    side.until("b", "suspended", |status| status.phase == Phase::Suspended).await;

    // Of all that is secret the file with its memory and its disk have its own token alone.
    let volumes = place.data.path().join("mnt/data");
    let memory = std::fs::read_dir(&volumes).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let memory: Vec<String> = memory.filter(|name| name.starts_with(&format!("vm-{a}-state-"))).collect();
    assert_eq!(memory.len(), 1, "{memory:?}");
    for volume in [memory[0].as_str(), &format!("vm-{a}-disk-0")] {
        let file = volumes.join(volume).join("disk.raw");
        assert!(std::fs::metadata(&file).unwrap().len() > 16 << 20, "{volume} is not whole");
        assert!(holds(&file, &own), "the search finds nothing in {volume}");
        for (secret, what) in
            [(others.as_str(), "another machine's token"), (&side.endpoint.secret, "Proxmox' token"), (PROVIDER_KEY, "a key")]
        {
            assert!(!holds(&file, secret), "{what} is in {volume}");
        }
    }
    tokio::time::sleep(Duration::from_secs(6)).await;

    let took = side.goes_on("a", a).await;
    eprintln!("it goes on from its memory after {:.2} s", took.as_secs_f64());
    let (after, status) = (side.counted(a).await, side.until("a", "running", |status| status.phase == Phase::Running).await);
    let agent = status.agent.clone().unwrap();
    assert_eq!((agent.launches, agent.resumed), (1, 1), "{status:?}");
    assert!(after >= before, "it counts anew: {before}, then {after}");
    assert_eq!(side.in_guest(a, "cat /proc/sys/kernel/random/boot_id; pidof sh").await.lines().next(), boot.lines().next());
    // Its own clock stood still, and was put right.
    let (lived, passed) = (uptime().await - up, wall.elapsed().as_secs());
    assert!(lived + 5 <= passed, "it ran {lived} s of {passed} s");
    let drift = side.in_guest(a, "date +%s").await.parse::<i64>().unwrap() - side.clock.now().as_second();
    assert!(drift.abs() <= 3, "its clock is {drift} s off");
    // The time that it was suspended is not charged.
    assert!(status.usage.time.0.as_secs() < passed, "{status:?}");
    // What it asked meanwhile it was told to ask again; it does so by itself, and each of its requests is answered and paid once.
    let answered = Instant::now();
    while side.in_guest(a, "cat /dev/shm/answer.* 2>/dev/null | grep -o 'Well done' | wc -l").await != "3" {
        assert!(answered.elapsed() < PATIENCE, "a request that was held is not answered");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!side.in_guest(a, "cat /dev/shm/again").await.is_empty(), "it was never told to ask again");
    let uid = side.uid("a").await;
    let balance = side.store.balance(&format!("machine/{uid}")).await.unwrap();
    assert_eq!((balance.api_calls, balance.reserved), (3, 0), "{balance:?}");

    // The same guest from its disks alone, to compare.
    side.change("a", |machine| machine.spec.suspend = Some(Suspend { memory: SuspendMemory::Discard })).await;
    side.set("a", OperatingMode::Suspended).await;
    side.until("a", "suspended", |status| status.phase == Phase::Suspended).await;
    let took = side.goes_on("a", a).await;
    eprintln!("it goes on from its disks after {:.2} s", took.as_secs_f64());
    let agent = side.until("a", "running", |status| status.phase == Phase::Running).await.agent.unwrap();
    assert_eq!((agent.launches, agent.resumed), (2, 1));

    side.stop().await;
}
