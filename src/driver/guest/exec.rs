//! A command that a person runs in a guest: begun once, and read on as it writes.
//!
//! The guest agent hands out what a command wrote when it has ended. So this one writes to files, which another command prints from
//! where the last reading ended: reading is safe to repeat, and its pace is ours.

use super::{Error, Guest, SHORT, Wait, scripts};
use crate::api::exec::{Exec, ExecUser, MOST_OUTPUT};
use crate::proxmox::{self, ExecStatus};
use base64::Engine as _;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// A command that ends within this is read once.
const AT_ONCE: Duration = Duration::from_millis(400);
/// Between two readings of one that writes. Each is a few processes in a guest that may be emulated.
const PACE: Duration = Duration::from_millis(500);
/// The same of one that wrote nothing lately.
const SLOWEST: Duration = Duration::from_secs(2);
/// Most bytes of a stream that one reading gives: in base64 well below the 16 MiB that a guest agent hands out.
const PART: usize = 1 << 20;
/// So often in a row it may be asked in vain before it is given up.
const FAILURES: u32 = 5;
/// How much longer than the command may run its client may take to read.
const READING: Duration = Duration::from_mins(5);

/// What comes of a command, in the order in which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Of its standard output.
    Out(Vec<u8>),
    /// Of its standard error.
    Err(Vec<u8>),
    /// It has ended; `None` when a signal ended the shell that ran it.
    Ended(Option<i32>),
    /// Its end was not seen.
    Lost(String),
}

/// A command that was begun.
struct Begun<'a> {
    guest: &'a Guest<'a>,
    id: String,
    pid: u64,
    /// Bytes of each stream that were read.
    out: usize,
    err: usize,
    to: &'a Sender<Said>,
}

impl Guest<'_> {
    /// Runs a command for a person, and tells what comes of it; when nobody listens any more it is killed.
    ///
    /// It is begun once: where `Unknown` is answered it may have run, and was killed if the guest could be told so.
    pub async fn exec(&self, exec: &Exec, workspace: &str, to: &Sender<Said>) -> Result<(), Error> {
        let (id, seconds, most) =
            (crate::random::uuid().simple().to_string(), exec.timeout.0.as_secs().to_string(), MOST_OUTPUT.to_string());
        let user = if exec.user == ExecUser::Root { "root" } else { "agent" };
        let fixed = [id.as_str(), &seconds, user, workspace, &most];
        let args: Vec<&str> = fixed.into_iter().chain(exec.command.iter().map(String::as_str)).collect();
        let pid = self.begin(scripts::EXEC, &args, Some(&exec.stdin)).await?;
        let mut begun = Begun { guest: self, id: id.clone(), pid, out: 0, err: 0, to };
        let followed = tokio::select! {
            followed = begun.follow(exec.timeout.0 + SHORT) => followed.map(Some),
            () = to.closed() => Ok(None),
            () = self.clock.sleep(exec.timeout.0 + READING) => Err(Error::Unknown("what it wrote was not read in time".into())),
        };
        if let Ok(Some(code)) = followed {
            to.send(Said::Ended(code)).await.ok();
        }
        let ends: &[&str] = if matches!(followed, Ok(Some(_))) { &[&id] } else { &[&id, "kill"] };
        match self.done(scripts::EXEC_END, ends, None, SHORT).await {
            Ok(_) if followed.as_ref().is_ok_and(Option::is_none) => {
                tracing::info!(vm.id = %self.vmid, "a command was ended whose client went away");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(vm.id = %self.vmid, "what command {id} wrote is still in the guest: {error}"),
        }
        followed.map(drop)
    }
}

