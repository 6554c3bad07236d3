//! What `strace` tells of a run: writes, syncs and names in one directory, and what was printed, in the order of their ends.

use std::collections::BTreeMap;

/// All calls of all threads, paths beside descriptors, data as hex in whole.
pub(super) const ARGUMENTS: &[&str] =
    &["-f", "-qq", "-y", "-xx", "-s", "1000000", "-e", "trace=openat,pwrite64,write,fsync,fdatasync,ftruncate,unlink", "-e", "signal=none"];

/// A call that ended well. Files are named within the directory; the directory itself is the empty name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Create(String),
    Remove(String),
    Write {
        file: String,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: String,
        length: usize,
    },
    Sync(String),
    /// The child said that a write was answered.
    Answered(String),
}

/// Reads the lines of `strace -f -y -xx`; what is outside of `directory` is left out.
pub(super) fn read(text: &str, directory: &std::path::Path) -> Vec<Event> {
    let directory = directory.to_str().unwrap();
    let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
    let mut events = Vec::new();
    for line in text.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let whole = if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, begun);
            continue;
        } else if call.starts_with("<... ") {
            let Some(begun) = unfinished.remove(thread) else { continue };
            format!("{begun}{}", call.split_once(" resumed>").map_or("", |(_, rest)| rest))
        } else {
            call.to_owned()
        };
        if let Some((arguments, result)) = whole.rsplit_once(" = ")
            && !result.starts_with('-')
        {
            events.extend(event(arguments, directory));
        }
    }
    events
}

fn event(call: &str, directory: &str) -> Option<Event> {
    let (name, arguments) = call.split_once('(')?;
    // The file of a descriptor, as `-y` shows it: `9</dir/file>`.
    let file = || {
        let path = arguments.split_once('<')?.1.split_once('>')?.0;
        let path = if path.starts_with("\\x") { String::from_utf8(bytes(path)).ok()? } else { path.to_owned() };
        Some(path.strip_prefix(directory)?.trim_start_matches('/').to_owned()).filter(|name| relevant(name))
    };
    let quoted = || bytes(arguments.split_once('"').map_or("", |(_, rest)| rest.split_once('"').map_or("", |(text, _)| text)));
    let within = |path: Vec<u8>| {
        let path = String::from_utf8(path).ok()?;
        Some(path.strip_prefix(directory)?.trim_start_matches('/').to_owned()).filter(|name| relevant(name))
    };
    let last = || arguments.trim_end().trim_end_matches(')').rsplit(", ").next()?.parse().ok();
    match name {
        "openat" if arguments.contains("O_CREAT") => within(quoted()).map(Event::Create),
        "unlink" => within(quoted()).map(Event::Remove),
        "pwrite64" => Some(Event::Write { file: file()?, offset: last()?, data: quoted() }),
        "ftruncate" => Some(Event::Truncate { file: file()?, length: last()? }),
        "fsync" | "fdatasync" => file().map(Event::Sync),
        "write" if arguments.starts_with("1<") => {
            let line = String::from_utf8(quoted()).ok()?;
            Some(Event::Answered(line.trim_end().strip_prefix("answered ")?.to_owned()))
        }
        _ => None,
    }
}

/// The database's own files. The index of the WAL is memory, and is made anew.
fn relevant(name: &str) -> bool {
    matches!(name, "" | "autovibe.db" | "autovibe.db-wal" | "autovibe.db-journal")
}

/// `\x61\x62` as bytes.
fn bytes(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from((byte as char).to_digit(16).unwrap_or(0)).unwrap_or(0);
    text.as_bytes().chunks_exact(4).map(|hex| digit(hex[2]) << 4 | digit(hex[3])).collect()
}
