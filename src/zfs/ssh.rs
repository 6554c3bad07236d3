//! Runs `zfs` on another machine: the system's `ssh`, one connection shared by all commands, and the helper at its end.
//!
//! `ssh` is given fixed words only. What is to be run goes as a line of JSON to the helper's standard input, and what it
//! says comes back as one. Without that line the outcome is unknown, unless `ssh` says that it never came through.

use super::{
    Error, Settings,
    helper::{Answer, Request},
    run::Output,
    stream::{self, Ended},
};
use crate::clock::Tenure;
use secrecy::ExposeSecret;
use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    process::{Child, Command},
    sync::{OnceCell, Semaphore},
};

/// sshd takes 10 sessions on one connection (`MaxSessions`); streams have connections of their own.
const SESSIONS: usize = 8;
/// The name that the pinned key has in our own file: whatever the host is called, and on whatever port.
const ALIAS: &str = "node";

/// How `ssh` is run. Source: ssh_config(5). Paths are relative to its working directory: a socket's may not be long.
const OPTIONS: &[&str] = &[
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UserKnownHostsFile=known_hosts",
    "GlobalKnownHostsFile=/dev/null",
    "HostKeyAlias=node",
    "UpdateHostKeys=no",
    "CheckHostIP=no",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "IdentityFile=key",
    "PreferredAuthentications=publickey",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "EscapeChar=none",
    "ConnectTimeout=10",
    // A peer that says nothing for 15 s is gone.
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
];
const SHARED: &[&str] = &["ControlMaster=auto", "ControlPath=control", "ControlPersist=60"];
const ALONE: &[&str] = &["ControlMaster=no", "ControlPath=none"];

/// What `ssh` says when nothing came through to the other side. Source: OpenSSH sshconnect.c, sshconnect2.c, kex.c.
const NEVER_THERE: &[&str] = &[
    "ssh: connect to host",
    "ssh: Could not resolve hostname",
    "Host key verification failed",
    "Permission denied (",
    "Too many authentication failures",
    "Unable to negotiate with",
    "kex_exchange_identification",
    "Connection timed out during banner exchange",
    "invalid format",
    "error in libcrypto",
];

/// A node that is reached by SSH; cheap to clone, and all clones share one connection.
#[derive(Clone)]
pub struct Ssh {
    settings: Arc<Settings>,
    home: Arc<OnceCell<Home>>,
    sessions: Arc<Semaphore>,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

/// The directory with the key, the pinned host key and the control socket; it goes with the last user.
struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        // The key matters, and goes first. What stays is removed at the next start.
        let _ = fs::remove_file(self.0.join("key"));
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Home {
    fn make(settings: &Settings) -> io::Result<Self> {
        let home = Self(settings.directory.join(crate::random::uuid().simple().to_string()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&home.0)?;
        let write = |name: &str, text: &str| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(home.0.join(name))?;
            file.write_all(text.as_bytes())
        };
        // Without its last newline ssh does not read a key.
        write("key", &format!("{}\n", settings.key.expose_secret().trim()))?;
        write("known_hosts", &format!("{ALIAS} {}\n", settings.host_key.trim()))?;
        Ok(home)
    }
}

impl Ssh {
    /// Nothing is written or run before the first command.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), home: Arc::default(), sessions: Arc::new(Semaphore::new(SESSIONS)) }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs a command that ends by itself and neither reads nor prints much.
    pub(super) async fn run(&self, tenure: &Tenure, argv: &[String]) -> Result<Output, Error> {
        let _session = self.sessions.acquire().await.map_err(|error| Error::Unavailable(error.to_string()))?;
        let mut answer = Vec::new();
        let child = self.start(SHARED).await?;
        // Without a request the helper does nothing.
        tenure.check()?;
        let ended = stream::pipe(child, &self.request(argv)?, None::<&mut tokio::io::Empty>, &mut answer).await?;
        answered(&answer, &ended)
    }

    /// As [`Self::run`], with a stream for the command to read, on a connection of its own.
    pub(super) async fn feed(&self, argv: &[String], from: &mut (impl AsyncRead + Unpin + Send)) -> Result<Output, Error> {
        let mut answer = Vec::new();
        let ended = stream::pipe(self.start(ALONE).await?, &self.request(argv)?, Some(from), &mut answer).await?;
        answered(&answer, &ended)
    }

    /// Runs a command whose standard output is a stream, on a connection of its own. It came whole only if this succeeds.
    pub(super) async fn drain(&self, argv: &[String], to: &mut (impl AsyncWrite + Unpin + Send)) -> Result<Output, Error> {
        let ended = stream::pipe(self.start(ALONE).await?, &self.request(argv)?, None::<&mut tokio::io::Empty>, to).await?;
        match (ended.status.code(), last_line(&ended.stderr)) {
            (Some(_), Some(answer)) => answer.result(),
            _ => Err(unanswered(&ended)),
        }
    }

    fn request(&self, argv: &[String]) -> Result<Vec<u8>, Error> {
        let request = Request { argv: argv.to_vec(), installation: self.settings.installation.clone(), epoch: self.settings.epoch };
        let mut line = serde_json::to_vec(&request).map_err(|error| Error::Other(error.to_string()))?;
        line.push(b'\n');
        Ok(line)
    }

    async fn start(&self, sharing: &[&str]) -> Result<Child, Error> {
        let home = self.home.get_or_try_init(async || Home::make(&self.settings)).await;
        let home = home.map_err(|error| Error::Unavailable(format!("{}: {error}", self.settings.directory.display())))?;
        let mut command = Command::new("ssh");
        command.current_dir(&home.0).args(["-F", "none", "-T", "-x", "-a"]);
        for option in OPTIONS.iter().chain(sharing) {
            command.args(["-o", option]);
        }
        command.arg("-p").arg(self.settings.port.to_string()).arg("-l").arg(&self.settings.user).arg("--").arg(&self.settings.host);
        command.env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The terminal's Ctrl-C is for the hub: it must not cut off a command.
        command.process_group(0);
        command.spawn().map_err(|error| Error::Unavailable(format!("ssh: {error}; install openssh-client")))
    }
}

/// The answer to a command whose standard output is a stream comes after all else that it says.
fn last_line(stderr: &[u8]) -> Option<Answer> {
    serde_json::from_slice(stderr.trim_ascii_end().rsplit(|byte| *byte == b'\n').next()?).ok()
}

fn answered(answer: &[u8], ended: &Ended) -> Result<Output, Error> {
    match serde_json::from_slice::<Answer>(answer) {
        Ok(answer) => answer.result(),
        Err(_) => Err(unanswered(ended)),
    }
}

/// Why there is no answer, and whether that means that nothing was done.
fn unanswered(ended: &Ended) -> Error {
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = said.trim();
    let why = format!("ssh ended with {} and said: {}", ended.status, if said.is_empty() { "nothing" } else { said });
    let never_there = ended.status.code() == Some(255) && NEVER_THERE.iter().any(|phrase| said.contains(phrase));
    // Of a shell that found no helper, of sudo that would not run it, and of a helper that does not know its own options.
    let never_began = matches!(ended.status.code(), Some(1 | 2 | 126 | 127));
    if never_there || never_began { Error::Unavailable(why) } else { Error::Unknown(why) }
}
