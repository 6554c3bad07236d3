//! Events under both names.

use super::*;
use crate::apiserver::catalog;
use serde_json::json;

#[test]
fn an_event_goes_through_its_view_and_back_unchanged() {
    let view = catalog::find("events.k8s.io", "v1", "events").expect("the view is served");
    let core = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "m"}, "message": "hi",
        "count": 3, "source": {"component": "hub"}, "reason": "Started",
    });
    let shown = out(view, core.clone());
    assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
    assert_eq!((&shown["regarding"]["name"], &shown["note"], &shown["deprecatedCount"]), (&json!("m"), &json!("hi"), &json!(3)));
    assert_eq!(stored(view, shown), core);
    let patch = json!([{"op": "replace", "path": "/note", "value": "x"}, {"op": "add", "path": "/regarding/name", "value": "y"}]);
    assert_eq!(
        stored_patch(view, patch),
        json!([{"op": "replace", "path": "/message", "value": "x"}, {"op": "add", "path": "/involvedObject/name", "value": "y"}])
    );
}
