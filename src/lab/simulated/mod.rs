//! Model guests on a model pool: fast, and really calling the gateway over HTTP.

use super::guests::VmConfig;
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

/// The model's guests.
pub struct Guests;

impl Guests {
    pub async fn start(&self, _vmid: u32, _config: &VmConfig, _disks: &[PathBuf]) -> Result<(), String> {
        Ok(())
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
        Err(String::new())
    }
    pub async fn forget(&self, _vmid: u32) {}
    pub async fn recover(&self) {}
}
