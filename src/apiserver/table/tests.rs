//! Durations and cells.

use super::*;

#[test]
fn durations_read_as_kubectl_prints_them() {
    for (seconds, expect) in [
        (-10, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (1, "1s"),
        (119, "119s"),
        (120, "2m"),
        (338, "5m38s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (12_000, "3h20m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (691_200, "8d"),
        (63_072_000, "2y"),
        (63_158_400, "2y1d"),
        (252_288_000, "8y"),
    ] {
        assert_eq!(human(seconds), expect, "{seconds}");
    }
}

#[test]
fn declared_cells_follow_the_type_of_their_column() {
    let now = Timestamp::from_second(1_000).unwrap();
    let check = |r#type: &str, value: Value, expect: Value| assert_eq!(declared(r#type, &value, now), expect, "{type} {value}");
    check("string", json!("x"), json!("x"));
    check("string", json!(3), json!("3"));
    check("string", Value::Null, json!("<no value>"));
    check("integer", json!(3.7), json!(3));
    check("integer", json!("x"), Value::Null);
    check("boolean", json!(true), json!(true));
    check("date", json!("1970-01-01T00:00:00Z"), json!("16m"));
    check("date", json!("yesterday"), json!("<invalid>"));
}
