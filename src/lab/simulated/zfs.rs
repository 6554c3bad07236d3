//! Answers `zfs` argv over the model pool, in OpenZFS' dialect: the commands that autovibe's own client runs, and `list`.

use super::{
    pool::{Dataset, Pool, Refusal, Snapshot},
    stream,
};
use std::collections::{BTreeMap, BTreeSet};

/// Exit status, standard output, standard error.
pub(crate) type Answer = (i32, String, String);

/// A command split into options and operands.
struct Words {
    flags: BTreeSet<char>,
    valued: Vec<(char, String)>,
    operands: Vec<String>,
}

/// Splits as getopt does; `valued` are the options that take a value.
fn split(argv: &[String], flags: &str, valued: &str) -> Result<Words, Answer> {
    let mut words = Words { flags: BTreeSet::new(), valued: Vec::new(), operands: Vec::new() };
    let mut rest = argv.iter();
    while let Some(word) = rest.next() {
        let Some(options) = word.strip_prefix('-').filter(|options| !options.is_empty() && words.operands.is_empty()) else {
            words.operands.push(word.clone());
            continue;
        };
        let mut letters = options.chars();
        while let Some(letter) = letters.next() {
            if valued.contains(letter) {
                let inline: String = letters.by_ref().collect();
                let value = if inline.is_empty() { rest.next().cloned() } else { Some(inline) };
                let Some(value) = value else {
                    return Err((2, String::new(), format!("missing argument for '{letter}' option\n")));
                };
                words.valued.push((letter, value));
            } else if flags.contains(letter) {
                words.flags.insert(letter);
            } else {
                return Err((2, String::new(), format!("invalid option '{letter}'\n")));
            }
        }
    }
    Ok(words)
}

impl Words {
    fn value(&self, letter: char) -> Option<&str> {
        self.valued.iter().rev().find(|(l, _)| *l == letter).map(|(_, value)| value.as_str())
    }

    fn properties(&self) -> BTreeMap<String, String> {
        self.valued
            .iter()
            .filter(|(l, _)| *l == 'o')
            .filter_map(|(_, text)| text.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    fn operand(&self, at: usize) -> &str {
        self.operands.get(at).map_or("", String::as_str)
    }
}

/// Runs a command that only reads; `None` for the others.
pub(crate) fn look(pool: &Pool, argv: &[String]) -> Option<Answer> {
    let (verb, rest) = argv.split_first()?;
    let result = match verb.as_str() {
        "get" => get(pool, rest),
        "list" => list(pool, rest),
        "send" => split(rest, "Lec", "it").map(|words| {
            let text = match words.value('t') {
                Some(token) => stream::send_rest(pool, token),
                None => stream::send(pool, words.value('i'), words.operand(0)),
            };
            text.map_or_else(|why| (1, String::new(), format!("{why}\n")), |text| (0, text, String::new()))
        }),
        _ => return None,
    };
    Some(result.unwrap_or_else(|usage| usage))
}

/// Runs `receive` of a stream.
pub(crate) fn receive(pool: &mut Pool, argv: &[String], stream: &str) -> Answer {
    let result = split(argv.get(1..).unwrap_or_default(), "suA", "o").map(|words| {
        let properties = words.properties();
        let (to, origin) = (words.operand(0), properties.get("origin").map(String::as_str));
        done(if words.flags.contains(&'A') {
            stream::abort(pool, to)
        } else {
            stream::receive(pool, to, origin, words.flags.contains(&'s'), stream)
        })
    });
    result.unwrap_or_else(|usage| usage)
}

/// Runs a command that changes the pool. `open` are the datasets in use by running guests.
pub(crate) fn run(pool: &mut Pool, argv: &[String], open: &BTreeSet<String>) -> Answer {
    let Some((verb, rest)) = argv.split_first() else {
        return (2, String::new(), "missing command\n".into());
    };
    let result = match verb.as_str() {
        "snapshot" => split(rest, "r", "o").map(|w| done(pool.snapshot(&w.operands, &w.properties()))),
        "hold" => split(rest, "r", "").map(|w| done(w.operands.iter().skip(1).try_for_each(|name| pool.hold(w.operand(0), name)))),
        "release" => split(rest, "r", "").map(|w| done(w.operands.iter().skip(1).try_for_each(|name| pool.release(w.operand(0), name)))),
        "clone" => split(rest, "p", "o").map(|w| done(pool.clone_snapshot(w.operand(0), w.operand(1), w.properties()))),
        "create" => split(rest, "ps", "oVb").map(|w| done(create(pool, &w))),
        "rename" => split(rest, "pfu", "").map(|w| done(pool.rename(w.operand(0), w.operand(1), open))),
        "promote" => split(rest, "", "").map(|w| done(pool.promote(w.operand(0)))),
        "rollback" => split(rest, "", "").map(|w| done(pool.rollback(w.operand(0)))),
        "destroy" => split(rest, "rd", "").map(|w| {
            let name = w.operand(0);
            done(if name.contains('@') {
                pool.destroy_snapshot(name, w.flags.contains(&'d'))
            } else {
                pool.destroy(name, w.flags.contains(&'r'), open)
            })
        }),
        "set" => split(rest, "", "").map(|w| done(set(pool, w.operand(0), w.operand(1)))),
        _ => Err((2, String::new(), format!("unrecognized command '{verb}'\n"))),
    };
    result.unwrap_or_else(|usage| usage)
}

fn done(result: Result<(), Refusal>) -> Answer {
    match result {
        Ok(()) => (0, String::new(), String::new()),
        Err(text) => (1, String::new(), format!("{text}\n")),
    }
}

fn create(pool: &mut Pool, words: &Words) -> Result<(), Refusal> {
    let name = words.operand(0);
    let size = words.value('V').map(str::parse).transpose().map_err(|_| format!("cannot create '{name}': bad volume size"))?;
    pool.create(name, size, words.properties(), super::disk::Disk::default())
}

fn set(pool: &mut Pool, assignment: &str, name: &str) -> Result<(), Refusal> {
    let (property, value) = assignment.split_once('=').ok_or_else(|| "missing '=' for property=value argument".to_owned())?;
    // Source: OpenZFS sys/zap.h, `ZAP_MAXVALUELEN`.
    if value.len() >= 8192 {
        return Err(format!("cannot set property for '{name}': property value too long"));
    }
    if name.contains('@') {
        pool.snapshot_mut(name)?.properties.insert(property.to_owned(), value.to_owned());
        return Ok(());
    }
    let dataset = pool.datasets.get_mut(name).ok_or_else(|| format!("cannot open '{name}': dataset does not exist"))?;
    dataset.properties.insert(property.to_owned(), value.to_owned());
    Ok(())
}

/// A dataset or a snapshot that a listing shows.
#[derive(Clone, Copy)]
enum Shown<'a> {
    Dataset(&'a str, &'a Dataset),
    Snapshot(&'a str, &'a Snapshot),
}

impl Shown<'_> {
    fn name(&self) -> String {
        match self {
            Self::Dataset(name, _) => (*name).to_owned(),
            Self::Snapshot(name, snapshot) => format!("{name}@{}", snapshot.name),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Dataset(_, dataset) if dataset.volume.is_some() => "volume",
            Self::Dataset(..) => "filesystem",
            Self::Snapshot(..) => "snapshot",
        }
    }

