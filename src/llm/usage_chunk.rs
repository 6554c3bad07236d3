//! Takes the usage chunk out of a stream of chat completions whose client did not ask for it: the gateway asked, and a
//! program that takes the first choice of every chunk would break on one that has none.

use bytes::Bytes;
use serde_json::Value;

/// A longer event is none of a model's: it is no usage chunk, and passes as it is here.
pub(super) const MAX_EVENT: usize = 1 << 20;

/// Passes a stream on event by event.
#[derive(Debug, Default)]
pub struct Filter(Vec<u8>);

impl Filter {
    /// The events that `bytes` complete, without the usage chunk.
    pub fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.0.extend_from_slice(bytes);
        let mut passed = Vec::with_capacity(self.0.len());
        let mut start = 0;
        while let Some(length) = event_length(&self.0[start..]) {
            let event = &self.0[start..start + length];
            if !is_usage_chunk(event) {
                passed.extend_from_slice(event);
            }
            start += length;
        }
        self.0.drain(..start);
        if self.0.len() > MAX_EVENT {
            passed.append(&mut self.0);
        }
        passed.into()
    }

    /// What is left at the end of the stream.
    pub fn end(&mut self) -> Bytes {
        std::mem::take(&mut self.0).into()
    }
}

/// Bytes up to and with the empty line that ends the first event.
pub(super) fn event_length(bytes: &[u8]) -> Option<usize> {
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    ends.find_map(|next| match bytes.get(next..)? {
        [b'\n', ..] => Some(next + 1),
        [b'\r', b'\n', ..] => Some(next + 2),
        _ => None,
    })
}

fn is_usage_chunk(event: &[u8]) -> bool {
    let Some(data) = event.strip_prefix(b"data:") else { return false };
    let Ok(chunk) = serde_json::from_slice::<Value>(data) else { return false };
    chunk["choices"].as_array().is_some_and(Vec::is_empty) && chunk["usage"].is_object()
}

#[cfg(test)]
mod tests;
