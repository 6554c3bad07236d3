//! Subcommands, one file each. For people by default; `-o json` and `-o yaml` for programs.
//!
//! Exit codes: 0 done, 1 it failed and standard error says what and what to do, 2 the command line was wrong.

mod apply;
mod approve;
mod archive;
mod audit;
mod backup;
mod bench;
mod checkpoint;
mod client;
mod controller;
mod delete;
mod demo;
mod describe;
mod diff;
mod doctor;
mod exec;
mod explain;
mod fetch;
mod get;
mod guest;
pub mod image;
mod kubeconfig;
mod lab;
mod lineage;
mod logs;
mod print;
mod resource;
mod restore;
mod retention;
mod secrets;
mod up;
mod verify;
mod version;
mod watch;
mod workspace;
mod zfs_helper;

use crate::config::Environment;
use crate::store::{self, Database};
use crate::telemetry;
use clap::{Args, Parser, Subcommand, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use std::{path::PathBuf, process::ExitCode};

/// Spawns AI coding agents in VMs of their own, checkpoints them while they work, meters them, and keeps every past state.
#[derive(Debug, Parser)]
#[command(name = "autovibe", version, max_term_width = 120)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// What this command logs when nobody says otherwise.
    pub fn log_filter(&self) -> &'static str {
        match self.command {
            Command::Bench(_) => telemetry::WARNINGS,
            _ => telemetry::CHANGES,
        }
    }
}

/// Options of every subcommand.
#[derive(Clone, Debug, Args)]
struct Options {
    /// The hub's data directory [default: $AUTOVIBE_DATA, else .autovibe]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How to reach the hub [default: DIR/kubeconfig, else $KUBECONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace: a project or a client [default: the kubeconfig's, else default]
    #[arg(long, short, global = true)]
    namespace: Option<String>,
    /// Form of the output [default: for people]
    #[arg(long, short, global = true)]
    output: Option<Output>,
}

/// Forms for programs, and the wide table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
    Yaml,
    Name,
    Wide,
    /// A picture of a lineage for Graphviz
    Dot,
    /// A picture of a lineage
    Svg,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the hub, and beside it the lab, a Proxmox-compatible node on this machine
    Up(up::Up),
    /// Runs the controllers alone, as a client of a hub that runs none
    Controller(controller::Controller),
    /// Creates or updates objects from YAML files; a wrong one applies nothing
    Apply(apply::Apply),
    /// Lists objects, or shows one
    Get(get::Get),
    /// Follows objects as they change, or one Machine until it has ended
    Watch(watch::Watch),
    /// Shows one object with its conditions and events
    Describe(describe::Describe),
    /// Says in words what an object does, waits for and spent
    Explain(explain::Explain),
    /// Deletes objects and waits until they are gone
    Delete(delete::Delete),
    Approvals(approve::List),
    Approve(approve::Approve),
    Deny(approve::Deny),
    /// Shows the conversation of a Machine's agent
    Logs(logs::Logs),
    Exec(exec::Run),
    /// Takes a checkpoint of a Machine
    Checkpoint(checkpoint::Take),
    Verify(verify::Verify),
    /// Shows which checkpoint led to which, and by what goal
    Lineage(lineage::Show),
    Retention(retention::Show),
    /// Shows what changed in the workspace between two checkpoints or Machines
    Diff(diff::Diff),
    Fetch(fetch::Fetch),
    Push(fetch::Push),
    Export(archive::Export),
    Import(archive::Import),
    /// Says what in the pool and in Proxmox does not agree with the objects; changes nothing
    Audit(audit::Run),
    /// Copies the store to a file, also while a hub runs
    Backup(backup::Backup),
    /// Puts a backup in the place of the store
    Restore(restore::Restore),
    /// Builds disk images that guests start from
    Image(image::ImageArgs),
    /// Writes a kubeconfig for a person or a ServiceAccount
    Kubeconfig(kubeconfig::Kubeconfig),
    /// Changes the key that Secrets are encrypted with
    Secrets(secrets::Secrets),
    /// Runs or ends the lab by itself
    Lab(lab::Lab),
    /// Says what is missing on this machine, and how to get it
    Doctor(doctor::Doctor),
    /// Runs the quickstart with a hub of its own, and ends by itself
    Demo(demo::Demo),
    /// Measures what autovibe promises, against baselines of the same run
    Bench(bench::Bench),
    /// Runs zfs commands on a node for a hub elsewhere, as the forced command of its SSH key
    ZfsHelper(zfs_helper::ZfsHelper),
    Guest(guest::Guest),
    /// Prints the version
    Version(version::Version),
}

