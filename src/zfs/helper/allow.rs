//! What the helper runs: the forms of our own client's commands, on names that are ours, below the datasets it was given.

use super::super::{Dataset, Properties, listing, name};
use super::legal;

/// Marks that make a dataset ours. Each is set with what it marks, in one command.
const DISK_MARKS: &[&str] = &["autovibe:machine", "autovibe:image"];
/// The mark of a dataset that a checkpoint's snapshot was copied to, beside its name.
const COPY_MARKS: &[&str] = &["autovibe:checkpoint"];
/// Marks that make a snapshot ours.
const SNAPSHOT_MARKS: &[&str] = &["autovibe:checkpoint", "autovibe:image"];
/// What a hold's tag begins with.
const TAG: &str = "autovibe";

/// Where the helper may act.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The storage's dataset and the checkpoint tree. Only direct children with our names.
    pub roots: Vec<String>,
    /// Datasets whose snapshots may be read, held and cloned.
    pub images: Vec<String>,
    /// Datasets that copies of checkpoints are made in and read from. Only direct children with a copy's name; none is ever destroyed.
    pub exports: Vec<String>,
    /// The VM ids that are autovibe's; all, if `None`.
    pub vmids: Option<(u32, u32)>,
}

/// A command that may run once `needs` were seen.
#[derive(Debug, PartialEq)]
pub(super) struct Allowed {
    pub(super) work: Work,
    pub(super) needs: Vec<Need>,
}

/// How it is run.
#[derive(Debug, PartialEq)]
pub(super) enum Work {
    Plain,
    /// Its standard output is a stream.
    Prints,
    /// The same, of whatever snapshot a token means.
    Resumes(String),
    /// It reads a stream.
    Reads,
    /// No command of `zfs`: a disk is made of the raw image that follows.
    Import {
        to: Dataset,
        size: u64,
        properties: Properties,
    },
}

/// What must be seen on the node first.
#[derive(Debug, PartialEq)]
pub(super) enum Need {
    /// A dataset with our mark.
    Disk(String),
    /// The same, and what it is a clone of is a disk of ours too.
    Promotable(String),
    /// A snapshot with our mark.
    Snapshot(String),
}

impl Need {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Disk(name) | Self::Promotable(name) | Self::Snapshot(name) => name,
        }
    }

    pub(super) fn check(&self, properties: &Properties, origin: Option<&str>, limits: &Limits) -> Result<(), String> {
        let is_copy = self.name().rsplit('/').next().is_some_and(|name| name.starts_with("c-"));
        let marks = match self {
            Self::Snapshot(_) => SNAPSHOT_MARKS,
            Self::Disk(_) | Self::Promotable(_) if is_copy => COPY_MARKS,
            Self::Disk(_) | Self::Promotable(_) => DISK_MARKS,
        };
        if !marks.iter().any(|mark| properties.contains_key(*mark)) {
            return Err(format!("{} does not carry the mark {}; it is not autovibe's", self.name(), marks.join(" or ")));
        }
        if matches!(self, Self::Promotable(_))
            && let Some(origin) = origin.and_then(listing::split_snapshot)
        {
            limits.disk(&origin.dataset.0)?;
        }
        Ok(())
    }
}

