//! `autovibe kubeconfig`: credentials for others than the admin. What they may do is said by roles.

use super::{Context, client, print};
use crate::api::quantity::GoDuration;
use crate::apiserver::{self, Credential};
use crate::clock::Clock;
use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode};

/// Writes a kubeconfig for a person (a client certificate, made in the hub's data directory) or a ServiceAccount (a token,
/// asked of the hub). Neither may do anything until a RoleBinding or ClusterRoleBinding says so.
#[derive(Debug, clap::Args)]
pub(super) struct Kubeconfig {
    /// A person's name, as bindings have it
    #[arg(long, value_name = "NAME", required_unless_present = "service_account", conflicts_with = "service_account")]
    user: Option<String>,
    /// A group that the person is in; may be repeated
    #[arg(long, value_name = "NAME", requires = "user")]
    group: Vec<String>,
    /// A ServiceAccount, as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "ACCOUNT")]
    service_account: Option<String>,
    /// How long it holds: 10m to 8760h
    #[arg(long, value_name = "DURATION", default_value = "720h")]
    duration: GoDuration,
    /// How its holder reaches the hub: https://NAME:PORT, with a name of `up --tls-san` [default: as the kubeconfig in use]
    #[arg(long, value_name = "URL", value_parser = server)]
    server: Option<String>,
    /// Where it goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Kubeconfig {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let lasts = self.duration.0;
        ensure!(
            (600..=apiserver::LONGEST_CERTIFICATE.as_secs()).contains(&lasts.as_secs()),
            "--duration {} is out of range: from 10m to 8760h, a year",
            self.duration
        );
        let (name, credential, namespace) = match (&self.user, &self.service_account) {
            (Some(user), _) => {
                for name in std::iter::once(user).chain(&self.group) {
                    ensure!(!name.trim().is_empty(), "a user or group needs a name");
                }
                ensure!(!user.starts_with("system:"), "names that begin with `system:` are the server's own; choose another for {user}");
                let issued = apiserver::client_certificate(&context.data(), user, &self.group, lasts, Clock::system().now());
                let (certificate, key) = issued.with_context(|| {
                    format!(
                        "no certificate was issued; this is done where the hub's data directory is (--data), here {}",
                        context.data().display()
                    )
                })?;
                let namespace = context.options.namespace.clone().unwrap_or_else(|| "default".into());
                (user.clone(), Credential::Certificate { certificate, key }, namespace)
            }
            (None, Some(account)) => {
                let hub = context.client()?;
                let (namespace, name) = account.split_once('/').unwrap_or((&hub.namespace, account));
                let token = token(&hub, namespace, name, lasts.as_secs()).await?;
                (format!("{namespace}/{name}"), Credential::Token(token), namespace.to_owned())
            }
            (None, None) => bail!("say for whom: --user or --service-account"),
        };
        let mut cluster = cluster(context)?;
        if let Some(server) = &self.server {
            cluster["server"] = server.as_str().into();
        }
        let text = apiserver::kubeconfig(&cluster, &name, &credential, &namespace);
        match &self.file {
            Some(file) => {
                write_private(file, &text).with_context(|| format!("{} cannot be written", file.display()))?;
                print::out(&format!("{} lets {name} in for {}.\n", file.display(), self.duration))?;
            }
            None => print::out(&text)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// An address as kubeconfigs have it.
fn server(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.has_host());
    url.map(|_| text.trim_end_matches('/').to_owned())
        .ok_or_else(|| "it is no address of a server, such as https://hub.example.org:6443".into())
}

async fn token(hub: &client::Client, namespace: &str, name: &str, seconds: u64) -> anyhow::Result<String> {
    let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": seconds}});
    let answer = hub.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"), &request).await?;
    answer["status"]["token"].as_str().map(str::to_owned).context("the hub's answer holds no token")
}

/// Where the hub is and whom to trust: as in the kubeconfig that is in use.
fn cluster(context: &Context) -> anyhow::Result<Value> {
    let file = context.kubeconfig();
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("{}, which says where the hub is, cannot be read; start the hub once, or name one with --kubeconfig", file.display())
    })?;
    let config: Value = serde_yaml::from_str(&text).with_context(|| format!("{} is not a kubeconfig", file.display()))?;
    let named = |list: &str, name: &Value| config[list].as_array().into_iter().flatten().find(|item| item["name"] == *name).cloned();
    let current = named("contexts", &config["current-context"]).unwrap_or_default();
    let cluster = named("clusters", &current["context"]["cluster"]).unwrap_or_default();
    ensure!(cluster["cluster"]["server"].is_string(), "{} names no server", file.display());
    Ok(cluster["cluster"].clone())
}

/// For its owner alone: it is a key.
fn write_private(file: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let _ = std::fs::remove_file(file);
    std::fs::File::options().write(true).create_new(true).mode(0o600).open(file)?.write_all(text.as_bytes())
}
