//! Real guests: QEMU processes that outlive the lab, found again by their directory. Disks come as paths; the pool is `pool`.
//!
//! State of a guest is only in `<data>/vms/<vmid>/`: QEMU's pid file, its sockets, its console log. Nothing is kept in
//! memory but open connections, so a lab that was killed goes on where it was.

mod accelerator;
mod agent;
mod arguments;
mod error;
mod forward;
mod monitor;
pub mod pool;
mod process;
#[cfg(test)]
mod tests;

pub use accelerator::Accelerator;
pub use error::Error;
pub use forward::forward;

use super::guests::VmConfig;
use crate::clock::Clock;
use serde_json::Value;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};
use tracing::{info, warn};

/// QEMU's own program.
const QEMU: &str = "qemu-system-x86_64";
/// How long `stop` waits for QEMU to quit by itself before it is killed.
const QUIT: Duration = Duration::from_secs(5);
/// The most that a pool may hold, if there is as much room; the file grows only as it is filled.
const POOL_BYTES: u64 = 256 << 30;
/// Longest time to write a guest's memory to a file, or to read it.
const TRANSFER: Duration = Duration::from_mins(5);
/// How often a process is looked at that should end.
const LOOK: Duration = Duration::from_millis(20);

/// Where the disks of a real lab are.
#[derive(Clone, Debug)]
pub struct Storage {
    /// Dataset of the storage `tank`, mounted where there are no volumes.
    pub dataset: String,
    /// The checkpoint tree, beside it.
    pub keep: String,
    /// Where `dataset` is mounted, for disks that are files `disk.raw`; none where disks are volumes in `/dev/zvol`.
    pub mountpoint: Option<PathBuf>,
    /// What a person should know, for example that it is zfs-fuse.
    pub note: String,
}

/// The guests of one data directory; cheap to clone.
#[derive(Clone, Debug)]
pub struct Qemu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    data: PathBuf,
    program: PathBuf,
    clock: Clock,
    accelerator: OnceCell<Accelerator>,
    guests: std::sync::Mutex<HashMap<u32, Arc<Guest>>>,
}

/// Connections to one guest. Power changes of a guest wait for each other; so do commands to its agent.
#[derive(Debug, Default)]
struct Guest {
    power: Mutex<()>,
    agent: Mutex<Option<agent::Connection>>,
    monitor: Mutex<Option<monitor::Connection>>,
}

impl Qemu {
    /// Brings up the pool and looks for QEMU. Guests that run already are forwarded to this gateway, too.
    ///
    /// Errors: `Unavailable` when this machine has no QEMU or no ZFS, with what to do.
    pub async fn open(data: &Path, gateway: SocketAddr) -> Result<(Self, Storage), Error> {
        let program = std::env::current_exe().map_err(Error::io("cannot find", Path::new("our own executable")))?;
        let qemu = Self::over(data, gateway, program).await?;
        let pool = pool::bring_up(&qemu.0.data, &pool::name(&qemu.0.data), POOL_BYTES, &qemu.0.clock).await?;
        pool.ensure("data").await?;
        let storage = Storage {
            dataset: format!("{}/data", pool.name),
            keep: format!("{}/autovibe", pool.name),
            mountpoint: pool.disk_files(),
            note: pool.note(),
        };
        Ok((qemu, storage))
    }

    /// Guests without a pool of their own. QEMU runs `program` as `autovibe lab forward FILE` for each connection to the gateway.
    pub async fn over(data: &Path, gateway: SocketAddr, program: PathBuf) -> Result<Self, Error> {
        let data = std::path::absolute(data).map_err(Error::io("cannot resolve", data))?;
        let vms = data.join("vms");
        std::fs::create_dir_all(&vms).map_err(Error::io("cannot make", &vms))?;
        let found = tokio::process::Command::new(QEMU).arg("--version").output().await;
        if !found.is_ok_and(|output| output.status.success()) {
            return Err(Error::Unavailable(format!("{QEMU} cannot be run: install the package qemu-system-x86")));
        }
        let file = forward_file(&data);
        let part = file.with_extension("part");
        std::fs::write(&part, gateway.to_string()).map_err(Error::io("cannot write", &part))?;
        std::fs::rename(&part, &file).map_err(Error::io("cannot write", &file))?;
        let inner = Inner { data, program, clock: Clock::system(), accelerator: OnceCell::new(), guests: std::sync::Mutex::default() };
        Ok(Self(Arc::new(inner)))
    }

