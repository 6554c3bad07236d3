//! `autovibe exec`: runs a command in the guest of a Machine.

use super::{Context, Output, print, resource};
use crate::api::exec::{Exec, ExecUser, Executed, MOST_INPUT, MOST_OUTPUT};
use crate::api::quantity::GoDuration;
use anyhow::{Context as _, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use std::{
    io::{Read, Write},
    process::ExitCode,
};

/// Runs a command in the guest of a Machine, in its workspace; exits as the command did
///
/// As the agent's user, unless `--root`. No shell reads it: write `-- sh -c '…'` for one. Its output comes when it has ended.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The Machine
    machine: String,
    /// As root
    #[arg(long)]
    root: bool,
    /// Give it the standard input, a text of at most 64 KiB
    #[arg(long, short = 'i')]
    stdin: bool,
    /// When it is killed
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    timeout: GoDuration,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Run {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let name = self.machine.strip_prefix("machine/").unwrap_or(&self.machine);
        let user = if self.root { ExecUser::Root } else { ExecUser::Agent };
        let exec = Exec { command: self.command.clone(), stdin: self.input()?, user, timeout: self.timeout };
        let path = format!("{}/exec", resource::machine(&client.namespace, name));
        // It has a time limit of its own, in the guest.
        let answer = client.send(client.request(Method::POST, &path).json(&exec)).await?;
        let body = answer.bytes().await.context("the connection to the hub broke; the command may run on until its timeout")?;
        let executed: Executed =
            serde_json::from_slice(&body).context("the hub's answer broke off; the command may run on until its timeout")?;
        if let Some(Output::Json | Output::Yaml) = context.options.output {
            print::out(&print::document(&serde_json::to_value(&executed)?, context.options.output.unwrap_or(Output::Json))?)?;
        } else {
            show(&executed.stdout, &mut std::io::stdout(), context.environment.terminal)?;
            show(&executed.stderr, &mut std::io::stderr(), true)?;
        }
        if let Some(error) = executed.error {
            bail!("{error}");
        }
        let code = executed.exit_code.and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }

    fn input(&self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        if self.stdin {
            std::io::stdin().lock().take(MOST_INPUT as u64 + 1).read_to_end(&mut bytes).context("the standard input cannot be read")?;
        }
        if bytes.len() > MOST_INPUT {
            bail!("the standard input has more than {} KiB, which is all that can be given to a command in a guest", MOST_INPUT >> 10);
        }
        String::from_utf8(bytes).context("the standard input is no text (UTF-8); send `base64 FILE`, and decode it in the guest")
    }
}

/// Prints a stream of the command: as it is, unless a terminal could be driven by it.
fn show(text: &str, to: &mut impl Write, terminal: bool) -> anyhow::Result<()> {
    let bytes = STANDARD.decode(text).context("the hub's answer is not base64")?;
    if terminal {
        to.write_all(print::printable(&String::from_utf8_lossy(&bytes)).as_bytes())?;
    } else {
        to.write_all(&bytes)?;
    }
    to.flush()?;
    if bytes.len() >= MOST_OUTPUT {
        eprintln!("(only the first {} MiB came)", MOST_OUTPUT >> 20);
    }
    Ok(())
}
