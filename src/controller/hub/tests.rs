//! Tables of how a Hub stands and what it imports.

use super::observe::{Observed, State};
use super::{connection, plan::plan, status, status::status};
use crate::api::Hub;
use crate::api::hub::{HubSpec, Image as ImageSpec, Infrastructure, Lab, UnownedVm};
use crate::clock::Clock;
use crate::driver::{self, Connection, storage::Image};
use crate::proxmox::Node;
use crate::runtime::{Requeue, Seen};
use crate::store::ledger::Gap;
use crate::wire::LabEndpoint;
use crate::zfs::{Dataset, Snapshot};
use std::time::Duration;

const RESYNC: Duration = Duration::from_mins(5);

fn hub() -> Hub {
    let image = |name: &str, file: Option<&str>, dataset: Option<&str>| ImageSpec {
        name: name.into(),
        file: file.map(Into::into),
        dataset: dataset.map(Into::into),
        template: None,
    };
    let spec = HubSpec {
        infrastructure: Infrastructure { lab: Some(Lab {}), ..Default::default() },
        gateway: None,
        providers: Vec::new(),
        images: vec![image("micro", Some("/images/micro.raw"), None), image("debian", None, Some("tank/debian@v1"))],
        defaults: crate::api::hub::Defaults::default(),
        approvals: crate::api::hub::Approvals::default(),
        checkpoints: crate::api::hub::Checkpoints::default(),
        egress: crate::api::network::HubEgress::default(),
    };
    let mut hub = Hub::new("", "default", spec);
    hub.metadata.generation = Some(2);
    hub
}

fn image(dataset: &str, stale: bool) -> Image {
    let snapshot = Snapshot { dataset: Dataset(dataset.into()), name: "base".into() };
    Image { nodes: vec![Node("lab".into())], snapshot, guid: "42".into(), stale, template: None }
}

fn unknown<T>(why: &str) -> Seen<T> {
    Seen::Unknown { why: why.into() }
}

fn open(version: Seen<String>, micro: Seen<Image>, debian: Seen<Image>) -> Observed {
    let images = [("micro".to_owned(), micro), ("debian".to_owned(), debian)].into();
    Observed { images, ..Observed::closed(State::Open { version }, None) }
}

struct Expect {
    reason: &'static str,
    abnormal: Option<&'static str>,
    imports: &'static [&'static str],
    within: Duration,
}

fn check(observed: &Observed, expect: &Expect) {
    let (hub, now) = (hub(), Clock::system().api_now());
    let plan = plan(&hub, observed, RESYNC);
    let status = status(&hub, observed, &plan, &now);
    let reason = status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.reason.as_str());
    let abnormal = status.conditions.iter().find(|c| c.type_ != "Ready").map(|c| c.type_.as_str());
    assert_eq!(reason, Some(expect.reason));
    assert_eq!(abnormal, expect.abnormal, "{}", expect.reason);
    assert_eq!(plan.imports.keys().map(String::as_str).collect::<Vec<_>>(), expect.imports, "{}", expect.reason);
    assert_eq!(status.message.is_none(), expect.abnormal.is_none(), "what it waits for is said");
    assert_eq!(status.observed_generation, Some(2));
    assert!(matches!(plan.requeue, Requeue::After(wait) if wait <= expect.within), "{:?}", plan.requeue);
}

