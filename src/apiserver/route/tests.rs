//! Paths and what they mean.

use super::*;

/// Resource, namespace, name, subresource.
type Parts = (String, Option<String>, Option<String>, Option<String>);

fn target(path: &str) -> Option<Parts> {
    match parse(path) {
        Route::Object(t) => Some((t.entry.name(), t.namespace, t.name, t.subresource)),
        _ => None,
    }
}

#[test]
fn paths_name_collections_objects_and_parts() {
    let some = |s: &str| Some(s.to_owned());
    let machines = || "machines.autovibe.dev".to_owned();
    let base = "/apis/autovibe.dev/v1alpha1";
    assert_eq!(target(&format!("{base}/machines")), Some((machines(), None, None, None)));
    assert_eq!(target(&format!("{base}/namespaces/a/machines")), Some((machines(), some("a"), None, None)));
    assert_eq!(target(&format!("{base}/namespaces/a/machines/m/status")), Some((machines(), some("a"), some("m"), some("status"))));
    assert_eq!(target(&format!("{base}/hubs/h")), Some(("hubs.autovibe.dev".into(), None, some("h"), None)));
    assert_eq!(target("/api/v1/namespaces/a"), Some(("namespaces".into(), None, some("a"), None)));
    assert_eq!(target("/api/v1/namespaces/a/status"), Some(("namespaces".into(), None, some("a"), some("status"))));
    assert_eq!(target("/api/v1/namespaces/a/secrets"), Some(("secrets".into(), some("a"), None, None)));
    assert_eq!(target("/apis/events.k8s.io/v1/events").map(|t| t.0), some("events.events.k8s.io"));
}

#[test]
fn what_is_out_of_scope_or_no_name_is_unknown() {
    for path in [
        "/apis/autovibe.dev/v1alpha1/machines/m",
        "/apis/autovibe.dev/v1alpha1/namespaces/a/hubs",
        "/apis/autovibe.dev/v1alpha1/namespaces/a/machines/%2e%2e",
        "/apis/autovibe.dev/v1alpha1/namespaces/a/machines/a%2fb",
        "/apis/autovibe.dev/v2/machines",
        "/api/v1/pods",
        "/api/v1/namespaces/a/secrets/b/status/d",
        "/nowhere",
    ] {
        assert!(matches!(parse(path), Route::Unknown), "{path}");
    }
}

/// A path of each meaning. There is no `_` here: a new one does not build until it is named, and then the matrix of access
/// (`tests/it/access/matrix.rs`) must try its path.
fn example(route: &Route) -> &'static str {
    match route {
        Route::Root => "/",
        Route::Health => "/healthz",
        Route::Version => "/version",
        Route::CoreVersions => "/api",
        Route::Groups => "/apis",
        Route::Group(_) => "/apis/autovibe.dev",
        Route::Resources { .. } => "/api/v1",
        Route::OpenapiV2 => "/openapi/v2",
        Route::OpenapiV3 => "/openapi/v3",
        Route::OpenapiGroup(_) => "/openapi/v3/api/v1",
        Route::SecretsKey => "/autovibe/secrets/key",
        Route::Object(_) => "/api/v1/namespaces",
        Route::Unknown => "/nowhere",
    }
}

#[test]
fn the_matrix_of_access_tries_every_meaning_that_a_path_can_have() {
    let matrix = include_str!("../../../tests/it/access/matrix.rs");
    let root = crate::apiserver::discovery::root();
    let named: Vec<&str> = root["paths"].as_array().unwrap().iter().filter_map(serde_json::Value::as_str).collect();
    for path in [
        "/",
        "/healthz",
        "/version",
        "/api",
        "/apis",
        "/apis/autovibe.dev",
        "/api/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/api/v1",
        "/autovibe/secrets/key",
        "/nowhere",
    ] {
        assert_eq!(example(&parse(path)), path);
        assert!(named.contains(&path) || matrix.contains(&format!("\"{path}\"")), "{path} is not in the matrix");
    }
}
