//! A burst of VMs on one slow storage: its locks are waited for by us, not in Proxmox, and not at the cost of others.

use super::gate::Plan;
use super::stage::{Stage, phase, simulate};
use autovibe::api::Kind;
use autovibe::api::machine::{Machine, Phase};
use autovibe::driver::{Connection, Driver, vm::VmSpec};
use autovibe::objects::WriteOptions;
use autovibe::proxmox::Vmid;
use autovibe::zfs;
use autovibe::{clock::Clock, driver};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const BURST: u32 = 200;
const CROWD: usize = 24;
/// As many of these wait in Proxmox as it has patience for, and no more.
const SLOW: Duration = Duration::from_secs(2);

fn ends_at_once() -> serde_json::Value {
    json!({
        "from": { "image": "micro" }, "goal": { "prompt": "#sim turns=0" }, "agent": { "type": "Command", "command": ["true"] },
    })
}

/// The most tasks that hold or await the storage's lock in Proxmox at once, until it is told to stop.
fn watch(stage: &Stage, stop: &CancellationToken) -> tokio::task::JoinHandle<usize> {
    let (lab, stop) = (stage.lab.clone(), stop.clone());
    tokio::spawn(async move {
        let mut most = 0;
        while !stop.is_cancelled() {
            most = most.max(lab.running("qmcreate").len() + lab.running("qmdestroy").len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        most
    })
}

fn connection(stage: &Stage, concurrency: usize) -> Connection {
    Connection {
        service: Some(stage.lab.proxmox()),
        runner: zfs::Runner::Service(stage.lab.zfs()),
        concurrency,
        ..Connection::of_lab(stage.lab.endpoint())
    }
}

fn spec(vmid: u32, namespace: &str) -> VmSpec {
    VmSpec {
        vmid: Vmid(vmid),
        machine_uid: autovibe::random::uuid().to_string(),
        namespace: namespace.into(),
        name: "a".into(),
        installation: "i".into(),
        cores: 1,
        memory_mebibytes: 128,
        first_disk: 0,
        disks: 0,
        template: None,
    }
}

/// Creates two hundred at once in one namespace, and then one in another. Says how many failed, the most that were under way at
/// once, how long the one waited and how long all took.
async fn burst(stage: &Stage, concurrency: usize) -> (usize, usize, Duration, Duration) {
    let (clock, stop, begun) = (Clock::system(), CancellationToken::new(), Instant::now());
    let driver = Driver::open(connection(stage, concurrency)).await.unwrap();
    let (driver, clock, watch) = (&driver, &clock, watch(stage, &stop));
    let crowd = (0..BURST).map(async |number| driver.create_vm(&spec(2000 + number, "crowd"), clock).await);
    let one = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        driver.create_vm(&spec(3000, "others"), clock).await.unwrap();
        begun.elapsed()
    };
    let (crowd, waited) = tokio::join!(futures::future::join_all(crowd), one);
    stop.cancel();
    (crowd.iter().filter(|created| created.is_err()).count(), watch.await.unwrap(), waited, begun.elapsed())
}

#[test]
fn a_burst_of_two_hundred_misses_no_lock_and_lets_others_through() {
    simulate(0, async || {
        let stage = Stage::with(None, Plan::default()).await;
        stage.lab.slow_storage(SLOW);
        let (failed, most, waited, whole) = burst(&stage, driver::CONCURRENCY).await;
        assert_eq!((failed, most), (0, driver::CONCURRENCY), "none fails, and as many are under way as may be");
        assert!(whole > SLOW * BURST, "{whole:?}: the storage was slow");
        // Those that were under way before it, and itself.
        assert!(waited < SLOW * 8, "the other namespace waited {waited:?} of {whole:?}");
        assert_eq!(stage.lab.failed("got timeout"), [""; 0]);
    });
    // The same where turns do not bound it: the lab's locks are as impatient as Proxmox'.
    simulate(0, async || {
        let stage = Stage::with(None, Plan::default()).await;
        stage.lab.slow_storage(SLOW);
        let driver = Driver::open(connection(&stage, 100)).await.unwrap();
        let clock = Clock::system();
        let created = (0..20).map(async |number| driver.create_vm(&spec(2000 + number, "crowd"), &clock).await);
        assert!(futures::future::join_all(created).await.iter().any(Result::is_err));
        assert!(!stage.lab.failed("got timeout").is_empty());
    });
}

#[test]
fn machines_of_a_crowd_live_within_their_turns_and_let_others_through() {
    simulate(0, async || {
        let stage = Stage::with(None, Plan::default()).await;
        stage.lab.slow_storage(SLOW);
        for number in 0..CROWD {
            stage.create(&format!("c{number}"), ends_at_once()).await;
        }
        let (stop, asked) = (CancellationToken::new(), Instant::now());
        let watch = watch(&stage, &stop);
        let namespaces = autovibe::admission::resources().iter().find(|resource| resource.plural == "namespaces").unwrap();
        let others = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "others" } });
        stage.hub().objects.create_document(namespaces, "", others, &WriteOptions::default()).await.unwrap();
        stage.until::<Machine>("some have their VM", |machine| machine.status.as_ref().is_some_and(|status| status.vm.is_some())).await;
        stage.create_in("others", "b", ends_at_once()).await;
        let has_vm = |one: &Machine| one.name() == "b" && one.status.as_ref().is_some_and(|status| status.vm.is_some());
        stage.until::<Machine>("another namespace's has its VM", has_vm).await;
        let waited = asked.elapsed();
        for number in 0..CROWD {
            let machine = stage.until_finished(&format!("c{number}")).await;
            assert_eq!(phase(&machine), Phase::Succeeded, "{:?}", machine.status);
        }
        let whole = asked.elapsed();
        stop.cancel();
        assert!(waited < whole / 3, "the other namespace waited {waited:?} of {whole:?}");
        assert_eq!(watch.await.unwrap(), driver::CONCURRENCY, "as many at once as may be");
        assert_eq!(stage.lab.failed("got timeout"), [""; 0], "no lock was missed because of us");
    });
}

