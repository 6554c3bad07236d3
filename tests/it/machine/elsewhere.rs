//! Controllers in a process of their own, clients of a hub that runs none.

use super::killed::{assert_nothing_is_left, end, lives_through, manifest};
use crate::process::{Hub, LabOf, autovibe, said, wait};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

pub(super) const HUB: [&str; 5] = ["--no-controllers", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];
pub(super) const SIMULATED: [&str; 2] = ["--lab", "simulated"];

/// A hub that runs no controllers, in a directory of its own, and the end of the lab that others start there.
fn without_controllers() -> (tempfile::TempDir, LabOf, Hub) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let directory = tempfile::tempdir().unwrap();
    let lab = LabOf(directory.path().into());
    let hub = Hub::start(directory.path(), &HUB).serves();
    (directory, lab, hub)
}

/// What a life that ended as it should leaves; ends the hub.
pub(super) async fn assert_ended_well(data: &Path, hub: Hub, what: &str) {
    let ended = end(data, what);
    assert_eq!(ended["status"]["terminationReason"], "Completed", "{what}: {:#}", ended["status"]);
    let last: Value = serde_json::from_str(&said(data, &["get", "checkpoint", "a-final", "-o", "json"])).unwrap();
    assert_eq!((&last["status"]["phase"], &last["status"]["machineUid"]), (&json!("Ready"), &ended["metadata"]["uid"]), "{what}");
    let events = said(data, &["get", "events", "-o", "json"]);
    assert!(events.contains("Succeeded"), "{what}: the controllers record events over the API: {events}");
    assert_eq!(hub.terminate().0, Some(0));
    assert_nothing_is_left(data, &ended, what).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lives_under_controllers_in_another_process() {
    let (directory, _lab, hub) = without_controllers();
    let data = directory.path();
    let controllers = Hub::controllers(data, &SIMULATED);
    said(data, &["apply", "-f", &manifest(data)]);
    end(data, "a life");
    assert_eq!(controllers.terminate().0, Some(0));
    assert_ended_well(data, hub, "a life").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_go_on_when_their_hub_was_killed_and_came_back() {
    let (directory, _lab, mut hub) = without_controllers();
    let data = directory.path();
    let _controllers = Hub::controllers(data, &SIMULATED);
    said(data, &["apply", "-f", &manifest(data)]);
    assert!(lives_through(data, 4), "the hub is killed before the end");
    hub.kill();
    hub = Hub::start(data, &HUB).serves();
    assert_ended_well(data, hub, "after the hub came back").await;
}

/// Pid of the process that leads, and its epoch.
pub(super) fn leader(data: &Path) -> Option<(u32, i64)> {
    let output = autovibe(data, &["-n", "autovibe-system", "get", "lease", "autovibe-controller", "-o", "json"]);
    let lease: Value = serde_json::from_slice(&output.stdout).ok()?;
    let pid = lease["spec"]["holderIdentity"].as_str()?.split('_').nth(3)?.parse().ok()?;
    Some((pid, lease["metadata"]["annotations"]["autovibe.dev/epoch"].as_str()?.parse().ok()?))
}

pub(super) fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Two processes of controllers in the middle of a life: the leader and the other.
fn two(data: &Path, lease: &str) -> (Hub, Hub) {
    let arguments = [&SIMULATED[..], &["--lease-duration", lease]].concat();
    let first = Hub::controllers(data, &arguments);
    wait("the first one leads", || leader(data).is_some());
    let second = Hub::controllers(data, &arguments);
    said(data, &["apply", "-f", &manifest(data)]);
    assert!(lives_through(data, 4), "the leader is lost before the end");
    let (pid, _) = leader(data).unwrap();
    assert_eq!(pid, first.child.id(), "the second one stands by");
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_goes_on_when_the_leader_is_killed_without_waiting_for_its_lease() {
    let (directory, _lab, hub) = without_controllers();
    let data = directory.path();
    // Longer than the test has patience: only the proof of death frees it.
    let (first, second) = two(data, "10m");
    let (_, epoch) = leader(data).unwrap();
    first.kill();
    wait("the second one leads", || leader(data).is_some_and(|(pid, now)| pid == second.child.id() && now > epoch));
    end(data, "after the leader was killed");
    assert_eq!(second.terminate().0, Some(0));
    assert_eq!(leader(data), None, "the Lease is released in order");
    assert_ended_well(data, hub, "after the leader was killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_for_longer_than_its_lease_does_nothing_more() {
    let (directory, _lab, hub) = without_controllers();
    let data = directory.path();
    let (first, second) = two(data, "3s");
    send("-STOP", first.child.id());
    wait("the second one leads", || leader(data).is_some_and(|(pid, _)| pid == second.child.id()));
    let (_, epoch) = leader(data).unwrap();
    send("-CONT", first.child.id());
    wait("the first one learns it", || first.logged().contains("no longer leading"));
    assert_eq!(leader(data), Some((second.child.id(), epoch)), "it does not take the Lease back");
    assert_ended_well(data, hub, "after the leader was stopped").await;
}