    /// Says which guests of an earlier lab process still run. They need nothing: all calls find them by their directories.
    pub async fn recover(&self) {
        let mut running = Vec::new();
        for entry in std::fs::read_dir(self.0.data.join("vms")).into_iter().flatten().flatten() {
            let Some(vmid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.power(vmid).await {
                running.push(vmid);
            }
        }
        if !running.is_empty() {
            running.sort_unstable();
            info!("found running guests again: {running:?}");
        }
    }

    /// Starts a guest as its Proxmox config says. `disks` are the files or volumes of `scsi0`, `scsi1`, … in this order.
    ///
    /// Returns when QEMU has taken its devices and its guest begins to boot.
    /// Errors: `Running`, `Config` for what the lab cannot give, `Failed` with QEMU's own words.
    pub async fn start(&self, vmid: u32, config: &VmConfig, disks: &[PathBuf]) -> Result<(), Error> {
        self.begin(vmid, config, disks, None).await
    }

    /// Likewise, from the memory in `memory`, and returns when it goes on. Errors: also what QEMU says of that memory.
    pub async fn resume(&self, vmid: u32, config: &VmConfig, disks: &[PathBuf], memory: &Path) -> Result<(), Error> {
        self.begin(vmid, config, disks, Some(memory)).await
    }

    async fn begin(&self, vmid: u32, config: &VmConfig, disks: &[PathBuf], memory: Option<&Path>) -> Result<(), Error> {
        let guest = self.guest(vmid);
        let _turn = guest.power.lock().await;
        let directory = self.directory(vmid);
        if process::running(&directory).is_some() {
            return Err(Error::Running(vmid));
        }
        std::fs::create_dir_all(&directory).map_err(Error::io("cannot make", &directory))?;
        let forward = arguments::Forward { program: self.0.program.clone(), file: forward_file(&self.0.data) };
        let mut devices = arguments::devices(vmid, config, disks, &directory, &forward)?;
        if let Some(file) = memory {
            // Read when it is told to, so that an error has words.
            std::fs::File::open(file).map_err(Error::io("cannot open", file))?;
            devices.extend(["-incoming".to_owned(), "defer".to_owned()]);
        }
        let accelerator = if config.get("kvm").is_some_and(|kvm| kvm == "0") {
            Accelerator::Tcg
        } else {
            *self.0.accelerator.get_or_init(|| accelerator::choose(&self.0.data, disks, &self.0.clock)).await
        };
        process::launch(vmid, &directory, accelerator, &devices).await?;
        if let Some(file) = memory
            && let Err(error) = self.load(vmid, file).await
        {
            self.stop(vmid).await?;
            return Err(error);
        }
        info!(vm.id = vmid, accelerator = accelerator.name(), "started guest");
        Ok(())
    }

    /// Whether the guest runs: the process of its pid file is there, and is the QEMU that was started with that file.
    #[expect(clippy::unused_async, reason = "as its model beside it, which looks into a store")]
    pub async fn power(&self, vmid: u32) -> bool {
        process::running(&self.directory(vmid)).is_some()
    }

    /// Stops the guest's CPUs and writes its memory to a file, whole. Errors: why it could not; the guest goes on then.
    pub async fn save(&self, vmid: u32, file: &Path) -> Result<(), Error> {
        self.monitor(vmid, "stop").await?;
        let saved = self.transfer(vmid, "migrate", &format!("exec:cat >{}", arguments::quote(file))).await;
        if saved.is_err() {
            self.monitor(vmid, "cont").await?;
        }
        saved
    }

    /// Reads a guest's memory from the file that it was saved to, and lets it go on.
    async fn load(&self, vmid: u32, file: &Path) -> Result<(), Error> {
        self.transfer(vmid, "migrate-incoming", &format!("exec:cat {}", arguments::quote(file))).await?;
        self.monitor(vmid, "cont").await.map(drop)
    }

    /// Moves memory to or from `uri`, and waits for the end.
    async fn transfer(&self, vmid: u32, command: &str, uri: &str) -> Result<(), Error> {
        self.monitor_with(vmid, command, Some(&serde_json::json!({ "uri": uri }))).await?;
        let end = tokio::time::timeout(TRANSFER, async {
            loop {
                let state = self.monitor(vmid, "query-migrate").await?;
                match state["status"].as_str() {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => {
                        let why = state["error-desc"].as_str().unwrap_or("QEMU gives no reason");
                        return Err(Error::Failed(format!("VM {vmid} {command} failed - {why}")));
                    }
                    _ => self.0.clock.sleep(LOOK).await,
                }
            }
        });
        end.await.unwrap_or_else(|_| Err(Error::Failed(format!("VM {vmid} {command} failed - got timeout"))))
    }

    /// Asks the guest to power off, by its agent or else its power button, and waits; gives whether it is off.
    pub async fn shutdown(&self, vmid: u32, timeout: Duration) -> bool {
        let guest = self.guest(vmid);
        let directory = self.directory(vmid);
        let Some(pid) = process::running(&directory) else { return true };
        let asked =
            self.agent_without_answer(vmid, &serde_json::json!({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}})).await;
        if let Err(error) = asked {
            warn!(vm.id = vmid, "guest agent cannot shut down, pressing the power button: {error}");
            if let Err(error) = self.monitor(vmid, "system_powerdown").await {
                warn!(vm.id = vmid, "the power button cannot be pressed: {error}");
            }
        }
        let off = process::ended(&directory, pid, timeout, &self.0.clock).await;
        if off {
            Self::hang_up(&guest).await;
            info!(vm.id = vmid, "guest shut down");
        }
        off
    }

