//! Checkpoints of an agent that says nothing.

use super::gate::Plan;
use super::stage::{Stage, simulate};
use autovibe::api::Kind;
use autovibe::api::checkpoint::{Checkpoint, CheckpointPhase, CheckpointSpec, Trigger};
use serde_json::json;
use std::time::Duration;

#[test]
fn who_says_nothing_has_a_checkpoint_each_interval_and_one_by_hand_counts() {
    simulate(0, async || {
        let stage = Stage::with(None, Plan::default()).await;
        let spec = json!({
            "from": { "image": "micro" }, "goal": { "prompt": "#sim turns=0 hang=true" },
            "agent": { "type": "Command", "command": ["true"] }, "budget": { "limits": { "time": "12m" } },
            "checkpoints": { "interval": "2m" },
        });
        stage.create("a", spec).await;
        let first = stage.until::<Checkpoint>("the first is there", |one| one.spec.trigger == Trigger::Interval).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        let by_hand = CheckpointSpec { machine: Some("a".into()), ..CheckpointSpec::default() };
        stage.hub().objects.create(&Checkpoint::new(first.namespace(), "by-hand", by_hand)).await.unwrap();
        stage.until_finished("a").await;
        let mut all: Vec<(i64, Trigger)> = Vec::new();
        for checkpoint in stage.checkpoints().await {
            let status = checkpoint.status.clone().unwrap();
            assert_eq!(status.phase, CheckpointPhase::Ready, "{checkpoint:?}");
            assert_eq!(status.reasons.iter().map(|reason| reason.trigger).collect::<Vec<_>>(), [checkpoint.spec.trigger]);
            all.push((status.captured_at.unwrap().0.as_second(), checkpoint.spec.trigger));
        }
        all.sort_by_key(|(at, _)| *at);
        let triggers: Vec<Trigger> = all.iter().map(|(_, trigger)| *trigger).collect();
        let (interval, requested) = (Trigger::Interval, Trigger::Requested);
        assert_eq!(triggers, [interval, requested, interval, interval, interval, interval, Trigger::Final], "{all:?}");
        // The one by hand took the place of the next.
        for pair in all[1..6].windows(2) {
            assert!((120..130).contains(&(pair[1].0 - pair[0].0)), "{all:?}");
        }
    });
}
