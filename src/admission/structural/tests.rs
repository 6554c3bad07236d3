//! The words of a schema one by one, with upstream's texts.

use super::super::cel::Rules;
use super::{default, prune, validate};
use serde_json::{Value, json};

/// What is wrong with a value of field `f`.
fn errors(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
    let schema = json!({ "type": "object", "properties": { "f": schema } });
    let object = |value: Value| json!({ "f": value });
    let (value, old) = (object(value), old.map(object));
    let mut errors = validate(&schema, &value, old.as_ref(), "");
    if errors.is_empty() {
        let rules = Rules::of(&schema);
        assert_eq!(rules.broken(), Vec::<String>::new());
        errors = rules.validate(&value, old.as_ref(), "");
    }
    errors.iter().map(|error| format!("{} {error}", error.reason())).collect()
}

/// One schema: values that fit, and values that do not with their complaint (reason, field, text).
fn check(schema: Value, good: &[Value], bad: &[(Value, &str)]) {
    for value in good {
        assert_eq!(errors(schema.clone(), value.clone(), None), Vec::<String>::new(), "{schema} {value}");
    }
    for (value, text) in bad {
        assert_eq!(errors(schema.clone(), value.clone(), None), [*text], "{schema} {value}");
    }
}

#[test]
fn types_and_null() {
    let text = json!({ "type": "string" });
    let null = "FieldValueTypeInvalid f: Invalid value: \"null\": f in body must be of type string: \"null\"";
    check(text, &[json!("")], &[(Value::Null, null)]);
    check(json!({ "type": "string", "nullable": true }), &[Value::Null, json!("a")], &[]);
    let port = json!({ "x-kubernetes-int-or-string": true });
    let list = "FieldValueTypeInvalid f: Invalid value: \"array\": f in body must be of type integer,string: \"array\"";
    check(port, &[json!(80), json!("http")], &[(json!([]), list)]);
    let number = "FieldValueTypeInvalid f: Invalid value: \"number\": f in body must be of type integer: \"number\"";
    check(json!({ "type": "integer" }), &[json!(-1), json!(u64::MAX)], &[(json!(1.5), number), (json!(1e30), number)]);
    let choice = "FieldValueNotSupported f: Unsupported value: 3: supported values: \"1\", \"2\"";
    check(json!({ "type": "integer", "enum": [1, 2] }), &[json!(1)], &[(json!(3), choice)]);
}

#[test]
fn bounds() {
    let least = "FieldValueInvalid f: Invalid value: 0: f in body should be greater than or equal to 1";
    let most = "FieldValueInvalid f: Invalid value: 6: f in body should be less than or equal to 5";
    check(json!({ "type": "integer", "minimum": 1.0, "maximum": 5 }), &[json!(1), json!(5)], &[(json!(0), least), (json!(6), most)]);
    let least = "FieldValueInvalid f: Invalid value: 1: f in body should be greater than 1";
    let most = "FieldValueInvalid f: Invalid value: 5: f in body should be less than 5";
    let open = json!({ "type": "number", "minimum": 1, "exclusiveMinimum": true, "maximum": 5, "exclusiveMaximum": true });
    check(open, &[json!(1.1), json!(4.9)], &[(json!(1), least), (json!(5), most)]);
    let unit = "FieldValueInvalid f: Invalid value: 7: f in body should be a multiple of 5";
    check(json!({ "type": "integer", "multipleOf": 5 }), &[json!(0), json!(-10)], &[(json!(7), unit)]);
    let text = json!({ "type": "string", "minLength": 2, "maxLength": 3, "pattern": "^[a-zä]+$" });
    check(
        text,
        &[json!("ab"), json!("ääh")],
        &[
            (json!("a"), "FieldValueInvalid f: Invalid value: \"a\": f in body should be at least 2 chars long"),
            (json!("abcd"), "FieldValueTooLong f: Too long: may not be more than 3 bytes"),
            (json!("A1"), "FieldValueInvalid f: Invalid value: \"A1\": f in body should match '^[a-zä]+$'"),
        ],
    );
    check(
        json!({ "type": "array", "minItems": 1, "maxItems": 2, "items": { "type": "integer" } }),
        &[json!([1]), json!([1, 1])],
        &[
            (json!([]), "FieldValueInvalid f: Invalid value: []: f in body should have at least 1 items"),
            (json!([1, 2, 3]), "FieldValueTooMany f: Too many: 3: must have at most 2 items"),
        ],
    );
    check(
        json!({ "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": { "type": "integer" } }),
        &[json!({ "a": 1 })],
        &[
            (json!({}), "FieldValueInvalid f: Invalid value: {}: f in body should have at least 1 properties"),
            (json!({ "a": 1, "b": 2 }), "FieldValueTooMany f: Too many: 2: must have at most 1 items"),
            (json!({ "a": "x" }), "FieldValueTypeInvalid f.a: Invalid value: \"string\": f.a in body must be of type integer: \"string\""),
        ],
    );
}

