//! Bodies as typed clients write them.

use super::*;
use serde_json::json;

fn body(kind: &str, api_version: &str, message: &impl Message) -> Vec<u8> {
    let types = TypeMeta { api_version: Some(api_version.into()), kind: Some(kind.into()) };
    let mut bytes = MAGIC.to_vec();
    bytes.extend(Unknown { type_meta: Some(types), raw: Some(message.encode_to_vec()) }.encode_to_vec());
    bytes
}

#[test]
fn a_secret_keeps_its_bytes_and_loses_what_go_writes_empty() {
    let metadata = ObjectMeta {
        name: Some("s".into()),
        namespace: Some(String::new()),
        creation_timestamp: Some(Time::default()),
        labels: [("empty".to_owned(), String::new())].into(),
        ..ObjectMeta::default()
    };
    let secret = Secret {
        metadata: Some(metadata),
        data: [("k".to_owned(), b"v\x00".to_vec()), ("e".into(), Vec::new())].into(),
        ..Secret::default()
    };
    assert_eq!(
        decode(&body("Secret", "v1", &secret), "Secret").unwrap(),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"empty": ""}}, "data": {"k": "dgA=", "e": ""}})
    );
}

#[test]
fn times_have_the_precision_of_their_field() {
    let time = Some(Time { seconds: Some(1_700_000_000), nanos: Some(120_000_000) });
    let event = Event { first_timestamp: time.clone(), event_time: time, ..Event::default() };
    let value = decode(&body("Event", "v1", &event), "Event").unwrap();
    assert_eq!(value["firstTimestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(value["eventTime"], "2023-11-14T22:13:20.120000Z");
}

#[test]
fn other_kinds_and_other_bytes_are_refused() {
    assert!(matches!(decode(&body("Pod", "v1", &Namespace::default()), "Pod"), Err(Error::Unsupported)));
    assert!(matches!(decode(b"{}", "Secret"), Err(Error::Malformed(_))));
    assert!(matches!(decode(b"k8s\0\xff", "Secret"), Err(Error::Malformed(_))));
}
