//! What the helper runs and what it refuses, and how a higher epoch takes over.

use super::allow::{Limits, Need, Work};
use super::epoch::Epochs;
use crate::zfs::Properties;

const UID: &str = "5f0c7d1e-1111-4222-8333-444455556666";

fn limits() -> Limits {
    Limits {
        roots: vec!["tank/data".into(), "tank/av".into()],
        images: vec!["tank/images".into()],
        exports: vec!["backup/av".into()],
        vmids: Some((1000, 1999)),
    }
}

fn allow(words: &[&str]) -> Result<super::allow::Allowed, String> {
    limits().allow(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
}

#[test]
fn the_clients_own_commands_are_run() {
    let kept = format!("tank/av/m-{UID}-disk-0");
    let checkpoint = format!("{kept}@av-C");
    let disk = "tank/data/vm-1000-disk-0";
    let columns = "name,property,value,source";
    let marks = ["-o", "autovibe:machine=M"];
    let plain: &[&[&str]] = &[
        &["list", "-Hp", "-d", "0", "-o", "name"],
        &["get", "-Hp", "-r", "-t", "filesystem,volume", "-s", "local,none", "-o", columns, "all", "tank/data"],
        &["get", "-Hp", "-r", "-d", "1", "-t", "snapshot", "-s", "local,none", "-o", columns, "all", disk],
        &["get", "-Hp", "-s", "none", "-o", columns, "type,guid,origin,userrefs,referenced", "tank/images/debian@v1"],
        &["list", "-H", "-r", "-t", "filesystem", "-o", "name", "tank/data"],
        &["get", "-Hp", "-s", "none", "-o", columns, "type,guid,origin", "tank/data", disk],
        &["get", "-Hp", "-o", "value", "guid", "tank"],
        &["get", "-Hp", "-o", "value", "receive_resume_token", &kept],
        &["snapshot", "-o", "autovibe:checkpoint=C", "-o", "autovibe:machine=M", &format!("{disk}@av-C")],
        &["hold", "autovibe", &checkpoint],
        &["release", "autovibe-fork-M", "tank/images/debian@v1"],
        &["clone", marks[0], marks[1], &checkpoint, disk],
        &["clone", marks[0], marks[1], "tank/images/debian@v1", disk],
        &["create", "-o", "mountpoint=none", "-o", "canmount=off", "tank/av"],
        &["rename", disk, &kept],
        &["promote", disk],
        &["destroy", disk],
        &["destroy", &checkpoint],
        &["destroy", "-d", &checkpoint],
        &["unmount", disk],
        &["set", &format!("autovibe:machine={UID}"), &kept],
        &["receive", "-A", &kept],
    ];
    for words in plain {
        assert_eq!(allow(words).map(|allowed| allowed.work), Ok(Work::Plain), "{words:?}");
    }
    assert_eq!(allow(&["send", "-i", &checkpoint, &checkpoint]).map(|allowed| allowed.work), Ok(Work::Prints));
    assert_eq!(allow(&["send", "-t", "1-c740b4779-e0-789c"]).map(|allowed| allowed.work), Ok(Work::Resumes("1-c740b4779-e0-789c".into())));
    assert_eq!(allow(&["receive", "-s", "-u", &kept]).map(|allowed| allowed.work), Ok(Work::Reads));
    let (copy, image) = (format!("tank/av/c-{UID}-disk-0"), "tank/av/image-debian");
    let origin = format!("origin={kept}@av-C");
    for good in [
        &["receive", "-s", "-u", "-o", &origin, &copy] as &[&str],
        &["receive", image],
        &["receive", "-A", &copy],
        &["set", &format!("autovibe:checkpoint={UID}"), &copy],
        &["set", &format!("autovibe:machine={UID}"), &format!("{copy}@av-{UID}")],
        &["set", "autovibe:image=debian", &format!("{image}@v1")],
        &["set", "autovibe:source=/var/lib/debian.raw 4096 7", image],
        &["destroy", &format!("{copy}@v1")],
    ] {
        assert!(allow(good).is_ok(), "{good:?}: {:?}", allow(good));
    }
    assert!(matches!(
        allow(&["import", "512", "-o", "autovibe:image=a", "tank/av/image-a"]).map(|a| a.work),
        Ok(Work::Import { size: 512, .. })
    ));
    assert_eq!(allow(&["destroy", disk]).map(|allowed| allowed.needs), Ok(vec![Need::Disk(disk.into())]));
    assert_eq!(allow(&["destroy", &checkpoint]).map(|allowed| allowed.needs), Ok(vec![Need::Snapshot(checkpoint.clone())]));
}

#[test]
fn an_export_is_made_marked_read_and_never_destroyed() {
    let export = format!("backup/av/c-{UID}-disk-0");
    let (snapshot, kept) = (format!("{export}@av-C"), format!("tank/av/m-{UID}-disk-0@av-C"));
    let origin = format!("origin=backup/av/c-{UID}-disk-1@av-B");
    for good in [
        &["get", "-Hp", "-r", "-s", "local,none", "-o", "name,property,value,source", "all", "backup/av"] as &[&str],
        &["get", "-Hp", "-o", "value", "mountpoint", "backup/av"],
        &["get", "-Hp", "-o", "value", "guid", "backup"],
        &["receive", "-s", "-u", &export],
        &["receive", "-s", "-u", "-o", &origin, &export],
        &["receive", "-A", &export],
        &["hold", "autovibe", &snapshot],
        &["set", &format!("autovibe:checkpoint={UID}"), &export],
        &["set", "autovibe:manifest-12=eyJh+/==", &export],
        &["set", "autovibe:manifest=1 c0ffee", &export],
        &["send", "-L", "-e", "-c", &snapshot],
        &["send", "-i", &format!("backup/av/c-{UID}-disk-1@av-B"), &snapshot],
    ] {
        assert!(allow(good).is_ok(), "{good:?}: {:?}", allow(good));
    }
    for bad in [
        &["destroy", &export] as &[&str],
        &["destroy", &snapshot],
        &["destroy", "-d", &snapshot],
        &["release", "autovibe", &snapshot],
        &["rename", &export, "tank/data/vm-1000-disk-0"],
        &["clone", "-o", "autovibe:machine=M", &snapshot, "tank/data/vm-1000-disk-0"],
        &["promote", &export],
        &["mount", &export],
        &["snapshot", "-o", "autovibe:checkpoint=C", &snapshot],
        &["create", "-o", "mountpoint=none", "-o", "canmount=off", "backup/av"],
        &["receive", "backup/av"],
        &["receive", "-F", &export],
        &["receive", &format!("backup/av/m-{UID}-disk-0")],
        &["receive", &format!("backup/av/x/c-{UID}-disk-0")],
        &["receive", "backup/av/c-x-disk-0"],
        &["receive", "-o", &format!("origin={kept}"), &export],
        &["set", "autovibe:checkpoint=other", &export],
        &["set", &format!("autovibe:checkpoint={UID}"), &snapshot],
        &["set", "autovibe:manifest-x=a", &export],
        &["set", "autovibe:manifest=a;b", &export],
        &["set", "autovibe:machine=M", &export],
        &["set", "mountpoint=/root", &export],
        &["set", "autovibe:manifest=1 c0ffee", &format!("tank/av/c-{UID}-disk-0")],
        &["send", "backup/other@x"],
        &["send", "backup/av@x"],
    ] {
        assert!(allow(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn whatever_else_is_asked_for_is_refused() {
    let disk = "tank/data/vm-1000-disk-0";
    let bad: &[&[&str]] = &[
        &[],
        &[""],
        &["list", "-H", "-r", "-t", "filesystem", "-o", "name", "tank"],
        &["list", "-H", "-r", "-t", "filesystem", "-o", "name", "tank/home"],
        &["get", "-Hp", "guid"],
        &["get", "-Hp", "guid", disk, "tank/home"],
        &["get", "-Hp", "guid", "tank", disk],
        &["destroy", "-r", disk],
        &["destroy", "-R", "tank/data"],
        &["destroy", "tank/data"],
        &["destroy", "tank"],
        &["destroy", "tank/data/vm-999-disk-0"],
        &["destroy", "tank/data/vm-2000-disk-0"],
        &["destroy", "tank/data/vm-1000-cloudinit"],
        &["destroy", "tank/data/base-1000-disk-0"],
        &["destroy", "tank/data/vm-1000-disk-0/x"],
        &["destroy", "tank/database/vm-1000-disk-0"],
        &["destroy", "tank/images/debian"],
        &["destroy", "tank/images/debian@v1"],
        &["destroy", "tank/data/vm-1000-disk-0@av-a%av-b"],
        &["destroy", "tank/data/vm-1000-disk-0@av-a,av-b"],
        &["destroy", "tank/data/vm-1000-disk-0@autosnap_1"],
        &["destroy", "tank/data/vm-1000-disk-0#mark"],
        &["destroy", "tank/data/../x/vm-1000-disk-0"],
        &["destroy", "/tank/data/vm-1000-disk-0"],
        &["destroy", "tank/data/vm-1000-disk-0", "tank/data/vm-1001-disk-0"],
        &["destroy", "--", disk],
        &["destroy", "tank/data/vm-1000-disk-0;reboot"],
        &["destroy", "tank/data/vm-1000-disk-0\n"],
        &["destroy", "tank/data/$(id)-disk-0"],
        &["destroy", "tank/data/vm-'1000'-disk-0"],
        &["destroy", "tank/data/vm- 1000-disk-0"],
        &["destroy", "tank/av/m-x-disk-0"],
        &["snapshot", "-r", "-o", "autovibe:checkpoint=C", &format!("{disk}@av-C")],
        &["snapshot", &format!("{disk}@av-C")],
        &["snapshot", "-o", "autovibe:checkpoint=C"],
        &["snapshot", "-o", "autovibe:checkpoint=C", "tank/data@av-C"],
        &["snapshot", "-o", "autovibe:checkpoint=C", &format!("{disk}@__replicate_1")],
        &["snapshot", "-o", "mountpoint=/etc", "-o", "autovibe:checkpoint=C", &format!("{disk}@av-C")],
        &["snapshot", "-o", "autovibe:checkpoint=a\nb", &format!("{disk}@av-C")],
        &["hold", "backup", &format!("{disk}@av-C")],
        &["release", "-r", "autovibe", "tank/data@av-C"],
        &["hold", "autovibe", "rpool/ROOT@x"],
        &["clone", "tank/images/debian@v1", disk],
        &["clone", "-o", "mountpoint=/root", "tank/images/debian@v1", disk],
        &["clone", "-o", "autovibe:machine=M", "rpool/ROOT@x", disk],
        &["clone", "-o", "autovibe:machine=M", "tank/images/debian@v1", "tank/images/x"],
        &["create", "-o", "mountpoint=none", "-o", "canmount=off", "tank/other"],
        &["create", "-o", "mountpoint=/etc/cron.d", "tank/av"],
        &["create", "-V", "1G", disk],
        &["rename", disk, "tank/images/x"],
        &["rename", "tank/images/debian", disk],
        &["rename", "-u", disk, disk],
        &["set", "mountpoint=/root", disk],
        &["set", "autovibe:machine=M", disk],
        &["set", "autovibe:machine=M", &format!("tank/av/m-{UID}-disk-0")],
        &["receive", disk],
        &["receive", "-o", "origin=rpool/ROOT@x", &format!("tank/av/c-{UID}-disk-0")],
        &["receive", "-o", "mountpoint=/etc", &format!("tank/av/c-{UID}-disk-0")],
        &["receive", "tank/av/c-x-disk-0"],
        &["set", "autovibe:checkpoint=C", &format!("tank/av/c-{UID}-disk-0")],
        &["set", &format!("autovibe:machine={UID}"), &format!("tank/av/c-{UID}-disk-0")],
        &["set", "autovibe:image=other", "tank/av/image-debian"],
        &["receive", "-F", &format!("tank/av/m-{UID}-disk-0")],
        &["send", "-R", &format!("{disk}@av-C")],
        &["send", "rpool/ROOT@x"],
        &["send", "-t", "$(reboot)"],
        &["get", "-Hp", "all", "rpool"],
        &["get", "-Hp", "-r", "-o", "value", "guid", "tank"],
        &["get", "-Hp", "-o", "name", "all", disk],
        &["list", "-Hp"],
        &["program", "tank", "/tmp/x.lua"],
        &["allow", "everyone", "destroy", "tank"],
        &["rollback", &format!("{disk}@av-C")],
        &["import", "512", "-o", "autovibe:image=a", "tank/av/../image-a"],
        &["import", "-1", "-o", "autovibe:image=a", "tank/av/image-a"],
    ];
    for words in bad {
        assert!(allow(words).is_err(), "{words:?}");
    }
}

#[test]
fn what_does_not_carry_our_mark_is_not_ours() {
    let marked = |mark: &str| Properties::from([(mark.to_owned(), "x".to_owned())]);
    let disk = Need::Disk("tank/data/vm-1000-disk-0".into());
    assert!(disk.check(&marked("autovibe:machine"), None, &limits()).is_ok());
    assert!(disk.check(&marked("autovibe:checkpoint"), None, &limits()).is_err());
    assert!(disk.check(&Properties::new(), None, &limits()).is_err());
    // A promote would take the snapshots of what it is a clone of.
    let promote = Need::Promotable("tank/data/vm-1000-disk-0".into());
    assert!(promote.check(&marked("autovibe:machine"), Some("tank/data/vm-1001-disk-0@av-C"), &limits()).is_ok());
    assert!(promote.check(&marked("autovibe:machine"), Some("tank/images/debian@v1"), &limits()).is_err());
}

#[tokio::test]
async fn a_higher_epoch_waits_for_the_lower_and_revokes_it_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let enter = |installation: &'static str, epoch: i64| {
        let state = state.clone();
        async move { Epochs { directory: &state }.enter(installation, epoch).await }
    };
    let first = enter("one", 5).await.unwrap();
    drop(enter("one", 5).await.unwrap());
    let second = tokio::spawn(enter("one", 6));
    // Another installation is another matter.
    drop(enter("two", 1).await.unwrap());
    assert!(!second.is_finished(), "it began while a command under the lower epoch ran");
    drop(first);
    drop(second.await.unwrap().unwrap());
    let refused = enter("one", 5).await.unwrap_err();
    assert!(refused.contains("epoch 5 was revoked") && refused.contains("epoch 6"), "{refused}");
    for (installation, epoch) in [("one", 0), ("one", -1), ("../x", 7), ("", 7), ("a/b", 7)] {
        assert!(enter(installation, epoch).await.is_err(), "{installation} {epoch}");
    }
    // Without knowing what was revoked nobody may act.
    std::fs::write(state.join("one.epoch"), "").unwrap();
    assert!(enter("one", 7).await.unwrap_err().contains("is no epoch"));
}
