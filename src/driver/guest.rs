//! What is done inside a guest, through its agent: each verb is one script, safe to run again.
//!
//! The guest agent gives an exit status once and then forgets it. A reply that is lost on the way is therefore `Unknown`,
//! and the verb is run again.

mod exec;

pub use exec::Said;

use super::vm::Wait;
use super::{Driver, Error};
use crate::agent::{self, scripts};
use crate::api::checkpoint::{Content, Digest};
use crate::clock::Clock;
use crate::proxmox::{self, ExecStatus, Vmid};
use base64::Engine as _;
use std::time::Duration;

/// A guest whose agent is asked; cheap to make.
#[derive(Clone)]
pub struct Guest<'a> {
    driver: &'a Driver,
    vmid: Vmid,
    clock: &'a Clock,
}

/// The agent process as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// Never launched on this disk by this Machine.
    None,
    Running {
        launch: u32,
    },
    /// `code` is absent when the process vanished without one, as with the power.
    Exited {
        launch: u32,
        code: Option<i32>,
    },
}

/// Whether the gateway answers to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    Yes,
    No {
        /// As the program said that tried it.
        why: String,
        /// Exit code of the agent, when that has ended and could not say so.
        ended: Option<i32>,
    },
    /// It has nothing to try it with.
    Unknown,
}

/// What a verify command said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub passed: bool,
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    /// The end of its output.
    pub output: String,
}

/// A git bundle of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceBundle {
    pub bytes: Vec<u8>,
    /// 40 hex digits.
    pub commit: String,
    /// The commit that it builds on and does not contain.
    pub base: Option<String>,
}

/// Largest input of one command, bytes. Source: PVE API, `input-data` of agent/exec is at most 64 KiB.
const INPUT_MAX: usize = 64 << 10;
/// Largest piece of a file, bytes. Source: PVE API, `content` of agent/file-write is at most 60 KiB.
const PIECE: usize = 60 << 10;
/// Longest wait for a command that only looks or starts something. Software-emulated guests are slow.
const SHORT: Duration = Duration::from_mins(1);
/// How long a guest tries the gateway, which answers at once.
const REACH: Duration = Duration::from_secs(10);
/// Longest wait for a command that moves the workspace.
const LONG: Duration = Duration::from_mins(10);

impl Driver {
    pub fn guest<'a>(&'a self, vmid: Vmid, clock: &'a Clock) -> Guest<'a> {
        Guest { driver: self, vmid, clock }
    }
}

