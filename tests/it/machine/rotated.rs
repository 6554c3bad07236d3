//! A Hub whose token is made anew: refused until its Secret has the new one, and going on at once then.

use super::stage::{Stage, status};
use crate::ssh::lives::tls;
use autovibe::api::machine::Phase;
use autovibe::api::{Hub, Kind};
use autovibe::lab::Call;
use futures::StreamExt;
use serde_json::json;
use std::time::{Duration, Instant};

const TOKEN: &str = "autovibe@pve!hub";

async fn until_hub(stage: &Stage, what: &str, wanted: impl Fn(&str) -> bool) {
    let mut changes = stage.objects().watch::<Hub>();
    let seen = async {
        while let Some(event) = changes.next().await {
            if wanted(&serde_json::to_string(&event.object.status).unwrap()) {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), seen).await.is_ok(), "waited in vain until {what}");
}

/// Of a Hub that reaches the lab as it would Proxmox, by the token in Secret `pve`.
pub(super) async fn infrastructure(stage: &Stage) -> serde_json::Value {
    let (address, fingerprint) = tls(&stage.lab).await;
    let at = stage.lab.endpoint().clone();
    json!({
        "proxmox": {
            "endpoint": format!("https://{address}"), "fingerprint": fingerprint, "tokenSecretRef": { "name": "pve" }, "node": at.node,
            "vmids": { "from": at.vmid_from, "to": at.vmid_to }, "bridge": at.bridge,
        },
        "zfs": { "storage": at.storage, "dataset": at.dataset, "keep": at.keep, "runner": { "socket": at.zfs_socket } },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_goes_on_at_once_when_its_secret_has_the_new_token() {
    let mut stage = Stage::without_hub().await;
    let at = stage.lab.endpoint().clone();
    let old = stage.lab.token(TOKEN, false);
    stage.create_secret("pve", &[("tokenId", TOKEN), ("secret", &old)]).await;
    stage.create_hub(infrastructure(&stage).await, Some(&at.gateway_url)).await;
    let agent = json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" });
    for name in ["a", "b", "c"] {
        stage.create(name, json!({ "goal": { "prompt": "work" }, "agent": agent })).await;
    }
    stage.until_phase("a", Phase::Running).await;
    // The old secret is worth nothing from now on.
    let secret = stage.lab.token(TOKEN, false);
    until_hub(&stage, "the hub says that it is refused", |text| {
        text.contains("CredentialRefused") && text.contains("Secret autovibe-system/pve") && !text.contains(&old)
    })
    .await;
    let started = Instant::now();
    stage.change_secret("pve", &[("secret", &secret)]).await;
    until_hub(&stage, "the hub is ready", |text| text.contains("all images are there")).await;
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    for name in ["a", "b", "c"] {
        let machine = stage.until_finished(name).await;
        assert_eq!(status(&machine).phase, Phase::Succeeded, "{} {:?}", machine.name(), status(&machine));
        stage.assert_ended_well(&machine).await;
    }
    assert!(started.elapsed() < Duration::from_secs(40), "nobody waits for the next probe: {:?}", started.elapsed());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lives_under_a_hub_that_logs_in() {
    let mut stage = Stage::without_hub().await;
    let at = stage.lab.endpoint().clone();
    stage.lab.password("autovibe@pve", "pa55 word");
    stage.create_secret("pve", &[("username", "autovibe@pve"), ("password", "pa55 word\n")]).await;
    stage.create_hub(infrastructure(&stage).await, Some(&at.gateway_url)).await;
    stage.create("a", json!({ "goal": { "prompt": "#sim turns=0" } })).await;
    let machine = stage.until_finished("a").await;
    assert_eq!(status(&machine).phase, Phase::Succeeded, "{:?}", status(&machine));
    stage.assert_ended_well(&machine).await;
    assert_eq!(stage.lab.count(Call::Login), 1, "one login for a life");
    stage.stop().await;
}
