//! What Machines may reach beside their hub: hosts by name on a Machine, networks of private addresses on a Hub.

use super::meta::FieldError;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The network of a Machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Hosts that it may reach, by the proxy of its hub's gateway. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host"]))]
    pub egress: Vec<Egress>,
}

/// A host that a Machine may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// Its name, such as `pypi.org`; `*.example.org` is every name below `example.org`, and not that one.
    #[schemars(length(max = 253))]
    pub host: String,
    /// Its TCP ports. Default: 443.
    #[serde(default = "https")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "set"), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
}

fn https() -> Vec<u16> {
    vec![443]
}

/// What a Hub lets its Machines reach by the names that they are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HubEgress {
    /// Networks of addresses that are not public, such as `10.20.0.0/16`: a name that leads there is connected. Addresses of the hub and
    /// its Proxmox are open only where one stands here by itself, as `10.20.0.5/32`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub networks: Vec<String>,
}

/// What a Machine's network did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// What it tried to reach and may not, the newest first; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<Blocked>,
}

/// One thing that a Machine tried to reach and may not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    pub host: String,
    pub port: u16,
    #[serde(default)]
    pub reason: BlockedReason,
    /// How often.
    #[serde(default)]
    pub count: u64,
    /// When it was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Time>,
}

/// Why something is blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum BlockedReason {
    /// `spec.network.egress` does not have it.
    #[default]
    NotAllowed,
    /// The name leads to an address that is not public, and that the Hub does not open.
    PrivateAddress,
    /// What came through the connection was meant for this host, and the connection was made to another.
    OtherServer,
}

/// How many [`NetworkStatus::blocked`] there are at most.
pub const BLOCKED: usize = 10;

impl Network {
    /// Whether a host may be reached at a port. `host` is a name in lower case, without a dot at its end.
    pub fn allows(&self, host: &str, port: u16) -> bool {
        self.egress.iter().any(|egress| egress.ports.contains(&port) && egress.is_of(host))
    }

    /// What its schema cannot say.
    pub(super) fn validate(&self, errors: &mut Vec<FieldError>) {
        for (index, Egress { host, .. }) in self.egress.iter().enumerate() {
            if let Err(remedy) = check(host) {
                errors.push(FieldError::invalid(format!("spec.network.egress[{index}].host"), host, remedy));
            }
        }
    }
}

impl Egress {
    fn is_of(&self, host: &str) -> bool {
        match self.host.strip_prefix('*') {
            // The dot stays: `*.example.org` is nothing of `evilexample.org`.
            Some(end) => host.len() > end.len() && host.ends_with(end),
            None => host == self.host,
        }
    }
}

/// Whether a text is a name that a host may have, in lower case. Source: RFC 1123, 2.1; an underscore is in use.
pub fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
    };
    // A last label of digits is an address, however it is written.
    let last = text.rsplit('.').next().unwrap_or_default();
    let is_address = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    text.len() <= 253 && text.split('.').all(label) && !is_address
}

fn check(host: &str) -> Result<(), &'static str> {
    if host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok() {
        return Err("must be a name: an address says nothing of who is there; give the machine there a name in your DNS");
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        return Err("may have `*.` at its beginning and no other `*`: *.example.org is every name below example.org");
    }
    if !is_host(name) {
        return Err("must be the name of a host in lower case, without scheme, port or path: pypi.org");
    }
    if host.starts_with("*.") && !name.contains('.') {
        return Err("would be a whole top-level domain; name at least two labels: *.example.org");
    }
    Ok(())
}

impl HubEgress {
    /// The networks; what is none is left out, and admission has refused it.
    pub fn networks(&self) -> Vec<IpNet> {
        self.networks.iter().filter_map(|network| network.parse().ok()).collect()
    }

    /// What its schema cannot say.
    pub(super) fn validate(&self, errors: &mut Vec<FieldError>) {
        validate_networks("spec.egress.networks", &self.networks, errors);
    }
}

/// Whether each is a network.
pub(super) fn validate_networks(path: &str, networks: &[String], errors: &mut Vec<FieldError>) {
    for (index, network) in networks.iter().enumerate() {
        let fits = network.parse::<IpNet>().is_ok_and(|network| network.trunc() == network);
        if !fits {
            let remedy = "must be a network in CIDR notation whose other bits are zero, for example 10.20.0.0/16";
            errors.push(FieldError::invalid(format!("{path}[{index}]"), network, remedy));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(hosts: &[(&str, &[u16])]) -> Network {
        Network { egress: hosts.iter().map(|(host, ports)| Egress { host: (*host).into(), ports: ports.to_vec() }).collect() }
    }

    #[test]
    fn a_host_is_allowed_by_its_name_and_port() {
        let network = network(&[("pypi.org", &[443]), ("*.example.org", &[443, 8443])]);
        for (host, port, allowed) in [
            ("pypi.org", 443, true),
            ("pypi.org", 80, false),
            ("files.pypi.org", 443, false),
            ("a.example.org", 8443, true),
            ("a.b.example.org", 443, true),
            ("example.org", 443, false),
            (".example.org", 443, false),
            ("evilexample.org", 443, false),
            ("example.org.evil.net", 443, false),
            ("pypi.org.", 443, false),
        ] {
            assert_eq!(network.allows(host, port), allowed, "{host}:{port}");
        }
        assert!(!Network::default().allows("pypi.org", 443));
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_to_write() {
        for host in ["pypi.org", "*.example.org", "localhost", "xn--bcher-kva.example", "a_b.example", "mirror.lan"] {
            assert_eq!(check(host), Ok(()), "{host}");
        }
        for (host, why) in [
            ("10.0.0.1", "must be a name"),
            ("::1", "must be a name"),
            ("[::1]", "must be a name"),
            ("0x7f.1", "name of a host"),
            ("2130706433", "name of a host"),
            ("1.2.3.0x4", "name of a host"),
            ("*", "no other `*`"),
            ("*.*.org", "no other `*`"),
            ("a*.org", "no other `*`"),
            ("*.org", "top-level"),
            ("https://pypi.org", "without scheme"),
            ("pypi.org:443", "without scheme"),
            ("PyPI.org", "lower case"),
            ("pypi.org.", "name of a host"),
            ("-a.org", "name of a host"),
            ("", "name of a host"),
        ] {
            let said = check(host).expect_err(host);
            assert!(said.contains(why), "{host}: {said}");
        }
    }

    #[test]
    fn a_network_has_no_bits_beside_its_prefix() {
        let mut errors = Vec::new();
        let networks = ["10.0.0.0/8", "10.0.0.5/32", "fd00::/8", "10.0.0.1/8", "10.0.0.1", "lan"].map(str::to_owned);
        validate_networks("n", &networks, &mut errors);
        let wrong: Vec<String> = errors.iter().map(|error| error.field.clone()).collect();
        assert_eq!(wrong, ["n[3]", "n[4]", "n[5]"]);
    }
}
