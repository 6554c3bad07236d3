//! Bugs of a hub, planted where it meets the world: it asks and reads as a hub with that bug would, and the product stays as it
//! is. The suite must find each, in a bounded number of its runs.

use super::crashes::dying_at;
use super::faults::{reads, storms, striking};
use super::gate::{Fault, Moment, Point, response};
use super::life::{each, live, live_with};
use super::taken;
use autovibe::wire::{NoAnswer, Service};
use autovibe::zfs;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The first list of VMs is acted on for ever.
    StaleList,
    /// A VM's config is read once.
    StaleConfig,
    /// A VM that could not be seen is not there.
    UnseenIsAbsent,
    /// A create whose answer did not come is sent again, with another number.
    CreateAgain,
    /// A create whose answer did not come was done.
    CreateUnseen,
    /// A deletion whose answer did not come was done: the VM is not looked for.
    DeleteUnseen,
    /// Likewise a renaming of a disk, and its number is let go without a look.
    RenameUnseen,
    /// One of the two marks is enough.
    OneMark,
    /// Snapshots are not held.
    NoHold,
    /// A fork never lets its base go.
    ForkHoldStays,
    /// Disks are cloned without a mark.
    NoMark,
    /// A disk that a hub before it cloned is not known again.
    NotAdopted,
    /// A disk is destroyed with whatever snapshots are on it.
    DestroyDependents,
    /// What it is about to do is written down when it is done.
    IntentAfterAction,
}

pub(super) const BUGS: [Bug; 14] = [
    Bug::StaleList,
    Bug::StaleConfig,
    Bug::UnseenIsAbsent,
    Bug::CreateAgain,
    Bug::CreateUnseen,
    Bug::DeleteUnseen,
    Bug::RenameUnseen,
    Bug::OneMark,
    Bug::NoHold,
    Bug::ForkHoldStays,
    Bug::NoMark,
    Bug::NotAdopted,
    Bug::DestroyDependents,
    Bug::IntentAfterAction,
];

/// What one hub with a bug believes.
#[derive(Default)]
pub(super) struct Mind {
    read: BTreeMap<String, Bytes>,
    /// VMIDs and disks of which it thinks that they are not there.
    absent: BTreeSet<String>,
    cloned: bool,
}

type Shared = Arc<Mutex<Mind>>;

const NO_CONFIG: &str = "Configuration file 'nodes/lab/qemu-server/0.conf' does not exist";

