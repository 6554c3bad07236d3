//! `autovibe bench`: what it counts is within its targets. Times are not tested: they are the machine's.

use serde_json::Value;
use std::process::{Command, Stdio};

/// Runs a bench as people do; its report.
fn bench(arguments: &[&str]) -> Value {
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("bench").args(arguments).arg("--data").arg(data.path()).args(["-o", "json"]);
    let output = command.env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "bench {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let left: Vec<_> = std::fs::read_dir(data.path()).unwrap().collect();
    assert!(left.is_empty(), "it left {left:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The figure whose name begins so: its value and its baseline.
fn figure(report: &Value, name: &str) -> (f64, Option<f64>) {
    let figures = report["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"].as_str().unwrap().starts_with(name));
    let found = found.unwrap_or_else(|| panic!("there is no figure `{name}` in {report:#}"));
    (found["value"].as_f64().unwrap(), found["baseline"]["value"].as_f64())
}

#[test]
fn a_life_takes_at_most_twelve_proxmox_calls() {
    for (arguments, most) in [(["life", "--lives", "2"].as_slice(), 10.0), (&["life", "--lives", "2", "--firewall"], 12.0)] {
        let report = bench(arguments);
        let (calls, _) = figure(&report, "calls per life");
        // One look at each of its two tasks, and more only where this machine is so busy that they are not done by then.
        let (looks, _) = figure(&report, "  TaskStatus");
        assert!((5.0..=most).contains(&(calls - looks + looks.min(2.0))), "{report:#}");
        for kind in ["Create", "Start", "Shutdown", "Delete"] {
            assert_eq!(figure(&report, &format!("  {kind}")), (1.0, None), "{report:#}");
        }
        if most > 10.0 {
            assert_eq!(figure(&report, "  Firewall"), (2.0, None), "{report:#}");
        }
        assert!(figure(&report, "agent/*").0 > 0.0);
    }
}

#[test]
fn idle_machines_write_nothing_and_ask_proxmox_no_more_when_they_are_many() {
    let report = bench(&["idle", "--machines", "24", "--few", "3", "--window", "6", "--resync", "1"]);
    assert_eq!(figure(&report, "store writes with 24"), (0.0, Some(0.0)), "{report:#}");
    for figure in report["figures"].as_array().unwrap() {
        assert_eq!(figure["met"], true, "{report:#}");
    }
    // The hub was alive: it looked at its own infrastructure all the while.
    assert!(figure(&report, "Proxmox calls with 24").0 > 0.0, "{report:#}");
}

#[test]
fn many_machines_are_measured_against_the_labs_own_floor_and_write_nothing_at_rest() {
    let report = bench(&["scale", "--machines", "30", "--window", "5"]);
    let (rate, floor) = figure(&report, "machines spawned a second");
    assert!(rate > 0.0 && floor.is_some_and(|floor| floor > 0.0), "{report:#}");
    let (calls, _) = figure(&report, "  Proxmox calls and zfs commands of a spawn");
    assert!((10.0..30.0).contains(&calls), "{report:#}");
    assert_eq!(figure(&report, "store writes with 30 idle machines"), (0.0, None), "{report:#}");
    assert!(figure(&report, "a new machine runs").0 > 0.0);
}

/// Whether a program is found.
fn is_installed(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status().unwrap().success()
}

#[test]
fn the_api_bench_measures_each_store_beside_etcd_and_hides_no_target() {
    let report = bench(&["api", "--objects", "150", "--writes", "5", "--watchers", "20", "--rounds", "1"]);
    let postgres = is_installed("pg_ctlcluster") || is_installed("initdb");
    for store in ["SQLite", "PostgreSQL"].into_iter().take(if postgres { 2 } else { 1 }) {
        assert_eq!(figure(&report, &format!("{store}: creates that failed")), (0.0, None), "{report:#}");
        let of = |name: &str| figure(&report, &format!("{store}: {name}"));
        for name in ["patch → own watch event, p50", "creates, 64 connections", "list of 150, p50", "events to 20 watchers"] {
            let (value, etcd) = of(name);
            assert!(value > 0.0, "{name}: {report:#}");
            assert_eq!(etcd.is_some_and(|etcd| etcd > 0.0), is_installed("etcd"), "{name}: {report:#}");
        }
        assert!(of("Table of 150, p50").0 > 0.0 && of("memory (RSS) at rest").0 > 0.0);
    }
    let figures = report["figures"].as_array().unwrap();
    let targets = figures.iter().filter(|figure| figure.get("target").is_some());
    let per_store = 8;
    assert_eq!(targets.clone().count(), if postgres { 2 * per_store } else { per_store }, "{report:#}");
    for figure in targets {
        assert!(figure["met"].is_boolean() || (figure["met"].is_null() && !is_installed("etcd")), "{figure:#}");
    }
    let notes = report["notes"].as_array().unwrap();
    let skipped = |what: &str| notes.iter().any(|note| note.as_str().unwrap().starts_with(&format!("SKIPPED: {what}")));
    assert_eq!((skipped("etcd"), skipped("PostgreSQL")), (!is_installed("etcd"), !postgres));
}

#[test]
fn the_gateway_bench_measures_each_kind_of_call_and_hides_no_target() {
    let report = bench(&["gateway", "--calls", "1", "--crowd", "3", "--paced", "4", "--peers", "/nonexistent"]);
    for size in ["1.6 KB", "80 KB"] {
        for how in ["whole", "stream"] {
            let (through, direct) = figure(&report, &format!("{size}, {how}, 1 at once: p50"));
            assert!(through > 0.0 && direct.is_some_and(|direct| direct > 0.0), "{report:#}");
            assert!(figure(&report, &format!("{size}, {how}, 3 at once: calls")).0 > 0.0, "{report:#}");
        }
    }
    let (first, direct) = figure(&report, "1.6 KB, paced stream, 4 at once: first byte p50");
    assert!(first > 0.0 && direct.is_some_and(|direct| direct > 0.0), "{report:#}");
    assert!(figure(&report, "hub's memory (RSS) after all calls").0 > 0.0);
    // Beside no other gateway nothing of what is compared with one is met or missed, and it is said which are not there.
    let figures = report["figures"].as_array().unwrap();
    let (alone, compared): (Vec<&Value>, Vec<&Value>) = figures
        .iter()
        .filter(|figure| figure.get("target").is_some())
        .partition(|figure| figure["name"].as_str().unwrap().starts_with("hub's memory"));
    assert_eq!((alone.len(), compared.len()), (1, 13), "{report:#}");
    assert!(alone[0]["met"].is_boolean() && compared.iter().all(|figure| figure["met"].is_null()), "{report:#}");
    let notes = report["notes"].to_string();
    assert!(["nginx", "LiteLLM", "Portkey"].iter().all(|peer| notes.contains(&format!("{peer} is not in /nonexistent"))), "{notes}");
}

#[test]
fn what_is_done_with_checkpoints_asks_real_zfs_the_same_however_many_there_are() {
    if let Some(lacking) = crate::real::lacking() {
        eprintln!("SKIPPED: what_is_done_with_checkpoints_asks_real_zfs_the_same_however_many_there_are: {lacking}");
        return;
    }
    let report = bench(&["storage", "--checkpoints", "160", "--machines", "3", "--rounds", "2"]);
    for verb in [
        "checkpoint",
        "lookup",
        "fork",
        "delete",
        "delete, its Machine ended",
        "lookup, many disks",
        "fork, many disks",
        "delete, many disks",
    ] {
        let (time, plain) = figure(&report, verb);
        assert!(time > 0.0 && plain.is_some_and(|plain| plain > 0.0), "{verb}: {report:#}");
        let figures = report["figures"].as_array().unwrap();
        let slope = figures.iter().find(|figure| figure["name"].as_str().unwrap().starts_with(&format!("  {verb}: slope")));
        assert!(slope.is_some_and(|figure| figure["met"].is_boolean()), "{verb}: {report:#}");
    }
    let counted = |what: &str| -> Vec<(f64, f64)> {
        let all = report["figures"].as_array().unwrap().iter().filter(|figure| figure["name"].as_str().unwrap().contains(what));
        all.map(|figure| (figure["value"].as_f64().unwrap(), figure["baseline"]["value"].as_f64().unwrap())).collect()
    };
    let commands = counted(": zfs commands, of");
    assert!(commands.len() == 9 && commands.iter().all(|(many, few)| (many - few).abs() < 0.5 && *few > 0.0), "{report:#}");
    // Numbers in it have a digit more or less.
    let bytes = counted("bytes that they print");
    assert!(bytes.len() == 9 && bytes.iter().all(|(many, few)| *many < few * 1.1 + 20.0), "{report:#}");
    let (all, one) = figure(&report, "3 checkpoints due together");
    assert!(all > 0.0 && one.is_some_and(|one| one > 0.0), "{report:#}");
    let pool = report["notes"][0].as_str().unwrap().split([' ', ',']).find(|word| word.starts_with("autovibe-")).unwrap();
    let pools = crate::own_zfs::zpool(&["list", "-H", "-o", "name"]).unwrap();
    assert!(!String::from_utf8_lossy(&pools.stdout).contains(pool), "{pool} is still there");
}

#[test]
fn benches_are_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_autovibe")).arg("bench").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for name in ["checkpoint", "watch", "life", "idle", "storage", "gateway", "api"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("autovibe bench {name} "))), "{text}");
    }
}
