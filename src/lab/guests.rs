//! What runs behind a VM's config: a real QEMU, or a model that answers like one. The API above cannot tell.

use super::{real, simulated};
use serde_json::Value;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// A VM's config as `qm config` shows it: keys and values as text.
pub type VmConfig = BTreeMap<String, String>;

/// Why a guest agent's reply was not had.
#[derive(Debug)]
pub enum NoReply {
    /// The agent does not run (yet): the command was not heard.
    Silent(String),
    /// The command was sent; it may have been done.
    Lost(String),
}

/// The machines of this node.
pub enum Guests {
    Simulated(simulated::Guests),
    Real(real::Qemu),
}

impl Guests {
    /// Powers a VM on. `disks` are the raw files of `scsi0`, `scsi1`, … in this order. Errors: why it did not start.
    pub async fn start(&self, vmid: u32, config: &VmConfig, disks: &[PathBuf]) -> Result<(), String> {
        match self {
            Self::Simulated(guests) => guests.start(vmid, config, disks).await,
            Self::Real(qemu) => qemu.start(vmid, config, disks).await.map_err(|error| error.to_string()),
        }
    }

    /// Whether it runs, from a live look.
    pub async fn power(&self, vmid: u32) -> bool {
        match self {
            Self::Simulated(guests) => guests.power(vmid).await,
            Self::Real(qemu) => qemu.power(vmid).await,
        }
    }

    /// Asks the guest to power off and waits; returns whether it is off.
    pub async fn shutdown(&self, vmid: u32, timeout: Duration) -> bool {
        match self {
            Self::Simulated(guests) => guests.shutdown(vmid, timeout).await,
            Self::Real(qemu) => qemu.shutdown(vmid, timeout).await,
        }
    }

    /// Cuts the power and waits until it is off. Errors: why it still runs.
    pub async fn stop(&self, vmid: u32) -> Result<(), String> {
        match self {
            Self::Simulated(guests) => guests.stop(vmid).await,
            Self::Real(qemu) => qemu.stop(vmid).await.map_err(|error| error.to_string()),
        }
    }

    /// One command of the QEMU guest agent's protocol, `{"execute":…,"arguments":…}`, and its reply, `{"return":…}` or
    /// `{"error":{"class","desc"}}`.
    pub async fn agent(&self, vmid: u32, command: &Value) -> Result<Value, NoReply> {
        match self {
            Self::Simulated(guests) => guests.agent(vmid, command).await.map_err(NoReply::Silent),
            Self::Real(qemu) => qemu.agent(vmid, command).await.map_err(|error| match error {
                real::Error::AgentTimeout { .. } => NoReply::Lost(error.to_string()),
                _ => NoReply::Silent(error.to_string()),
            }),
        }
    }

    /// The VM's config is gone: removes what was kept for it. It is off.
    pub async fn forget(&self, vmid: u32) {
        match self {
            Self::Simulated(guests) => guests.forget(vmid).await,
            Self::Real(qemu) => qemu.forget(vmid).await,
        }
    }

    /// Finds the guests again that ran when the lab ended; called once, before the API serves.
    pub async fn recover(&self) {
        match self {
            Self::Simulated(guests) => guests.recover().await,
            Self::Real(qemu) => qemu.recover().await,
        }
    }
}
