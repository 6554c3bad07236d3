//! The guest: started, awaited, given its identity, its source and its agent.

use super::super::memory::Boot;
use super::{Act, Done, Fact, Problem};
use crate::agent::{self, Start};
use crate::api::checkpoint::{Content, Examined};
use crate::api::machine::TerminationReason;
use crate::api::{Checkpoint, Kind};
use crate::controller::checkpoint::awaited_results;
use crate::driver::guest::{AgentState, Guest};
use crate::driver::marks::Owner;
use crate::driver::{self};
use crate::git;
use crate::proxmox::Power;
use crate::wire::runner;
use rand::RngCore;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// How often a VM whose guest does not answer yet is looked at, whether it runs.
const SLICE: Duration = Duration::from_secs(10);
/// The first look at a guest comes after this part of what a boot took lately.
const FIRST_LOOK: f64 = 0.75;
/// Longest time to read a directory of a guest that is looked at: it has nothing else to do.
const DIGEST: Duration = Duration::from_mins(10);
/// Refusals by a guest after which a Machine ends.
const REFUSALS: u32 = 3;

impl Act<'_> {
    async fn guest(&self) -> Result<Guest<'_>, Problem> {
        let vmid = self.vmid().await?;
        Ok(self.driver()?.guest(vmid, self.clock()))
    }

    pub(super) async fn start(&self) -> Result<Done, Problem> {
        let vmid = self.vmid().await?;
        self.driver()?.start_vm(vmid).await?;
        self.context.machines.update(self.uid(), |known| {
            let again = known.boot.is_some_and(|boot| boot.again);
            let now = Instant::now();
            known.boot = Some(Boot { since: now, again, seen: now });
        });
        self.remember_power(Power::Running);
        Ok(Done::Next)
    }

    /// Looks for the guest agent, and lets others have their turn between looks. A guest that does not come up in time is cut
    /// and started once more, then given up.
    pub(super) async fn await_guest(&self) -> Result<Done, Problem> {
        let (vmid, driver) = (self.vmid().await?, self.driver()?);
        let now = Instant::now();
        let started = self.context.machines.known(self.uid()).boot;
        let boot = started.unwrap_or(Boot { since: now, again: false, seen: now });
        let remember = |boot| self.context.machines.update(self.uid(), |known| known.boot = boot);
        let since = now.duration_since(boot.since);
        // A guest that is not up yet holds a call for 3 s, and with it a place among those that are worked on.
        let first = driver.usual_boot().mul_f64(FIRST_LOOK).max(Duration::from_millis(50)).min(self.context.machines.timing.boot / 2);
        if started.is_some() && since < first {
            remember(Some(boot));
            return Ok(Done::Later(first.saturating_sub(since)));
        }
        match self.guest().await?.answers().await {
            Ok(true) => {
                if started.is_some() {
                    driver.booted(boot.since.elapsed());
                }
                remember(None);
                return Ok(Done::Next);
            }
            // NotRunning: start was accepted, but its task has not got there yet; or it failed, which the look below shows.
            Ok(false) | Err(driver::Error::Proxmox(crate::proxmox::Error::NotRunning(_))) => {}
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        let is_late = now.duration_since(boot.since) >= self.context.machines.timing.boot;
        let again = Done::Later((now.duration_since(boot.since) / 4).clamp(Duration::from_millis(50), Duration::from_secs(2)));
        if now.duration_since(boot.seen) < SLICE.min(self.context.machines.timing.boot) {
            remember(Some(boot));
            return Ok(again);
        }
        remember(Some(Boot { seen: now, ..boot }));
        match driver.power(vmid).await? {
            Some(Power::Running) if !is_late => return Ok(again),
            None => {
                self.context.machines.update(self.uid(), |known| known.vm = None);
                return Ok(Done::Stop(None));
            }
            Some(_) => {}
        }
        if boot.again {
            let message = format!("its guest agent did not answer within {:?}, twice", self.context.machines.timing.boot);
            self.context.machines.update(self.uid(), |known| {
                known.boot = None;
                known.vm = None;
            });
            return Ok(Done::Stop(Some(Fact::Ended { reason: TerminationReason::GuestLost, message })));
        }
        warn!(vm.id = %vmid, "{}: the guest does not come up; it is stopped and started once more", self.machine.name());
        match driver.verify_owned(vmid, self.uid()).await? {
            Owner::Ours(vm) => driver.stop(&vm, self.clock()).await?,
            Owner::Nobody | Owner::Other(_) => {}
        }
        self.context.machines.update(self.uid(), |known| {
            known.boot = Some(Boot { since: now, again: true, seen: now });
            known.vm = None;
        });
        Ok(Done::Stop(None))
    }

    pub(super) async fn personalise(&self) -> Result<Done, Problem> {
        let done = self.guest().await?.personalise(self.machine.name(), self.uid()).await;
        self.unless_refused(done)
    }

    /// A bundle of the source, made on the hub, goes into the workspace. Not for what was spawned long ago: the guest has it.
    pub(super) async fn put_source(&self) -> Result<Done, Problem> {
        let Some(source) = &self.machine.spec.source else { return Ok(Done::Next) };
        let guest = self.guest().await?;
        if guest.status().await? != AgentState::None {
            return Ok(Done::Next);
        }
        let origin = match (&source.git, &source.directory) {
            (Some(url), _) => git::Origin::Repository(url.clone()),
            (None, directory) => git::Origin::Directory(directory.clone().unwrap_or_default().into()),
        };
        let told = origin.to_string();
        let credential = self.credential(source.credentials_secret_ref.as_ref().map(|named| named.name.as_str())).await?;
        let (reference, roots) = (source.r#ref.clone(), self.context.config.source_roots.clone());
        let bundle = git::bundle(&git::Source { origin, reference, roots, credential }).await?;
        let workspace = self.machine.workspace();
        match guest.put_source(&bundle.bytes, workspace, &bundle.branch, &told).await {
            Ok(Some(other)) => {
                let message = format!(
                    "spec.source is {told}, but {workspace} of what it is spawned from came from another source, {other}; in another Machine name \
                     another spec.goal.workspace, or leave spec.source out"
                );
                Ok(Done::Stop(Some(Fact::Ended { reason: TerminationReason::AgentFailed, message })))
            }
            done => self.unless_refused(done.map(drop)),
        }
    }

    /// Looks for what the checkpoint that it is spawned from says of its guest.
    pub(super) async fn examine(&self) -> Result<Done, Problem> {
        let name = self.machine.status.as_ref().and_then(|status| status.spawned_from.as_deref()).unwrap_or_default();
        let checkpoint = self.context.objects.get::<Checkpoint>(self.machine.namespace(), name).await?;
        let guest = self.guest().await?;
        let taken = checkpoint.as_ref().and_then(|checkpoint| checkpoint.status.clone()).unwrap_or_default();
        let mut wanted: Vec<_> = taken.digests.iter().map(|digest| (digest.content, digest.path.clone())).collect();
        // What it has no digest of is read for the next time; not all of the guest, where nobody knows any more which part is work.
        let unknown = |(content, path): &(Content, String)| path != "/" && !taken.digests.iter().any(|known| known.content == *content);
        wanted.extend(agent::contents(self.machine).into_iter().filter(unknown));
        let results = checkpoint.as_ref().map(awaited_results).unwrap_or_default();
        let sessions = agent::session_files(self.machine.spec.agent.r#type);
        let found = async {
            let digests = guest.digests(&wanted, DIGEST).await?;
            let told = taken.quiescent == Some(true) && !results.is_empty() && !sessions.is_empty();
            let tool_results = if told { Some(guest.flush(sessions, &results, Duration::ZERO).await?) } else { None };
            Ok(Examined { digests, tool_results })
        };
        match found.await {
            Ok(found) => Ok(Done::Stop(Some(Fact::Examined(found)))),
            Err(error) => self.unless_refused(Err(error)),
        }
    }

    /// Launches the agent, unless this launch was begun already.
    pub(super) async fn launch(&self, number: u32) -> Result<Done, Problem> {
        let guest = self.guest().await?;
        let begun = match guest.status().await? {
            AgentState::None => 0,
            AgentState::Running { launch } | AgentState::Exited { launch, .. } => launch,
        };
        let here = begun < number;
        if here {
            let key = self.mint(number).await?;
            let token = runner::token_of(&key).unwrap_or_default();
            let connection = self.driver()?.connection();
            let launch = agent::launch(self.machine, &Start { number, gateway_url: &connection.gateway_url, key: &key, token: &token });
            match guest.launch(&launch).await {
                Err(driver::Error::Settings(message)) => {
                    return Ok(Done::Stop(Some(Fact::Ended { reason: TerminationReason::AgentFailed, message })));
                }
                done => match self.unless_refused(done)? {
                    Done::Next => {}
                    other => return Ok(other),
                },
            }
        }
        // One that was begun before may have ended unseen: then the first look at a Running Machine finds that.
        self.context.machines.update(self.uid(), |known| known.looked = here);
        Ok(Done::Reached(Fact::Launched))
    }

    /// A new key for a launch, and the token that is made of it; older launches' are revoked. One that this process minted for the same launch stays good: a
    /// launch whose reply was lost may have taken it.
    async fn mint(&self, number: u32) -> Result<String, Problem> {
        let mut bytes = [0_u8; 32];
        crate::random::Source.fill_bytes(&mut bytes);
        let key = runner::key(bytes);
        let token = runner::token_of(&key).unwrap_or_default();
        let hash = hex::encode(Sha256::digest(token.as_bytes()));
        let keep = self.context.machines.known(self.uid()).minted == Some(number);
        self.context.objects.put_token(self.machine, hash, keep).await?;
        self.context.machines.update(self.uid(), |known| known.minted = Some(number));
        Ok(key)
    }

    /// A refusal by the guest itself is tried again, then ends the Machine: it would be the same for ever.
    fn unless_refused(&self, done: Result<(), driver::Error>) -> Result<Done, Problem> {
        match done {
            Ok(()) => Ok(Done::Next),
            Err(driver::Error::Guest(message)) if self.refusals() >= REFUSALS => {
                Ok(Done::Stop(Some(Fact::Ended { reason: TerminationReason::AgentFailed, message })))
            }
            Err(error) => Err(error.into()),
        }
    }
}
