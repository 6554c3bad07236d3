//! `autovibe image`: builds the disk images that guests start from. The building itself is shell, in `images/`.

use crate::wire::runner::PROTOCOL;
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Agents, what they run on, and their versions; one a line.
const AGENTS: &str = include_str!("../../images/agents.txt");
const BUILD: &str = include_str!("../../images/build.sh");
const GUEST: &[(&str, &str)] = &[
    ("initramfs-init", include_str!("../../images/guest/initramfs-init")),
    ("inittab", include_str!("../../images/guest/inittab")),
    ("rc", include_str!("../../images/guest/rc")),
    ("agent", include_str!("../../images/guest/agent")),
    ("dhcp", include_str!("../../images/guest/dhcp")),
    ("shutdown", include_str!("../../images/guest/shutdown")),
    ("stop", include_str!("../../images/guest/stop")),
    ("syslinux.cfg", include_str!("../../images/guest/syslinux.cfg")),
];

/// Disk images that guests start from.
#[derive(Args, Debug)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Subcommand, Debug)]
enum ImageCommand {
    /// Builds a self-booting raw disk, unless it is there and its recipe is the same; needs root
    Build {
        kind: ImageKind,
        /// Where it goes [default: images/KIND.raw in the hub's data directory]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Agents in the Debian image, each with another version if it has one: `claude-code,aider=0.86.1` [default: claude-code, qwen-code,
        /// and aider where the system has a Python for it]
        #[arg(long, value_name = "LIST", value_delimiter = ',')]
        agents: Option<Vec<String>>,
        /// Build although it is there
        #[arg(long)]
        rebuild: bool,
    },
}

/// What is in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageKind {
    /// Kernel, busybox, guest agent: up in seconds, for agents of type Command
    Micro,
    /// Debian with git, curl, Python and agents
    Debian,
}

impl ImageKind {
    fn name(self) -> &'static str {
        match self {
            ImageKind::Micro => "micro",
            ImageKind::Debian => "debian",
        }
    }
}

/// Runs `autovibe image …`; `data` is the hub's data directory.
pub fn run(args: ImageArgs, data: &Path) -> anyhow::Result<()> {
    match args.command {
        ImageCommand::Build { kind, file, agents, rebuild } => {
            let output = file.unwrap_or_else(|| data.join(format!("images/{}.raw", kind.name())));
            if rebuild {
                fs::remove_file(recipe_file(&output))
                    .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            }
            build(kind, &output, agents.as_deref(), this().as_deref())?;
            println!("{}", output.display());
            Ok(())
        }
    }
}

/// Builds the image `kind` into the file `output`, or leaves it when it was made by this very recipe.
///
/// `agents` go into the Debian image, as `NAME` or `NAME=VERSION`; without any, all that the image's system can run. `runner`, an executable of autovibe, goes with Claude Code. Beside it `work/` keeps what was downloaded. Two callers at once: the second waits and then finds it made.
/// Errors: with an agent that is unknown, without root, without a tool (the words name it), without packages.
pub fn build(kind: ImageKind, output: &Path, agents: Option<&[String]>, runner: Option<&Path>) -> anyhow::Result<()> {
    let agents = Agents::new(agents)?;
    let output = std::path::absolute(output)?;
    let directory = output.parent().context("the output has no directory")?;
    let work = directory.join("work");
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let lock = File::create(work.join("lock"))?;
    lock.lock().context("cannot lock the build directory")?;

    let recipe = recipe(kind, &agents, runner.is_some());
    let made = recipe_file(&output);
    if output.exists() && fs::read_to_string(&made).is_ok_and(|text| text == recipe) {
        return Ok(());
    }
    let scripts = work.join("scripts");
    fs::create_dir_all(scripts.join("guest"))?;
    fs::write(scripts.join("build.sh"), BUILD)?;
    fs::write(scripts.join("agents.txt"), AGENTS)?;
    for (name, text) in GUEST {
        fs::write(scripts.join("guest").join(name), text)?;
    }
    let status = Command::new("sh")
        .arg(scripts.join("build.sh"))
        .arg(kind.name())
        .arg(&output)
        .arg(&work)
        .env("AUTOVIBE_AGENTS", &agents.list)
        .env("AUTOVIBE_LEAVE_OUT", if agents.leave_out { "1" } else { "" })
        .env("AUTOVIBE_RUNNER", runner.unwrap_or(Path::new("")))
        .status()
        .context("cannot run sh")?;
    if !status.success() {
        bail!("the image {} was not built ({status}); what it said is above", kind.name());
    }
    fs::write(made, recipe)?;
    Ok(())
}

/// This executable, which is the runner too.
pub fn this() -> Option<PathBuf> {
    std::env::current_exe().ok()
}

/// What is to be in the Debian image.
struct Agents {
    /// `NAME=VERSION`, with spaces between.
    list: String,
    /// Nobody asked for them by name: those that do not run there are left out.
    leave_out: bool,
}

impl Agents {
    fn new(named: Option<&[String]>) -> anyhow::Result<Self> {
        let list = match named {
            Some(named) => named.iter().map(|agent| with_version(agent)).collect::<anyhow::Result<Vec<_>>>(),
            None => all_agents().into_iter().map(with_version).collect(),
        };
        Ok(Self { list: list?.join(" "), leave_out: named.is_none() })
    }
}

fn all_agents() -> Vec<&'static str> {
    known().map(|(name, _)| name).filter(|name| *name != "node").collect()
}

/// Name and version of what [`AGENTS`] lists.
fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = AGENTS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some((line.split_whitespace().next()?, line.split_whitespace().nth(3)?)))
}

/// `NAME=VERSION`, with the version that was tried where none is given.
fn with_version(agent: &str) -> anyhow::Result<String> {
    let (name, version) = agent.split_once('=').unwrap_or((agent, ""));
    let Some((_, tried)) = known().find(|(known, _)| *known == name && name != "node") else {
        bail!("there is no agent `{name}` to put into an image; there are {}", all_agents().join(", "));
    };
    Ok(format!("{name}={}", if version.is_empty() { tried } else { version }))
}

fn recipe_file(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".recipe");
    PathBuf::from(name)
}

/// Digest of all that decides what is in the image, but the packages' own versions, and the runner beyond what it speaks.
fn recipe(kind: ImageKind, agents: &Agents, has_runner: bool) -> String {
    let mut digest = Sha256::new();
    digest.update(kind.name());
    if kind == ImageKind::Debian {
        digest.update(&agents.list);
        digest.update([u8::from(agents.leave_out)]);
        digest.update(AGENTS);
        digest.update(if has_runner { PROTOCOL } else { "" });
    }
    digest.update(BUILD);
    for (name, text) in GUEST {
        digest.update(name);
        digest.update(text);
    }
    hex::encode(digest.finalize())
}
