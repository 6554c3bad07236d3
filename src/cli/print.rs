//! Output: tables, documents, times and spans as people read them.

use jiff::Timestamp;
use serde_json::Value;
use std::{io::Write, time::Duration};

/// Writes to standard output. A closed pipe comes back as an error, which `main` takes for the end.
pub(super) fn out(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// A document in a form for programs.
pub(super) fn document(value: &Value, output: super::Output) -> anyhow::Result<String> {
    Ok(match output {
        super::Output::Yaml => serde_yaml::to_string(value)?,
        _ => escaped(&serde_json::to_string_pretty(value)?) + "\n",
    })
}

/// A document on one line, in JSON.
pub(super) fn line(value: &Value) -> anyhow::Result<String> {
    Ok(escaped(&serde_json::to_string(value)?) + "\n")
}

/// JSON in which what could drive a terminal is written as `\u` escapes: such characters stand only in its texts.
fn escaped(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        if drives(c) {
            text += &format!("\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
        text
    })
}

/// What others wrote (users, agents, tools), without the characters that could drive the reader's terminal or turn the order
/// of what is read.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !drives(*c)).collect()
}

fn drives(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() && !matches!(c, '\n' | '\t')
}

/// Columns aligned as kubectl aligns them: three spaces between, none at the end of a line.
pub(super) fn columns(header: &[String], rows: &[Vec<String>]) -> String {
    let mut widths = vec![0; rows.iter().map(Vec::len).chain([header.len()]).max().unwrap_or(0)];
    for row in std::iter::once(header).chain(rows.iter().map(Vec::as_slice)) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("   ").trim_end().to_owned() + "\n"
    };
    let head = if header.is_empty() { String::new() } else { line(header) };
    head + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// A cell of a server's table on one line, cut to what fits beside others.
pub(super) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "<none>".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    shorten(&printable(&text), 60)
}

/// The first line of `text`, at most `width` characters, `…` where something was cut.
pub(super) fn shorten(text: &str, width: usize) -> String {
    let text = text.trim();
    let first = text.lines().next().unwrap_or_default().trim_end();
    let cut = first.chars().count() > width;
    if !cut && first.len() == text.len() {
        return first.to_owned();
    }
    let kept: String = first.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A span as people say it: `12s`, `3m`, `1h5m`, `4d`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if !seconds.is_multiple_of(60) => format!("{}m{}s", seconds / 60, seconds % 60),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 if !(seconds / 60).is_multiple_of(60) => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Time from `start` to `end`; zero when the clocks disagree.
pub(super) fn between(start: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(start)).unwrap_or_default()
}

/// The present, for ages.
pub(super) fn now() -> Timestamp {
    crate::clock::Clock::system().now()
}

/// A capture's length: `31 ms`, `1.2 s`.
pub(super) fn short_span(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

/// Bytes as people say them: `12.4 GiB`.
pub(super) fn bytes(amount: u64) -> String {
    let mut unit = "B";
    let mut scale = 1_u64;
    for (next, shift) in [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)] {
        if amount >= 1 << shift {
            (unit, scale) = (next, 1 << shift);
        }
    }
    if scale == 1 { format!("{amount} B") } else { format!("{}.{} {unit}", amount / scale, amount % scale * 10 / scale) }
}
