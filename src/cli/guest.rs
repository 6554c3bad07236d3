//! `autovibe guest`: the runner inside a VM. The launch script starts it; nobody else does.

use crate::guest;
use std::{path::PathBuf, process::ExitCode};

/// Runs Claude Code in this VM for its hub, which is asked before each tool call; started by the hub
#[derive(Debug, clap::Args)]
pub(super) struct Guest {
    /// URL of the hub's gateway
    #[arg(long, value_name = "URL")]
    gateway: String,
    /// File with the key of this launch
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Home of the agent's user
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// Id of the conversation
    #[arg(long, value_name = "UUID")]
    session: String,
    /// What to do
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// What is said when the conversation goes on
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    go_on: String,
    /// The script that starts a program as the agent's user
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    /// Arguments of the agent's program
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Guest {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let command = ["sh", &self.script.to_string_lossy(), "agent", "claude"].map(str::to_owned).into();
        let config = guest::Config {
            gateway: self.gateway,
            key: self.key,
            home: self.home,
            session: self.session,
            prompt: self.prompt,
            go_on: self.go_on,
            command,
            arguments: self.arguments,
        };
        let code = guest::run(config).await?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }
}
