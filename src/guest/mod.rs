//! The runner inside a VM: it owns the agent's process as root, while the agent is an ordinary user, and asks the hub before each tool call.
//!
//! It speaks Claude Code's control channel: its program waits with a tool until it has an answer, so what nobody allows is not done. While
//! the hub is away a question waits; the runner itself allows nothing. It keeps no state: a launch that resumes begins anew.

mod ask;
mod control;

use crate::clock::Clock;
use ask::Hub;
use control::Said;
use std::{io, path::PathBuf, process::Stdio, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    task::JoinSet,
};

/// How long the program may take to end after its result.
const ENDING: Duration = Duration::from_secs(30);

/// What the runner is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// URL of the gateway.
    pub gateway: String,
    /// File with the key of this launch, which the agent cannot read.
    pub key: PathBuf,
    /// Home of the agent's user.
    pub home: PathBuf,
    /// Id of the conversation.
    pub session: String,
    /// What the agent is to do, and what it is told when it goes on.
    pub prompt: String,
    pub go_on: String,
    /// Starts its program as its user: a command, to which the program's own arguments are added.
    pub command: Vec<String>,
    /// Arguments of the program.
    pub arguments: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the key of this launch cannot be read from {path}: {source}")]
    Key { path: PathBuf, source: io::Error },
    #[error("{0} holds no key of a launch")]
    NoKey(PathBuf),
    #[error("there is no command to start the agent with")]
    NoCommand,
    #[error("the agent cannot be started: {0}")]
    Start(io::Error),
    #[error("the agent's output cannot be read or passed on: {0}")]
    Pipe(#[from] io::Error),
    #[error("no client for the gateway can be made: {0}")]
    Client(#[from] reqwest::Error),
}

/// Runs the agent to the end of its turn; its exit code. What it prints goes to standard output, but for the control channel.
pub async fn run(config: Config) -> Result<i32, Error> {
    let clock = Clock::system();
    let key = std::fs::read_to_string(&config.key).map_err(|source| Error::Key { path: config.key.clone(), source })?;
    let key = Some(key.trim()).filter(|key| crate::wire::runner::token_of(key).is_some());
    let key = key.ok_or_else(|| Error::NoKey(config.key.clone()))?;
    let hub = Arc::new(Hub::new(&config.gateway, key, clock.clone())?);
    let resumes = control::is_begun(&config.home, &config.session);
    let (program, before) = config.command.split_first().ok_or(Error::NoCommand)?;
    let mut child = Command::new(program)
        .args(before)
        .args(control::flags(&config.session, resumes))
        .args(&config.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::Start)?;
    let prompt = if resumes { &config.go_on } else { &config.prompt };
    converse(&mut child, prompt, &hub).await?;
    tokio::select! {
        biased;
        status = child.wait() => Ok(status?.code().unwrap_or(1)),
        () = clock.sleep(ENDING) => {
            child.kill().await?;
            Ok(0)
        }
    }
}

/// Sends the prompt, passes on what is said, and answers each question, until the program has said its result or ended.
async fn converse(child: &mut Child, prompt: &str, hub: &Arc<Hub>) -> Result<(), Error> {
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return Ok(()) };
    let (answers, lines) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(write(stdin, lines));
    answers.send(control::turn(prompt)).ok();
    // Dropped with the result, so that the program sees the end of its input and ends.
    let mut answers = Some(answers);
    let (mut heard, mut out) = (BufReader::new(stdout).lines(), tokio::io::stdout());
    while let Some(line) = heard.next_line().await? {
        match control::read(&line) {
            Said::Asks { request, question } => {
                let (Some(answers), hub) = (answers.clone(), hub.clone()) else { continue };
                tasks.spawn(async move {
                    let answer = hub.ask(&question).await;
                    answers.send(control::answer(&request, &question, &answer)).ok();
                });
                continue;
            }
            Said::Control => continue,
            Said::Begins { asks: true } => {
                let hub = hub.clone();
                tasks.spawn(async move { hub.present().await });
            }
            // Someone told it not to ask: its calls are the gateway's to withhold.
            Said::Begins { asks: false } | Said::Other => {}
            Said::Result => answers = None,
        }
        out.write_all(line.as_bytes()).await?;
        out.write_all(b"\n").await?;
        out.flush().await?;
    }
    Ok(())
}

/// Writes lines to the program, until nobody sends any more.
async fn write(mut stdin: ChildStdin, mut lines: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = lines.recv().await {
        // A program that has ended reads nothing; that is seen where it is waited for.
        if stdin.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}
