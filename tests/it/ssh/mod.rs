//! `zfs` on another machine: the real `ssh`, a real sshd, and the helper as its forced command.

mod exports;
pub(crate) mod lives;
mod pools;
pub(crate) mod sshd;

use autovibe::{
    lab::{Call, Lab},
    zfs::{Dataset, Error, Properties, Runner, Settings, Snapshot, Ssh, Zfs},
};
use sshd::Sshd;
use std::{path::Path, process::Command, time::Duration};

const UID: &str = "5f0c7d1e-1111-4222-8333-444455556666";

struct Node {
    lab: Lab,
    sshd: Sshd,
    dir: tempfile::TempDir,
}

/// A change that must keep a client out.
type Change<'a> = Box<dyn Fn(&mut Settings) + 'a>;

/// A model pool behind a real sshd.
async fn node(test: &str) -> Option<Node> {
    let dir = tempfile::tempdir().unwrap();
    let lab = crate::node::start(dir.path()).await;
    let sshd = Sshd::start(test, &arguments(&lab))?;
    Some(Node { lab, sshd, dir })
}

pub(crate) fn arguments(lab: &Lab) -> String {
    let at = lab.endpoint();
    format!(
        "--datasets {},{} --images tank/images --vmids {}-{} --state {{state}} --socket {}",
        at.dataset,
        at.keep,
        at.vmid_from,
        at.vmid_to,
        at.zfs_socket.as_ref().unwrap().display()
    )
}

fn marks(key: &str, value: &str) -> Properties {
    Properties::from([(format!("autovibe:{key}"), value.to_owned())])
}

fn at(dataset: &Dataset, name: &str) -> Snapshot {
    Snapshot { dataset: dataset.clone(), name: name.into() }
}

fn micro() -> Snapshot {
    Snapshot { dataset: Dataset("tank/images/micro".into()), name: "base".into() }
}

