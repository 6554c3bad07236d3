//! A token that is refused in the middle of lives: no storm of calls or writes, a reason that says what to do, and an end as if
//! nothing had been once it is taken again.

use super::gate::Plan;
use super::life::life;
use super::stage::{NAMESPACE, Stage, phase, simulate};
use autovibe::api::machine::Phase;
use autovibe::api::{Hub, Kind, Machine};
use std::time::Duration;

const MACHINES: usize = 12;

fn condition(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], kind: &str) -> Option<(String, String)> {
    conditions.iter().find(|one| one.type_ == kind && one.status == "True").map(|one| (one.reason.clone(), one.message.clone()))
}

/// The token is refused once the first Machine is in `at`.
fn refused(at: Phase) {
    let what = format!("refused once one is {at:?}");
    simulate(0, async move || {
        let stage = Stage::with(None, Plan::default()).await;
        for number in 0..MACHINES {
            stage.create(&format!("m{number}"), life()).await;
        }
        stage.until::<Machine>("one is on its way", |machine| phase(machine) == at).await;
        let user = "autovibe@pve";
        let before = stage.lab.calls();
        stage.lab.enable(user, false);
        let hub = stage.until::<Hub>("the hub says so", |hub| format!("{:?}", hub.status).contains("CredentialRefused")).await;
        let (reason, message) = condition(&hub.status.unwrap().conditions, "Stalled").unwrap();
        assert_eq!(reason, "CredentialRefused", "{what}");
        assert!(message.contains("autovibe@pve!lab") && message.contains("pveum user token"), "{message}");

        // Agents are on their way meanwhile; the gateway gives answers up that no checkpoint can be had for.
        tokio::time::sleep(Duration::from_mins(5)).await;
        let (calls, writes) = (stage.lab.calls(), stage.hub().store.writes());
        // What was under way in the 3 s of the first refusal, and a probe a minute.
        assert!(calls - before <= 3 * MACHINES as u64 + 5, "{what}: {} calls in the first five minutes", calls - before);
        tokio::time::sleep(Duration::from_mins(10)).await;
        let (calls, writes) = (stage.lab.calls() - calls, stage.hub().store.writes() - writes);
        assert!((8..=10).contains(&calls), "{what}: {calls} calls in ten minutes");
        // The leader and the ledger have theirs; none comes of what is refused.
        assert_eq!(writes, 0, "{what}: {writes} writes in ten minutes");
        let machines = stage.hub().objects.list::<Machine>(Some(NAMESPACE)).await.unwrap().0;
        let unfinished: Vec<&Machine> = machines.iter().filter(|machine| !phase(machine).is_finished()).collect();
        assert!(unfinished.len() > MACHINES / 2, "{what}: {} are in the middle", unfinished.len());
        for machine in unfinished {
            let text = serde_json::to_string(&machine.status).unwrap();
            assert!(text.contains("autovibe@pve!lab") && text.contains("pveum user token"), "{what}: {} says {text}", machine.name());
        }

        stage.lab.enable(user, true);
        for number in 0..MACHINES {
            let machine = stage.until_finished(&format!("m{number}")).await;
            assert_eq!(phase(&machine), Phase::Succeeded, "{what}: {:?}", machine.status);
        }
        let hub = stage.until::<Hub>("the hub is ready", |hub| condition(&hub.status.clone().unwrap().conditions, "Ready").is_some()).await;
        assert!(condition(&hub.status.unwrap().conditions, "Stalled").is_none(), "{what}");
        stage.settle().await;
        stage.assert_quiet(&what).await;
        stage.assert_all_goes(&what).await;
    });
}

#[test]
fn a_token_that_is_refused_in_mid_life_makes_no_storm_and_all_end_well() {
    for at in [Phase::Spawning, Phase::Running, Phase::Finishing] {
        refused(at);
    }
}
