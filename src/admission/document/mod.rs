//! Texts into documents: JSON and YAML, with the keys that came twice, and the line of a field.
//!
//! What JSON cannot say is refused (not a number, tags), and a YAML text may not unfold to much more than it is: a few
//! aliases can stand for gigabytes. Plain scalars are read as YAML 1.2 has it (`no` is a text); merge keys (`<<`) are
//! followed, as kubectl does.

mod place;
mod reader;
#[cfg(test)]
mod tests;

pub use place::line_of;

use reader::{Reader, State};
use serde::de::DeserializeSeed;
use serde_json::Value;

/// A document that was read.
#[derive(Debug, Default)]
pub struct Document {
    pub value: Value,
    /// Paths of keys that were given more than once, such as `spec.goal`; the last one counts. At most 100 are kept.
    pub duplicates: Vec<String>,
}

/// Why a text is no document.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Where it is malformed, and what is wrong there.
    #[error("{0}")]
    Malformed(String),
    #[error("it has more than {MOST_VALUES} values")]
    TooManyValues,
}

/// Single values, containers included, of one document: hundreds of times what our largest objects have. One takes about 100
/// bytes of memory, so a body of the largest size could else take 300 MB.
pub const MOST_VALUES: usize = 100_000;
/// Bytes of text that a YAML document may unfold to: as much as a request's body may hold.
const MOST_UNFOLDED: usize = 3 << 20;

/// Reads one JSON text.
pub fn json(bytes: &[u8]) -> Result<Document, Error> {
    not_utf16(bytes)?;
    let mut state = State::new(usize::MAX);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Reader(&mut state).deserialize(&mut reader);
    state.finish(value.and_then(|value| reader.end().map(|()| value)))
}

/// Reads one YAML text that holds one document.
pub fn yaml(bytes: &[u8]) -> Result<Document, Error> {
    not_utf16(bytes)?;
    let mut state = State::yaml(MOST_UNFOLDED);
    let value = Reader(&mut state).deserialize(serde_yaml::Deserializer::from_slice(bytes));
    state.finish(value)
}

/// Reads every document of a YAML text; ends with the first malformed one, for what comes after it cannot be told apart.
pub fn yaml_stream(text: &str) -> Vec<Result<Document, Error>> {
    let mut documents = Vec::new();
    for part in serde_yaml::Deserializer::from_str(unmarked(text)) {
        let mut state = State::yaml(MOST_UNFOLDED);
        let value = Reader(&mut state).deserialize(part);
        documents.push(state.finish(value));
        if documents.last().is_some_and(Result::is_err) {
            break;
        }
    }
    documents
}

/// Its mark tells it apart, and the parsers would complain of a byte.
fn not_utf16(bytes: &[u8]) -> Result<(), Error> {
    if bytes.starts_with(&[0xfe, 0xff]) || bytes.starts_with(&[0xff, 0xfe]) {
        return Err(Error::Malformed("it is UTF-16; save it as UTF-8".into()));
    }
    Ok(())
}

/// Without a byte order mark, which some editors put before a text.
fn unmarked(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
