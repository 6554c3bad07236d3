//! Texts that are wrong in every way, and lines of fields.

use super::{json, line_of, yaml, yaml_stream};
use serde_json::json;

#[test]
fn duplicate_keys_are_named_by_path_and_the_last_one_counts() {
    let read = json(br#"{"spec": {"a": 1, "l": [{"x": 1}, {"y": 1, "y": 2, "y": 3}], "a": 2}, "spec2": null}"#).unwrap();
    assert_eq!(read.duplicates, ["spec.l[1].y", "spec.a"]);
    assert_eq!(read.value, json!({"spec": {"a": 2, "l": [{"x": 1}, {"y": 3}]}, "spec2": null}));
    assert_eq!(yaml(b"a: {b: 1, b: 2}\n").unwrap().duplicates, ["a.b"]);
}

#[test]
fn yaml_becomes_what_json_can_say() {
    for (text, value) in [
        ("a: no", json!({"a": "no"})),
        ("a: on", json!({"a": "on"})),
        ("a: true", json!({"a": true})),
        ("a: 010", json!({"a": "010"})),
        ("a: 0x10", json!({"a": 16})),
        ("a: 1e3", json!({"a": 1000.0})),
        ("a: ~", json!({"a": null})),
        ("1: {2: a}", json!({"1": {"2": "a"}})),
        ("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}})),
        ("base: &x {b: 1, c: 2}\na: {<<: *x, b: 3}", json!({"base": {"b": 1, "c": 2}, "a": {"b": 3, "c": 2}})),
        ("x: &x {a: 1}\ny: &y {a: 2, b: 2}\nz: {<<: [*x, *y]}", json!({"x": {"a": 1}, "y": {"a": 2, "b": 2}, "z": {"a": 1, "b": 2}})),
        ("\u{feff}a: 1", json!({"a": 1})),
        ("a: !!str 5", json!({"a": "5"})),
        ("a: |\n  b\n  c\n", json!({"a": "b\nc\n"})),
        ("", json!(null)),
    ] {
        assert_eq!(yaml(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}")).value, value, "{text}");
    }
}

#[test]
fn what_is_malformed_is_refused_with_its_place() {
    for (text, place) in [
        ("a: .nan", "a: NaN is no number that JSON has at line 1 column 4"),
        ("a:\n  b: [1, -.inf]", "a.b[1]: -inf is no number that JSON has at line 2 column 10"),
        (
            "a: 99999999999999999999999",
            "a: 99999999999999999999999 is too large a number; if it is a text, put it in quotes at line 1 column 4",
        ),
        ("a: !secret b", "a: invalid type: enum, expected a value that JSON has"),
        ("a: {b: 1", "line 2 column 1"),
        ("a:\n\tb: 1", "line 2 column 1"),
        ("a: *nowhere", "unknown anchor at line 1 column 4"),
        ("a: {<<: 5}", "a merge key (<<) takes a mapping"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("? [a, b]\n: 1", "invalid type: sequence"),
        ("a: b: c", "line 1 column 5"),
        ("%YAML 9.9\n---\na: 1", "incompatible YAML document"),
        ("a: 'x", "a: found unexpected end of stream at line 1 column 6"),
        ("a: \"\\q\"", "line 1 column"),
        ("a: 1\n@b: 1", "line 2 column 1"),
    ] {
        let error = yaml(text.as_bytes()).map(|read| panic!("{text:?} was read as {}", read.value)).unwrap_err().to_string();
        assert!(error.contains(place), "{text:?}: {error}");
    }
    for (text, place) in [
        ("{", "line 1 column 1"),
        ("{\"a\": NaN}", "a: expected value at line 1 column 7"),
        ("{\"a\": {\"b\": 1e999}}", "a.b: number out of range at line 1 column"),
        ("{\"a\": 1} x", "trailing characters at line 1 column 10"),
        ("\u{feff}{}", "expected value at line 1 column 1"),
        ("{\"a\": 01}", "a: invalid number at line 1 column 8"),
        ("{'a': 1}", "key must be a string at line 1 column 2"),
        ("{\"a\": [1,]}", "a[1]: trailing comma at line 1 column 10"),
        ("{\"a\": \"\\ud800\"}", "a: unexpected end of hex escape"),
        ("", "EOF while parsing a value at line 1 column 0"),
    ] {
        let error = json(text.as_bytes()).map(|read| panic!("{text:?} was read as {}", read.value)).unwrap_err().to_string();
        assert!(error.contains(place), "{text:?}: {error}");
    }
    let utf16: Vec<u8> = "{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(json(&utf16).is_err());
    assert!(json(b"{\"a\": \"\xff\"}").unwrap_err().to_string().contains("a: invalid unicode"));
    assert!(json("[".repeat(100_000).as_bytes()).unwrap_err().to_string().contains("recursion limit"));
    assert!(yaml("[".repeat(10_000).as_bytes()).is_err());
}

#[test]
fn a_few_lines_cannot_stand_for_gigabytes() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for n in 1..12 {
        let before = vec![format!("*a{}", n - 1); 9].join(", ");
        laughs.push_str(&format!("a{n}: &a{n} [{before}]\n"));
    }
    let one_big = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100_000].join(", "));
    for text in [laughs, one_big] {
        let error = yaml(text.as_bytes()).unwrap_err().to_string();
        assert!(
            ["unfolds to more than 3 MiB", "more than 100000 values", "repetition limit"].iter().any(|why| error.contains(why)),
            "{error}"
        );
    }
    // Nor are a long path and many duplicates spelled out again and again.
    let pairs: Vec<String> = (0..40_000).map(|n| format!("\"k{n}\":1,\"k{n}\":1")).collect();
    let text = format!("{{\"{}\": {{{}}}}}", "p".repeat(1 << 20), pairs.join(","));
    assert_eq!(json(text.as_bytes()).unwrap().duplicates.len(), 100);
}

#[test]
fn a_stream_ends_with_what_is_malformed() {
    let read = yaml_stream("a: 1\n---\n---\nb: [\n---\nc: 1\n");
    assert_eq!(read.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
    assert!(read[2].as_ref().unwrap_err().to_string().contains("line 5"), "{:?}", read[2]);
}

#[test]
fn fields_are_found_by_line() {
    let text = "a: 1\n---\nmetadata: {name: x}\nspec:\n  images:\n  - name: a\n    file: f\n  - {name: b}\n  env:\n    KEY: v\n";
    for (path, line) in [
        ("metadata.name", 3),
        ("spec", 4),
        ("spec.images", 5),
        ("spec.images[0].file", 7),
        ("spec.images[1]", 8),
        ("spec.images[1].name", 8),
        ("spec.env[KEY]", 10),
        // What is missing is looked for where it would be.
        ("spec.images[1].file", 8),
        ("spec.goal.prompt", 4),
    ] {
        assert_eq!(line_of(text, 1, path), Some(line), "{path}");
    }
    assert_eq!(line_of(text, 1, "status.phase"), Some(3), "the document's own");
    assert_eq!(line_of(text, 0, "a"), Some(1));
    let marked = format!("{}{text}", '\u{feff}');
    assert_eq!((yaml_stream(&marked).len(), line_of(&marked, 1, "spec")), (2, Some(4)));
}
