//! Answers as a real Proxmox VE 9.2 gave them, read into what a caller acts on.

use super::{Error, Upid, http::read, tls, value};
use crate::clock::Retry;
use serde_json::json;

/// The variant of a 500 with this text, by its name in Debug.
fn variant(status: u16, text: &str) -> String {
    let body = json!({ "data": null, "message": format!("{text}\n") }).to_string();
    let error = read(status, None, body.as_bytes()).expect_err("a refusal");
    format!("{error:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()
}

#[test]
fn recorded_texts_are_told_apart() {
    for (status, text, expected) in [
        (500, "Configuration file 'nodes/pve/qemu-server/999.conf' does not exist", "NoConfig"),
        (500, "unable to find configuration file for VM 150 on node 'pve'", "NoConfig"),
        (500, "unable to create VM 100 - VM 100 already exists on node 'pve'", "VmidTaken"),
        (500, "unable to create VM 100: config file already exists", "VmidTaken"),
        (500, "VM 100 already running", "AlreadyRunning"),
        (500, "VM 150 is running - destroy failed", "AlreadyRunning"),
        (500, "VM 100 not running", "NotRunning"),
        (500, "VM 800 is not running", "NotRunning"),
        (500, "VM is locked (snapshot-delete)", "Locked"),
        (500, "can't lock file '/var/lock/qemu-server/lock-150.conf' - got timeout", "LockTimeout"),
        (500, "can't lock file '/var/lock/pve-manager/pve-storage-tank' - got timeout", "LockTimeout"),
        (500, "can't remove VM 150 - protection mode enabled", "Protected"),
        (500, "QEMU guest agent is not running", "AgentNotRunning"),
        (500, "No QEMU guest agent configured", "AgentUnconfigured"),
        (500, "Agent error: Invalid parameter 'pid'", "AgentNoPid"),
        (403, "Permission check failed (/vms/100, VM.Audit)", "Forbidden"),
        (595, "Connection refused", "Unknown"),
        (596, "Broken pipe", "Unknown"),
        (500, "checksum mismatch (file change by other user?)", "Other"),
        (500, "storage 'nosuch' does not exist", "Other"),
        (500, "volume 'tank:vm-1-disk-0' does not exist", "Other"),
        (500, "hostname lookup 'nosuch' failed - failed to get address info for: nosuch: Name or service not known", "Other"),
    ] {
        assert_eq!(variant(status, text), expected, "{text}");
    }
}

#[test]
fn the_reason_phrase_is_read_where_the_body_says_nothing() {
    let error = read(500, Some("VM 100 already running"), br#"{"data":null}"#).expect_err("a refusal");
    assert!(matches!(error, Error::AlreadyRunning(_)), "{error:?}");
    let error = read(401, Some("No ticket"), b"").expect_err("a refusal");
    assert!(matches!(&error, Error::Unauthorized { message, .. } if message == "No ticket"), "{error:?}");
    let error = read(501, Some(""), b"Unexpected content for method 'DELETE'").expect_err("a refusal");
    assert!(matches!(&error, Error::Other { status: 501, message } if message.contains("DELETE")), "{error:?}");
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