    /// Takes the power away. Fine when it is off.
    pub async fn stop(&self, vmid: u32) -> Result<(), Error> {
        let guest = self.guest(vmid);
        let directory = self.directory(vmid);
        let Some(pid) = process::running(&directory) else { return Ok(()) };
        if let Err(error) = self.monitor(vmid, "quit").await {
            warn!(vm.id = vmid, "monitor did not take quit: {error}");
        }
        if !process::ended(&directory, pid, QUIT, &self.0.clock).await {
            process::kill(&directory, pid).await?;
            if !process::ended(&directory, pid, QUIT, &self.0.clock).await {
                return Err(Error::Failed(format!("QEMU of VM {vmid} (process {pid}) cannot be killed")));
            }
        }
        Self::hang_up(&guest).await;
        info!(vm.id = vmid, "guest stopped");
        Ok(())
    }

    /// One command to the guest agent, as `{"execute": …, "arguments": …}`; gives its reply, `{"return": …}` or `{"error": …}`.
    ///
    /// Errors: `NotRunning`, `AgentSilent`, `AgentTimeout` when its answer was lost.
    pub async fn agent(&self, vmid: u32, command: &Value) -> Result<Value, Error> {
        let guest = self.guest(vmid);
        let mut slot = guest.agent.lock().await;
        let connection = self.agent_connection(vmid, &mut slot).await?;
        let result = connection.call(vmid, command).await;
        if result.is_err() {
            *slot = None;
        }
        result
    }

    async fn agent_without_answer(&self, vmid: u32, command: &Value) -> Result<(), Error> {
        let guest = self.guest(vmid);
        let mut slot = guest.agent.lock().await;
        let result = self.agent_connection(vmid, &mut slot).await?.send(vmid, command).await;
        *slot = None;
        result
    }

    /// A connection whose far end has just shown that it listens.
    async fn agent_connection<'a>(&self, vmid: u32, slot: &'a mut Option<agent::Connection>) -> Result<&'a mut agent::Connection, Error> {
        let directory = self.directory(vmid);
        let pid = process::running(&directory).ok_or(Error::NotRunning(vmid))?;
        if slot.as_ref().is_none_or(|connection| connection.pid() != pid) {
            *slot = Some(agent::Connection::open(vmid, &directory.join("qga"), pid).await?);
        }
        let connection = slot.as_mut().expect("filled in the line before");
        if !connection.is_fresh() {
            // The monitor knows whether anything in the guest has opened the port; if not, there is nobody to ask.
            if !self.agent_listens(vmid).await? {
                return Err(Error::AgentSilent(vmid));
            }
            if let Err(error) = connection.sync(vmid).await {
                *slot = None;
                return Err(error);
            }
        }
        Ok(slot.as_mut().expect("only an error empties it"))
    }

    async fn agent_listens(&self, vmid: u32) -> Result<bool, Error> {
        let devices = self.monitor(vmid, "query-chardev").await?;
        Ok(devices.as_array().is_some_and(|list| list.iter().any(|device| device["label"] == "qga0" && device["frontend-open"] == true)))
    }

    /// Removes what is kept of a guest that does not run.
    pub async fn forget(&self, vmid: u32) {
        let guest = self.guest(vmid);
        let _turn = guest.power.lock().await;
        let directory = self.directory(vmid);
        if process::running(&directory).is_some() {
            warn!(vm.id = vmid, "guest still runs and is not forgotten");
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(vm.id = vmid, "{} cannot be removed: {error}", directory.display());
        }
        self.0.guests.lock().expect("nothing panics while it is locked").remove(&vmid);
    }

    /// URL at which guests reach the gateway, whatever the gateway's own address is.
    pub fn gateway_url(&self) -> String {
        format!("http://{}", arguments::GATEWAY)
    }

    /// The guest's console, all of it: for people, and for the words of an error.
    pub fn console(&self, vmid: u32) -> PathBuf {
        self.directory(vmid).join("console.log")
    }

    async fn monitor(&self, vmid: u32, command: &str) -> Result<Value, Error> {
        self.monitor_with(vmid, command, None).await
    }

    async fn monitor_with(&self, vmid: u32, command: &str, arguments: Option<&Value>) -> Result<Value, Error> {
        let directory = self.directory(vmid);
        let pid = process::running(&directory).ok_or(Error::NotRunning(vmid))?;
        let guest = self.guest(vmid);
        let mut slot = guest.monitor.lock().await;
        if slot.as_ref().is_none_or(|connection| connection.pid() != pid) {
            *slot = Some(monitor::Connection::open(vmid, &directory.join("qmp"), pid).await?);
        }
        let connection = slot.as_mut().expect("filled in the line before");
        let result = connection.call_with(vmid, command, arguments).await;
        if result.is_err() {
            *slot = None;
        }
        result
    }

    async fn hang_up(guest: &Guest) {
        *guest.agent.lock().await = None;
        *guest.monitor.lock().await = None;
    }

    fn guest(&self, vmid: u32) -> Arc<Guest> {
        self.0.guests.lock().expect("nothing panics while it is locked").entry(vmid).or_default().clone()
    }

    fn directory(&self, vmid: u32) -> PathBuf {
        self.0.data.join("vms").join(vmid.to_string())
    }
}

fn forward_file(data: &Path) -> PathBuf {
    data.join("gateway")
}