impl Guest<'_> {
    /// Whether the guest agent answers; `false` while the guest boots or hangs.
    pub async fn answers(&self) -> Result<bool, Error> {
        match self.driver.proxmox.agent_ping(self.driver.node(), self.vmid).await {
            Ok(()) => Ok(true),
            Err(proxmox::Error::AgentNotRunning(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Host name, machine id, host keys (once per Machine) and clock.
    pub async fn personalise(&self, name: &str, machine_uid: &str) -> Result<(), Error> {
        let id: String = machine_uid.chars().filter(char::is_ascii_hexdigit).collect();
        let now = self.clock.now().as_second().to_string();
        // A host name is one label of at most 63 characters.
        let host: String = name.split('.').next().unwrap_or_default().chars().take(63).collect();
        self.done(scripts::PERSONALISE, &[&host, &id, &now], None, SHORT).await.map(drop)
    }

    /// Tells a guest that was off with its memory the time, and gives it a seed that its memory has not.
    pub async fn go_on(&self, seed: &[u8]) -> Result<(), Error> {
        let now = self.clock.now().as_second().to_string();
        self.done(scripts::GO_ON, &[&now], Some(&hex::encode(seed)), SHORT).await.map(drop)
    }

    /// Puts a git bundle of `origin` into the workspace, once; returns the other origin that the workspace came from, if it did: then it is left
    /// as it is.
    pub async fn put_source(&self, bundle: &[u8], workspace: &str, reference: &str, origin: &str) -> Result<Option<String>, Error> {
        for (index, piece) in bundle.chunks(PIECE).enumerate() {
            let path = match bundle.len() {
                0..=PIECE => scripts::SOURCE_BUNDLE.to_owned(),
                _ => format!("{}.{index:05}", scripts::SOURCE_BUNDLE),
            };
            self.driver.proxmox.agent_write(self.driver.node(), self.vmid, &path, piece).await?;
        }
        match self.run(scripts::SOURCE, &[workspace, reference, origin], None, LONG).await? {
            (Some(scripts::OTHER_SOURCE), _, other) => Ok(Some(other.trim().to_owned())),
            ended => self.succeeded(scripts::SOURCE, ended).map(|_| None),
        }
    }

    /// Starts the agent, once per launch number. Errors: `Settings` when prompt and environment are too large for a guest.
    pub async fn launch(&self, launch: &agent::Launch) -> Result<(), Error> {
        let input = agent::input(launch);
        if input.len() > INPUT_MAX {
            return Err(Error::Settings(format!(
                "prompt and environment have {} bytes; at most {INPUT_MAX} can be given to a guest",
                input.len()
            )));
        }
        let number = launch.number.to_string();
        let args: Vec<&str> = std::iter::once(number.as_str()).chain(launch.argv.iter().map(String::as_str)).collect();
        self.done(scripts::LAUNCH, &args, Some(&input), SHORT).await.map(drop)
    }

    pub async fn status(&self) -> Result<AgentState, Error> {
        let out = self.done(scripts::STATUS, &[], None, SHORT).await?;
        agent_state(&out).ok_or_else(|| Error::Unknown(format!("VM {} answered `{}` to autovibe-status", self.vmid, out.trim())))
    }

    /// Has the guest itself try the gateway.
    pub async fn reach(&self) -> Result<Reached, Error> {
        let out = self.done(scripts::REACH, &[&REACH.as_secs().to_string()], None, SHORT).await?;
        Ok(reached(&out))
    }

    /// Runs a command in the workspace as the agent's user.
    pub async fn verify(&self, command: &[String], workspace: &str, timeout: Duration) -> Result<Verified, Error> {
        let seconds = timeout.as_secs().max(1).to_string();
        let args: Vec<&str> = [seconds.as_str(), workspace].into_iter().chain(command.iter().map(String::as_str)).collect();
        let (code, output, _) = self.run(scripts::VERIFY, &args, None, timeout + SHORT).await?;
        Ok(Verified { passed: code == Some(0), code, output })
    }

    /// Waits, at most `limit`, until the agent's session files in `dir` have these tool results; then syncs the guest's disks.
    /// Says whether they had. With no ids or no directory it only syncs.
    pub async fn flush(&self, dir: &str, tool_use_ids: &[String], limit: Duration) -> Result<bool, Error> {
        let (ids, limit_ms) = (tool_use_ids.join(","), limit.as_millis().to_string());
        let out = self.done(scripts::FLUSH, &[dir, &ids, &limit_ms], None, limit + SHORT).await?;
        Ok(out.trim() == "flushed=true")
    }

    /// What these directories hold, of those that are there and are read within `limit` each.
    pub async fn digests(&self, wanted: &[(Content, String)], limit: Duration) -> Result<Vec<Digest>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let seconds = limit.as_secs().max(1).to_string();
        let args: Vec<&str> = std::iter::once(seconds.as_str()).chain(wanted.iter().map(|(_, path)| path.as_str())).collect();
        let deadline = wanted.iter().fold(SHORT, |all, _| all + limit);
        let out = self.done(scripts::DIGEST, &args, None, deadline).await?;
        let of =
            |path: &str| out.lines().filter_map(|line| line.split_once(' ')).find(|(_, of)| *of == path).map(|(sha256, _)| sha256.into());
        let digest = |(content, path): &(Content, String)| {
            Some(Digest { content: *content, path: path.clone(), sha256: of(path)?, ..Digest::default() })
        };
        Ok(wanted.iter().filter_map(digest).collect())
    }

    /// Ends the agent's processes.
    pub async fn stop_agent(&self) -> Result<(), Error> {
        self.done(scripts::STOP, &[], None, SHORT).await.map(drop)
    }

    /// A bundle of the workspace as refs/autovibe/`name`, since refs/autovibe/`base` where the guest has that; `None` when
    /// there is no git in the guest, no workspace, or too much in it.
    pub async fn bundle(&self, workspace: &str, name: &str, base: Option<&str>, message: &str) -> Result<Option<WorkspaceBundle>, Error> {
        let out = self.done(scripts::BUNDLE, &[workspace, name, base.unwrap_or_default(), message], None, LONG).await?;
        if out.trim() == "none" {
            return Ok(None);
        }
        let text: String = out.split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| Error::Unknown(format!("the bundle of VM {} is not base64: {error}", self.vmid)))?;
        let (commit, base) = bundle_commits(&bytes).ok_or_else(|| Error::Unknown(format!("VM {} gave no git bundle", self.vmid)))?;
        Ok(Some(WorkspaceBundle { bytes, commit, base }))
    }

    /// Runs a verb that must exit 0; its output.
    async fn done(&self, verb: scripts::Verb, args: &[&str], input: Option<&str>, deadline: Duration) -> Result<String, Error> {
        self.succeeded(verb, self.run(verb, args, input, deadline).await?)
    }

    fn succeeded(&self, verb: scripts::Verb, ended: (Option<i32>, String, String)) -> Result<String, Error> {
        match ended {
            (Some(0), out, _) => Ok(out),
            (code, _, err) => {
                let code = code.map_or("a signal".to_owned(), |code| format!("code {code}"));
                Err(Error::Guest(format!("{} in VM {} ended with {code}: {}", verb.name, self.vmid, err.trim())))
            }
        }
    }

    /// Begins a verb; the process id by which its end is asked for.
    async fn begin(&self, verb: scripts::Verb, args: &[&str], input: Option<&str>) -> Result<u64, Error> {
        let command: Vec<&str> = ["/bin/sh", "-c", verb.script, verb.name].into_iter().chain(args.iter().copied()).collect();
        Ok(self.driver.proxmox.agent_exec(self.driver.node(), self.vmid, &command, input).await?)
    }

    async fn run(
        &self,
        verb: scripts::Verb,
        args: &[&str],
        input: Option<&str>,
        deadline: Duration,
    ) -> Result<(Option<i32>, String, String), Error> {
        let (proxmox, node) = (&self.driver.proxmox, self.driver.node());
        let pid = self.begin(verb, args, input).await?;
        let mut wait = if verb == scripts::FLUSH { Wait::flush() } else { Wait::guest() };
        loop {
            match proxmox.agent_exec_status(node, self.vmid, pid).await {
                Ok(ExecStatus::Running) => {}
                Ok(ExecStatus::Exited { code, out, err, .. }) => return Ok((code, out, err)),
                Err(proxmox::Error::AgentNoPid(_)) => {
                    return Err(Error::Unknown(format!("the end of {} in VM {} was not seen", verb.name, self.vmid)));
                }
                Err(error) => return Err(error.into()),
            }
            if !wait.again(deadline, self.clock).await {
                return Err(Error::Unknown(format!("{} in VM {} has not ended after {deadline:?}", verb.name, self.vmid)));
            }
        }
    }
}

fn reached(out: &str) -> Reached {
    let value = |key: &str| out.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match value("reached") {
        Some("yes") => Reached::Yes,
        Some("no") => Reached::No {
            why: value("why").filter(|why| !why.is_empty()).unwrap_or("no answer came").into(),
            ended: value("ended").and_then(|code| code.parse().ok()),
        },
        _ => Reached::Unknown,
    }
}

fn agent_state(out: &str) -> Option<AgentState> {
    let value = |key: &str| out.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match value("state")? {
        "none" => Some(AgentState::None),
        "running" => Some(AgentState::Running { launch: value("launch")?.parse().ok()? }),
        "exited" => Some(AgentState::Exited { launch: value("launch")?.parse().ok()?, code: value("exit").and_then(|c| c.parse().ok()) }),
        _ => None,
    }
}

/// The commit that a bundle holds, and the one that it needs. Source: gitformat-bundle, versions 2 and 3.
fn bundle_commits(bytes: &[u8]) -> Option<(String, Option<String>)> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
    let header = std::str::from_utf8(&bytes[..end]).ok()?;
    if !header.starts_with("# v2 git bundle") && !header.starts_with("# v3 git bundle") {
        return None;
    }
    let oid =
        |text: &str| text.split(' ').next().filter(|id| id.len() >= 40 && id.bytes().all(|b| b.is_ascii_hexdigit())).map(str::to_owned);
    let lines = || header.lines().skip(1).filter(|line| !line.starts_with('@'));
    let commit = lines().filter(|line| !line.starts_with('-')).find_map(oid)?;
    Some((commit, lines().find_map(|line| line.strip_prefix('-').and_then(oid))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read() {
        assert_eq!(agent_state("state=none\n"), Some(AgentState::None));
        assert_eq!(agent_state("state=running\nlaunch=2\n"), Some(AgentState::Running { launch: 2 }));
        assert_eq!(agent_state("state=exited\nlaunch=2\nexit=-1\n"), Some(AgentState::Exited { launch: 2, code: Some(-1) }));
        assert_eq!(agent_state("state=exited\nlaunch=2\n"), Some(AgentState::Exited { launch: 2, code: None }));
        assert_eq!(agent_state("sh: not found\n"), None);
        assert_eq!(agent_state("state=running\n"), None);
    }

    #[test]
    fn whether_it_was_reached_is_read() {
        let no = |why: &str, ended| Reached::No { why: why.into(), ended };
        for (out, expect) in [
            ("reached=yes\n", Reached::Yes),
            ("reached=no\nwhy=curl: (7) refused\nended=1\n", no("curl: (7) refused", Some(1))),
            ("reached=no\nwhy=\n", no("no answer came", None)),
            ("reached=unknown\n", Reached::Unknown),
            ("", Reached::Unknown),
        ] {
            assert_eq!(reached(out), expect, "{out}");
        }
    }

    #[test]
    fn a_bundle_names_its_commit_and_its_base() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let full = format!("# v2 git bundle\n{a} refs/autovibe/x\n\nPACK");
        assert_eq!(bundle_commits(full.as_bytes()), Some((a.clone(), None)));
        let since = format!("# v3 git bundle\n@object-format=sha1\n-{b} one\n{a} refs/autovibe/x\n\nPACK\n\n");
        assert_eq!(bundle_commits(since.as_bytes()), Some((a, Some(b))));
        assert_eq!(bundle_commits(b"hello\n\n"), None);
    }
}