/// Proxmox as a hub with the bug asks it and understands it.
pub(super) fn proxmox(bug: Option<Bug>, mind: &Shared, inner: Service) -> Service {
    let Some(bug) = bug else { return inner };
    let mind = mind.clone();
    Service::new(move |request| {
        let (mind, inner) = (mind.clone(), inner.clone());
        Box::pin(async move {
            let path = request.url().path().trim_start_matches("/api2/json").to_owned();
            let reads = request.method() == reqwest::Method::GET;
            let vmid = path.strip_prefix("/nodes/lab/qemu/").and_then(|rest| rest.split('/').next()).map(str::to_owned);
            let config = reads && path.ends_with("/config");
            let lists = path == "/cluster/resources" || (reads && path == "/nodes/lab/qemu");
            if vmid.as_ref().is_some_and(|vmid| mind.lock().unwrap().absent.contains(vmid)) {
                return Ok(response(500, Some(hyper::ext::ReasonPhrase::from_static(NO_CONFIG.as_bytes())), "{}".into()));
            }
            let believed = match bug {
                Bug::StaleList => lists,
                Bug::StaleConfig => config,
                Bug::CreateUnseen if path.contains("0BADBAD0") => return Ok(response(200, None, DONE.into())),
                _ => false,
            };
            if let Some(body) = mind.lock().unwrap().read.get(&path).filter(|_| believed) {
                return Ok(response(200, None, body.clone()));
            }
            let (again, deletes) = (request.try_clone().unwrap(), request.method() == reqwest::Method::DELETE);
            let creates = request.method() == reqwest::Method::POST && path == "/nodes/lab/qemu";
            let answer = match (bug, inner.call(request).await) {
                (Bug::CreateAgain, Err(NoAnswer)) if creates => inner.call(with_other_number(again)).await,
                (Bug::CreateUnseen, Err(NoAnswer)) if creates => {
                    return Ok(response(200, None, format!(r#"{{"data":"{UNSEEN}"}}"#).into()));
                }
                (Bug::UnseenIsAbsent, Err(NoAnswer)) if config => {
                    mind.lock().unwrap().absent.extend(vmid);
                    return Ok(response(500, Some(hyper::ext::ReasonPhrase::from_static(NO_CONFIG.as_bytes())), "{}".into()));
                }
                (Bug::DeleteUnseen, Err(NoAnswer)) if deletes => {
                    mind.lock().unwrap().absent.extend(vmid);
                    return Err(NoAnswer);
                }
                (_, answer) => answer,
            };
            let answer = answer?;
            let (status, reason) = (answer.status().as_u16(), answer.extensions().get().cloned());
            let mut body = answer.bytes().await.map_err(|_| NoAnswer)?;
            if status == 200 && lists {
                body = without(&body, &mind.lock().unwrap().absent);
            }
            if status == 200 && config && bug == Bug::OneMark {
                body = stamped(&body);
            }
            if status == 200 && believed {
                mind.lock().unwrap().read.insert(path, body.clone());
            }
            Ok(response(status, reason, body))
        })
    })
}

/// Task of a create that nobody saw.
const UNSEEN: &str = "UPID:lab:0BADBAD0:00000001:00000001:qmcreate:1000:root@pam:";
const DONE: &str = r#"{"data":{"status":"stopped","exitstatus":"OK"}}"#;

fn with_other_number(mut request: reqwest::Request) -> reqwest::Request {
    let body = String::from_utf8_lossy(request.body().and_then(reqwest::Body::as_bytes).unwrap()).into_owned();
    let other: Vec<String> =
        body.split('&').map(|pair| if pair.starts_with("vmid=") { "vmid=1002".to_owned() } else { pair.to_owned() }).collect();
    *request.body_mut() = Some(other.join("&").into());
    request.headers_mut().remove("content-length");
    request
}

/// A list without VMs of which the hub thinks that they are gone.
fn without(body: &Bytes, absent: &BTreeSet<String>) -> Bytes {
    let mut list: serde_json::Value = serde_json::from_slice(body).unwrap();
    if let Some(rows) = list["data"].as_array_mut() {
        rows.retain(|row| !absent.contains(&row["vmid"].to_string()));
    }
    serde_json::to_vec(&list).unwrap().into()
}

/// A config whose smbios uuid is what its tag says.
fn stamped(body: &Bytes) -> Bytes {
    let mut config: serde_json::Value = serde_json::from_slice(body).unwrap();
    let tags = config["data"]["tags"].as_str().unwrap_or_default().to_owned();
    if let Some(uid) = tags.split(';').find_map(|tag| tag.strip_prefix("av-")) {
        config["data"]["smbios1"] = format!("uuid={uid}").into();
    }
    serde_json::to_vec(&config).unwrap().into()
}

/// The node's `zfs`, likewise.
pub(super) fn zfs(bug: Option<Bug>, mind: &Shared, inner: zfs::Service) -> zfs::Service {
    let Some(bug) = bug else { return inner };
    let mind = mind.clone();
    zfs::Service::new(move |mut argv| {
        let (mind, inner) = (mind.clone(), inner.clone());
        Box::pin(async move {
            let (verb, last) = (argv[0].clone(), argv.last().cloned().unwrap_or_default());
            let output = |status, stderr: String| Some(zfs::Output { status, stdout: String::new(), stderr });
            match bug {
                Bug::NoHold if verb == "hold" && argv[1] == "autovibe" => return output(0, String::new()),
                Bug::ForkHoldStays if verb == "release" && argv[1].starts_with("autovibe-fork") => return output(0, String::new()),
                Bug::NoMark if verb == "clone" => {
                    let marks: Vec<usize> = (1..argv.len()).filter(|at| argv[at - 1] == "-o" || argv[*at] == "-o").collect();
                    argv = argv.into_iter().enumerate().filter(|(at, _)| !marks.contains(at)).map(|(_, word)| word).collect();
                }
                Bug::NotAdopted if verb == "get" && is_disk(&last) && !mind.lock().unwrap().cloned => {
                    return output(1, format!("cannot open '{last}': dataset does not exist\n"));
                }
                Bug::DestroyDependents if verb == "get" && argv.contains(&"snapshot".into()) && last.starts_with("tank/autovibe/") => {
                    return output(0, String::new());
                }
                // What they take is what none takes.
                Bug::DestroyDependents if verb == "get" && last.starts_with("tank/autovibe/") && !last.contains('@') => {
                    let mut answer = inner.call(argv).await?;
                    let none = |line: &str| match line.split('\t').collect::<Vec<_>>().as_slice() {
                        [name, "usedbysnapshots", _, source] => format!("{name}\tusedbysnapshots\t0\t{source}\n"),
                        _ => format!("{line}\n"),
                    };
                    answer.stdout = answer.stdout.lines().map(none).collect();
                    return Some(answer);
                }
                Bug::DestroyDependents if verb == "destroy" && last.starts_with("tank/autovibe/") && !last.contains('@') => {
                    let list = ["list", "-Hp", "-r", "-t", "snapshot", "-o", "name", &last];
                    let all = inner.call(list.map(str::to_owned).to_vec()).await?;
                    for snapshot in all.stdout.lines() {
                        inner.call(["release", "autovibe", snapshot].map(str::to_owned).to_vec()).await?;
                    }
                    argv.insert(1, "-r".into());
                }
                Bug::RenameUnseen if verb == "get" && last == "tank/data" => {
                    let mut answer = inner.call(argv).await?;
                    let gone = |line: &&str| mind.lock().unwrap().absent.iter().any(|disk| line.starts_with(disk.as_str()));
                    answer.stdout = answer.stdout.lines().filter(|line| !gone(line)).map(|line| format!("{line}\n")).collect();
                    return Some(answer);
                }
                _ => {}
            }
            let renamed = argv.get(argv.len().saturating_sub(2)).cloned();
            let answer = inner.call(argv).await;
            match &answer {
                None if bug == Bug::RenameUnseen && verb == "rename" => {
                    mind.lock().unwrap().absent.extend(renamed);
                    return output(0, String::new());
                }
                Some(done) if verb == "clone" && done.status == 0 => mind.lock().unwrap().cloned = true,
                _ => {}
            }
            answer
        })
    })
}

fn is_disk(name: &str) -> bool {
    name.starts_with("tank/data/vm-") && !name.contains('@')
}

/// One run of the suite.
#[derive(Clone, Copy, Debug)]
enum Run {
    Quiet,
    Strike(usize, Fault),
    Death(usize),
    Storm(u64),
    /// The VM becomes someone else's before this call.
    Taken(usize),
}

impl Run {
    fn holds(self, bug: Option<Bug>) -> bool {
        let what = format!("{bug:?}, {self:?}");
        let run = || match self {
            Self::Quiet => drop(live_with(bug, &what, 0, vec![])),
            Self::Strike(call, fault) => drop(live_with(bug, &what, 0, vec![striking(call, fault)])),
            Self::Death(point) => drop(live_with(bug, &what, 0, vec![dying_at(point)])),
            Self::Storm(seed) => drop(live_with(bug, &what, seed, storms(seed))),
            Self::Taken(call) => taken::live(bug, &what, call),
        };
        std::panic::catch_unwind(run).is_ok()
    }
}

/// Runs that the other tests make too: a quiet one, then some of each kind in turn.
fn runs(points: &[Point]) -> Vec<Run> {
    let numbered = points.iter().enumerate();
    let deaths = numbered.filter(|(_, point)| point.moment == Moment::AfterDone && !reads(&point.what)).map(|(at, _)| Run::Death(at));
    let calls: Vec<&Point> = points.iter().filter(|point| point.moment == Moment::BeforeSend).collect();
    let strikes = |which: bool, fault| {
        let calls = calls.iter().enumerate().filter(move |(_, call)| reads(&call.what) == which);
        calls.map(move |(at, _)| Run::Strike(at + 1, fault))
    };
    let mut kinds: Vec<Box<dyn Iterator<Item = Run>>> = vec![
        Box::new(deaths),
        // From the end too: what is done there is found sooner.
        Box::new(strikes(false, Fault::LoseRequest).rev()),
        Box::new(strikes(false, Fault::LoseReply)),
        Box::new(strikes(true, Fault::LoseReply).rev()),
        Box::new(taken::calls(points).into_iter().step_by(5).map(Run::Taken)),
        Box::new((0..10).map(Run::Storm)),
    ];
    let mut runs = vec![Run::Quiet];
    loop {
        let turn: Vec<Run> = kinds.iter_mut().filter_map(Iterator::next).collect();
        if turn.is_empty() {
            return runs;
        }
        runs.extend(turn);
    }
}

#[test]
fn every_planted_bug_is_found() {
    let runs = runs(&live("no bug", 0, vec![]).points);
    each(BUGS.len(), |number| {
        let bug = BUGS[number];
        let found = runs.iter().position(|run| !run.holds(Some(bug)));
        let found = found.unwrap_or_else(|| panic!("{bug:?} was not found by {} runs", runs.len()));
        eprintln!("{bug:?}: {:?}, run {found} of {}", runs[found], runs.len());
    });
}