impl Begun<'_> {
    /// Passes on what it writes until it has ended; its exit code.
    async fn follow(&mut self, deadline: Duration) -> Result<Option<i32>, Error> {
        let clock = self.guest.clock;
        let (mut wait, mut waited, mut pace, mut failures) = (Wait::guest(), Duration::ZERO, PACE, 0);
        loop {
            let looked = self.look(waited >= AT_ONCE).await;
            match looked {
                Ok(Seen::Ended(code)) => return Ok(code),
                Ok(Seen::Wrote) => (pace, failures) = (PACE, 0),
                Ok(Seen::Silent) => failures = 0,
                Err(error) if is_final(&error) || failures == FAILURES => return Err(error),
                Err(error) => {
                    failures += 1;
                    tracing::debug!(vm.id = %self.guest.vmid, "a command is asked for again: {error}");
                }
            }
            if waited >= deadline {
                return Err(Error::Unknown(format!("the command in VM {} has not ended after {deadline:?}", self.guest.vmid)));
            }
            if waited < AT_ONCE {
                waited += wait.pause(clock).await;
            } else {
                clock.sleep(pace).await;
                waited += pace;
                pace = (pace * 5 / 4).min(SLOWEST);
            }
        }
    }

    async fn look(&mut self, reads: bool) -> Result<Seen, Error> {
        let (proxmox, node) = (&self.guest.driver.proxmox, self.guest.driver.node());
        // Before it is read: all that one wrote that has ended is in its files.
        match proxmox.agent_exec_status(node, self.guest.vmid, self.pid).await {
            Ok(ExecStatus::Running) if !reads => Ok(Seen::Silent),
            Ok(ExecStatus::Running) => Ok(if self.read().await?.0 { Seen::Wrote } else { Seen::Silent }),
            Ok(ExecStatus::Exited { code, .. }) => {
                // It is told once: what follows is tried here.
                let mut failures = 0;
                loop {
                    match self.read().await {
                        Ok((_, true)) => {}
                        Ok((_, false)) => return Ok(Seen::Ended(code)),
                        Err(error) if is_final(&error) || failures == FAILURES => return Err(error),
                        Err(_) => {
                            failures += 1;
                            self.guest.clock.sleep(PACE).await;
                        }
                    }
                }
            }
            Err(proxmox::Error::AgentNoPid(_)) => {
                Err(Error::Guest(format!("the end of the command in VM {} was not seen; was it started again?", self.guest.vmid)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Passes on what it wrote since; whether there was any, and whether there may be more.
    async fn read(&mut self) -> Result<(bool, bool), Error> {
        let room = |read: usize| PART.min(MOST_OUTPUT.saturating_sub(read));
        let (out_room, err_room) = (room(self.out), room(self.err));
        let numbers = [self.out, self.err, out_room, err_room].map(|number| number.to_string());
        let args: Vec<&str> = std::iter::once(self.id.as_str()).chain(numbers.iter().map(String::as_str)).collect();
        let (code, out, err) = self.guest.run(scripts::EXEC_READ, &args, None, SHORT).await?;
        if code != Some(0) {
            return Err(Error::Guest(format!("what the command in VM {} wrote cannot be read: {}", self.guest.vmid, err.trim())));
        }
        let (out, err) = (decoded(&out)?, decoded(&err)?);
        (self.out, self.err) = (self.out + out.len(), self.err + err.len());
        let (wrote, more) =
            (!out.is_empty() || !err.is_empty(), (out_room > 0 && out.len() == out_room) || (err_room > 0 && err.len() == err_room));
        for said in [Said::Out(out), Said::Err(err)] {
            if !matches!(&said, Said::Out(bytes) | Said::Err(bytes) if bytes.is_empty()) {
                // When nobody listens, whoever follows is told.
                self.to.send(said).await.ok();
            }
        }
        Ok((wrote, more))
    }
}

/// What a look at a command showed.
enum Seen {
    Silent,
    Wrote,
    Ended(Option<i32>),
}

/// Whether asking again cannot help.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Guest(_))
}

fn decoded(text: &str) -> Result<Vec<u8>, Error> {
    let joined: String = text.split_whitespace().collect();
    let decoded = base64::engine::general_purpose::STANDARD.decode(joined);
    decoded.map_err(|error| Error::Guest(format!("what the command wrote did not come as base64: {error}")))
}
