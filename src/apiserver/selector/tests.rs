//! The grammar, and which objects it selects.

use super::*;
use serde_json::json;

fn labels(text: &str) -> Selector {
    Selector { labels: requirements(text).unwrap(), fields: Vec::new() }
}

#[test]
fn label_grammar_selects_as_kubernetes_does() {
    let object = json!({"metadata": {"labels": {"app": "web", "tier": "", "n": "7", "autovibe.dev/machine": "m1"}}});
    for (text, expect) in [
        ("", true),
        ("app", true),
        ("!app", false),
        ("app=web", true),
        ("app == web", true),
        ("app!=web", false),
        ("other!=web", true),
        ("app in (db,web)", true),
        ("app notin (db, web)", false),
        ("other notin (x)", true),
        ("app=web,!gone", true),
        ("app=web,gone", false),
        ("tier=", true),
        ("n>6", true),
        ("n<7", false),
        ("app>1", false),
        ("autovibe.dev/machine=m1", true),
    ] {
        assert_eq!(labels(text).matches(&Selectable::of(&object)), expect, "{text}");
    }
    assert!(!labels("app").matches(&Selectable::of(&json!({"metadata": {}}))));
}

#[test]
fn what_is_no_selector_is_refused() {
    for text in ["=a", "a=b c", "a in b", "a in (b", "a near (b)", "a,,b", "a>x", "a=/", "a b"] {
        assert!(requirements(text).is_err(), "{text}");
    }
    for text in ["metadata.name", "a=b=c", "a\\"] {
        assert!(field_terms(text).is_err(), "{text}");
    }
}

#[test]
fn field_selectors_take_escapes_and_read_what_is_missing_as_empty() {
    let selector = |text: &str| Selector { labels: Vec::new(), fields: field_terms(text).unwrap() };
    let event = json!({"metadata": {"name": "a,b"}, "involvedObject": {"kind": "Machine"}, "source": {"component": "hub"}});
    assert!(selector("metadata.name=a\\,b").matches(&Selectable::of(&event)));
    assert!(selector("involvedObject.kind==Machine,involvedObject.uid=").matches(&Selectable::of(&event)));
    assert!(selector("regarding.kind=Machine,source=hub").matches(&Selectable::of(&event)));
    assert!(!selector("involvedObject.kind!=Machine").matches(&Selectable::of(&event)));
}

#[test]
fn every_field_that_is_offered_is_kept() {
    for entry in crate::apiserver::catalog::entries() {
        let paths = FIELDS.iter().copied().filter(|path| offered(entry, path));
        assert!(paths.count() >= 2, "{}", entry.plural);
    }
    let events = crate::apiserver::catalog::find("events.k8s.io", "v1", "events").unwrap();
    let offers = FIELDS.iter().filter(|path| offered(events, path)).count();
    // All but the phase of Namespaces; `source` stands for `source.component`.
    assert_eq!(offers, FIELDS.len() - 2);
}
