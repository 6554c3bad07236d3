use super::*;

#[test]
fn a_message_has_one_key_whatever_is_marked_around_it() {
    let first = json!([
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>today</system-reminder>"},
            {"type": "text", "text": "go", "cache_control": {"type": "ephemeral"}}]},
        {"role": "system", "content": "long"},
    ]);
    let second = json!([
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>tomorrow</system-reminder>"}, {"type": "text", "text": "go"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "done"}]},
        {"role": "user", "content": "go"},
    ]);
    let (first, second) = (from_request("s", first.as_array().unwrap()), from_request("s", second.as_array().unwrap()));
    assert_eq!(first.len(), 1);
    assert_eq!(second[0], first[0]);
    assert_eq!(second.len(), 3);
    assert_ne!(second[2].key, second[0].key, "the same words again are another message");
}

#[test]
fn secrets_are_redacted_wherever_they_stand() {
    let token = format!("av_{}", "0f".repeat(32));
    // Made here, so that no scanner of repositories takes it for a real one.
    let key = format!("sk-ant-{}", "x1".repeat(20));
    let text = format!("export K={token}; curl -H 'x: {key}'\n-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nend");
    assert_eq!(redact(&text).unwrap(), "export K=[redacted]; curl -H 'x: [redacted]'\n[redacted]\nend");
    assert_eq!(redact("a task-list, risk-free, sk-short, BEGIN"), None);
    let message =
        &from_request("s", &[json!({"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": token}]}]})])
            [0];
    assert!(!message.content.to_string().contains("av_"));
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let message = from_answer("c", vec![json!({"type": "text", "text": "é".repeat(MAX_TEXT)})]);
    let text = message.content[0]["text"].as_str().unwrap();
    assert!(text.len() < MAX_TEXT + 40 && text.ends_with("bytes cut)"));
}
