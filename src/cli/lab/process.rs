//! The lab as a process of its own: found by its `endpoint.json`, started detached, ended by its pid. Only ever ours.

use crate::clock::Clock;
use crate::proxmox::{self, Power};
use crate::wire::LabEndpoint;
use anyhow::{Context as _, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};

/// A lab brings up a pool and tries accelerators before it serves.
const READY: Duration = Duration::from_mins(5);
/// How often a process or a guest is looked at that is to start or end.
const LOOK: Duration = Duration::from_millis(100);
/// How long a lab has to end by itself, and its guests.
const END: Duration = Duration::from_mins(1);

/// What stands behind the lab's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// QEMU guests on this machine's ZFS.
    Real,
    /// Model guests on a model pool.
    Simulated,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Simulated => "simulated",
        }
    }
}

/// A lab that answers.
pub(crate) struct Running {
    pub(crate) endpoint: LabEndpoint,
    directory: PathBuf,
    /// Held when we started it, so that its end is noticed and no zombie stays.
    child: Option<Child>,
}

impl Running {
    /// Returns when the process has ended.
    pub(crate) async fn ended(&mut self, clock: &Clock) {
        match &mut self.child {
            Some(child) => drop(child.wait().await),
            None => {
                while is_ours(self.endpoint.pid, &self.directory) {
                    clock.sleep(Duration::from_secs(2)).await;
                }
            }
        }
    }
}

/// The directory's lab, when one runs and answers with its own token.
pub(crate) async fn find(directory: &Path) -> Option<LabEndpoint> {
    let endpoint = read(directory)?;
    (is_ours(endpoint.pid, directory) && client(&endpoint).ok()?.version().await.is_ok()).then_some(endpoint)
}

fn read(directory: &Path) -> Option<LabEndpoint> {
    serde_json::from_slice(&std::fs::read(directory.join("endpoint.json")).ok()?).ok()
}

fn client(endpoint: &LabEndpoint) -> Result<proxmox::Client, proxmox::Error> {
    proxmox::Client::new(proxmox::Config {
        endpoint: endpoint.endpoint.clone(),
        fingerprint: endpoint.fingerprint.clone(),
        credential: proxmox::Credential::token(&endpoint.token_id, endpoint.secret.as_str()),
    })
}

/// Whether process `pid` is the lab of this directory: a pid alone may be another's by now.
fn is_ours(pid: u32, directory: &Path) -> bool {
    let Ok(words) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    words.contains(&b"lab".as_slice()) && words.contains(&absolute(directory).as_os_str().as_encoded_bytes())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The directory's lab: the one that runs, or a new process. A lab that sends its guests elsewhere is started anew; its
/// guests go on meanwhile.
pub(crate) async fn ensure(directory: &Path, mode: Mode, gateway: SocketAddr, clock: &Clock) -> anyhow::Result<Running> {
    if let Some(endpoint) = find(directory).await {
        if endpoint.mode != mode.name() {
            let (there, wanted) = (&endpoint.mode, mode.name());
            bail!(
                "a {there} lab runs in {}, not a {wanted} one; end it with `autovibe lab stop`, or use --lab {there}",
                directory.display()
            );
        }
        if endpoint.gateway == gateway {
            return Ok(Running { endpoint, directory: directory.to_owned(), child: None });
        }
        end(endpoint.pid, directory, clock).await?;
    } else if let Some(endpoint) = read(directory).filter(|endpoint| is_ours(endpoint.pid, directory)) {
        // It is there and does not answer with its token: it starts, or it hangs.
        end(endpoint.pid, directory, clock).await?;
    }
    start(directory, mode, gateway, clock).await
}

async fn start(directory: &Path, mode: Mode, gateway: SocketAddr, clock: &Clock) -> anyhow::Result<Running> {
    std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    // The address of the lab before, so that what still speaks to it finds it again.
    let listen = read(directory)
        .and_then(|endpoint| endpoint.endpoint.split("//").nth(1)?.parse().ok())
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let listen = if std::net::TcpListener::bind(listen).is_ok() { listen } else { SocketAddr::from(([127, 0, 0, 1], 0)) };
    let log = log_file(directory);
    let file =
        std::fs::File::options().create(true).append(true).open(&log).with_context(|| format!("{} cannot be written", log.display()))?;
    let before = file.metadata().map_or(0, |metadata| metadata.len());
    let mut child = Command::new(std::env::current_exe().context("our own executable cannot be found")?)
        .args(["lab", "--detached", "--mode", mode.name(), "--listen", &listen.to_string(), "--gateway", &gateway.to_string(), "--data"])
        .arg(absolute(directory))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context("the lab could not be started")?;
    let started = child.id().unwrap_or_default();
    let ready = async {
        loop {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the {} lab ended at once ({status}): {}. Its log is {}; `autovibe doctor` says what is missing",
                    mode.name(),
                    last_words(&log, before),
                    log.display()
                );
            }
            match find(directory).await {
                Some(endpoint) if endpoint.pid == started => return Ok(endpoint),
                _ => clock.sleep(LOOK).await,
            }
        }
    };
    let found = tokio::time::timeout(READY, ready).await;
    if let Ok(endpoint) = found {
        Ok(Running { endpoint: endpoint?, directory: directory.to_owned(), child: Some(child) })
    } else {
        child.start_kill().ok();
        bail!("the {} lab was not ready after {} s; its log is {}", mode.name(), READY.as_secs(), log.display())
    }
}

/// Where the lab of a directory writes its log.
pub(crate) fn log_file(directory: &Path) -> PathBuf {
    directory.join("lab.log")
}

/// The last line that was written to the log after `from`.
fn last_words(log: &Path, from: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default()).into_owned();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim_start_matches("error: ").to_owned()
}

/// What [`stop`] found.
pub(crate) enum Stopped {
    NoneRan,
    /// And so many guests with it.
    Ended {
        guests: usize,
    },
}

/// Powers the lab's guests off and ends it. Disks and checkpoints stay.
pub(crate) async fn stop(directory: &Path, clock: &Clock) -> anyhow::Result<Stopped> {
    let Some(endpoint) = read(directory).filter(|endpoint| is_ours(endpoint.pid, directory)) else { return Ok(Stopped::NoneRan) };
    let lab = client(&endpoint)?;
    let node = proxmox::Node(endpoint.node.clone());
    let mut running = Vec::new();
    for (vmid, power) in lab.node_vms(&node).await.context("the lab runs but does not list its guests")? {
        if power == Power::Running {
            lab.stop(&node, vmid).await.with_context(|| format!("guest {vmid} could not be stopped"))?;
            running.push(vmid);
        }
    }
    let off = async {
        for vmid in &running {
            while lab.power(&node, *vmid).await? == Power::Running {
                clock.sleep(LOOK).await;
            }
        }
        Ok::<_, proxmox::Error>(())
    };
    tokio::time::timeout(END, off).await.context("a guest did not stop")??;
    end(endpoint.pid, directory, clock).await?;
    Ok(Stopped::Ended { guests: running.len() })
}

/// Ends the process, by force when it does not by itself.
async fn end(pid: u32, directory: &Path, clock: &Clock) -> anyhow::Result<()> {
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    for signal in [Signal::TERM, Signal::KILL] {
        if !is_ours(pid, directory) {
            return Ok(());
        }
        kill_process(target, signal).with_context(|| format!("the lab (process {pid}) cannot be ended"))?;
        let gone = async {
            while is_ours(pid, directory) {
                clock.sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(END, gone).await.is_ok() {
            return Ok(());
        }
    }
    bail!("the lab (process {pid}) does not end")
}
