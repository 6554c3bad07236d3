//! The same requests to a server on each engine get the same answers, byte for byte but for uids, times and ages.

use crate::{database::Home, served::Served};
use autovibe::store::Options;
use reqwest::{Method, header};

const MACHINES: &str = "/apis/autovibe.dev/v1alpha1/namespaces/shop/machines";
const CONFIGMAPS: &str = "/api/v1/namespaces/shop/configmaps";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Method, path, `Content-Type` or for a read `Accept`, body.
type Request = (Method, String, &'static str, &'static str);

fn requests() -> Vec<Request> {
    let machine = r#"{"metadata":{"name":"a","labels":{"tier":"x"}},"spec":{"from":{"image":"micro"},"goal":{"prompt":"grüße 🦀 \u0000 \\ \" "},"agent":{"type":"Command","command":["true"]}}}"#;
    let config = |name: &str| -> &'static str {
        Box::leak(format!(r#"{{"metadata":{{"name":"{name}","finalizers":["it/f"]}},"data":{{"k":"v"}}}}"#).into_boxed_str())
    };
    let get = |path: String, accept: &'static str| (Method::GET, path, accept, "");
    let mut all = vec![
        (Method::POST, "/api/v1/namespaces".into(), JSON, r#"{"metadata":{"name":"shop"}}"#),
        get("/api/v1/namespaces/shop".into(), JSON),
        (Method::POST, MACHINES.into(), JSON, machine),
        (Method::POST, MACHINES.into(), JSON, machine),
        (Method::PATCH, format!("{MACHINES}/a"), MERGE, r#"{"metadata":{"annotations":{"note":"x"}}}"#),
        (Method::PATCH, format!("{MACHINES}/a/status"), MERGE, r#"{"status":{"phase":"Running"}}"#),
        (
            Method::PATCH,
            format!("{MACHINES}/a?fieldManager=it"),
            APPLY,
            r#"{"apiVersion":"autovibe.dev/v1alpha1","kind":"Machine","metadata":{"name":"a","labels":{"tier":"y"}}}"#,
        ),
        (
            Method::PATCH,
            format!("{MACHINES}/a?fieldManager=it&force=true"),
            APPLY,
            r#"{"apiVersion":"autovibe.dev/v1alpha1","kind":"Machine","metadata":{"name":"a","labels":{"tier":"y"}}}"#,
        ),
        (Method::PUT, format!("{MACHINES}/a"), JSON, r#"{"metadata":{"name":"a","resourceVersion":"1"},"spec":{}}"#),
        (Method::POST, "/api/v1/namespaces/shop/secrets".into(), JSON, r#"{"metadata":{"name":"s"},"data":{"k":"dg=="}}"#),
        get("/api/v1/namespaces/shop/secrets/s".into(), JSON),
    ];
    // Names whose order differs between collations.
    for name in ["b-1", "b.1", "b1", "b-a", "ba", "a.b", "a-b"] {
        all.push((Method::POST, CONFIGMAPS.into(), JSON, config(name)));
    }
    all.extend([
        get(format!("{MACHINES}/a"), JSON),
        get(format!("{MACHINES}/a"), TABLE),
        get(MACHINES.into(), TABLE),
        get(CONFIGMAPS.into(), JSON),
        get(format!("{CONFIGMAPS}?limit=3"), JSON),
        get(format!("{CONFIGMAPS}?labelSelector=tier"), JSON),
        get(format!("{CONFIGMAPS}?resourceVersion=999999&resourceVersionMatch=Exact"), JSON),
        get("/apis/autovibe.dev/v1alpha1/machines?labelSelector=tier%3Dy".into(), JSON),
        (Method::DELETE, format!("{CONFIGMAPS}/b1"), JSON, ""),
        (Method::DELETE, format!("{CONFIGMAPS}/none"), JSON, ""),
        (Method::PATCH, format!("{CONFIGMAPS}/b1"), MERGE, r#"{"metadata":{"finalizers":null}}"#),
        get(format!("{CONFIGMAPS}/b1"), JSON),
        (Method::DELETE, format!("{MACHINES}/a"), JSON, ""),
        get(format!("{CONFIGMAPS}?watch=true&resourceVersion=1&timeoutSeconds=2"), JSON),
        get(format!("{MACHINES}?watch=true&resourceVersion=1&timeoutSeconds=2"), TABLE),
        get(CONFIGMAPS.into(), JSON),
        get("/api/v1/namespaces/shop".into(), JSON),
    ]);
    all
}

/// All answers, with what a run decides by chance taken out.
async fn answers(server: &Served) -> Vec<String> {
    let mut answers = Vec::new();
    for (method, path, media, body) in requests() {
        let request = server.request(method.clone(), &path);
        let request =
            if method == Method::GET { request.header(header::ACCEPT, media) } else { request.header(header::CONTENT_TYPE, media) };
        let answer = request.body(body).send().await.expect("the server answers");
        let (status, text) = (answer.status(), answer.text().await.expect("a text"));
        answers.push(format!("{method} {path}\n{status}\n{}", steady(&text)));
    }
    answers
}

/// Without uids, times, ages and continue tokens.
fn steady(text: &str) -> String {
    let mut pieces: Vec<String> = text.split('"').map(str::to_owned).collect();
    for at in 0..pieces.len() {
        let piece = &pieces[at];
        let is_uid = piece.len() == 36 && piece.matches('-').count() == 4;
        let is_time = piece.ends_with('Z') && piece.parse::<jiff::Timestamp>().is_ok();
        let is_age = piece.ends_with('s') && piece.len() > 1 && piece[..piece.len() - 1].parse::<u32>().is_ok();
        let is_token = at >= 2 && pieces[at - 2] == "continue" && !piece.is_empty();
        if is_uid || is_time || is_age || is_token {
            pieces[at] = "*".into();
        }
    }
    pieces.join("\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_answer_the_same() {
    let Some(home) = Home::postgres().await else { return };
    let database = home.database();
    let served = Served::start_on(&database, home.directory, Options::default()).await;
    let other = Served::start(Options::default()).await;
    let (postgres, sqlite) = tokio::join!(answers(&served), answers(&other));
    assert!(sqlite.iter().filter(|answer| answer.contains("\n20")).count() > 20, "{sqlite:#?}");
    for (ours, theirs) in sqlite.iter().zip(&postgres) {
        assert_eq!(ours, theirs, "on SQLite, and on PostgreSQL");
    }
    served.stop().await;
    other.stop().await;
}