    /// Native properties and their values, `-p` form; source `-`.
    fn native(&self, pool: &Pool) -> Vec<(&'static str, String)> {
        match self {
            Self::Dataset(name, dataset) => {
                let mut rows = vec![
                    ("type", self.kind().to_owned()),
                    ("guid", dataset.guid.to_string()),
                    ("createtxg", dataset.createtxg.to_string()),
                ];
                rows.extend([("used", "65536".to_owned()), ("referenced", "65536".to_owned())]);
                // As if each of them had a block of its own.
                rows.push(("usedbysnapshots", (dataset.snapshots.len() * 65536).to_string()));
                rows.extend(dataset.origin.and_then(|guid| pool.snapshot_name(guid, name)).map(|name| ("origin", name)));
                rows.extend(dataset.volume.map(|size| ("volsize", size.to_string())));
                rows.extend(dataset.half.as_ref().map(|half| ("receive_resume_token", half.token())));
                rows
            }
            Self::Snapshot(name, snapshot) => vec![
                ("type", "snapshot".to_owned()),
                ("guid", snapshot.guid.to_string()),
                ("createtxg", snapshot.createtxg.to_string()),
                ("used", "0".to_owned()),
                ("referenced", "65536".to_owned()),
                ("userrefs", snapshot.holds.len().to_string()),
                ("defer_destroy", if snapshot.deferred { "on" } else { "off" }.to_owned()),
                ("clones", pool.clones(snapshot.guid, name).join(",")),
            ],
        }
    }

    /// Set properties with their source; those of a parent are inherited, by a snapshot from its dataset too.
    fn set(&self, pool: &Pool) -> BTreeMap<String, (String, String)> {
        let mut rows = BTreeMap::new();
        let (name, own) = match self {
            Self::Dataset(name, dataset) => (*name, &dataset.properties),
            Self::Snapshot(name, snapshot) => (*name, &snapshot.properties),
        };
        let ends = name.match_indices('/').map(|(at, _)| at).chain(matches!(self, Self::Snapshot(..)).then_some(name.len()));
        for ancestor in ends.map(|end| &name[..end]) {
            let Some(dataset) = pool.datasets.get(ancestor) else { continue };
            // canmount is never inherited.
            for (property, value) in dataset.properties.iter().filter(|(property, _)| *property != "canmount") {
                rows.insert(property.clone(), (value.clone(), format!("inherited from {ancestor}")));
            }
        }
        rows.extend(own.iter().map(|(property, value)| (property.clone(), (value.clone(), "local".to_owned()))));
        rows
    }
}

