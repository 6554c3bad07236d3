//! What a launch is told, and how a streamed answer is put together.

use super::{
    prompt::{Directives, exports},
    sse::Message,
};
use serde_json::json;
use std::time::Duration;

#[test]
fn exports_are_read_as_a_shell_reads_them() {
    let environment = exports("export A='x'\nexport B='it'\\''s\nexport C=1'\nexport C=''\nexport D=plain; ");
    assert_eq!(environment["A"], "x");
    assert_eq!(environment["B"], "it's\nexport C=1");
    assert_eq!((environment["C"].as_str(), environment["D"].as_str(), environment.len()), ("", "plain", 4));
}

#[test]
fn a_directive_line_is_found_among_others_and_nonsense_is_not_obeyed() {
    let read = Directives::read("Fix it.\n  #sim turns=3 exit=2 pace=50 idle=maybe unknown=1\nThanks");
    assert_eq!(read, Directives { turns: Some(3), exit: 2, pace: Duration::from_millis(50), ..Directives::default() });
    assert_eq!(Directives::read("no directive, #sim idle=true"), Directives::default());
}

#[test]
fn a_stream_is_whole_only_with_its_last_event() {
    let stream = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"Bash\",\"input\":{}}}\n\n\
        data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":\"}}\n\n\
        data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"\\\"☃\\\"}\"}}\n\n\
        data: {\"type\":\"content_block_stop\"}\n\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"}}\n\n";
    let mut message = Message::default();
    // One byte at a time: a chunk may end anywhere, also inside a character.
    stream.bytes().for_each(|byte| message.add(&[byte]));
    assert_eq!(message.tools(), [("t".to_owned(), "Bash".to_owned(), json!({ "a": "☃" }))]);
    assert!(!message.complete);
    message.add(b"data: {\"type\":\"message_stop\"}\n\n");
    assert!(message.complete && !message.failed);
    assert_eq!(message.stop_reason.as_deref(), Some("tool_use"));
}
