//! A parser of server-sent events, tolerant and bounded. Source: WHATWG HTML, "Server-sent events".

use serde_json::Value;

/// A longer line is no event of a model; its content is dropped, the stream goes on.
const MAX_LINE: usize = 1 << 20;

/// Takes a stream's bytes in any cut and returns the JSON of its `data` fields.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The line is too long: skip to its end.
    skipping: bool,
    data: Vec<u8>,
    after_cr: bool,
}

impl Parser {
    /// The events that `bytes` complete. Data that is not JSON is passed over.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Value> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let (piece, tail) = rest.split_at(end);
            // CR LF is one end of line, also when cut between the two.
            let empty_after_cr = self.after_cr && tail[0] == b'\n' && piece.is_empty() && self.line.is_empty();
            self.after_cr = tail[0] == b'\r';
            rest = &tail[1..];
            if empty_after_cr {
                continue;
            }
            self.extend(piece);
            self.end_line(&mut events);
        }
        if !rest.is_empty() {
            self.after_cr = false;
            self.extend(rest);
        }
        events
    }

    fn extend(&mut self, piece: &[u8]) {
        if self.line.len() + piece.len() > MAX_LINE {
            self.skipping = true;
            self.line.clear();
        }
        if !self.skipping {
            self.line.extend_from_slice(piece);
        }
    }

    fn end_line(&mut self, events: &mut Vec<Value>) {
        if std::mem::take(&mut self.skipping) {
            self.line.clear();
            return;
        }
        if self.line.is_empty() {
            if !self.data.is_empty() {
                events.extend(serde_json::from_slice::<Value>(&self.data).ok());
                self.data.clear();
            }
            return;
        }
        if let Some(data) = self.line.strip_prefix(b"data:")
            && self.data.len() + data.len() <= MAX_LINE
        {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
        }
        self.line.clear();
    }
}

/// An event as the provider writes it.
pub fn encode(event: &str, data: &Value) -> String {
    format!("event: {event}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests;
