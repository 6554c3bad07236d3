//! Other gateways in front of the same provider: nginx as a plain proxy, LiteLLM and Portkey, where `images/install-peers` put them.

use super::upstream::MODEL;
use crate::clock::Clock;
use anyhow::{Context as _, bail};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// LiteLLM takes 10 s, on a busy machine four times as long.
const READY: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Nginx,
    LiteLlm,
    Portkey,
}

/// One that runs; it ends when this is dropped.
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    child: Child,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Nginx, Self::LiteLlm, Self::Portkey];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::LiteLlm => "LiteLLM",
            Self::Portkey => "Portkey",
        }
    }

    /// Its file below the directory of all peers, without which it is not there.
    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx/usr/sbin/nginx",
            Self::LiteLlm => "litellm/bin/litellm",
            Self::Portkey => "portkey/node_modules/@portkey-ai/gateway/build/start-server.js",
        }
    }

    /// Headers that it wants of a caller beside those that a provider wants.
    pub(super) fn headers(self, upstream: SocketAddr) -> Vec<(&'static str, String)> {
        match self {
            Self::Portkey => {
                vec![("x-portkey-provider", "anthropic".into()), ("x-portkey-custom-host", format!("http://{upstream}/v1"))]
            }
            Self::Nginx | Self::LiteLlm => Vec::new(),
        }
    }
}

/// What callers show LiteLLM; the others pass it on.
pub(super) const TOKEN: &str = "sk-bench";

impl Peer {
    /// Starts it in front of `upstream`, in `directory`; `None` when it is not among those in `peers`.
    pub(super) async fn start(kind: Kind, peers: &Path, directory: &Path, upstream: SocketAddr) -> anyhow::Result<Option<Self>> {
        let program = std::path::absolute(peers.join(kind.program()))?;
        if !program.exists() {
            return Ok(None);
        }
        let directory = directory.join(kind.name());
        std::fs::create_dir_all(&directory)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = match kind {
            Kind::Nginx => nginx(&program, &directory, address, upstream)?,
            Kind::LiteLlm => litellm(&program, &directory, address, upstream)?,
            Kind::Portkey => portkey(&program, &directory, address)?,
        };
        let log = std::fs::File::create(directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{} could not be started", kind.name()))?;
        let mut peer = Self { kind, address, child };
        peer.ready(&directory).await?;
        Ok(Some(peer))
    }

    async fn ready(&mut self, directory: &Path) -> anyhow::Result<()> {
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            if self.child.try_wait()?.is_some() || begun.elapsed() > READY {
                let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
                bail!("{} does not serve: {}", self.kind.name(), log.trim());
            }
            Clock::system().sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.kind.name()))
    }
}

/// One process that passes everything on as it comes, over connections that it keeps.
fn nginx(program: &Path, directory: &Path, address: SocketAddr, upstream: SocketAddr) -> anyhow::Result<Command> {
    let at = directory.display();
    let temporary: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {at}/{what};\n")).concat();
    let settings = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; client_max_body_size 32m; client_body_buffer_size 1m; keepalive_requests 1000000;
           {temporary}
           upstream provider {{ server {upstream}; keepalive 256; keepalive_requests 1000000; }}
           server {{
             listen {address};
             location / {{
               proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection \"\";
               proxy_buffering off; proxy_request_buffering off;
             }}
           }}
         }}\n"
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, settings)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(directory).arg("-c").arg(file).arg("-e").arg(directory.join("error.log"));
    Ok(command)
}

/// One worker, without a database, and with the settings that its own documentation has for production.
fn litellm(program: &Path, directory: &Path, address: SocketAddr, upstream: SocketAddr) -> anyhow::Result<Command> {
    let settings = serde_json::json!({
        "model_list": [{ "model_name": MODEL,
            "litellm_params": { "model": format!("anthropic/{MODEL}"), "api_base": format!("http://{upstream}"), "api_key": "none" } }],
        "general_settings": { "master_key": TOKEN },
    });
    // JSON is YAML.
    let file = directory.join("config.yaml");
    std::fs::write(&file, settings.to_string())?;
    let mut command = Command::new(program);
    command.arg("--config").arg(file).args(["--host", "127.0.0.1", "--num_workers", "1", "--port"]).arg(address.port().to_string());
    command.envs([("LITELLM_MODE", "PRODUCTION"), ("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_LOG", "ERROR")]);
    Ok(command)
}

/// It listens on every address by itself, and refuses providers on this machine.
fn portkey(program: &Path, directory: &Path, address: SocketAddr) -> anyhow::Result<Command> {
    let file = directory.join("loopback.cjs");
    std::fs::write(
        &file,
        "const net = require('net'), listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, { port, host: '127.0.0.1' }, ...rest.filter(one => typeof one === 'function'));
};\n",
    )?;
    let mut command = Command::new("node");
    command.arg("--require").arg(file).arg(program).arg(format!("--port={}", address.port())).arg("--headless");
    command.env("TRUSTED_CUSTOM_HOSTS", "127.0.0.1");
    Ok(command)
}