/// What a target with `-r`, `-d` and `-t` stands for.
fn shown<'a>(pool: &'a Pool, words: &Words, target: &str, default_types: &str) -> Result<Vec<Shown<'a>>, Refusal> {
    let depth = match words.value('d').map(str::parse::<usize>) {
        Some(Ok(depth)) => depth,
        _ if words.flags.contains(&'r') => usize::MAX,
        _ => 0,
    };
    if let Some((dataset, short)) = target.split_once('@') {
        pool.snapshot_of(target)?;
        let (name, dataset) =
            pool.datasets.get_key_value(dataset).ok_or_else(|| format!("cannot open '{target}': dataset does not exist"))?;
        return Ok(dataset.snapshots.iter().filter(|s| s.name == short).map(|s| Shown::Snapshot(name, s)).collect());
    }
    pool.get(target)?;
    let types =
        words.value('t').unwrap_or(if depth > 0 && default_types.is_empty() { "filesystem,volume,snapshot" } else { "filesystem,volume" });
    let wanted = |shown: &Shown<'_>| types.split(',').any(|t| t == shown.kind() || t == "all");
    let below = format!("{target}/");
    let mut rows = Vec::new();
    for (name, dataset) in pool.datasets.iter().filter(|(name, _)| *name == target || name.starts_with(&below)) {
        let level = name[target.len()..].matches('/').count();
        rows.extend((level <= depth).then_some(Shown::Dataset(name, dataset)));
        if level < depth || (depth == usize::MAX) {
            rows.extend(dataset.snapshots.iter().map(|s| Shown::Snapshot(name, s)));
        }
    }
    rows.retain(wanted);
    Ok(rows)
}

fn get(pool: &Pool, argv: &[String]) -> Result<Answer, Answer> {
    let words = split(argv, "Hpr", "dtso")?;
    let columns: Vec<&str> = words.value('o').unwrap_or("name,property,value,source").split(',').collect();
    let sources: Option<Vec<&str>> = words.value('s').map(|sources| sources.split(',').collect());
    let properties: Vec<&str> = words.operand(0).split(',').collect();
    let mut out = String::new();
    for target in words.operands.iter().skip(1) {
        let rows = match shown(pool, &words, target, "") {
            Ok(rows) => rows,
            Err(text) => return Err((1, out, format!("{text}\n"))),
        };
        for row in rows {
            let native = row.native(pool).into_iter().map(|(p, v)| (p.to_owned(), (v, "-".to_owned())));
            let all: BTreeMap<String, (String, String)> = native.chain(row.set(pool)).collect();
            let asked: Vec<(String, (String, String))> = if properties == ["all"] {
                all.into_iter().collect()
            } else {
                properties.iter().map(|p| ((*p).to_owned(), all.get(*p).cloned().unwrap_or_else(|| ("-".into(), "-".into())))).collect()
            };
            for (property, (value, source)) in asked {
                let class = if source == "-" { "none" } else { source.split(' ').next().unwrap_or_default() };
                if sources.as_ref().is_some_and(|wanted| !wanted.contains(&class)) {
                    continue;
                }
                let name = row.name();
                let cells = columns.iter().map(|column| match *column {
                    "name" => name.as_str(),
                    "property" => property.as_str(),
                    "value" => value.as_str(),
                    _ => source.as_str(),
                });
                out.push_str(&cells.collect::<Vec<_>>().join("\t"));
                out.push('\n');
            }
        }
    }
    Ok((0, out, String::new()))
}

fn list(pool: &Pool, argv: &[String]) -> Result<Answer, Answer> {
    let words = split(argv, "Hpr", "dtosS")?;
    let columns: Vec<&str> = words.value('o').unwrap_or("name,used,referenced,mountpoint").split(',').collect();
    let roots: Vec<String> = pool.datasets.keys().filter(|name| !name.contains('/')).cloned().collect();
    let targets = if words.operands.is_empty() { &roots } else { &words.operands };
    let mut out = String::new();
    for target in targets {
        let rows = match shown(pool, &words, target, "list") {
            Ok(rows) => rows,
            Err(text) => return Err((1, out, format!("{text}\n"))),
        };
        for row in rows {
            let native: BTreeMap<&str, String> = row.native(pool).into_iter().collect();
            let set = row.set(pool);
            let cell = |column: &&str| match *column {
                "name" => row.name(),
                column => {
                    native.get(column).cloned().or_else(|| set.get(column).map(|(value, _)| value.clone())).unwrap_or_else(|| "-".into())
                }
            };
            out.push_str(&columns.iter().map(cell).collect::<Vec<_>>().join("\t"));
            out.push('\n');
        }
    }
    Ok((0, out, String::new()))
}
