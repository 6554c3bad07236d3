//! Where the hub serves: what was asked for, else what it was before, else a well-known port if it is free.

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// As kubectl users know it.
const API_PORT: u16 = 6443;
const GATEWAY_PORT: u16 = 6480;

/// The addresses of the last start, kept so that kubeconfigs and running guests stay valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Addresses {
    pub(super) api: Option<SocketAddr>,
    pub(in crate::cli) gateway: Option<SocketAddr>,
    /// What the API's certificate is for beside them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) names: Vec<String>,
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Wanted {
    pub(in crate::cli) address: SocketAddr,
    /// Nobody chose it and nothing depends on it: another port will do.
    pub(super) or_any: bool,
}

impl Addresses {
    /// What was remembered; nothing when there is none or it cannot be read.
    pub(in crate::cli) fn read(data: &Path) -> Self {
        std::fs::read(data.join("addresses.json")).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    pub(super) fn write(&self, data: &Path) -> anyhow::Result<()> {
        let (path, part) = (data.join("addresses.json"), data.join("addresses.json.part"));
        std::fs::write(&part, serde_json::to_vec(self)?)
            .and_then(|()| std::fs::rename(&part, &path))
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    pub(super) fn api(&self, asked: Option<SocketAddr>) -> Wanted {
        wanted(asked, self.api, API_PORT)
    }

    pub(super) fn names(&self, asked: &[String]) -> Vec<String> {
        if asked.is_empty() { self.names.clone() } else { asked.to_vec() }
    }

    pub(in crate::cli) fn gateway(&self, asked: Option<SocketAddr>) -> Wanted {
        wanted(asked, self.gateway, GATEWAY_PORT)
    }
}

fn wanted(asked: Option<SocketAddr>, before: Option<SocketAddr>, port: u16) -> Wanted {
    match asked.or(before) {
        // Port 0 asks for any, but a restart should keep what it got then.
        Some(address) if address.port() == 0 => match before.filter(|before| before.ip() == address.ip()) {
            Some(before) => Wanted { address: before, or_any: true },
            None => Wanted { address, or_any: true },
        },
        Some(address) => Wanted { address, or_any: false },
        None => Wanted { address: SocketAddr::from(([127, 0, 0, 1], port)), or_any: true },
    }
}

/// A host name or IP address as a certificate has it.
pub(super) fn certifiable(text: &str) -> Result<String, String> {
    let stands_for_all = text.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    if stands_for_all || text.ends_with('.') || ServerName::try_from(text).is_err() {
        return Err(
            "it is no host name or IP address by which clients reach the server; give it alone, such as hub.example.org or 192.0.2.7"
                .into(),
        );
    }
    Ok(text.to_owned())
}
