//! Answers as a real Proxmox VE 9.2 gave them, read into what a caller acts on.

use super::{Error, Upid, http::read, tls, value};
use crate::clock::Retry;
use serde_json::json;

#[test]
fn the_reason_phrase_is_read_where_the_body_says_nothing() {
    let error = read(500, Some("VM 100 already running"), br#"{"data":null}"#).expect_err("a refusal");
    assert!(matches!(error, Error::AlreadyRunning(_)), "{error:?}");
    let error = read(401, Some("No ticket"), b"").expect_err("a refusal");
    assert!(matches!(&error, Error::Unauthorized { message, .. } if message == "No ticket"), "{error:?}");
    let error = read(501, Some(""), b"Unexpected content for method 'DELETE'").expect_err("a refusal");
    assert!(matches!(&error, Error::Refused(message) if message.contains("DELETE")), "{error:?}");
}

#[test]
fn refused_parameters_keep_their_names() {
    let body = br#"{"data":null,"message":"Parameter verification failed.\n","errors":{"foo":"property is not defined in schema and the schema does not allow additional properties"}}"#;
    let error = read(400, None, body).expect_err("a refusal");
    assert!(matches!(&error, Error::Parameters { errors, .. } if errors["foo"].starts_with("property is not defined")), "{error:?}");
    assert_eq!(error.retry(), Retry::Never);
    let error = read(400, None, br#"{"errors":{"upid":"no such task"},"data":null,"message":"Parameter verification failed.\n"}"#)
        .expect_err("a refusal");
    assert!(matches!(error, Error::NoSuchTask(_)), "{error:?}");
}

#[test]
fn an_answer_that_is_not_proxmox_is_unknown_and_not_empty() {
    for body in [&b""[..], b"<html>", b"[]", b"null", br#"{"dat":1}"#] {
        assert!(matches!(read(200, None, body), Err(Error::Unknown(_))), "{}", String::from_utf8_lossy(body));
    }
    assert!(read(200, None, br#"{"data":null}"#).expect("a void call").is_null());
}

#[test]
fn numbers_and_flags_are_read_however_they_are_written() {
    let row = json!({ "a": "100", "b": 100, "c": true, "d": "0", "e": 0, "f": "1" });
    assert_eq!((value::number_of(&row, "a"), value::number_of(&row, "b"), value::number_of(&row, "none")), (Some(100), Some(100), None));
    assert_eq!(["c", "d", "e", "f", "none"].map(|key| value::flag_of(&row, key)), [true, false, false, true, false]);
}

#[test]
fn bytes_travel_as_one_character_each() {
    assert_eq!(value::from_bytes("é".as_bytes()), "\u{c3}\u{a9}");
    assert_eq!(value::guest_output("\u{c3}\u{a9} ok"), "é ok");
    assert_eq!(value::guest_output("☃"), "☃");
}

#[test]
fn a_task_id_names_its_node_and_nonsense_names_none() {
    let node = |text: &str| Upid(text.into()).node().map(|node| node.0);
    assert_eq!(node("UPID:pve:00001626:00055354:6B02B0B8:qmcreate:150:root@pam!full:").as_deref(), Some("pve"));
    assert_eq!((node("OK"), node("UPID::1:")), (None, None));
}

#[test]
fn fingerprints_are_32_bytes_of_hex() {
    let text = ["AB"; 32].join(":");
    assert_eq!(tls::parse_fingerprint(&text), Some([0xab; 32]));
    assert_eq!((tls::parse_fingerprint("AB:CD"), tls::parse_fingerprint(&text.replace('B', "Z"))), (None, None));
}

#[test]
fn losing_an_answer_asks_for_another_look_and_lost_rights_for_a_pause() {
    assert_eq!(Error::Unknown(String::new()).retry(), Retry::Soon);
    assert!(matches!(Error::Forbidden(String::new()).retry(), Retry::After(_)));
    assert_eq!(Error::Protected(String::new()).retry(), Retry::Never);
}

/// One refusal that a real Proxmox VE 9.2 gave, or how a task of its ended, as its row has it.
#[derive(serde::Deserialize)]
struct Recorded {
    /// Variant and class that it is read as.
    is: String,
    status: u16,
    text: String,
    #[serde(default)]
    errors: std::collections::BTreeMap<String, String>,
}

/// Every refusal that was recorded.
fn recorded() -> Vec<Recorded> {
    let rows = include_str!("refusals.jsonl").lines();
    rows.map(|row| serde_json::from_str(row).unwrap_or_else(|error| panic!("{row}: {error}"))).collect()
}

fn variant(error: &Error) -> String {
    format!("{error:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()
}

fn of_text(status: u16, text: &str) -> Error {
    let body = json!({ "data": null, "message": format!("{text}\n") }).to_string();
    read(status, None, body.as_bytes()).expect_err("a refusal")
}

#[test]
fn recorded_refusals_are_told_apart() {
    for row in recorded() {
        let body = json!({ "data": null, "message": format!("{}\n", row.text), "errors": row.errors }).to_string();
        let error =
            if row.errors.is_empty() { of_text(row.status, &row.text) } else { read(400, None, body.as_bytes()).expect_err("a refusal") };
        assert_eq!(format!("{} {:?}", variant(&error), error.class()), row.is, "{} {:?}", row.text, row.errors);
    }
    // From the field and from the source, which nobody recorded.
    for (status, text, expected) in [
        (500, "can't lock file '/var/lock/pve-manager/pve-storage-tank' - got timeout", "LockTimeout"),
        (500, "error during cfs-locked 'file-user_cfg' operation: got lock request timeout", "LockTimeout"),
        (500, "No QEMU guest agent configured", "AgentUnconfigured"),
        (500, "cluster not ready - no quorum?", "NoQuorum"),
        (500, "zfs error: cannot create snapshot 'tank/vm-1-disk-0@a': out of space", "OutOfSpace"),
        (500, "can't clone to non-shared storage 'tank'", "Refused"),
        (500, "clone feature is not supported for 'tank:vm-1-disk-0'", "Refused"),
        (595, "Connection refused", "Unknown"),
        (596, "Broken pipe", "Unknown"),
    ] {
        assert_eq!(variant(&of_text(status, text)), expected, "{text}");
    }
}

#[test]
fn a_text_that_is_not_known_proves_nothing() {
    // Cut short, in other letters, or with a guest's words in it: what it is read as is what it was, or nothing at all.
    let evidence = ["NoConfig", "VmidTaken", "NotRunning", "AlreadyRunning", "NoSuchTask"];
    for row in recorded().iter().filter(|row| row.status == 500) {
        let mutated = (0..row.text.len()).filter_map(|end| row.text.get(..end).map(str::to_owned));
        for text in mutated.chain([row.text.to_uppercase(), row.text.replace(' ', "_"), row.text.chars().rev().collect()]) {
            let read = variant(&of_text(500, &text));
            let was = row.is.split(' ').next().unwrap_or_default();
            assert!(read == was || !evidence.contains(&&*read), "{text}: {read} instead of {was}");
        }
        let said = of_text(500, &format!("Agent error: {}", row.text));
        assert!(matches!(variant(&said).as_str(), "Other" | "AgentNoPid"), "a guest said: {said:?}");
    }
}

#[test]
fn what_only_a_person_can_mend_is_not_tried_again() {
    for row in recorded() {
        let error = if row.errors.is_empty() { of_text(row.status, &row.text) } else { Error::from_parameters(&row.text, row.errors) };
        let later = matches!(error, Error::Forbidden(_) | Error::Unauthorized { .. });
        let expected = error.class() == super::Class::Permanent && !later;
        assert_eq!(error.retry() == Retry::Never, expected, "{error:?}");
    }
}
