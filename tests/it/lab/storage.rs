//! The zfs client against a pool: the lab's model, and this machine's own ZFS where one answers. One check, so that the
//! model is held to what ZFS does.

use super::World;
use crate::own_zfs::{destroy_pool, zpool};
use autovibe::zfs::{Dataset, Error, Properties, Runner, Snapshot, Zfs};
use std::path::Path;

fn at(dataset: &Dataset, name: &str) -> Snapshot {
    Snapshot { dataset: dataset.clone(), name: name.into() }
}

fn marks(key: &str, value: &str) -> Properties {
    Properties::from([(format!("autovibe:{key}"), value.to_owned())])
}

/// From an image to a fork, a kept disk and its end, as the hub does it. `root` has room for new datasets.
/// zfs-fuse calls a disk busy for a moment after its last use; whoever renames tries again, as controllers do.
async fn rename(zfs: &Zfs, from: &Dataset, to: &Dataset) {
    for _ in 0..50 {
        match zfs.rename(from, to).await {
            Err(Error::Busy(_)) => autovibe::clock::Clock::system().sleep(std::time::Duration::from_millis(100)).await,
            done => return done.unwrap(),
        }
    }
    panic!("{from} stayed busy");
}

async fn check(zfs: &Zfs, root: &str, image: &Path) {
    let dataset = |name: &str| Dataset(format!("{root}/{name}"));
    let (keep, disk, fork) = (dataset("keep"), dataset("vm-1-disk-0"), dataset("vm-2-disk-0"));
    zfs.create_parent(&keep).await.unwrap();
    zfs.create_parent(&keep).await.unwrap();
    let base = Dataset(format!("{keep}/image-a"));
    zfs.import_disk(image, &base, &marks("image", "a")).await.unwrap();
    zfs.snapshot(&[at(&base, "base")], &Properties::new()).await.unwrap();
    assert!(matches!(zfs.snapshot(&[at(&base, "base")], &Properties::new()).await, Err(Error::Exists(_))));
    zfs.clone_snapshot(&at(&base, "base"), &disk, &marks("machine", "M")).await.unwrap();
    assert!(matches!(zfs.clone_snapshot(&at(&base, "base"), &disk, &Properties::new()).await, Err(Error::Exists(_))));
    assert!(matches!(zfs.clone_snapshot(&at(&base, "none"), &fork, &Properties::new()).await, Err(Error::NotFound(_))));
    let info = zfs.dataset(&disk).await.unwrap().unwrap();
    assert_eq!((info.origin, info.properties), (Some(at(&base, "base")), marks("machine", "M")));
    assert_eq!(zfs.dataset(&fork).await.unwrap(), None);

    // A checkpoint: marked, held, and not destroyed while it is.
    let checkpoint = at(&disk, "av-C");
    zfs.snapshot(std::slice::from_ref(&checkpoint), &marks("checkpoint", "C")).await.unwrap();
    for _ in 0..2 {
        zfs.hold("autovibe", std::slice::from_ref(&checkpoint)).await.unwrap();
    }
    let seen = zfs.snapshot_info(&checkpoint).await.unwrap().unwrap();
    assert_eq!((seen.holds, seen.properties), (1, marks("checkpoint", "C")), "the disk's own mark is inherited and not shown");
    let refused = zfs.destroy_snapshot(&checkpoint).await;
    assert!(matches!(refused, Err(Error::Held(_))), "{refused:?}");
    assert!(matches!(zfs.destroy_dataset(&disk).await, Err(Error::HasChildren(_))));

    // A fork, and the disk put aside: snapshot, hold and fork follow its name.
    zfs.clone_snapshot(&checkpoint, &fork, &marks("machine", "F")).await.unwrap();
    let kept = Dataset(format!("{keep}/m-M-disk-0"));
    rename(zfs, &disk, &kept).await;
    assert!(matches!(zfs.rename(&disk, &kept).await, Err(Error::NotFound(_) | Error::Exists(_))));
    assert_eq!(zfs.snapshot_info(&at(&kept, "av-C")).await.unwrap().unwrap().guid, seen.guid);
    assert_eq!(zfs.dataset(&fork).await.unwrap().unwrap().origin, Some(at(&kept, "av-C")));
    for _ in 0..2 {
        zfs.release("autovibe", &[at(&kept, "av-C")]).await.unwrap();
    }
    assert!(matches!(zfs.destroy_snapshot(&at(&kept, "av-C")).await, Err(Error::HasClones(_))));

    // Promoted, the fork holds the snapshot, and the other is its clone.
    zfs.promote(&fork).await.unwrap();
    assert_eq!(zfs.snapshots(&fork).await.unwrap().iter().map(|s| s.guid.as_str()).collect::<Vec<_>>(), [seen.guid.as_str()]);
    assert_eq!(zfs.dataset(&kept).await.unwrap().unwrap().origin, Some(at(&fork, "av-C")));
    let below: Vec<String> = zfs.datasets(&keep).await.unwrap().into_iter().map(|info| info.name.0).collect();
    assert_eq!(below, [keep.0.clone(), base.0.clone(), kept.0.clone()]);
    zfs.destroy_dataset(&kept).await.unwrap();
    zfs.destroy_snapshot(&at(&fork, "av-C")).await.unwrap();
    let again = zfs.destroy_snapshot(&at(&fork, "av-C")).await;
    assert!(matches!(again, Err(Error::NotFound(_))), "{again:?}");
    zfs.destroy_dataset(&fork).await.unwrap();
    assert_eq!(zfs.dataset(&fork).await.unwrap(), None);
}

fn image(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("image.raw");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    path
}

#[tokio::test]
async fn the_model_pool_does_what_zfs_does() {
    let world = World::start().await;
    check(&world.zfs, "tank/data", &image(world.directory.path())).await;
    let (a, b) = (Dataset("tank/data/a".into()), Dataset("tank/data/b".into()));
    for name in [&a, &b] {
        world.zfs.create_parent(name).await.unwrap();
    }
    world.zfs.snapshot(&[at(&b, "s")], &Properties::new()).await.unwrap();
    assert!(world.zfs.snapshot(&[at(&a, "s"), at(&b, "s")], &Properties::new()).await.is_err());
    assert_eq!(world.zfs.snapshot_info(&at(&a, "s")).await.unwrap(), None, "several at once are all or none");
    // A disk in use is neither renamed nor destroyed.
    world.running(1000, "busy").await;
    let busy = world.zfs.rename(&world.volume(1000), &Dataset("tank/data/moved".into())).await;
    assert!(matches!(busy, Err(Error::Busy(_))), "{busy:?}");
}

#[tokio::test]
async fn this_machines_zfs_does_it_too() {
    if !zpool(&["list", "-H"]).is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED this_machines_zfs_does_it_too: no ZFS answers here");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (file, name) = (directory.path().join("pool"), format!("autovibetest{}", std::process::id()));
    std::fs::File::create(&file).unwrap().set_len(256 << 20).unwrap();
    let mountpoint = directory.path().join("mnt");
    let made = zpool(&["create", "-o", "cachefile=none", "-m", mountpoint.to_str().unwrap(), &name, file.to_str().unwrap()]).unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let tested = tokio::spawn({
        let (name, image) = (name.clone(), image(directory.path()));
        async move { check(&Zfs::open(Runner::Local).await.unwrap(), &name, &image).await }
    })
    .await;
    let gone = destroy_pool(&name);
    if gone.is_err() {
        // The pool is still there: ZFS hangs when its file goes.
        let kept = directory.keep();
        eprintln!("left {}", kept.display());
    }
    tested.unwrap();
    gone.unwrap();
}