/// Which database, for those that open it themselves.
#[derive(Clone, Debug, Args)]
struct DatabaseArgs {
    /// Where the store is: sqlite:///PATH or postgres://USER@HOST/NAME; as others may see the command line, a URL with a
    /// password is better given in the environment [default: $AUTOVIBE_DATABASE_URL, else autovibe.db in the data directory]
    #[arg(long, value_name = "URL", value_parser = secret)]
    database_url: Option<SecretString>,
}

/// Takes every text; a refused one would be shown.
#[expect(clippy::unnecessary_wraps, reason = "the shape that clap wants")]
fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(text.into())
}

/// What a subcommand knows beside its own arguments.
struct Context {
    options: Options,
    environment: Environment,
}

impl Context {
    /// The hub's data directory.
    fn data(&self) -> PathBuf {
        self.options.data.clone().or_else(|| self.environment.data.clone()).unwrap_or_else(|| ".autovibe".into())
    }
    /// The store's database.
    fn database(&self, arguments: &DatabaseArgs) -> Result<Database, store::Error> {
        match arguments.database_url.as_ref().or(self.environment.database_url.as_ref()) {
            Some(url) => url.expose_secret().parse(),
            None => Ok(Database::Sqlite(self.data().join("autovibe.db"))),
        }
    }
    /// A client of the hub.
    fn client(&self) -> anyhow::Result<client::Client> {
        Ok(client::Client::open(&self.kubeconfig(), self.options.namespace.as_deref())?)
    }
    /// The file that says how to reach the hub: what was named goes before what happens to lie here.
    fn kubeconfig(&self) -> PathBuf {
        let beside_data = self.data().join("kubeconfig");
        let named = self.options.data.is_some() || self.environment.data.is_some();
        match (&self.options.kubeconfig, &self.environment.kubeconfig) {
            (Some(file), _) => file.clone(),
            (None, Some(file)) if !named && !beside_data.exists() => file.clone(),
            _ => beside_data,
        }
    }
}

/// Runs the subcommand.
pub async fn run(arguments: Arguments, environment: Environment) -> anyhow::Result<ExitCode> {
    let context = Context { options: arguments.options, environment };
    if matches!(context.options.output, Some(Output::Dot | Output::Svg)) && !matches!(arguments.command, Command::Lineage(_)) {
        eprintln!("-o dot and -o svg are pictures of a lineage: autovibe lineage -o svg");
        return Ok(ExitCode::from(2));
    }
    match arguments.command {
        Command::Up(command) => command.run(&context).await,
        Command::Controller(command) => command.run(&context).await,
        Command::Apply(command) => command.run(&context).await,
        Command::Get(command) => command.run(&context).await,
        Command::Watch(command) => command.run(&context).await,
        Command::Describe(command) => command.run(&context).await,
        Command::Explain(command) => command.run(&context).await,
        Command::Audit(command) => command.run(&context).await,
        Command::Delete(command) => command.run(&context).await,
        Command::Approvals(command) => command.run(&context).await,
        Command::Approve(command) => command.run(&context).await,
        Command::Deny(command) => command.run(&context).await,
        Command::Logs(command) => command.run(&context).await,
        Command::Exec(command) => command.run(&context).await,
        Command::Checkpoint(command) => command.run(&context).await,
        Command::Verify(command) => command.run(&context).await,
        Command::Lineage(command) => command.run(&context).await,
        Command::Retention(command) => command.run(&context).await,
        Command::Diff(command) => command.run(&context).await,
        Command::Fetch(command) => command.run(&context).await,
        Command::Push(command) => command.run(&context).await,
        Command::Export(command) => command.run(&context).await,
        Command::Import(command) => command.run(&context).await,
        Command::Image(command) => {
            // Minutes of other programs' work, none of it asynchronous.
            tokio::task::block_in_place(|| image::run(command, &context.data()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Kubeconfig(command) => command.run(&context).await,
        Command::Secrets(command) => command.run(&context).await,
        Command::Backup(command) => command.run(&context).await,
        Command::Restore(command) => command.run(&context).await,
        Command::Lab(command) => command.run(&context).await,
        Command::Doctor(command) => command.run(&context).await,
        Command::Demo(command) => command.run(&context).await,
        Command::Bench(command) => Box::pin(command.run(&context)).await,
        Command::ZfsHelper(command) => command.run().await,
        Command::Guest(command) => command.run().await,
        Command::Version(command) => command.run(&context),
    }
}

/// Whether the reader of our output went away.
/// What went wrong, as it may be printed: causes behind each other.
pub fn complaint(error: &anyhow::Error) -> String {
    print::printable(&format!("{error:#}"))
}

pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