fn disk(vmid: u32) -> Dataset {
    Dataset(format!("tank/data/vm-{vmid}-disk-0"))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_pinned_host_and_a_known_key_are_spoken_to() {
    let Some(node) = node("only_the_pinned_host_and_a_known_key_are_spoken_to").await else { return };
    Zfs::open(node.sshd.runner()).await.unwrap();
    let other = Sshd::start("", "--datasets tank/data").unwrap();
    let changed: [(&str, Change<'_>, &str); 5] = [
        ("another host's key is pinned", Box::new(|s| s.host_key.clone_from(&other.host_key)), "Host key verification failed"),
        ("another key logs in", Box::new(|s| s.key = other.key().to_owned().into()), "Permission denied"),
        ("what is given is no key", Box::new(|s| s.key = "nonsense".to_owned().into()), "Permission denied"),
        ("nobody listens", Box::new(|s| s.port = 9), "Connection refused"),
        ("there is no such host", Box::new(|s| s.host = "nowhere.invalid".into()), "Could not resolve hostname"),
    ];
    for (what, change, says) in changed {
        let mut settings = node.sshd.settings();
        change(&mut settings);
        match Zfs::open(Runner::Ssh(Ssh::new(settings))).await {
            // Nothing can have been done: that is known, and not only that no answer came.
            Err(Error::Unavailable(why)) => assert!(why.contains(says), "{what}: {why}"),
            other => panic!("{what}: {:?}", other.err()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_lies_in_a_private_file_only_while_it_is_used() {
    let Some(node) = node("the_key_lies_in_a_private_file_only_while_it_is_used").await else { return };
    let runner = node.sshd.runner();
    assert!(!node.sshd.home().exists(), "written before it is used");
    assert!(!format!("{runner:?}").contains(node.sshd.key().lines().nth(1).unwrap()));
    let zfs = Zfs::open(runner.clone()).await.unwrap();
    let find = |what: &str| {
        let found = Command::new("find").arg(node.sshd.home()).args(["-name", "key", "-perm", what]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().lines().count()
    };
    assert_eq!((find("600"), find("/077")), (1, 0));
    drop((zfs, runner));
    assert_eq!(std::fs::read_dir(node.sshd.home()).unwrap().count(), 0, "it stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_share_one_connection() {
    let Some(node) = node("commands_share_one_connection").await else { return };
    let zfs = Zfs::open(node.sshd.runner()).await.unwrap();
    let looks = (0..40).map(|_| async { zfs.dataset(&Dataset("tank/data".into())).await.unwrap().unwrap() });
    futures::future::join_all(looks).await;
    // sshd takes ten sessions at once on a connection: more at a time would have made others.
    let logins = node.sshd.log().matches("Accepted publickey").count();
    assert_eq!(logins, 1, "{}", node.sshd.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn z2_no_argument_leaves_its_place() {
    let Some(node) = node("z2_no_argument_leaves_its_place").await else { return };
    let zfs = Zfs::open(node.sshd.runner()).await.unwrap();
    let mark = Path::new("/tmp").join(format!("autovibe-was-run-{}", std::process::id()));
    zfs.clone_snapshot(&micro(), &disk(1000), &marks("machine", "M")).await.unwrap();
    // A value with everything that means something to a shell is one argument, and comes back as it was.
    let evil = format!("a b '\"`touch {0}`$(touch {0});touch {0}|&>{0} -- ../ \\ *", mark.display());
    let snapshot = at(&disk(1000), "av-1");
    zfs.snapshot(std::slice::from_ref(&snapshot), &marks("checkpoint", &evil)).await.unwrap();
    assert_eq!(zfs.snapshot_info(&snapshot).await.unwrap().unwrap().properties["autovibe:checkpoint"], evil);
    // A name with any of it reaches no machine.
    for name in ["-r", "--", "a;b", "a'b", "a\nb", "../x", "$(x)", "a@b", "a\u{0}b"] {
        let dataset = Dataset(format!("tank/data/{name}"));
        assert!(matches!(zfs.destroy_dataset(&dataset).await, Err(Error::BadName(_))), "{name:?}");
        assert!(matches!(zfs.promote(&dataset).await, Err(Error::BadName(_))), "{name:?}");
    }
    // What is legal for ZFS, but not ours, is the helper's to refuse.
    for name in ["tank/data/a b", "tank/data/vm-1-disk-0", "tank/images/micro", "tank/data", "tank"] {
        let refused = zfs.destroy_dataset(&Dataset(name.into())).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{name}: {refused:?}");
    }
    // Whatever `ssh` is told to run is not run: the forced command reads its request from standard input.
    let key = node.dir.path().join("key");
    std::fs::write(&key, node.sshd.key()).unwrap();
    Command::new("chmod").arg("600").arg(&key).status().unwrap();
    let touch = format!("touch {}", mark.display());
    let ssh = Command::new("ssh")
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"])
        .arg(&key)
        .args(["-p", &node.sshd.port.to_string(), "-l", node.sshd.user(), "127.0.0.1", &touch])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&ssh.stdout).contains("refused"), "{ssh:?}");
    assert!(!mark.exists(), "an argument was run");
}

#[tokio::test(flavor = "multi_thread")]
async fn z2_a_connection_that_drops_leaves_the_outcome_to_be_looked_at() {
    let Some(node) = node("z2_a_connection_that_drops_leaves_the_outcome_to_be_looked_at").await else { return };
    let zfs = Zfs::open(node.sshd.runner()).await.unwrap();
    zfs.clone_snapshot(&micro(), &disk(1000), &marks("machine", "M")).await.unwrap();
    // The pool answers nothing; then ssh dies, and with it the connection.
    node.lab.hang(Call::Zfs("snapshot"));
    let snapshot = at(&disk(1000), "av-1");
    let taken = tokio::spawn({
        let (zfs, snapshot) = (zfs.clone(), snapshot.clone());
        async move { zfs.snapshot(&[snapshot], &marks("checkpoint", "C")).await }
    });
    let before = node.lab.count(Call::Zfs("snapshot"));
    while node.lab.count(Call::Zfs("snapshot")) == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for pid in ssh_clients(&node.sshd) {
        Command::new("sh").args(["-c", r#"kill -KILL "$0""#, &pid]).status().unwrap();
    }
    let result = taken.await.unwrap();
    assert!(matches!(result, Err(Error::Unknown(_))), "{result:?}");
    // The next command makes a connection of its own.
    assert_eq!(zfs.snapshot_info(&snapshot).await.unwrap(), None);
    zfs.snapshot(std::slice::from_ref(&snapshot), &marks("checkpoint", "C")).await.unwrap();
    // The answer is lost on the way: it was done all the same.
    node.lab.drop_reply(Call::Zfs("hold"));
    let lost = zfs.hold("autovibe", std::slice::from_ref(&snapshot)).await;
    assert!(matches!(lost, Err(Error::Unknown(_))), "{lost:?}");
    assert_eq!(zfs.snapshot_info(&snapshot).await.unwrap().unwrap().holds, 1);
}

/// The `ssh` processes of this node's client: those that work in its directory.
fn ssh_clients(sshd: &Sshd) -> Vec<String> {
    let home = sshd.home().canonicalize().unwrap();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let within = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&home));
        if name == "ssh\n" && within {
            found.push(process.file_name().into_string().unwrap());
        }
    }
    assert!(!found.is_empty(), "no ssh runs");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_was_replaced_is_refused() {
    let Some(node) = node("a_hub_that_was_replaced_is_refused").await else { return };
    let under = |installation: &str, epoch: i64| {
        Zfs::open(Runner::Ssh(Ssh::new(Settings { epoch, installation: installation.into(), ..node.sshd.settings() })))
    };
    let old = under("one", 3).await.unwrap();
    old.clone_snapshot(&micro(), &disk(1000), &marks("machine", "M")).await.unwrap();
    let new = under("one", 4).await.unwrap();
    match old.destroy_dataset(&disk(1000)).await {
        Err(Error::Refused(why)) => assert!(why.contains("epoch 3 was revoked") && why.contains("epoch 4"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(under("one", 3).await, Err(Error::Refused(_))));
    assert!(matches!(under("one", 0).await, Err(Error::Refused(_))));
    // Another installation counts for itself.
    under("two", 1).await.unwrap();
    new.destroy_dataset(&disk(1000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn z3_what_lacks_our_mark_is_not_touched_whatever_its_name() {
    let Some(node) = node("z3_what_lacks_our_mark_is_not_touched_whatever_its_name").await else { return };
    let zfs = Zfs::open(node.sshd.runner()).await.unwrap();
    // Made by others, beside the helper, under a name that could be ours.
    let local = Zfs::open(Runner::Socket(node.lab.endpoint().zfs_socket.clone().unwrap())).await.unwrap();
    local.clone_snapshot(&micro(), &disk(1000), &Properties::new()).await.unwrap();
    local.snapshot(&[at(&disk(1000), "av-1")], &Properties::new()).await.unwrap();
    let kept = Dataset(format!("tank/autovibe/m-{UID}-disk-0"));
    let refused = [
        zfs.destroy_snapshot(&at(&disk(1000), "av-1")).await,
        zfs.destroy_snapshot_later(&at(&disk(1000), "av-1")).await,
        zfs.destroy_dataset(&disk(1000)).await,
        zfs.rename(&disk(1000), &kept).await,
        zfs.promote(&disk(1000)).await,
        zfs.snapshot(&[at(&disk(1000), "av-2")], &marks("checkpoint", "C")).await,
        zfs.mark(&disk(1000), "autovibe:machine", "M").await,
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    }
    // A disk of ours that is a clone of an image that is not: a promote would take the image's snapshot.
    zfs.clone_snapshot(&micro(), &disk(1001), &marks("machine", "M")).await.unwrap();
    assert!(matches!(zfs.promote(&disk(1001)).await, Err(Error::Refused(_))));
    // Clones and holds keep what they need; a deferred destroy waits for both.
    let checkpoint = at(&disk(1001), "av-1");
    zfs.snapshot(std::slice::from_ref(&checkpoint), &marks("checkpoint", "C")).await.unwrap();
    zfs.hold("autovibe", std::slice::from_ref(&checkpoint)).await.unwrap();
    assert!(matches!(zfs.destroy_snapshot(&checkpoint).await, Err(Error::Held(_))));
    zfs.clone_snapshot(&checkpoint, &disk(1002), &marks("machine", "N")).await.unwrap();
    zfs.destroy_snapshot_later(&checkpoint).await.unwrap();
    assert!(zfs.snapshot_info(&checkpoint).await.unwrap().is_some());
    zfs.release("autovibe", std::slice::from_ref(&checkpoint)).await.unwrap();
    assert!(matches!(zfs.destroy_snapshot(&checkpoint).await, Err(Error::HasClones(_))));
    zfs.destroy_dataset(&disk(1002)).await.unwrap();
    assert_eq!(zfs.snapshot_info(&checkpoint).await.unwrap(), None, "the last that needed it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn z9_of_fifty_checkpoints_at_once_only_the_bad_one_fails() {
    let Some(node) = node("z9_of_fifty_checkpoints_at_once_only_the_bad_one_fails").await else { return };
    let zfs = Zfs::open(node.sshd.runner()).await.unwrap();
    let clones = (1000..1050).filter(|vmid| *vmid != 1025).map(|vmid| {
        let zfs = &zfs;
        async move { zfs.clone_snapshot(&micro(), &disk(vmid), &marks("machine", "M")).await.unwrap() }
    });
    futures::future::join_all(clones).await;
    let groups: Vec<_> =
        (1000..1050).map(|vmid| (vec![at(&disk(vmid), &format!("av-{vmid}"))], marks("checkpoint", &vmid.to_string()))).collect();
    let outcomes = futures::future::join_all(groups.iter().map(|(snapshots, marks)| zfs.snapshot(snapshots, marks))).await;
    for (group, outcome) in groups.iter().zip(&outcomes) {
        let (snapshot, properties) = (&group.0[0], &group.1);
        if snapshot.dataset == disk(1025) {
            assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
        } else {
            assert!(outcome.is_ok(), "{snapshot}: {outcome:?}");
            assert_eq!(&zfs.snapshot_info(snapshot).await.unwrap().unwrap().properties, properties);
        }
    }
    assert_eq!(node.sshd.log().matches("Accepted publickey").count(), 1);
}
