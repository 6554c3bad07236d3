//! Units read what users write and write what they read; each kind refuses what its schema cannot say.

#![expect(clippy::needless_pass_by_value, reason = "a table of cases reads better without borrows")]

use super::quantity::{Bytes, GoDuration, Millicores, NanoUsd};
use super::{Budget, Hub, Kind};
use serde_json::{Value, json};
use std::{fmt, str::FromStr, time::Duration};

/// Each text has this value, and the value's own text has it too.
fn reads<T: FromStr<Err: fmt::Debug> + fmt::Display + PartialEq + fmt::Debug + Copy>(cases: &[(&str, T)]) {
    for (text, value) in cases {
        let read: T = text.parse().unwrap_or_else(|e| panic!("{text}: {e:?}"));
        assert_eq!(read, *value, "{text}");
        assert_eq!(read.to_string().parse::<T>().unwrap(), *value, "{text} as {read}");
    }
}

/// None of the texts is accepted, and the refusal shows the text and what to write.
fn refuses<T: FromStr<Err: fmt::Display> + fmt::Debug>(texts: &[&str]) {
    for text in texts {
        let refusal = text.parse::<T>().map(|value| panic!("{text:?} was read as {value:?}")).unwrap_err().to_string();
        assert!(refusal.contains(&format!("`{text}`")) && refusal.contains("for example"), "{refusal}");
    }
}

#[test]
fn bytes_are_kubernetes_quantities() {
    let cases = [
        ("0", 0),
        ("1", 1),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 3 << 29),
        ("0.5Ki", 512),
        ("4Gi", 4 << 30),
        ("2Ti", 2 << 40),
        ("1500m", 2),
        ("18446744073709551615", u64::MAX),
        ("10662517.45Ti", 11_723_561_917_639_504_692),
    ];
    reads(&cases.map(|(text, bytes)| (text, Bytes(bytes))));
    refuses::<Bytes>(&["", "Gi", "4 Gi", "4gb", "-1", "1e3", "4GiB", "9999999999999999999Ti", "9999999999999999999.999999999Ti", "."]);
    assert_eq!([Bytes(4 << 30), Bytes(1536), Bytes(1000)].map(|b| b.to_string()), ["4Gi", "1536", "1000"]);
    assert_eq!(Bytes((1 << 20) + 1).mebibytes(), 2);
}

#[test]
fn cpu_is_in_thousandths_of_a_core() {
    reads(&[
        ("2", Millicores(2000)),
        ("500m", Millicores(500)),
        ("0.1", Millicores(100)),
        ("1.5", Millicores(1500)),
        ("0.0001", Millicores(1)),
    ]);
    refuses::<Millicores>(&["", "two", "1c", "-1"]);
    assert_eq!([0, 1, 1000, 1001].map(|m| Millicores(m).cores()), [1, 1, 1, 2]);
}

#[test]
fn money_is_exact_to_the_nano() {
    reads(&[("0", NanoUsd(0)), ("1.37", NanoUsd(1_370_000_000)), ("0.000000001", NanoUsd(1)), ("200", NanoUsd(200_000_000_000))]);
    refuses::<NanoUsd>(&["", "$5", "1,50", ".5", "-1", "0.0000000001", "1e3", "99999999999999999999"]);
    let shown = [1_370_000_000, 4_200_000, 0, 5_000_000_000, 999_999_999, -250_000_000].map(|n| NanoUsd(n).dollars());
    assert_eq!(shown, ["$1.37", "$0.0042", "$0.00", "$5.00", "$1.00", "-$0.25"]);
}

#[test]
fn durations_are_written_as_go_writes_them() {
    let seconds = |s: u64| GoDuration(Duration::from_secs(s));
    reads(&[
        ("0", seconds(0)),
        ("90s", seconds(90)),
        ("2h30m", seconds(9000)),
        ("1.5h", seconds(5400)),
        ("1h0m0.5s", GoDuration(Duration::from_millis(3_600_500))),
    ]);
    reads(&[("150ms", GoDuration(Duration::from_millis(150))), ("1m30s", seconds(90)), ("7ns", GoDuration(Duration::from_nanos(7)))]);
    refuses::<GoDuration>(&["", "soon", "10", "5 m", "1d", "-1s", "1h30", "h"]);
    assert_eq!([90, 9000, 5, 0].map(|s| seconds(s).to_string()), ["1m30s", "2h30m0s", "5s", "0s"]);
}

