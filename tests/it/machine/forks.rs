//! Forks of a Machine that runs: of its newest checkpoint, and of what it is now.

use super::stage::{NAMESPACE, Stage, status};
use autovibe::api::checkpoint::{ASKED_BY, CheckpointSpec, Trigger};
use autovibe::api::machine::{Phase, TerminationReason};
use autovibe::api::{Checkpoint, Kind, Machine};
use serde_json::{Value, json};

/// Stays until it is ended.
fn stays() -> Value {
    json!({ "goal": { "prompt": "#sim turns=0 hang=true" } })
}

fn of(machine: &str, capture: &str) -> Value {
    json!({ "from": { "machine": { "name": machine, "capture": capture } } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_forks_of_the_present_state_each_get_a_checkpoint_of_their_own_and_the_origin_goes_on() {
    let mut stage = Stage::new().await;
    stage.create("a", stays()).await;
    stage.until_phase("a", Phase::Running).await;
    // Someone else has the name that one of them would give.
    let spec = CheckpointSpec { machine: Some("a".into()), ..Default::default() };
    stage.objects().create(&Checkpoint::new(NAMESPACE, "f2-base", spec)).await.unwrap();
    // Without one there is nothing for `Latest` but that.
    let mut forks = Vec::new();
    for number in 0..5 {
        forks.push(stage.create(&format!("f{number}"), of("a", "Now")).await);
    }
    for fork in &forks {
        let ended = stage.until_finished(fork.name()).await;
        assert_eq!(status(&ended).phase, Phase::Succeeded, "{:?}", status(&ended));
        let base = status(&ended).spawned_from.unwrap();
        let expected = if fork.name() == "f2" { format!("f2-base-{}", &fork.uid()[..8]) } else { format!("{}-base", fork.name()) };
        assert_eq!(base, expected);
        let taken = stage.checkpoint(&base).await.unwrap();
        assert_eq!((taken.annotation(ASKED_BY), taken.spec.trigger), (Some(fork.uid()), Trigger::Requested));
        assert_eq!(taken.status.unwrap().machine_uid.as_deref(), Some(stage.get("a").await.uid()));
    }
    let origin = status(&stage.get("a").await);
    assert_eq!((origin.phase, origin.agent.unwrap().launches), (Phase::Running, 1), "it was not disturbed");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_still_or_has_ended_is_forked_as_it_is_and_what_is_not_there_yet_is_waited_for() {
    let mut stage = Stage::new().await;
    stage.create("early", of("a", "Now")).await;
    stage.until("early", "waiting", |m: &Machine| status(m).message.is_some_and(|m| m.contains("machine a, which does not exist"))).await;
    // Someone says that a checkpoint of another Machine was taken for it.
    stage.create("other", stays()).await;
    let early = stage.get("early").await;
    let spec = CheckpointSpec { machine: Some("other".into()), ..Default::default() };
    let mut forged = Checkpoint::new(NAMESPACE, "early-base", spec);
    forged.metadata.annotations = Some([(ASKED_BY.to_owned(), early.uid().to_owned())].into());
    stage.objects().create(&forged).await.unwrap();
    stage.create("a", stays()).await;
    let ended = stage.until_finished("early").await;
    assert_eq!(status(&ended).spawned_from, Some(format!("early-base-{}", &early.uid()[..8])));
    stage.change("a", |machine| machine.spec.operating_mode = autovibe::api::machine::OperatingMode::Suspended).await;
    let suspended = stage.until_phase("a", Phase::Suspended).await;
    stage.create("of-suspended", of("a", "Now")).await;
    let fork = stage.until_finished("of-suspended").await;
    assert_eq!(status(&fork).spawned_from, status(&suspended).last_checkpoint);
    stage.create("b", json!({})).await;
    stage.until_finished("b").await;
    stage.create("of-ended", of("b", "Now")).await;
    let fork = stage.until_finished("of-ended").await;
    assert_eq!(status(&fork).spawned_from.as_deref(), Some("b-final"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_source_than_the_bases_ends_a_fork_and_says_why_unless_it_has_a_place_of_its_own() {
    let mut stage = Stage::new().await;
    let directory = |name: &str| {
        let path = stage.source_root().join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("README"), "hello\n").unwrap();
        path.display().to_string()
    };
    let (x, y) = (directory("x"), directory("y"));
    stage.create("a", json!({ "source": { "directory": x } })).await;
    assert_eq!(status(&stage.until_finished("a").await).phase, Phase::Succeeded);
    let from = json!({ "checkpoint": "a-final" });
    stage.create("same", json!({ "from": from, "source": { "directory": x } })).await;
    let place = json!({ "prompt": "#sim turns=0", "workspace": "/other" });
    stage.create("beside", json!({ "from": from, "source": { "directory": y }, "goal": place })).await;
    stage.create("other", json!({ "from": from, "source": { "directory": y } })).await;
    for name in ["same", "beside"] {
        let ended = stage.until_finished(name).await;
        assert_eq!(status(&ended).phase, Phase::Succeeded, "{name}: {:?}", status(&ended));
    }
    let ended = status(&stage.until_finished("other").await);
    let message = ended.message.unwrap_or_default();
    assert_eq!((ended.phase, ended.termination_reason), (Phase::Failed, Some(TerminationReason::AgentFailed)), "{message}");
    for part in ["spec.source", x.as_str(), y.as_str(), "spec.goal.workspace"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(ended.agent.is_none_or(|agent| agent.launched_at.is_none()), "it was never begun");
    stage.stop().await;
}
