//! What an agent may ask of its hub with its own token: nothing that its Machine's permissions do not say, and of what it spawns nothing
//! that it could not do itself.

use super::{upstream::Script, *};
use autovibe::{
    api::{Permission, machine::Approvals, quantity::GoDuration},
    wire::asks::{BUDGET_PATH, CHECKPOINTS_PATH, LINEAGE_PATH, MACHINES_PATH, MCP_PATH},
};
use futures::StreamExt;
use reqwest::Method;
use std::sync::{Arc, Mutex};

impl Home {
    pub(super) async fn of_hub(&self, guest: &Guest, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.request(method, format!("http://{}{path}", self.gateway)).bearer_auth(&guest.token);
        let response = if body.is_null() { request } else { request.json(body) }.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn spawn(&self, guest: &Guest, body: &Value) -> (u16, Value) {
        self.of_hub(guest, Method::POST, MACHINES_PATH, body).await
    }

    async fn machine(&self, name: &str) -> Machine {
        self.objects.get("default", name).await.unwrap().unwrap()
    }

    /// Changes a Machine's status.
    async fn set(&self, name: &str, change: impl Fn(&mut MachineStatus)) {
        let mut machine = self.machine(name).await;
        change(machine.status.get_or_insert_default());
        self.objects.update_status(&machine).await.unwrap();
    }

    /// A token for a Machine that its controller would have made.
    async fn token(&self, machine: &Machine) -> Guest {
        let key = wire::runner::key(Sha256::digest(machine.uid()).into());
        let token = wire::runner::token_of(&key).unwrap();
        let (hash, uid, name) = (hex::encode(Sha256::digest(&token)), machine.uid().to_owned(), machine.name().to_owned());
        let stored: Result<(), autovibe::store::Error> =
            self.objects.store().write(move |t| Box::pin(async move { t.put_token(&hash, &uid, "default", &name).await })).await;
        stored.unwrap();
        Guest { machine: machine.clone(), key, token }
    }
}

fn words(answer: &Value) -> &str {
    answer["error"]["message"].as_str().unwrap_or_default()
}

const ASKS: [(&str, &str, Permission); 5] = [
    ("POST", CHECKPOINTS_PATH, Permission::Checkpoint),
    ("GET", BUDGET_PATH, Permission::ReadBudget),
    ("GET", LINEAGE_PATH, Permission::ReadLineage),
    ("POST", MACHINES_PATH, Permission::SpawnMachines),
    ("GET", MACHINES_PATH, Permission::SpawnMachines),
];

/// Every set of permissions against everything that can be asked.
#[tokio::test(flavor = "multi_thread")]
async fn each_ask_takes_its_permission_and_no_other() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    for set in 0..16_usize {
        let permissions: Vec<Permission> =
            Permission::ALL.into_iter().enumerate().filter(|(bit, _)| set & (1 << bit) != 0).map(|(_, permission)| permission).collect();
        let guest = home.guest(&format!("m{set}"), |spec| spec.permissions.clone_from(&permissions)).await;
        let name = guest.machine.name();
        for (method, path, permission) in ASKS {
            let body = if path == MACHINES_PATH && method == "POST" {
                json!({"prompt": "help", "from": "Image", "name": format!("{name}-child")})
            } else {
                Value::Null
            };
            let asked = home.of_hub(&guest, method.parse().unwrap(), path, &body);
            let (status, answer) = home.capturing(asked).await;
            if permissions.contains(&permission) {
                assert_eq!(status, if method == "POST" { 201 } else { 200 }, "{permissions:?} {method} {path}: {answer}");
            } else {
                assert_eq!(status, 403, "{permissions:?} {method} {path}: {answer}");
                for part in [&format!("Machine default/{name}"), &format!("the permission {permission:?}"), "spec.permissions"] {
                    assert!(words(&answer).contains(part), "{answer}");
                }
            }
        }
    }
    let all = home.objects.list::<Machine>(Some("default")).await.unwrap().0;
    let children: Vec<&Machine> = all.iter().filter(|machine| machine.name().ends_with("-child")).collect();
    assert_eq!((all.len(), children.len()), (24, 8), "what was refused was not made");
    for (method, path, _) in ASKS {
        let response = home.client.request(method.parse().unwrap(), format!("http://{}{path}", home.gateway)).send().await.unwrap();
        assert_eq!(response.status(), 401, "{method} {path}");
    }
    let no_token = home.client.post(format!("http://{}{MCP_PATH}", home.gateway)).json(&json!({})).send().await.unwrap();
    assert_eq!(no_token.status(), 401);
    // What is taken away holds no more for the next request, whatever a watch has told.
    let guest = home.guest("taken", |spec| spec.permissions = vec![Permission::ReadBudget]).await;
    assert_eq!(home.of_hub(&guest, Method::GET, BUDGET_PATH, &Value::Null).await.0, 200);
    let mut machine = home.machine("taken").await;
    machine.spec.permissions.clear();
    home.objects.update(&machine).await.unwrap();
    assert_eq!(home.of_hub(&guest, Method::GET, BUDGET_PATH, &Value::Null).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_taken_described_and_not_too_often() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start_with(&upstream, Duration::from_millis(300)).await;
    let guest = home.guest("m", |spec| spec.permissions = vec![Permission::Checkpoint]).await;
    // Two in a row may fall on both sides of a limit's edge; of three the second or third is too much.
    let ask = async || home.of_hub(&guest, Method::POST, CHECKPOINTS_PATH, &json!({"description": "tests pass"})).await;
    let answers = home.capturing(async { [ask().await, ask().await, ask().await] }).await;
    let refused: Vec<&(u16, Value)> = answers.iter().filter(|(status, _)| *status == 429).collect();
    assert!(answers[0].0 == 201 && !refused.is_empty(), "{answers:?}");
    assert!(words(&refused[0].1).contains("ask again in"), "{answers:?}");
    let name = answers[0].1["name"].as_str().unwrap();
    assert_eq!(answers[0].1["phase"], "Ready");
    let taken: Checkpoint = home.objects.get("default", name).await.unwrap().unwrap();
    let spec = taken.spec;
    assert_eq!((spec.machine.as_deref(), spec.description.as_deref()), (Some("m"), Some("tests pass")));
    // Nobody takes this one in time: the agent is told so, and the hub goes on.
    let slow = home.guest("slow", |spec| spec.permissions = vec![Permission::Checkpoint]).await;
    let (status, answer) = home.of_hub(&slow, Method::POST, CHECKPOINTS_PATH, &Value::Null).await;
    assert_eq!((status, &answer["phase"]), (201, &json!("Pending")), "{answer}");
    let (status, answer) = home.of_hub(&slow, Method::POST, CHECKPOINTS_PATH, &json!({"machine": "m"})).await;
    assert!(status == 400 && words(&answer).contains("unknown field `machine`"), "{status} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_what_the_ledger_and_the_lineage_say() {
    let upstream = Upstream::start(|_| Script::words(10)).await;
    let home = Home::start(&upstream).await;
    home.budget("company", 9_000_000_000, None).await;
    home.budget("team", 5_000_000_000, Some("company")).await;
    let guest = home
        .guest("m", |spec| {
            spec.permissions = vec![Permission::ReadBudget, Permission::ReadLineage];
            let limits = Limits { money: Some(usd(2_000_000_000)), api_calls: Some(7), ..Limits::default() };
            spec.budget = Some(BudgetUse { name: Some("team".into()), limits });
        })
        .await;
    assert_eq!(home.call(&guest, &request("hello")).await.0, 200);
    let spent = home.settled(&guest).await.money;
    let (_, budget) = home.of_hub(&guest, Method::GET, BUDGET_PATH, &Value::Null).await;
    let names: Vec<&str> = budget["levels"].as_array().unwrap().iter().map(|level| level["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Budget default/company", "Budget default/team", "Machine default/m"]);
    assert_eq!(budget["money"]["left"], json!(NanoUsd(2_000_000_000 - spent.0)), "the least of all: {budget}");
    assert_eq!((&budget["apiCalls"]["left"], &budget["levels"][2]["money"]["used"]), (&json!(6), &json!(spent)), "{budget}");
    let tree = [("old", None), ("base", Some("old")), ("m-0001", Some("base")), ("m-0002", Some("m-0001"))];
    for (name, parent) in tree {
        let spec = autovibe::api::checkpoint::CheckpointSpec { machine: Some("m".into()), ..Default::default() };
        let mut checkpoint = home.objects.create(&Checkpoint::new("default", name, spec)).await.unwrap();
        let status = checkpoint.status.get_or_insert_default();
        (status.parent, status.goal) = (parent.map(str::to_owned), Some(format!("the goal of {name}")));
        home.objects.update_status(&checkpoint).await.unwrap();
    }
    home.set("m", |status| (status.last_checkpoint, status.spawned_from) = (Some("m-0002".into()), Some("base".into()))).await;
    let (_, lineage) = home.of_hub(&guest, Method::GET, LINEAGE_PATH, &Value::Null).await;
    let told: Vec<(&str, &str)> = lineage["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|checkpoint| (checkpoint["name"].as_str().unwrap(), checkpoint["goal"].as_str().unwrap()))
        .collect();
    let expected = ["m-0002", "m-0001", "base", "old"].map(|name| (name, format!("the goal of {name}")));
    assert!(told.iter().copied().eq(expected.iter().map(|(name, goal)| (*name, goal.as_str()))), "{lineage}");
    assert_eq!((&lineage["spawnedFrom"], &lineage["older"]), (&json!("base"), &json!(false)));
}

/// A Machine that may spawn, within two dollars and an hour, whose risky calls wait for a person.
async fn parent(home: &Home) -> Guest {
    home.budget("team", 5_000_000_000, None).await;
    home.guest("m", |spec| {
        spec.permissions = vec![Permission::SpawnMachines, Permission::ReadBudget];
        let limits = Limits { money: Some(usd(2_000_000_000)), time: Some(GoDuration(Duration::from_hours(1))), ..Limits::default() };
        spec.budget = Some(BudgetUse { name: Some("team".into()), limits });
        spec.approvals = Approvals { timeout: GoDuration(Duration::from_mins(3)), ..Approvals::default() };
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spawned_is_a_fork_that_can_do_no_more_than_its_parent() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = parent(&home).await;
    let (status, answer) = home.spawn(&guest, &json!({"prompt": "test it"})).await;
    assert!(status == 409 && words(&answer).contains("you have no checkpoint yet"), "{status} {answer}");
    home.set("m", |status| status.last_checkpoint = Some("m-0007".into())).await;
    let wanted = json!({"name": "helper", "prompt": "test it", "verify": ["make", "test"], "money": "0.50", "time": "10m"});
    let (status, made) = home.spawn(&guest, &wanted).await;
    assert_eq!((status, &made["name"]), (201, &json!("helper")), "{made}");
    let (child, own) = (home.machine("helper").await, home.machine("m").await);
    let spec = &child.spec;
    assert_eq!(spec.from, Some(From { checkpoint: Some("m-0007".into()), ..From::default() }));
    assert_eq!((spec.goal.prompt.as_str(), spec.goal.workspace.as_deref()), ("test it", Some(own.workspace())));
    assert_eq!(spec.goal.verify.as_ref().unwrap().command, ["make", "test"]);
    // Who decides, what it runs as and where is the parent's.
    assert_eq!((&spec.approvals, &spec.agent, &spec.resources), (&own.spec.approvals, &own.spec.agent, &own.spec.resources));
    assert_eq!((&spec.hub, &spec.placement, &spec.checkpoints), (&own.spec.hub, &own.spec.placement, &own.spec.checkpoints));
    assert_eq!(spec.permissions, [Permission::ReadBudget], "it spawns no others");
    let budget = spec.budget.clone().unwrap();
    assert_eq!(
        (budget.name.as_deref(), budget.limits.money, budget.limits.time.map(|time| time.0)),
        (Some("team"), Some(usd(500_000_000)), Some(Duration::from_mins(10)))
    );
    assert_eq!(
        (child.spawned_by(), child.metadata.labels.as_ref().unwrap()["autovibe.dev/spawned-by"].as_str()),
        (Some(("m", own.uid())), "m")
    );

    // A reply that was lost: the same is not made twice, and another's name is not taken.
    assert_eq!(home.spawn(&guest, &wanted).await.1["name"], "helper");
    home.guest("stranger", |_| ()).await;
    let (status, answer) = home.spawn(&guest, &json!({"name": "stranger", "prompt": "test it"})).await;
    assert!(status == 409 && words(&answer).contains("choose another name"), "{status} {answer}");

    for (body, status, part) in [
        (json!({"prompt": "x", "money": "2.01"}), 403, "money asks for more than your own limit"),
        (json!({"prompt": "x", "time": "2h"}), 403, "time asks for more than your own limit"),
        (json!({"prompt": "x", "permissions": ["Checkpoint"]}), 403, "which Machine default/m lacks"),
        (json!({"prompt": "x", "permissions": ["ReadBudget", "SpawnMachines"]}), 403, "may not spawn others"),
        (json!({"prompt": "x", "permissions": ["Root"]}), 400, "permissions[0]: unknown variant `Root`"),
        (json!({"prompt": "x", "namespace": "autovibe-system"}), 400, "unknown field `namespace`"),
        (json!({"prompt": "x", "approvals": {"leavingVm": "NotRequired"}}), 400, "unknown field `approvals`"),
        (json!({"prompt": "x", "hub": "other"}), 400, "unknown field `hub`"),
        (json!({"prompt": "x", "name": "Not A Name"}), 400, "metadata.name"),
        (json!({}), 400, "missing field `prompt`"),
        (json!([]), 400, "invalid"),
    ] {
        let (code, answer) = home.spawn(&guest, &body).await;
        assert!(code == status && words(&answer).contains(part), "{body}: {code} {answer}");
    }
    // Four live at most; one that ended makes room.
    for _ in 0..3 {
        let (status, made) = home.spawn(&guest, &json!({"prompt": "more", "from": "Now"})).await;
        assert_eq!(status, 201, "{made}");
        assert!(made["name"].as_str().unwrap().starts_with("m-"), "{made}");
    }
    let (status, answer) = home.spawn(&guest, &json!({"prompt": "more", "from": "Now"})).await;
    assert!(status == 429 && words(&answer).contains("helper"), "{status} {answer}");
    home.set("helper", |status| (status.phase, status.final_checkpoint) = (Phase::Succeeded, Some("helper-final".into()))).await;
    assert_eq!(home.spawn(&guest, &json!({"prompt": "more", "from": "Image"})).await.0, 201);
    let (_, listed) = home.of_hub(&guest, Method::GET, MACHINES_PATH, &Value::Null).await;
    let listed = listed["machines"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 5, "{listed:?}");
    let helper = listed.iter().find(|machine| machine["name"] == "helper").unwrap();
    assert_eq!((&helper["phase"], &helper["finalCheckpoint"]), (&json!("Succeeded"), &json!("helper-final")));
    let other = home.guest("other", |spec| spec.permissions = vec![Permission::SpawnMachines]).await;
    assert_eq!(home.of_hub(&other, Method::GET, MACHINES_PATH, &Value::Null).await.1, json!({"machines": []}), "others' are not told");
}

/// Many at once while the store is busy: eight are taken up, and of those, which all saw room for one more, four are done.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_requests_spawns_no_more_than_one_after_the_other_and_waits_at_the_door() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = parent(&home).await;
    // Its first use is noted, which takes the store.
    assert_eq!(home.of_hub(&guest, Method::GET, BUDGET_PATH, &Value::Null).await.0, 200);
    let (busy, over) = tokio::sync::oneshot::channel::<()>();
    let (store, (begun, begins)) = (home.objects.store().clone(), tokio::sync::oneshot::channel());
    let writing = tokio::spawn(async move {
        let work = store.write(move |_| {
            Box::pin(async move {
                begun.send(()).unwrap();
                over.await.map_err(|_| autovibe::store::Error::Corrupt("the test ended".into()))
            })
        });
        work.await
    });
    begins.await.unwrap();
    let body = json!({"prompt": "more", "from": "Now"});
    let mut all: futures::stream::FuturesUnordered<_> = (0..20).map(|_| home.spawn(&guest, &body)).collect();
    for _ in 0..12 {
        let (status, answer) = all.next().await.unwrap();
        assert!(status == 429 && words(&answer).contains("8 requests of this agent are answered already"), "{status} {answer}");
    }
    busy.send(()).unwrap();
    writing.await.unwrap().unwrap();
    let rest: Vec<(u16, Value)> = all.collect().await;
    let of = |wanted| rest.iter().filter(|(status, _)| *status == wanted).count();
    assert_eq!((of(201), of(429)), (4, 4), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spawned_is_paid_out_of_its_parents_limits_too() {
    let upstream = Upstream::start(|_| Script::words(10)).await;
    let home = Home::start(&upstream).await;
    let guest = home
        .guest("m", |spec| {
            spec.permissions = vec![Permission::SpawnMachines, Permission::ReadBudget];
            spec.budget = Some(BudgetUse { name: None, limits: Limits { api_calls: Some(3), ..Limits::default() } });
        })
        .await;
    assert_eq!(home.spawn(&guest, &json!({"prompt": "help", "from": "Now", "name": "helper"})).await.0, 201);
    let helper = home.token(&home.machine("helper").await).await;
    assert_eq!(home.call(&helper, &request("one")).await.0, 200);
    assert_eq!(home.call(&guest, &request("two")).await.0, 200);
    assert_eq!(home.call(&helper, &request("three")).await.0, 200);
    assert_eq!((home.settled(&helper).await.api_calls, home.settled(&guest).await.api_calls), (2, 3));
    let (status, answer) = home.call(&helper, &request("four")).await;
    assert!(status == 400 && answer.contains("API calls of Machine default/m: all 3 are used"), "{status} {answer}");
    let (status, answer) = home.of_hub(&helper, Method::GET, BUDGET_PATH, &Value::Null).await;
    assert_eq!((status, &answer["apiCalls"]["left"], answer["levels"].as_array().unwrap().len()), (200, &json!(0), 2), "{answer}");
}

/// What a subscriber of this thread heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Heard {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// On one thread, so that all of the hub speaks to one subscriber.
#[tokio::test]
async fn a_token_is_worthless_after_its_launch_its_machine_and_its_end_and_the_log_says_so_without_it() {
    let heard = Heard::default();
    let writer = heard.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    // Beside one subscriber alone, what another test's thread comes upon first is off for all.
    let _other = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
    let _here = tracing::subscriber::set_default(subscriber);
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let permit = |spec: &mut MachineSpec| spec.permissions = Permission::ALL.to_vec();
    let everywhere = async |guest: &Guest| {
        let mut statuses = Vec::new();
        for (method, path, _) in ASKS {
            statuses.push(home.of_hub(guest, method.parse().unwrap(), path, &json!({"prompt": "x", "from": "Now"})).await.0);
        }
        for path in [MCP_PATH, "/v1/messages", wire::EXIT_PATH] {
            statuses.push(home.post(path, guest, &request("x")).send().await.unwrap().status().as_u16());
        }
        statuses
    };
    // Another launch has another token, and the one before is over.
    let guest = home.guest("m", permit).await;
    let uid = guest.machine.uid().to_owned();
    let revoke = home.objects.store().write(move |t| Box::pin(async move { t.revoke_tokens(&uid).await }));
    let revoked: Result<(), autovibe::store::Error> = revoke.await;
    revoked.unwrap();
    assert_eq!(everywhere(&guest).await, [401; 8]);
    assert!(heard.text().contains("a token was refused: it is no Machine's, or no longer"), "{}", heard.text());
    // A namesake is another Machine.
    let gone = home.guest("gone", permit).await;
    home.objects.delete::<Machine>("default", "gone", None).await.unwrap();
    home.guest("gone", permit).await;
    let known = async || Some(home.of_hub(&gone, Method::GET, BUDGET_PATH, &Value::Null).await.0).filter(|status| *status == 401);
    eventually("its end is known", known).await;
    assert_eq!(everywhere(&gone).await, [401; 8]);
    assert!(heard.text().contains("its Machine default/gone is gone"), "{}", heard.text());
    // One that has ended, and whose VM is not gone yet.
    let ended = home.guest("ended", permit).await;
    home.set("ended", |status| status.phase = Phase::Finishing).await;
    assert_eq!(home.of_hub(&ended, Method::GET, BUDGET_PATH, &Value::Null).await.0, 200, "what it does last may be asked");
    home.set("ended", |status| status.phase = Phase::Failed).await;
    let known = async || Some(home.call(&ended, &request("x")).await.0).filter(|status| *status == 403);
    eventually("its end is known", known).await;
    let statuses = everywhere(&ended).await;
    assert_eq!(statuses[..5], [403; 5]);
    let (_, answer) = home.of_hub(&ended, Method::POST, MACHINES_PATH, &json!({"prompt": "x"})).await;
    assert!(words(&answer).contains("Machine default/ended has ended (Failed), so its agent may no longer spawn a Machine"), "{answer}");
    assert!(heard.text().contains("its agent was refused: Machine default/ended has ended"), "{}", heard.text());
    for secret in [&guest, &gone, &ended] {
        let hash = hex::encode(Sha256::digest(&secret.token));
        assert!(!heard.text().contains(&secret.token[3..]) && !heard.text().contains(&hash), "the log holds no token");
    }
}

/// What its guest used first from 127.0.0.1 is worth nothing at 127.0.0.2, for any gateway of the hub, unless the Hub says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_worthless_from_elsewhere() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let mut home = Home::start(&upstream).await;
    let at = |address: &str| reqwest::Client::builder().local_address(Some(address.parse().unwrap())).build().unwrap();
    let (one, two) = (at("127.0.0.1"), at("127.0.0.2"));
    let guest = home.guest("m", |spec| spec.permissions = vec![Permission::ReadBudget]).await;
    let ask = async |home: &Home, from: &reqwest::Client, guest: &Guest| {
        let mut statuses = Vec::new();
        for request in [
            from.get(format!("http://{}{BUDGET_PATH}", home.gateway)),
            from.post(format!("http://{}/v1/messages", home.gateway)).json(&request("x")),
            from.post(format!("http://{}{}", home.gateway, wire::EXIT_PATH)).json(&json!({"launch": 1, "exitCode": 0})),
        ] {
            let response = request.bearer_auth(&guest.token).send().await.unwrap();
            statuses.push((response.status().as_u16(), response.text().await.unwrap()));
        }
        statuses
    };
    let codes = |answers: &[(u16, String)]| answers.iter().map(|(code, _)| *code).collect::<Vec<_>>();
    assert_eq!(codes(&ask(&home, &one, &guest).await), [200; 3]);
    let refused = ask(&home, &two, &guest).await;
    assert_eq!(codes(&refused), [401; 3]);
    let nobodys = Guest { token: format!("av_{}", "0".repeat(64)), key: String::new(), machine: guest.machine.clone() };
    assert_eq!(refused, ask(&home, &two, &nobodys).await, "it looks like one that is nobody's");
    // Known after a restart, and to whoever comes first then.
    home.stop().await;
    home.serve(Duration::from_secs(20)).await;
    assert_eq!(codes(&ask(&home, &two, &guest).await), [401; 3]);
    assert_eq!(codes(&ask(&home, &one, &guest).await), [200; 3]);
    let said = async || {
        let resource = autovibe::admission::resources().iter().find(|r| r.plural == "events" && r.group.is_empty()).unwrap();
        let query = autovibe::store::Query { namespace: Some("default".into()), ..Default::default() };
        let page = home.objects.read_page(resource, &query).await.unwrap();
        let all = page.items.into_iter().map(|item| item.document).filter(|event| event["reason"] == "TokenElsewhere");
        Some(all.map(|event| event["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()).filter(|all| !all.is_empty())
    };
    let events = eventually("an event says so", said).await;
    assert!(events.len() == 1 && events[0].contains("from 127.0.0.2: it was first used from 127.0.0.1"), "{events:?}");
    // Another Machine's is at home there.
    let other = home.guest("other", |spec| spec.permissions = vec![Permission::ReadBudget]).await;
    assert_eq!(codes(&ask(&home, &two, &other).await), [200; 3]);
    assert_eq!(codes(&ask(&home, &one, &other).await), [401; 3]);
    // Behind several proxies it is taken from any.
    let change = json!({"spec": {"gateway": {"url": "http://gw", "tokensFrom": "AnyAddress"}}});
    home.objects.merge::<Hub>("", "default", autovibe::objects::Part::Main, change).await.unwrap();
    let allowed = async || Some(codes(&ask(&home, &two, &guest).await)).filter(|codes| *codes == [200; 3]);
    eventually("it is taken from any address", allowed).await;
}
