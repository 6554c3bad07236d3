//! The table of malformed texts, sent as they stand.

use super::{Case, Outcome, refuse_all};
use crate::served::Served;
use autovibe::store::Options;
use serde::Deserialize;

const TABLE: &str = include_str!("texts.yaml");
const NAMESPACE: &str = "texts";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    what: String,
    yaml: Option<String>,
    json: Option<String>,
    to: Option<String>,
    #[serde(default)]
    strict: bool,
    code: u16,
    reason: String,
    says: Vec<String>,
}

fn case(row: Row) -> Case {
    let collection = match row.to.as_deref() {
        None => format!("/api/v1/namespaces/{NAMESPACE}/configmaps"),
        Some("nowhere") => "/api/v1/namespaces/nowhere/configmaps".into(),
        Some("secrets") => format!("/api/v1/namespaces/{NAMESPACE}/secrets"),
        Some(ours) => format!("/apis/autovibe.dev/v1alpha1/namespaces/{NAMESPACE}/{ours}"),
    };
    let (content_type, text) = match (row.yaml, row.json) {
        (Some(text), None) => ("application/yaml", text),
        (None, Some(text)) => ("application/json", text),
        _ => panic!("{}: either yaml or json", row.what),
    };
    let path = if row.strict { format!("{collection}?fieldValidation=Strict") } else { collection };
    let outcome = Outcome { code: row.code, reason: row.reason, says: row.says };
    Case { what: row.what, path, content_type, body: text.into_bytes(), outcome }
}

#[tokio::test]
async fn every_malformed_text_is_refused_with_its_place_and_its_remedy() {
    let rows: Vec<Row> = serde_yaml::from_str(TABLE).expect("the table is YAML");
    let mut cases: Vec<Case> = rows.into_iter().map(case).collect();
    // What no YAML can hold: bytes that are no UTF-8, and UTF-16 of either end.
    let utf16 = |bytes: fn(u16) -> [u8; 2]| "\u{feff}metadata: {name: a}".encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    for (what, content_type, body, says) in [
        ("JSON of bytes", "application/json", b"{\"a\":\"\xff\"}".to_vec(), "not valid JSON"),
        ("YAML of bytes", "application/yaml", b"metadata: {name: \"\xff\"}".to_vec(), "not YAML"),
        ("UTF-16 as JSON", "application/json", utf16(u16::to_le_bytes), "not valid JSON: it is UTF-16; save it as UTF-8"),
        ("UTF-16 as YAML", "application/yaml", utf16(u16::to_be_bytes), "not YAML: it is UTF-16; save it as UTF-8"),
        ("an unfinished letter", "application/yaml", b"metadata: {name: \xe2\x82".to_vec(), "not YAML"),
        ("a NUL as JSON", "application/json", b"{\"a\":\"\0\"}".to_vec(), "control character"),
    ] {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        let outcome = Outcome { code: 400, reason: "BadRequest".into(), says: vec![says.into()] };
        cases.push(Case { what: what.into(), path, content_type, body, outcome });
    }
    let server = Served::start(Options::default()).await;
    server.namespace(NAMESPACE).await;
    refuse_all(&server, NAMESPACE, &cases).await;
    // And some that only look wrong.
    for (what, text) in [
        ("a byte order mark", "\u{feff}metadata: {name: a}".as_bytes().to_vec()),
        ("Windows lines", b"metadata:\r\n  name: b\r\n".to_vec()),
        ("Norway", b"metadata: {name: \"no\"}\ndata: {no: no}".to_vec()),
    ] {
        let request = server.request(reqwest::Method::POST, &format!("/api/v1/namespaces/{NAMESPACE}/configmaps?dryRun=All"));
        let (code, answer) = server.send(request.header("content-type", "application/yaml").body(text)).await;
        assert_eq!(code, 201, "{what}: {answer}");
    }
    eprintln!("{} malformed texts", cases.len());
    server.stop().await;
}
