//! Names that may reach `zfs`, and its texts read into what a caller acts on.

use super::{Dataset, Error, Properties, Runner, Snapshot, Zfs, disk, listing, name, turn};
use crate::clock::Retry;
use std::{io::Read, os::unix::net::UnixListener};

fn variant(text: &str) -> String {
    format!("{:?}", Error::from_text("x", text)).split('(').next().unwrap_or_default().to_owned()
}

#[test]
fn texts_are_told_apart() {
    for (text, expected) in [
        ("cannot create snapshot 'tank/a@b': dataset already exists\nno snapshots were created", "Exists"),
        ("cannot open 'tank/a': dataset does not exist", "NotFound"),
        ("could not find any snapshots to destroy; check snapshot names.", "NotFound"),
        ("cannot destroy 'tank/a': volume has children\nuse '-r' to destroy the following datasets:\ntank/a@b", "HasChildren"),
        ("cannot destroy 'tank/a@b': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\ntank/c", "HasClones"),
        ("cannot destroy snapshot tank/a@b: snapshot is cloned", "HasClones"),
        ("cannot destroy snapshot tank/a@b: it's being held. Run 'zfs holds -r tank/a@b' to see holders.", "Held"),
        ("cannot destroy 'tank/a': dataset is busy", "Busy"),
        ("cannot create 'tank/a': out of space", "OutOfSpace"),
        ("The ZFS modules are not loaded.\nTry running '/sbin/modprobe zfs' as root to load them.", "Unavailable"),
        ("cannot open 'tank': pool I/O is currently suspended", "Unknown"),
        ("internal error: Function not implemented", "Other"),
    ] {
        assert_eq!(variant(text), expected, "{text}");
    }
    assert_eq!(Error::BadName(String::new()).retry(), Retry::Never);
}

#[test]
fn only_legal_names_reach_zfs() {
    let legal = |text: &str| name::dataset(&Dataset(text.into())).is_ok();
    for good in ["tank", "tank/data/vm-100-disk-0", "tank/a b", "tank/a:b_c.d"] {
        assert!(legal(good), "{good}");
    }
    for bad in [
        "",
        "-r",
        "tank/-r",
        "tank/",
        "/tank",
        "tank//a",
        "tank/../x",
        "tank/a@b",
        "tank/a\nb",
        "tank/a;rm",
        "tank/'a'",
        "tank/a%b",
        "tank/ü",
        "1tank",
        &"a".repeat(256),
    ] {
        assert!(!legal(bad), "{bad}");
    }
    let snapshot = |text: &str| name::snapshot(&Snapshot { dataset: Dataset("tank/a".into()), name: text.into() }).is_ok();
    assert!(snapshot("av-1"));
    for bad in ["", "a@b", "a,b", "a%b", "-x", "a/b", "a\tb"] {
        assert!(!snapshot(bad), "{bad}");
    }
    let property = |name: &str, value: &str| name::options(&Properties::from([(name.into(), value.into())])).is_ok();
    assert!(property("autovibe:machine", "x=y; $(z) '"));
    assert!(
        !property("mountpoint", "/")
            && !property("autovibe:m", "a\tb")
            && !property("Autovibe:m", "a")
            && !property("a:b", &"v".repeat(8192))
    );
}

#[test]
fn a_listing_keeps_only_what_is_set_on_the_dataset_itself() {
    let text = "tank/a\ttype\tvolume\t-\ntank/a\tguid\t123\t-\ntank/a\torigin\ttank/b@c\t-\n\
                tank/a\tautovibe:machine\tU\tlocal\ntank/a\tautovibe:other\tV\tinherited from tank\ntank/a\tfoo:bar\tW\tlocal\n";
    let info = listing::read(text).expect("a listing").remove("tank/a").expect("listed").into_dataset("tank/a").expect("whole");
    assert_eq!((info.guid.as_str(), info.origin.map(|o| o.to_string()).as_deref()), ("123", Some("tank/b@c")));
    assert_eq!(info.properties, Properties::from([("autovibe:machine".into(), "U".into())]));
}

#[test]
fn garbage_is_not_an_empty_list() {
    for text in ["what?\n", "tank/a\tguid\n", "\u{0}\u{1}\n"] {
        assert!(matches!(listing::read(text), Err(Error::Unknown(_))), "{text}");
    }
    let held_unknown =
        listing::read("tank/a@b\tguid\t1\t-\n").expect("a listing").remove("tank/a@b").expect("listed").into_snapshot("tank/a@b");
    assert!(matches!(held_unknown, Err(Error::Unknown(_))), "a snapshot whose holds were not shown is not free");
}

#[test]
fn an_image_is_copied_without_its_holes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("a"), dir.path().join("b"));
    let mut image = vec![0; 3 << 20];
    image[(2 << 20) + 5] = 7;
    std::fs::write(&from, &image).expect("written");
    disk::copy_sparse(std::fs::File::open(&from).expect("there"), &to, true).expect("copied");
    assert_eq!(std::fs::read(&to).expect("read"), image);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&to).expect("there"));
    assert!(blocks * 512 < 3 << 20, "{blocks} blocks");
}

/// A helper that answers each connection with the next of these texts.
fn helper(answers: Vec<String>) -> (tempfile::TempDir, Runner) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).expect("bound");
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
        }
    });
    (dir, Runner::Socket(path))
}

#[tokio::test]
async fn success_with_a_complaint_and_no_answer_are_unknown() {
    let ok = r#"{"status":0,"stdout":"tank\n","stderr":""}"#;
    let loud = r#"{"status":0,"stdout":"","stderr":"warning: something"}"#;
    let (_dir, runner) = helper(vec![ok.into(), loud.into(), "not json".into(), String::new()]);
    let zfs = Zfs::open(runner).await.expect("probed");
    let snapshot = Snapshot { dataset: Dataset("tank/a".into()), name: "s".into() };
    for _ in 0..3 {
        let result = zfs.snapshot(std::slice::from_ref(&snapshot), &Properties::new()).await;
        assert!(matches!(result, Err(Error::Unknown(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_missing_helper_has_done_nothing() {
    let result = Zfs::open(Runner::Socket("/nonexistent/socket".into())).await;
    assert!(matches!(result, Err(Error::Unavailable(_))), "{:?}", result.err());
}

#[tokio::test]
async fn a_pool_that_is_not_there_hides_its_datasets_but_does_not_deny_them() {
    let absent = r#"{"status":1,"stdout":"","stderr":"cannot open 'tank/a': dataset does not exist\n"}"#;
    let (_dir, runner) = helper(vec![r#"{"status":0,"stdout":"","stderr":""}"#.into(), absent.into(), absent.into()]);
    let zfs = Zfs::open(runner).await.expect("probed");
    let result = zfs.dataset(&Dataset("tank/a".into())).await;
    assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
}

/// Turns hold between processes: each opens the file for itself, as here.
#[tokio::test]
async fn what_mounts_waits_for_all_others_and_they_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let turn = |alone| turn::wait(dir.path().join("lock"), alone);
    let soon = async |alone| tokio::time::timeout(std::time::Duration::from_millis(100), turn(alone)).await.ok().flatten();
    let (one, two) = (turn(false).await.unwrap(), turn(false).await.unwrap());
    assert!(soon(true).await.is_none(), "it runs alone");
    drop((one, two));
    // The one that was given up still waits in its thread, and lets go at once when its turn has come.
    let alone = turn(true).await.unwrap();
    assert!(soon(false).await.is_none() && soon(true).await.is_none(), "nothing runs beside it");
    drop(alone);
    assert!(turn(false).await.is_some());
}
