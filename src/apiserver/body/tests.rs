//! Bodies of several types.

use super::*;
use serde_json::json;

#[test]
fn what_is_not_json_is_a_bad_request_and_other_types_are_not_media_we_take() {
    let code = |content_type: Option<&str>, text: &str| decode(content_type, &Bytes::from(text.to_owned()), "Machine").map_err(|s| s.code);
    assert_eq!(code(None, "{").unwrap_err(), 400);
    assert_eq!(code(Some("application/json; charset=utf-8"), "{} {}").unwrap_err(), 400);
    assert_eq!(code(Some("application/x-www-form-urlencoded"), "a=b").unwrap_err(), 415);
    assert_eq!(code(Some("application/yaml"), "kind: Machine\n").unwrap().value, json!({"kind": "Machine"}));
}