#[test]
fn units_survive_json_whatever_their_value() {
    // A walk over many magnitudes with odd remainders.
    let mut value: u64 = 1;
    for step in 1..60_u64 {
        value = value.wrapping_mul(3).wrapping_add(step) & (u64::MAX >> 4);
        through_json(Bytes(value));
        through_json(Millicores(value));
        through_json(NanoUsd(i64::try_from(value).unwrap()));
        through_json(GoDuration(Duration::from_nanos(value)));
    }
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + fmt::Debug>(value: T) {
    let text = serde_json::to_value(&value).unwrap();
    assert!(text.is_string());
    assert_eq!(serde_json::from_value::<T>(text.clone()).unwrap(), value, "{text}");
}

/// What is wrong with an object of this spec, as the user reads it.
fn check<K: Kind>(spec: Value, expected: &[&str]) {
    let object: K = serde_json::from_value(json!({ "metadata": { "name": "x" }, "spec": spec })).unwrap();
    let found: Vec<String> = object.validate().iter().map(ToString::to_string).collect();
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| found.contains(expected));
    assert!(fits, "{spec}\n found    {found:#?}\n expected {expected:#?}");
}

#[test]
fn hubs_name_datasets_and_endpoints_that_can_be() {
    let pve = |endpoint: &str, keep: &str| {
        json!({ "infrastructure": {
            "proxmox": { "endpoint": endpoint, "tokenSecretRef": { "name": "pve" }, "vmids": { "from": 200, "to": 299 } },
            "zfs": { "storage": "local-zfs", "dataset": "rpool/data", "keep": keep },
        }, "gateway": { "url": "http://10.0.0.1:8081" } })
    };
    check::<Hub>(json!({ "infrastructure": { "lab": {} } }), &[]);
    let mut several = pve("https://pve1:8006", "rpool/autovibe");
    several["infrastructure"]["nodes"] = json!([{ "name": "pve1" }, { "name": "pve 2" }]);
    check::<Hub>(several, &["spec.infrastructure.nodes[1].name: Invalid value: \"pve 2\": must be the name of a Proxmox node"]);
    check::<Hub>(pve("https://pve1:8006", "rpool/autovibe"), &[]);
    check::<Hub>(pve("http://pve1:8006", "rpool/autovibe"), &["spec.infrastructure.proxmox.endpoint"]);
    check::<Hub>(pve("https://pve1:8006", "tank/autovibe"), &["must be in the pool of `dataset`: rpool"]);
    check::<Hub>(pve("https://pve1:8006", "rpool/data/keep"), &["must be outside `dataset`"]);
    check::<Hub>(
        pve("https://pve1:8006", "rpool/a b"),
        &["spec.infrastructure.zfs.keep: Invalid value: \"rpool/a b\": must be the name of a dataset"],
    );
    let exports = |to: Value| {
        let mut hub = pve("https://pve1:8006", "rpool/autovibe");
        hub["infrastructure"]["exportTo"] = to;
        hub
    };
    check::<Hub>(exports(json!(["backup/av", "rpool/autovibe-exports"])), &[]);
    check::<Hub>(
        exports(json!(["rpool/data/x", "rpool", "rpool/autovibe", "backup/../x", "7/x"])),
        &[
            "exportTo[0]: Invalid value: \"rpool/data/x\": must be apart from spec.infrastructure.zfs.dataset",
            "exportTo[1]",
            "exportTo[2]: Invalid value: \"rpool/autovibe\": must be apart from spec.infrastructure.zfs.keep",
            "exportTo[3]: Invalid value: \"backup/../x\": must be the name of a dataset",
            "exportTo[4]",
        ],
    );
    let images = |names: &[&str]| {
        let images: Vec<Value> = names.iter().map(|name| json!({ "name": name, "file": "disk.raw" })).collect();
        json!({ "infrastructure": { "lab": {} }, "images": images })
    };
    check::<Hub>(images(&["micro", "debian-12.agents"]), &[]);
    check::<Hub>(images(&["a", "../b", ""]), &["spec.images[1].name: Invalid value", "spec.images[2].name"]);
}

#[test]
fn budgets_are_not_their_own_parents() {
    check::<Budget>(json!({ "parentRef": { "name": "y" } }), &[]);
    check::<Budget>(json!({ "parentRef": { "name": "x" } }), &["spec.parentRef.name"]);
}