/// What a stream makes, by its name.
enum Received<'a> {
    /// A Machine's disk, with the uid of the Machine.
    Kept(&'a str),
    /// A copy of a checkpoint's snapshot, with the uid of the Checkpoint.
    Copy(&'a str),
    /// An image, with its name.
    Image(&'a str),
}

fn plain(needs: Vec<Need>) -> Result<Allowed, String> {
    Ok(Allowed { work: Work::Plain, needs })
}

/// `-o name=value` …, and what comes after them.
fn options<'a>(mut words: &'a [&'a str]) -> Result<(Properties, &'a [&'a str]), String> {
    let mut properties = Properties::new();
    while let ["-o", assignment, rest @ ..] = words {
        let (name, value) = assignment.split_once('=').ok_or("an option without `=`")?;
        if !name.starts_with("autovibe:") {
            return Err(format!("property {} is not autovibe's", name.escape_debug()));
        }
        properties.insert(name.to_owned(), value.to_owned());
        words = rest;
    }
    name::options(&properties).map_err(|error| error.to_string())?;
    Ok((properties, words))
}

fn marked(properties: &Properties, marks: &[&str]) -> Result<(), String> {
    if marks.iter().any(|mark| properties.contains_key(*mark)) { Ok(()) } else { Err(format!("it sets no mark {}", marks.join(" or "))) }
}

impl Limits {
    /// Whether the helper may run this. Errors: words for people.
    pub(super) fn allow(&self, argv: &[String]) -> Result<Allowed, String> {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["list", "-Hp", "-d", "0", "-o", "name"] => plain(Vec::new()),
            ["list", "-H", "-r", "-t", "filesystem", "-o", "name", root] if self.readable(root) => plain(Vec::new()),
            ["get", "-Hp", rest @ ..] => self.get(rest),
            ["snapshot", rest @ ..] => {
                let (properties, names) = options(rest)?;
                marked(&properties, SNAPSHOT_MARKS)?;
                if names.is_empty() {
                    return Err("a snapshot of nothing".into());
                }
                let disks = names.iter().map(|name| self.snapshot(name).map(|dataset| Need::Disk(dataset.to_owned())));
                plain(disks.collect::<Result<_, _>>()?)
            }
            ["hold" | "release", tag, snapshot] => {
                if !tag.starts_with(TAG) || name::tag(tag).is_err() {
                    return Err(format!("tag {} is not autovibe's", tag.escape_debug()));
                }
                // What is held among the exports is let go by people.
                self.source(snapshot).or_else(|why| if words[0] == "hold" { self.exported_snapshot(snapshot) } else { Err(why) })?;
                plain(Vec::new())
            }
            ["clone", rest @ ..] => {
                let (properties, names) = options(rest)?;
                let [from, to] = names else { return Err("clone takes a snapshot and a name".into()) };
                marked(&properties, DISK_MARKS)?;
                self.source(from)?;
                self.disk(to)?;
                plain(Vec::new())
            }
            ["create", "-o", "mountpoint=none", "-o", "canmount=off", root] if self.roots.iter().any(|known| known == root) => {
                plain(Vec::new())
            }
            ["import", size, rest @ ..] => {
                let (properties, names) = options(rest)?;
                let ([to], Ok(size)) = (names, size.parse()) else { return Err("import takes a size and a name".into()) };
                marked(&properties, DISK_MARKS)?;
                self.disk(to)?;
                let work = Work::Import { to: Dataset((*to).to_owned()), size, properties };
                Ok(Allowed { work, needs: Vec::new() })
            }
            ["rename", from, to] => {
                self.disk(from)?;
                self.disk(to)?;
                plain(vec![Need::Disk((*from).to_owned())])
            }
            ["promote", dataset] => {
                self.disk(dataset)?;
                plain(vec![Need::Promotable((*dataset).to_owned())])
            }
            ["destroy", "-d", snapshot] | ["destroy", snapshot] if snapshot.contains('@') => {
                self.snapshot(snapshot)?;
                plain(vec![Need::Snapshot((*snapshot).to_owned())])
            }
            ["destroy" | "mount" | "unmount", dataset] => {
                self.disk(dataset)?;
                plain(vec![Need::Disk((*dataset).to_owned())])
            }
            ["send", rest @ ..] => self.send(rest),
            // What came half of a stream has no mark yet; ZFS aborts nothing that is whole.
            ["receive", "-A", to] if self.exported(to).is_ok() => plain(Vec::new()),
            ["receive", "-A", to] => self.received(to).and_then(|_| plain(Vec::new())),
            ["receive", rest @ ..] => self.receive(rest.strip_prefix(&["-s", "-u"]).unwrap_or(rest)),
            ["set", assignment, to] => self.set(assignment, to),
            _ => Err(format!("`{}` is none of autovibe's commands", words.first().unwrap_or(&"").escape_debug())),
        }
    }

    fn get(&self, words: &[&str]) -> Result<Allowed, String> {
        let mut rest = words;
        loop {
            rest = match rest {
                ["-r", rest @ ..]
                | ["-d", "1", rest @ ..]
                | ["-t", "filesystem,volume" | "snapshot", rest @ ..]
                | ["-o", "name,property,value,source" | "value", rest @ ..] => rest,
                ["-s", sources, rest @ ..] if sources.split(',').all(|source| matches!(source, "local" | "none")) => rest,
                _ => break,
            };
        }
        let [properties, names @ ..] = rest else { return Err("get takes properties and names".into()) };
        if names.is_empty() {
            return Err("get takes properties and names".into());
        }
        if !properties.chars().all(|c| c.is_ascii_lowercase() || ",_:".contains(c)) {
            return Err("a property that no one has".into());
        }
        for name in names {
            // The guid of a pool says whether it is there at all.
            let pool = self.roots.iter().chain(&self.images).chain(&self.exports).any(|root| root.split('/').next() == Some(*name));
            let dataset = match name.split_once('@') {
                Some((dataset, snapshot)) if name::tag(snapshot).is_ok() => dataset,
                Some(_) => return Err(format!("`{}` is no name", name.escape_debug())),
                None => name,
            };
            let asks_of_pool = pool && *properties == "guid" && names.len() == 1 && !words.contains(&"-r");
            if !asks_of_pool && !self.readable(dataset) {
                return Err(format!("{} is outside what this helper may see", name.escape_debug()));
            }
        }
        plain(Vec::new())
    }

    fn receive(&self, words: &[&str]) -> Result<Allowed, String> {
        let (["-o", _, to] | [to]) = words else { return Err("receive takes one name".into()) };
        let is_export = self.exported(to).is_ok();
        if let ["-o", origin, _] = words {
            let origin = origin.strip_prefix("origin=").ok_or("only an origin may be given")?;
            if is_export { self.exported_snapshot(origin)? } else { self.source(origin)? }
        }
        if !is_export {
            self.received(to)?;
        }
        Ok(Allowed { work: Work::Reads, needs: Vec::new() })
    }

    /// Marking is how something becomes ours: only under a name that says the same, which Proxmox never uses.
    fn set(&self, assignment: &str, to: &str) -> Result<Allowed, String> {
        let (dataset, short) = to.split_once('@').map_or((to, None), |(dataset, short)| (dataset, Some(short)));
        if short.is_some_and(|short| name::tag(short).is_err()) {
            return Err(format!("{} is no snapshot of autovibe's", to.escape_debug()));
        }
        if let Ok(uid) = self.exported(dataset) {
            let base64 = |value: &str| value.chars().all(|c| c.is_ascii_alphanumeric() || "+/= ".contains(c));
            let numbered = |name: &str| name.strip_prefix("autovibe:manifest-").is_some_and(|number| number.parse::<u16>().is_ok());
            let legal = match assignment.split_once('=') {
                Some(("autovibe:checkpoint", value)) => value == uid,
                Some((name, value)) => (name == "autovibe:manifest" || numbered(name)) && base64(value),
                None => false,
            };
            return if legal && short.is_none() { plain(Vec::new()) } else { Err("that may not be set".into()) };
        }
        let legal = match (self.received(dataset)?, assignment.split_once('=')) {
            (Received::Kept(uid), Some(("autovibe:machine", value))) => short.is_none() && value == uid,
            (Received::Copy(uid), Some(("autovibe:checkpoint", value))) => value == uid,
            (Received::Copy(_), Some(("autovibe:machine", value))) => short.is_some() && uuid::Uuid::try_parse(value).is_ok(),
            (Received::Image(image), Some(("autovibe:image", value))) => value == image,
            (Received::Image(_), Some(("autovibe:source", value))) => !value.chars().any(char::is_control),
            _ => false,
        };
        if legal { plain(Vec::new()) } else { Err("that may not be set".into()) }
    }

    fn send(&self, words: &[&str]) -> Result<Allowed, String> {
        if let ["-t", token] = words {
            let token = name::token(token).map_err(|error| error.to_string())?;
            return Ok(Allowed { work: Work::Resumes(token.to_owned()), needs: Vec::new() });
        }
        let rest = words.strip_prefix(&["-L", "-e", "-c"]).unwrap_or(words);
        let (["-i", _, snapshot] | [snapshot]) = rest else { return Err("send takes one snapshot".into()) };
        if let ["-i", base, _] = rest {
            self.sendable(base)?;
        }
        self.sendable(snapshot)?;
        Ok(Allowed { work: Work::Prints, needs: Vec::new() })
    }

    /// A disk under one of our names, right below a root.
    pub(super) fn disk(&self, dataset: &str) -> Result<(), String> {
        let refused = || Err(format!("{} is no disk of autovibe's", dataset.escape_debug()));
        let Some((parent, name)) = dataset.rsplit_once('/').filter(|_| legal(dataset)) else { return refused() };
        if !self.roots.iter().any(|root| root == parent) {
            return refused();
        }
        let number = |text: &str| text.len() <= 9 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let legal = match name.split_once('-') {
            Some(("image", rest)) => !rest.is_empty(),
            Some((kind @ ("vm" | "m" | "c"), rest)) => rest.rsplit_once("-disk-").is_some_and(|(owner, index)| {
                number(index)
                    && match kind {
                        "vm" => {
                            number(owner) && self.vmids.is_none_or(|(from, to)| owner.parse().is_ok_and(|id| (from..=to).contains(&id)))
                        }
                        _ => uuid::Uuid::try_parse(owner).is_ok(),
                    }
            }),
            _ => false,
        };
        if legal { Ok(()) } else { refused() }
    }

    /// What a stream may make; with what its name says.
    fn received<'a>(&self, dataset: &'a str) -> Result<Received<'a>, String> {
        self.disk(dataset)?;
        let name = dataset.rsplit_once('/').map_or(dataset, |(_, name)| name);
        let owner = |name: &'a str| name.rsplit_once("-disk-").map(|(uid, _)| uid);
        let kept = name.strip_prefix("m-").and_then(owner).map(Received::Kept);
        let copy = || name.strip_prefix("c-").and_then(owner).map(Received::Copy);
        let image = || name.strip_prefix("image-").map(Received::Image);
        kept.or_else(copy).or_else(image).ok_or_else(|| format!("{dataset} is nothing that may be received"))
    }

    /// A snapshot under one of our names, of one of our disks; gives the disk. One that was copied has the name that it had.
    fn snapshot<'a>(&self, snapshot: &'a str) -> Result<&'a str, String> {
        let ours = |dataset: &str, short: &str| {
            short.starts_with("av-") || short == "base" || matches!(self.received(dataset), Ok(Received::Copy(_) | Received::Image(_)))
        };
        match snapshot.split_once('@') {
            Some((dataset, short)) if ours(dataset, short) && name::tag(short).is_ok() => self.disk(dataset).map(|()| dataset),
            _ => Err(format!("{} is no snapshot of autovibe's", snapshot.escape_debug())),
        }
    }

    /// A snapshot that may be held, cloned and sent: of a disk of ours, or below an image root.
    pub(super) fn source(&self, snapshot: &str) -> Result<(), String> {
        match snapshot.split_once('@') {
            Some((dataset, short)) if name::tag(short).is_ok() && (self.disk(dataset).is_ok() || self.image(dataset)) => Ok(()),
            _ => Err(format!("{} is no snapshot that autovibe may use", snapshot.escape_debug())),
        }
    }

    /// A snapshot that may be sent: one that may be used, or one of an export.
    pub(super) fn sendable(&self, snapshot: &str) -> Result<(), String> {
        self.source(snapshot).or_else(|why| self.exported_snapshot(snapshot).map_err(|_| why))
    }

    fn exported_snapshot(&self, snapshot: &str) -> Result<(), String> {
        match snapshot.split_once('@') {
            Some((dataset, short)) if name::tag(short).is_ok() => self.exported(dataset).map(drop),
            _ => Err(format!("{} is no snapshot", snapshot.escape_debug())),
        }
    }

    /// A disk of an exported checkpoint, with the uid of that.
    fn exported<'a>(&self, dataset: &'a str) -> Result<&'a str, String> {
        let name = dataset.rsplit_once('/').filter(|(root, _)| legal(dataset) && self.exports.iter().any(|known| known == root));
        let owner = name.and_then(|(_, name)| name.strip_prefix("c-")?.rsplit_once("-disk-"));
        let index = |text: &str| text.len() <= 3 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match owner {
            Some((uid, number)) if uuid::Uuid::try_parse(uid).is_ok() && index(number) => Ok(uid),
            _ => Err(format!("{} is no export", dataset.escape_debug())),
        }
    }

    fn image(&self, dataset: &str) -> bool {
        legal(dataset) && self.images.iter().any(|root| within(root, dataset))
    }

    fn readable(&self, dataset: &str) -> bool {
        legal(dataset) && self.roots.iter().chain(&self.images).chain(&self.exports).any(|root| within(root, dataset))
    }
}

fn within(root: &str, dataset: &str) -> bool {
    dataset.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
