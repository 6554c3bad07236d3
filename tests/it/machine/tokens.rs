//! A guest's token is good for one launch of one Machine: not for the launch before, not on a fork, not after the end. What an agent
//! spawns with it lives its life, and is paid by both.

use super::stage::{NAMESPACE, Stage, status};
use autovibe::{
    api::{
        Kind, Machine,
        machine::{Phase, Restore},
    },
    clock::Clock,
    ledger::Ledger,
    wire::asks::{BUDGET_PATH, CHECKPOINTS_PATH, MACHINES_PATH},
};
use reqwest::Method;
use serde_json::{Value, json};

impl Stage {
    /// The token that the agent of a running Machine was started with, as it is in its guest; of another launch than `not`.
    async fn token(&self, name: &str, not: Option<&str>) -> String {
        let machine = self.until_phase(name, Phase::Running).await;
        let vmid = status(&machine).vm.unwrap().vmid.to_string();
        for _ in 0..3000 {
            let state: Value = serde_json::from_slice(&std::fs::read(self.data().join("lab/state.json")).unwrap()).unwrap_or_default();
            let environment = &state["guests"][&vmid]["agent"]["environment"];
            if let Some(token) = environment["AUTOVIBE_TOKEN"].as_str().filter(|token| Some(*token) != not) {
                return token.to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the agent of {name} was not launched");
    }

    async fn ask(&self, token: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}{path}", self.gateway_address());
        let response = reqwest::Client::new().request(method, url).bearer_auth(token).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Whose budget a token reads; `None` when it is refused.
    async fn owner(&self, token: &str) -> Option<String> {
        let (code, answer) = self.ask(token, Method::GET, BUDGET_PATH, &Value::Null).await;
        assert!(code == 200 || code == 401, "{code} {answer}");
        let levels = answer["levels"].as_array()?.clone();
        levels.last().map(|level| level["name"].as_str().unwrap().to_owned())
    }
}

fn stays(permissions: &Value) -> Value {
    json!({ "goal": { "prompt": "work\n#sim turns=1 hang=true" }, "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" },
        "permissions": permissions })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_for_one_launch_of_one_machine() {
    let mut stage = Stage::new().await;
    stage.create("a", stays(&json!(["ReadBudget", "Checkpoint"]))).await;
    let first = stage.token("a", None).await;
    let is_a = Some("Machine default/a".to_owned());
    assert_eq!(stage.owner(&first).await, is_a);
    let (code, taken) = stage.ask(&first, Method::POST, CHECKPOINTS_PATH, &json!({"description": "as it was"})).await;
    assert_eq!((code, &taken["phase"]), (201, &json!("Ready")), "{taken}");
    let asked = taken["name"].as_str().unwrap().to_owned();

    // A fork of that very state has a token of its own.
    let mut fork = stays(&json!(["ReadBudget"]));
    fork["from"] = json!({ "checkpoint": asked });
    stage.create("b", fork).await;
    let other = stage.token("b", None).await;
    assert_ne!(other, first);
    assert_eq!((stage.owner(&other).await, stage.owner(&first).await), (Some("Machine default/b".into()), is_a.clone()));

    // Put back to it, the Machine is launched anew: what the disk of then knows is worth nothing, there and on the fork.
    let restore = Restore { checkpoint: asked.clone(), request: String::new() };
    stage.change("a", |machine| machine.spec.restore = Some(restore.clone())).await;
    stage.until("a", "put back", |m: &Machine| status(m).restored.is_some_and(|restored| restored.count == 1)).await;
    let second = stage.token("a", Some(&first)).await;
    assert_eq!((stage.owner(&first).await, stage.owner(&second).await), (None, is_a));

    // The end of a Machine is the end of its token.
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_gone("a").await;
    assert_eq!((stage.owner(&second).await, stage.owner(&other).await), (None, Some("Machine default/b".into())));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_spawns_lives_its_life_and_is_paid_by_both() {
    let mut stage = Stage::new().await;
    let parent = stage.create("a", stays(&json!(["SpawnMachines"]))).await;
    let token = stage.token("a", None).await;
    stage.until("a", "checkpointed", |m: &Machine| status(m).last_checkpoint.is_some()).await;
    let (code, made) = stage.ask(&token, Method::POST, MACHINES_PATH, &json!({"name": "helper", "prompt": "work"})).await;
    assert_eq!(code, 201, "{made}");
    let helper = stage.until_finished("helper").await;
    assert_eq!(status(&helper).phase, Phase::Succeeded, "{:?}", status(&helper));
    assert_eq!(status(&helper).spawned_from, status(&stage.get("a").await).last_checkpoint);
    stage.assert_ended_well(&helper).await;
    let ledger = Ledger::new(stage.store().clone(), Clock::system());
    let calls = async |machine: &Machine| ledger.usage(&format!("machine/{}", machine.uid())).await.unwrap().api_calls;
    assert_eq!((calls(&helper).await, calls(&parent).await), (2, 3), "its own two, and the parent's one before");
    let (_, listed) = stage.ask(&token, Method::GET, MACHINES_PATH, &Value::Null).await;
    assert_eq!(listed["machines"][0]["finalCheckpoint"], "helper-final", "{listed}");
    stage.stop().await;
}
