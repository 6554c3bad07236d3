//! Real guests and storage: QEMU on this machine, disks in its ZFS.

use super::guests::VmConfig;
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

const MISSING: &str = "this build has no real guests; use `--simulated`";

/// QEMU processes of this lab.
pub struct Qemu;

/// Where the disks of a real lab are.
pub struct Storage {
    /// Dataset of the storage `tank`, mounted where there are no volumes.
    pub dataset: String,
    /// The checkpoint tree, beside it.
    pub keep: String,
    /// What a person should know, for example that it is zfs-fuse.
    pub note: String,
}

impl Qemu {
    /// Brings up storage and probes QEMU; `data` is the lab's directory, `gateway` where guests' requests are forwarded to.
    pub async fn open(_data: &Path, _gateway: SocketAddr) -> Result<(Self, Storage), String> {
        Err(MISSING.into())
    }
    pub async fn start(&self, _vmid: u32, _config: &VmConfig, _disks: &[PathBuf]) -> Result<(), String> {
        Err(MISSING.into())
    }
    pub async fn power(&self, _vmid: u32) -> bool {
        false
    }
    pub async fn shutdown(&self, _vmid: u32, _timeout: Duration) -> bool {
        true
    }
    pub async fn stop(&self, _vmid: u32) -> Result<(), String> {
        Ok(())
    }
    pub async fn agent(&self, _vmid: u32, _command: &Value) -> Result<Value, String> {
        Err(MISSING.into())
    }
    pub async fn forget(&self, _vmid: u32) {}
    pub async fn recover(&self) {}
    /// URL at which guests reach the gateway.
    pub fn gateway_url(&self) -> String {
        "http://10.0.2.100:4180".into()
    }
}
