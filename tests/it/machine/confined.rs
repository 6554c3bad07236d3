//! VMs of a Hub that manages the firewall: none runs before its rules are made, whatever its template had, and the Hub says when Proxmox
//! does not put them in force.

use super::stage::{NAMESPACE, Stage, status};
use super::templates;
use crate::ssh::lives::tls;
use autovibe::api::hub::Hub;
use autovibe::api::machine::Phase;
use autovibe::lab::Call;
use serde_json::{Value, json};

/// A request of root's.
async fn root(stage: &Stage, method: reqwest::Method, path: &str, form: &[(&str, &str)]) {
    let id = "root@pam!hands";
    let request = reqwest::Client::new().request(method, format!("{}/api2/json{path}", stage.lab.endpoint().endpoint));
    let request = request.header("Authorization", format!("PVEAPIToken={id}={}", stage.lab.token(id, false))).form(form);
    request.send().await.unwrap().error_for_status().unwrap();
}

/// Changes the Hub, whose controller writes it at the same time.
pub(super) async fn change_hub(stage: &Stage, change: impl Fn(&mut Hub)) {
    for _ in 0..100 {
        let mut hub: Hub = stage.objects().get("", "default").await.unwrap().unwrap();
        change(&mut hub);
        match stage.objects().update(&hub).await {
            Err(autovibe::objects::Error::Conflict { .. }) => {}
            done => return drop(done.unwrap()),
        }
    }
    panic!("the Hub was not changed");
}

async fn manage(stage: &Stage, guests: &[&str]) {
    change_hub(stage, |hub| {
        let firewall = &mut hub.spec.infrastructure.proxmox.as_mut().unwrap().firewall;
        firewall.mode = autovibe::api::hub::FirewallMode::Managed;
        firewall.guest_networks = guests.iter().map(|network| (*network).to_owned()).collect();
    })
    .await;
    until_hub(stage, "it is seen", |hub| condition(hub, "FirewallInactive").is_some()).await;
}

pub(super) fn condition(hub: &Hub, kind: &str) -> Option<String> {
    let found = hub.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")?;
    Some(found.message.clone())
}

pub(super) async fn until_hub(stage: &Stage, what: &str, wanted: impl Fn(&Hub) -> bool) -> Hub {
    for _ in 0..1000 {
        let hub: Hub = stage.objects().get("", "default").await.unwrap().unwrap();
        if wanted(&hub) {
            return hub;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("waited in vain until {what}");
}

fn assert_confined(stage: &Stage, vmid: u32) -> Value {
    let now = stage.lab.firewall(vmid);
    let url = url::Url::parse(&stage.lab.endpoint().gateway_url).unwrap();
    let rules = now["rules"].as_array().unwrap_or_else(|| panic!("VM {vmid} has no rules: {now}"));
    assert_eq!((rules.len(), rules[0]["dest"].as_str()), (1, url.host_str()), "{now}");
    assert_eq!((&now["options"]["enable"], &now["options"]["policy_out"]), (&json!("1"), &json!("REJECT")), "{now}");
    assert!(stage.lab.configs()[&vmid]["net0"].ends_with(",firewall=1"), "{:?}", stage.lab.configs()[&vmid]);
    now
}

const LASTS: &str = "#sim turns=0 hang=true";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_made_before_a_vm_is_started_and_cost_two_calls() {
    let mut stage = Stage::without_hub().await;
    let (address, fingerprint) = tls(&stage.lab).await;
    let at = stage.lab.endpoint().clone();
    stage.create_secret("pve", &[("tokenId", &at.token_id), ("secret", &at.secret)]).await;
    let infrastructure = json!({
        "proxmox": {
            "endpoint": format!("https://{address}"), "fingerprint": fingerprint, "tokenSecretRef": { "name": "pve" },
            "vmids": { "from": at.vmid_from, "to": at.vmid_to }, "bridge": at.bridge,
        },
        "zfs": { "storage": at.storage, "dataset": at.dataset, "keep": at.keep, "runner": { "socket": at.zfs_socket } },
    });
    stage.create_hub(infrastructure, Some(&at.gateway_url)).await;
    stage.create("before", json!({})).await;
    stage.until_finished("before").await;
    let asked = (stage.lab.count(Call::Firewall), stage.lab.count(Call::FirewallLook));
    assert_eq!(asked, (0, 0), "where it is not managed nothing is asked");
    assert!(condition(&stage.objects().get("", "default").await.unwrap().unwrap(), "FirewallInactive").is_none());

    manage(&stage, &[]).await;
    let message = condition(&stage.objects().get("", "default").await.unwrap().unwrap(), "FirewallInactive").unwrap();
    assert!(message.contains("pvesh set /cluster/firewall/options --enable 1"), "{message}");
    let before = stage.lab.counts();
    stage.create("m", json!({ "goal": { "prompt": LASTS } })).await;
    let machine = stage.until_phase("m", Phase::Running).await;
    assert_confined(&stage, status(&machine).vm.unwrap().vmid);
    let made = |call| stage.lab.count(call) - before.get(&call).copied().unwrap_or_default();
    assert_eq!(made(Call::Firewall), 2, "the options and the rule");
    // One look at its task, and more only where this machine is so busy that it is not done by then.
    let of_one = [Call::Create, Call::Start, Call::Firewall, Call::Config, Call::Configure, Call::Status];
    let calls = of_one.map(made).iter().sum::<u64>() + made(Call::TaskStatus).min(1);
    assert!(calls <= 6, "{calls} calls make a machine: {:?}", stage.lab.counts());
    root(&stage, reqwest::Method::PUT, "/cluster/firewall/options", &[("enable", "1")]).await;
    change_hub(&stage, |hub| hub.metadata.labels = Some([("look".to_owned(), "again".to_owned())].into())).await;
    until_hub(&stage, "the rules are in force", |hub| condition(hub, "FirewallInactive").is_none()).await;
    stage.objects().delete::<autovibe::api::Machine>(NAMESPACE, "m", None).await.unwrap();
    stage.until_gone("m").await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_has_our_rules_and_none_of_its_templates() {
    let mut stage = templates::stage().await;
    let template = "/nodes/lab/qemu/900/firewall";
    root(&stage, reqwest::Method::PUT, &format!("{template}/options"), &[("enable", "0"), ("policy_out", "ACCEPT")]).await;
    root(&stage, reqwest::Method::POST, &format!("{template}/rules"), &[("type", "out"), ("action", "ACCEPT"), ("enable", "1")]).await;
    stage.lab.edit_config(900, "net1", Some("virtio=BC:24:11:00:00:09,bridge=vmbr9"));
    manage(&stage, &["10.0.2.0/24"]).await;
    stage.create("m", json!({ "goal": { "prompt": LASTS } })).await;
    let machine = stage.until_phase("m", Phase::Running).await;
    let vmid = status(&machine).vm.unwrap().vmid;
    let now = assert_confined(&stage, vmid);
    assert!(!stage.lab.configs()[&vmid].contains_key("net1"), "a card without rules");
    assert_eq!(now["ipsets"], json!({ "ipfilter-net0": [{ "cidr": "10.0.2.0/24" }] }));
    assert_eq!(stage.lab.firewall(900)["rules"].as_array().unwrap().len(), 1, "the template is its owner's");
    stage.stop().await;
}
