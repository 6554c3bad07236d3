//! A kubeconfig: where a server is, whom to trust there, and who we are.

use super::{Client, Error};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;
use std::{io::ErrorKind, path::Path, time::Duration};

const CONNECT: Duration = Duration::from_secs(10);
/// A server that is gone without a word is noticed within the sum of the two.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named>,
    clusters: Vec<Named>,
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    rest: Value,
}

impl Client {
    /// Reads the kubeconfig `file`; `namespace` goes before the one it names.
    ///
    /// Errors: `Kubeconfig`, with the file's name in it.
    pub fn open(file: &Path, namespace: Option<&str>) -> Result<Self, Error> {
        let shown = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::Kubeconfig(match error.kind() {
                ErrorKind::NotFound => format!(
                    "no hub is known here: {shown} does not exist. Start one with `autovibe up`, or name one with --data or --kubeconfig"
                ),
                _ => format!("{shown} cannot be read: {error}"),
            })
        })?;
        read(&text, namespace).map_err(|why| Error::Kubeconfig(format!("{shown} {why}")))
    }
}

/// The error is the rest of a sentence that begins with the file's name.
fn read(text: &str, namespace: Option<&str>) -> Result<Client, String> {
    let config: Kubeconfig = serde_yaml::from_str(text).map_err(|error| format!("is not a kubeconfig: {error}"))?;
    let find = |list: &[Named], kind: &str, name: &str| {
        let found = list.iter().find(|entry| entry.name == name).map(|entry| entry.rest[kind].clone());
        found.ok_or_else(|| format!("names the {kind} `{name}` but does not describe it"))
    };
    let context = find(&config.contexts, "context", &config.current_context)?;
    let cluster = find(&config.clusters, "cluster", context["cluster"].as_str().unwrap_or_default())?;
    let user = find(&config.users, "user", context["user"].as_str().unwrap_or_default())?;

    let server = cluster["server"].as_str().ok_or("names no server")?.trim_end_matches('/').to_owned();
    // The hub is spoken to directly: a proxy for the outside world has nothing to do with it.
    let mut http = reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .user_agent(concat!("autovibe/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = part(&cluster, "certificate-authority")? {
        let roots = reqwest::Certificate::from_pem_bundle(&pem);
        http = http.tls_certs_only(roots.map_err(|error| format!("has a certificate authority that cannot be read: {error}"))?);
    }
    if let (Some(certificate), Some(key)) = (part(&user, "client-certificate")?, part(&user, "client-key")?) {
        let identity = reqwest::Identity::from_pem(&[certificate, key].concat());
        http = http.identity(identity.map_err(|error| format!("has a client certificate that cannot be used: {error}"))?);
    }
    let namespace = namespace.or(context["namespace"].as_str()).unwrap_or("default").to_owned();
    let token = user["token"].as_str().map(str::to_owned);
    let http = http.build().map_err(|error| format!("leads to no HTTP client: {error}"))?;
    Ok(Client { http, server, token, epoch: None, namespace })
}

/// A PEM text, in the kubeconfig itself or in a file that it names.
fn part(of: &Value, name: &str) -> Result<Option<Vec<u8>>, String> {
    match (of[format!("{name}-data")].as_str(), of[name].as_str()) {
        (Some(data), _) => STANDARD.decode(data).map(Some).map_err(|_| format!("has a {name}-data that is not base64")),
        (None, Some(path)) => std::fs::read(path).map(Some).map_err(|error| format!("names {path}, which cannot be read: {error}")),
        (None, None) => Ok(None),
    }
}