#[test]
fn formats() {
    for (format, good, bad) in [
        ("date-time", "2026-01-02T03:04:05Z", "yesterday"),
        ("date", "2026-01-02", "2026-13-02"),
        ("duration", "1h30m", "soon"),
        ("byte", "eA==", "?"),
        ("ipv4", "10.0.0.1", "::1"),
        ("ipv6", "::1", "10.0.0.1"),
        ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
        ("mac", "00:00:5e:00:53:01", "00:00:5e"),
        ("uri", "https://a.example/b", "a b"),
        ("uuid", "6f0e3f8c-7a3f-4a7c-9a59-2f7a30c1a0b5", "6f0e"),
        ("hostname", "a-1.example", "-a"),
        ("email", "a@b.example", "a.b.example"),
    ] {
        let text = format!("FieldValueTypeInvalid f: Invalid value: \"{bad}\": f in body must be of type {format}: \"{bad}\"");
        check(json!({ "type": "string", "format": format }), &[json!(good)], &[(json!(bad), text.as_str())]);
    }
    check(json!({ "type": "string", "format": "of-no-one" }), &[json!("anything")], &[]);
}

#[test]
fn lists_that_are_sets_and_maps() {
    let set = json!({ "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } });
    check(set, &[json!(["a", "b"])], &[(json!(["a", "a"]), "FieldValueDuplicate f[1]: Duplicate value: \"a\"")]);
    let item = json!({ "type": "object", "properties": { "name": { "type": "string" }, "n": { "type": "integer", "maximum": 5 } } });
    let map = json!({ "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": item });
    let twice = "FieldValueDuplicate f[1]: Duplicate value: {\"name\":\"a\"}";
    check(map.clone(), &[json!([{ "name": "a" }, { "name": "b" }])], &[(json!([{ "name": "a", "n": 1 }, { "name": "a" }]), twice)]);
    // An old item is found by its key, wherever it stands now.
    let old = json!([{ "name": "old", "n": 9 }]);
    assert_eq!(errors(map.clone(), json!([{ "name": "new", "n": 1 }, { "name": "old", "n": 9 }]), Some(old.clone())), Vec::<String>::new());
    assert_eq!(errors(map, json!([{ "name": "new", "n": 9 }]), Some(old)).len(), 1);
}

#[test]
fn what_was_wrong_before_is_forgiven_and_what_is_new_is_not() {
    let number = json!({ "type": "integer", "minimum": 5 });
    let schema = json!({ "type": "object", "required": ["c"], "properties": { "a": number, "b": number } });
    let old = json!({ "a": 1, "b": 7 });
    let refused = |new: Value| errors(schema.clone(), new, Some(old.clone()));
    assert_eq!(refused(old.clone()), Vec::<String>::new(), "also what is missing");
    assert_eq!(refused(json!({ "a": 1, "b": 8, "c": 1 })), Vec::<String>::new());
    let below = "FieldValueInvalid f.b: Invalid value: 2: f.b in body should be greater than or equal to 5";
    assert_eq!(refused(json!({ "a": 1, "b": 2, "c": 1 })), [below]);
    // A rule is forgiven where its whole node is as before.
    let rule = json!({ "rule": "self.a + self.b > 10" });
    let ruled = json!({ "type": "object", "properties": { "inner": { "type": "object", "x-kubernetes-validations": [rule], "properties": { "a": { "type": "integer" }, "b": { "type": "integer" } } }, "other": { "type": "integer" } } });
    let before = json!({ "inner": { "a": 1, "b": 1 }, "other": 1 });
    assert_eq!(errors(ruled.clone(), json!({ "inner": { "a": 1, "b": 1 }, "other": 2 }), Some(before.clone())), Vec::<String>::new());
    assert_eq!(
        errors(ruled, json!({ "inner": { "a": 1, "b": 2 }, "other": 1 }), Some(before)),
        ["FieldValueInvalid f.inner: Invalid value: failed rule: self.a + self.b > 10"]
    );
}

#[test]
fn rules_say_their_own_message_reason_and_field() {
    let number = json!({ "type": "integer" });
    let ruled = |rules: Value| json!({ "type": "object", "x-kubernetes-validations": rules, "properties": { "a": number, "b": number } });
    let schema = ruled(json!([{ "rule": "self.a < self.b", "messageExpression": "'a is ' + string(self.a)", "message": "unused" }]));
    check(schema, &[json!({ "a": 1, "b": 2 })], &[(json!({ "a": 3, "b": 2 }), "FieldValueInvalid f: Invalid value: a is 3")]);
    for (reason, text) in [
        ("FieldValueForbidden", "FieldValueForbidden f.b: Forbidden: no b"),
        ("FieldValueRequired", "FieldValueRequired f.b: Required value: no b"),
        ("FieldValueDuplicate", "FieldValueDuplicate f.b: Duplicate value: {\"b\":1}: no b"),
        ("FieldValueInvalid", "FieldValueInvalid f.b: Invalid value: no b"),
    ] {
        let schema = ruled(json!([{ "rule": "!has(self.b)", "message": "no b", "reason": reason, "fieldPath": ".b" }]));
        check(schema, &[json!({})], &[(json!({ "b": 1 }), text)]);
    }
    // A transition rule is for changes, unless it asks for more.
    let schema = ruled(json!([{ "rule": "self.a >= oldSelf.a", "message": "only upwards" }]));
    assert_eq!(errors(schema.clone(), json!({ "a": 1 }), None), Vec::<String>::new());
    assert_eq!(errors(schema.clone(), json!({ "a": 2 }), Some(json!({ "a": 1 }))), Vec::<String>::new());
    assert_eq!(errors(schema, json!({ "a": 1 }), Some(json!({ "a": 2 }))), ["FieldValueInvalid f: Invalid value: only upwards"]);
    // Below a list-map a transition is told from the item of the same key; inside maps, of the same name.
    let item = json!({ "type": "object", "properties": { "name": { "type": "string" }, "n": { "type": "integer", "x-kubernetes-validations": [{ "rule": "self == oldSelf", "message": "fixed" }] } } });
    let list = json!({ "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": item });
    let old = json!([{ "name": "a", "n": 1 }]);
    assert_eq!(errors(list.clone(), json!([{ "name": "b", "n": 2 }, { "name": "a", "n": 1 }]), Some(old.clone())), Vec::<String>::new());
    assert_eq!(
        errors(list, json!([{ "name": "b", "n": 2 }, { "name": "a", "n": 3 }]), Some(old)),
        ["FieldValueInvalid f[1].n: Invalid value: fixed"]
    );
    let values = json!({ "type": "object", "additionalProperties": { "type": "integer", "x-kubernetes-validations": [{ "rule": "self > 0", "message": "positive" }] } });
    check(values, &[json!({ "x": 1 })], &[(json!({ "x": 0 }), "FieldValueInvalid f.x: Invalid value: positive")]);
    // What cannot be evaluated refuses.
    let errors = errors(ruled(json!([{ "rule": "self.a.b.c > 1" }])), json!({ "a": 1 }), None);
    assert!(errors.len() == 1 && errors[0].starts_with("FieldValueInvalid f: Invalid value: rule evaluation error"), "{errors:?}");
}

#[test]
fn defaults_fill_what_is_missing_and_null_where_it_says_nothing() {
    let schema = json!({ "type": "object", "properties": {
        "a": { "type": "integer", "default": 1 },
        "n": { "type": "string", "nullable": true, "default": "x" },
        "plain": { "type": "string" },
        "inner": { "type": "object", "properties": { "b": { "type": "integer", "default": 2 } } },
        "outer": { "type": "object", "default": {}, "properties": { "b": { "type": "integer", "default": 2 } } },
        "list": { "type": "array", "items": { "type": "object", "properties": { "b": { "type": "integer", "default": 2 } } } },
        "map": { "type": "object", "additionalProperties": { "type": "string" } },
        "open": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
    } });
    let defaulted = |value: Value| {
        let mut value = value;
        default(&schema, &mut value);
        value
    };
    assert_eq!(defaulted(json!({})), json!({ "a": 1, "n": "x", "outer": { "b": 2 } }));
    assert_eq!(
        defaulted(
            json!({ "a": null, "n": null, "plain": null, "inner": {}, "list": [{}, { "b": 3 }], "map": { "k": null, "l": "v" }, "open": { "k": null } })
        ),
        json!({ "a": 1, "n": null, "inner": { "b": 2 }, "outer": { "b": 2 }, "list": [{ "b": 2 }, { "b": 3 }], "map": { "l": "v" }, "open": { "k": null } })
    );
}

#[test]
fn pruning_spares_what_is_open_and_what_is_known_inside() {
    let schema = json!({ "type": "object", "properties": {
        "closed": { "type": "object", "properties": { "a": { "type": "integer" } } },
        "open": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "known": { "type": "object", "properties": { "a": { "type": "integer" } } } } },
        "any": { "x-kubernetes-preserve-unknown-fields": true },
        "map": { "type": "object", "additionalProperties": { "type": "object", "properties": { "a": { "type": "integer" } } } },
    } });
    let mut value = json!({
        "closed": { "a": 1, "b": 2 }, "open": { "x": { "y": 1 }, "known": { "a": 1, "b": 2 } }, "any": [{ "x": 1 }],
        "map": { "k": { "a": 1, "b": 2 } }, "extra": 1,
    });
    let mut unknown = prune(&schema, &mut value, "");
    unknown.sort();
    assert_eq!(unknown, ["closed.b", "extra", "map.k.b", "open.known.b"]);
    assert_eq!(
        value,
        json!({ "closed": { "a": 1 }, "open": { "x": { "y": 1 }, "known": { "a": 1 } }, "any": [{ "x": 1 }], "map": { "k": { "a": 1 } } })
    );
}