#[test]
fn a_hub_says_how_it_stands() {
    let (soon, minute) = (Duration::from_secs(5), Duration::from_mins(1));
    let version = || Seen::Present("9.2".to_owned());
    let there = |dataset: &str| Seen::Present(image(dataset, false));
    check(
        &open(version(), there("tank/keep/image-micro"), there("tank/debian")),
        &Expect { reason: "Ready", abnormal: None, imports: &[], within: RESYNC },
    );
    let importing = Expect { reason: "Importing", abnormal: Some("Reconciling"), imports: &["micro"], within: soon };
    check(&open(version(), Seen::Absent, there("tank/debian")), &importing);
    let missing = Expect { reason: "ImageMissing", abnormal: Some("Reconciling"), imports: &[], within: soon };
    check(&open(version(), there("tank/keep/image-micro"), Seen::Absent), &missing);
    check(&open(version(), unknown("no answer from zfs"), there("tank/debian")), &missing);
    let unreachable = Expect { reason: "Unreachable", abnormal: Some("Reconciling"), imports: &[], within: soon };
    check(&open(unknown("time-out"), there("tank/keep/image-micro"), there("tank/debian")), &unreachable);

    let closed = |state| Observed::closed(state, None);
    let waiting = Expect { reason: "ConnectionIncomplete", abnormal: Some("Reconciling"), imports: &[], within: soon };
    check(&closed(State::Waiting(connection::Waiting("no lab".into()))), &waiting);
    let refused = |error| closed(State::Unreachable(error));
    check(&refused(driver::Error::Unknown("time-out".into())), &unreachable);
    check(
        &refused(driver::Error::Settings("which node?".into())),
        &Expect { reason: "ConnectionRefused", abnormal: Some("Stalled"), imports: &[], within: minute },
    );
}

#[test]
fn status_shows_each_image_and_a_file_that_changed() {
    let observed = open(Seen::Present("9.2".into()), Seen::Present(image("tank/keep/image-micro", true)), unknown("no answer from zfs"));
    let hub = hub();
    let status = status(&hub, &observed, &plan(&hub, &observed, RESYNC), &Clock::system().api_now());
    assert_eq!(status.proxmox_version.as_deref(), Some("9.2"));
    let [micro, debian] = status.images.as_slice() else { panic!("{:?}", status.images) };
    assert_eq!((micro.snapshot.as_deref(), micro.guid.as_deref()), (Some("tank/keep/image-micro@base"), Some("42")));
    assert!(micro.message.as_deref().unwrap().contains("changed since it was imported"));
    assert_eq!((debian.snapshot.as_deref(), debian.message.as_deref()), (None, Some("no answer from zfs")));
    // It is an event once, and what is not there is none.
    let told = status::newly_stale(&hub.status.unwrap_or_default(), &status);
    assert!(matches!(told.as_slice(), [text] if text.starts_with("image micro: the file changed")), "{told:?}");
    assert!(status::newly_stale(&status, &status).is_empty());
}

#[test]
fn a_version_that_was_seen_stays_while_proxmox_is_away() {
    let mut hub = hub();
    let images = || (Seen::Present(image("a", false)), Seen::Present(image("b", false)));
    let now = Clock::system().api_now();
    let seen = open(Seen::Present("9.2".into()), images().0, images().1);
    hub.status = Some(status(&hub, &seen, &plan(&hub, &seen, RESYNC), &now));
    let away = open(unknown("time-out"), images().0, images().1);
    assert_eq!(status(&hub, &away, &plan(&hub, &away, RESYNC), &now).proxmox_version.as_deref(), Some("9.2"));
}

#[tokio::test]
async fn the_secret_tells_connections_apart_and_is_not_shown() {
    let lab = LabEndpoint {
        pid: 1,
        mode: "simulated".into(),
        endpoint: "http://127.0.0.1:1".into(),
        fingerprint: None,
        token_id: "a@pve!b".into(),
        secret: "s3cret".into(),
        node: "lab".into(),
        storage: "tank".into(),
        dataset: "tank/data".into(),
        keep: "tank/keep".into(),
        zfs_socket: None,
        bridge: "vmbr0".into(),
        vmid_from: 100,
        vmid_to: 199,
        gateway_url: "http://10.0.2.2:1".into(),
        gateway: "127.0.0.1:1".parse().unwrap(),
    };
    let dir = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(&dir.path().join("db")).await.unwrap();
    let objects = crate::objects::Objects::new(store, Clock::system(), crate::objects::Cipher::ephemeral());
    let objects = crate::controller::client::Client::from(objects);
    let resolve =
        async |lab: &LabEndpoint| connection::resolve(&hub(), Some(&Connection::of_lab(lab)), &objects, dir.path()).await.unwrap().unwrap();
    let one = resolve(&lab).await;
    let other = resolve(&LabEndpoint { secret: "other".into(), ..lab.clone() }).await;
    assert_eq!(connection::identity(&one), connection::identity(&resolve(&lab).await));
    assert_ne!(connection::identity(&one), connection::identity(&other));
    assert!(!format!("{one:?}").contains("s3cret"));
    assert_eq!(one.vmids, crate::api::hub::VmidRange { from: 100, to: 199 });
    assert!(connection::resolve(&hub(), None, &objects, dir.path()).await.unwrap().is_err(), "a lab that is not there is waited for");
}

