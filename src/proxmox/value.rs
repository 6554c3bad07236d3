//! Proxmox' loose JSON: a number may come as text, a flag as 0, 1, `true` or not at all.

use serde_json::Value;

/// Text, or a number or flag written out as Proxmox stores it.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        _ => None,
    }
}

/// The text of a key that is present and not empty.
pub(super) fn text_of(object: &Value, key: &str) -> Option<String> {
    text(&object[key]).filter(|text| !text.is_empty())
}

/// A whole number, also when written as text or as `5.0`.
pub(super) fn number_of(object: &Value, key: &str) -> Option<i64> {
    let text = text(&object[key])?;
    text.trim().parse().ok().or_else(|| text.trim().strip_suffix(".0")?.parse().ok())
}

/// Whether a flag is set; a missing key is not.
pub(super) fn flag_of(object: &Value, key: &str) -> bool {
    matches!(text(&object[key]).as_deref(), Some("1" | "true" | "yes" | "on"))
}

/// Bytes for a parameter that Proxmox decodes to characters and then writes one byte per character.
///
/// Source: recording 16, file-write of `héllo` makes a file of 6 bytes: characters above U+00FF are an error there, those
/// below become Latin-1. So each byte is sent as the character of its number.
pub(super) fn from_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The bytes of a guest's output, which arrive as one character per byte; text, when some character is no byte.
pub(super) fn guest_output(text: &str) -> String {
    match text.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<Vec<u8>, _>>() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => text.to_owned(),
    }
}