/// What began goes on when who asked for it is gone, and its turn with it; also over the end of a process.
#[test]
fn a_turn_is_kept_until_its_task_ends() {
    simulate(0, async || {
        let stage = Stage::with(None, Plan::default()).await;
        stage.lab.slow_storage(Duration::from_secs(8));
        let clock = Clock::system();
        let driver = Driver::open(connection(&stage, 1)).await.unwrap();
        let (first, second, third) = (spec(2001, "shop"), spec(2002, "shop"), spec(2003, "shop"));
        let gone = tokio::time::timeout(Duration::from_secs(2), driver.create_vm(&first, &clock)).await;
        assert!(gone.is_err(), "the caller gave up");
        assert_eq!(stage.lab.running("qmcreate"), [2001]);
        assert!(tokio::time::timeout(Duration::from_secs(3), driver.create_vm(&second, &clock)).await.is_err());
        assert_eq!(stage.lab.running("qmcreate"), [2001], "the second one waits, and then is not asked for any more");
        // As another process that comes after this one.
        let successor = Driver::open(connection(&stage, 1)).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(2), successor.create_vm(&third, &clock)).await.is_err());
        assert_eq!(stage.lab.running("qmcreate"), [2001]);
        successor.create_vm(&third, &clock).await.unwrap();
        assert!(!stage.lab.vms().contains_key(&2002) && stage.lab.vms().contains_key(&2001));
        // An answer that was lost says nothing about the task.
        stage.lab.drop_reply(autovibe::lab::Call::Create);
        let lost = driver.create_vm(&spec(2004, "shop"), &clock).await;
        assert!(lost.is_err(), "it is not there yet");
        assert!(tokio::time::timeout(Duration::from_secs(1), driver.create_vm(&second, &clock)).await.is_err());
        assert_eq!(stage.lab.running("qmcreate"), [2004]);
        driver.create_vm(&second, &clock).await.unwrap();
    });
}