#[test]
fn a_provider_without_its_key_is_named_until_it_has_one() {
    let (mut hub, now) = (hub(), Clock::system().api_now());
    let mut seen = open(Seen::Present("9.2".into()), Seen::Present(image("a", false)), Seen::Present(image("b", false)));
    seen.keyless = vec!["provider anthropic needs Secret autovibe-system/anthropic with key apiKey".into()];
    let of = |hub: &Hub, seen: &Observed| status(hub, seen, &plan(hub, seen, RESYNC), &now);
    let told = |hub: &Hub| hub.status.as_ref().unwrap().conditions.iter().find(|c| c.type_ == "ProviderKeyMissing").cloned();
    hub.status = Some(of(&hub, &seen));
    let found = told(&hub).unwrap();
    assert!(found.status == "True" && found.reason == "SecretMissing" && found.message.contains("Secret autovibe-system/anthropic"));
    seen.keyless.clear();
    hub.status = Some(of(&hub, &seen));
    assert_eq!(told(&hub), None);
}

#[test]
fn vms_without_a_machine_and_a_gap_are_named_until_they_are_seen_to_be_gone() {
    let (mut hub, now) = (hub(), Clock::system().api_now());
    let mut seen = open(Seen::Present("9.2".into()), Seen::Present(image("a", false)), Seen::Present(image("b", false)));
    let vm = UnownedVm { vmid: 1007, machine_uid: "u".into(), namespace: "shop".into(), name: "lost".into() };
    seen.unowned = Some(vec![vm.clone()]);
    seen.gap = Some(Gap { at: "2026-01-02T03:04:05Z".parse().unwrap(), cause: "restore".into() });
    let of = |hub: &Hub, seen: &Observed| status(hub, seen, &plan(hub, seen, RESYNC), &now);
    let condition = |hub: &Hub, kind: &str| {
        let conditions = &hub.status.as_ref().unwrap().conditions;
        conditions.iter().find(|c| c.type_ == kind).map(|c| (c.reason.clone(), c.message.clone()))
    };
    hub.status = Some(of(&hub, &seen));
    let (reason, message) = condition(&hub, "UnownedVms").unwrap();
    assert!(reason == "NoMachine" && message.contains("VM 1007 of shop/lost"), "{message}");
    let (reason, message) = condition(&hub, "LedgerGap").unwrap();
    assert!(reason == "Restored" && message.contains("2026-01-02T03:04:05Z"), "{message}");
    assert!(condition(&hub, "Ready").is_some_and(|(reason, _)| reason == "Ready"), "it works all the same");
    // Not seen is not gone.
    seen.unowned = None;
    hub.status = Some(of(&hub, &seen));
    assert_eq!(hub.status.as_ref().unwrap().unowned_vms, [vm]);
    assert!(condition(&hub, "UnownedVms").is_some());
    seen.unowned = Some(Vec::new());
    hub.status = Some(of(&hub, &seen));
    assert!(condition(&hub, "UnownedVms").is_none() && hub.status.unwrap().unowned_vms.is_empty());
}
