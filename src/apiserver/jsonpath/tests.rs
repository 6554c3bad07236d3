//! The dialect on one object.

use super::*;
use serde_json::json;

#[test]
fn paths_of_printer_columns_find_their_values() {
    let object = json!({
        "metadata": {"name": "m", "annotations": {"a.b/c": "x"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}], "n": [1, 2, 3], "none": null},
    });
    for (path, expect) in [
        (".metadata.name", Some(json!("m"))),
        ("{.metadata.name}", Some(json!("m"))),
        (".metadata.annotations['a.b/c']", Some(json!("x"))),
        (".status.conditions[?(@.type==\"Ready\")].status", Some(json!("True"))),
        (".status.conditions[?(@.type=='Other')].status", Some(json!("False"))),
        (".status.conditions[?(@.type!=\"Ready\")].status", Some(json!("False"))),
        (".status.conditions[?(@.type==\"Gone\")].status", None),
        (".status.conditions[*].type", Some(json!("Ready"))),
        (".status.n[0]", Some(json!(1))),
        (".status.n[-1]", Some(json!(3))),
        (".status.n[7]", None),
        (".status.missing.deep", None),
        (".status.none", Some(json!(null))),
    ] {
        assert_eq!(Path::parse(path).unwrap().first(&object).cloned(), expect, "{path}");
    }
}

#[test]
fn what_is_outside_the_dialect_is_not_read_as_something_else() {
    for path in [".a..b", ".a[", ".a[?(@.x>1)]", ".a[b]", "."] {
        assert_eq!(Path::parse(path), None, "{path}");
    }
}

#[test]
fn every_declared_column_is_in_the_dialect() {
    for resource in crate::admission::resources() {
        for column in resource.columns {
            assert!(Path::parse(column.json_path).is_some(), "{}: {}", resource.name(), column.json_path);
        }
    }
}
