//! The few `git` commands that a bundle needs, in a repository of our own.

use super::{Bundle, Credential, Error, MAX_BYTES};
use std::{ffi::OsStr, path::Path, path::PathBuf, process::Stdio, time::Duration};
use tokio::process::Command;

/// A clone of a large repository over a slow line; beyond it the source is better made smaller.
const TIMEOUT: Duration = Duration::from_mins(10);

/// ssh without a key of the hub's user.
const NOBODY: &str = "ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityFile=/dev/null -o IdentityAgent=none";

/// One repository of ours, and the name of what is read into it, for messages.
pub(super) struct Git {
    repository: PathBuf,
    origin: String,
    credential: Option<Credential>,
}

impl Git {
    pub(super) fn new(repository: PathBuf, origin: String) -> Self {
        Self { repository, origin, credential: None }
    }

    /// The same repository, for what is read and written elsewhere: `origin` is that place's name in messages.
    pub(super) fn with(self, origin: String, credential: Option<Credential>) -> Self {
        Self { origin, credential, ..self }
    }

    /// The files of a commit as another commit, with its dates: on the same parent it is always the same one.
    pub(super) async fn commit_again(&self, commit: &str, parent: Option<&str>, message: &str) -> Result<String, Error> {
        let told = self.run(None, ["log", "-1", "--format=%T %aI"], [OsStr::new(commit)]).await?;
        let (tree, date) = told.trim().split_once(' ').unwrap_or_default();
        let mut command = self.command()?;
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "autovibe").env(format!("GIT_{who}_EMAIL"), "autovibe@localhost");
            command.env(format!("GIT_{who}_DATE"), date);
        }
        command.args(["commit-tree", tree, "-m", message]).args(parent.map(|parent| ["-p", parent]).iter().flatten());
        Ok(String::from_utf8_lossy(&self.output(command).await?).trim().to_owned())
    }

    /// Makes one commit of all files that the directory's own `.gitignore` lets through. Its `.git` is never looked at.
    pub(super) async fn commit_directory(&self, directory: &Path) -> Result<(), Error> {
        self.initialise().await?;
        self.run(Some(directory), ["add", "--all", "--", "."], []).await?;
        let staged = self.run(Some(directory), ["ls-files", "--stage"], []).await?;
        if staged.is_empty() {
            return Err(Error::Empty(self.origin.clone()));
        }
        if let Some(nested) = staged.lines().find(|line| line.starts_with("160000 ")).and_then(|line| line.split('\t').nth(1)) {
            let message = format!("`{nested}` in it is a git repository of its own; give that one as the source, or move it out");
            return Err(Error::Failed { origin: self.origin.clone(), message });
        }
        self.run(Some(directory), ["commit", "--quiet", "--no-verify", "--no-gpg-sign", "--message", "The source as the hub found it"], [])
            .await?;
        Ok(())
    }

    /// Fetches all branches and tags of `url`.
    pub(super) async fn clone_repository(&self, url: &str) -> Result<(), Error> {
        self.run(None, ["clone", "--quiet", "--mirror", "--template=", "--"], [OsStr::new(url), self.repository.as_os_str()]).await?;
        Ok(())
    }

    /// Points `HEAD` and one branch at `reference`, and returns the branch.
    pub(super) async fn check_out(&self, reference: Option<&str>) -> Result<String, Error> {
        let wanted = reference.unwrap_or("HEAD");
        let missing = || Error::NoReference { origin: self.origin.clone(), reference: wanted.into() };
        if wanted.starts_with('-') || wanted.contains("..") || wanted.contains(['\n', '\0', ' ']) {
            return Err(missing());
        }
        let commit =
            self.run(None, ["rev-parse", "--verify", "--quiet", "--end-of-options"], [OsStr::new(&format!("{wanted}^{{commit}}"))]).await;
        let commit = match commit {
            Ok(commit) => commit.trim().to_owned(),
            Err(Error::Failed { .. }) => return Err(missing()),
            Err(other) => return Err(other),
        };
        let is_branch = match reference {
            None => false,
            Some(name) => {
                self.run(None, ["show-ref", "--verify", "--quiet", "--"], [OsStr::new(&format!("refs/heads/{name}"))]).await.is_ok()
            }
        };
        let branch = match reference {
            Some(name) if is_branch => name.to_owned(),
            Some(_) => "main".to_owned(),
            None => {
                self.run(None, ["symbolic-ref", "--short", "HEAD"], []).await.map_or_else(|_| "main".into(), |name| name.trim().to_owned())
            }
        };
        let full = format!("refs/heads/{branch}");
        self.run(None, ["update-ref", "--"], [OsStr::new(&full), OsStr::new(&commit)]).await?;
        self.run(None, ["symbolic-ref", "HEAD"], [OsStr::new(&full)]).await?;
        Ok(branch)
    }

    /// Writes `HEAD` and `branch` to a bundle, and reads it.
    pub(super) async fn bundle(&self, branch: &str, file: &Path) -> Result<Bundle, Error> {
        let full = format!("refs/heads/{branch}");
        let commit = self.run(None, ["rev-parse", "--verify", "HEAD^{commit}"], []).await?.trim().to_owned();
        self.run(None, ["bundle", "create", "--quiet"], [file.as_os_str(), OsStr::new("HEAD"), OsStr::new(&full)]).await?;
        let bytes = tokio::fs::metadata(file).await?.len();
        if bytes > MAX_BYTES {
            return Err(Error::TooLarge { origin: self.origin.clone(), bytes });
        }
        Ok(Bundle { bytes: tokio::fs::read(file).await?, commit, branch: branch.into() })
    }

    /// Makes the repository, empty.
    pub(super) async fn initialise(&self) -> Result<(), Error> {
        self.run(None, ["init", "--quiet", "--bare", "--template=", "--initial-branch=main", "--"], [self.repository.as_os_str()]).await?;
        Ok(())
    }

    /// Makes the repository of bundles, each of which finds what it builds on in those before it.
    pub(super) async fn unbundle(&self, bundles: &[Vec<u8>]) -> Result<(), Error> {
        self.initialise().await?;
        let file = self.repository.with_extension("bundle");
        for bytes in bundles {
            tokio::fs::write(&file, bytes).await?;
            self.run(None, ["bundle", "unbundle"], [file.as_os_str()]).await?;
        }
        Ok(())
    }

    /// The directory that goes with the repository.
    fn scratch(&self) -> &Path {
        self.repository.parent().unwrap_or(&self.repository)
    }

    pub(super) fn path(&self) -> &Path {
        &self.repository
    }

    /// Runs git on our repository; `work_tree` is where its files are. Returns standard output.
    pub(super) async fn run<'a>(
        &self,
        work_tree: Option<&Path>,
        options: impl IntoIterator<Item = &'a str>,
        operands: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.bytes(work_tree, options, operands).await?).into_owned())
    }

    /// The same, for output that need not be text.
    pub(super) async fn bytes<'a>(
        &self,
        work_tree: Option<&Path>,
        options: impl IntoIterator<Item = &'a str>,
        operands: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<Vec<u8>, Error> {
        let mut command = self.command()?;
        let options: Vec<&str> = options.into_iter().collect();
        // `clone` and `init` are told the place as an operand; a GIT_DIR beside it would be taken for the source's.
        if matches!(options.first(), Some(&"clone" | &"init")) {
            command.env_remove("GIT_DIR");
        }
        if let Some(directory) = work_tree {
            command
                .env("GIT_WORK_TREE", directory)
                .current_dir(directory)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1");
            // Fixed, so that the same files give the same commit.
            for who in ["AUTHOR", "COMMITTER"] {
                command.env(format!("GIT_{who}_NAME"), "autovibe").env(format!("GIT_{who}_EMAIL"), "autovibe@localhost");
                command.env(format!("GIT_{who}_DATE"), "2000-01-01T00:00:00Z");
            }
        }
        command.args(options).args(operands);
        self.output(command).await
    }

    /// git on our repository, with nothing of this process's own environment that would turn it elsewhere.
    pub(super) fn command(&self) -> Result<Command, Error> {
        let mut command = Command::new("git");
        for stray in [
            "GIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_OBJECT_DIRECTORY",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES",
            "GIT_NAMESPACE",
            "GIT_CONFIG_PARAMETERS",
            "GIT_CONFIG_GLOBAL",
            "XDG_CONFIG_HOME",
            "GIT_ASKPASS",
            "SSH_ASKPASS",
        ] {
            command.env_remove(stray);
        }
        command
            .env("GIT_DIR", &self.repository)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "https:ssh:file")
            // Whoever may name a repository is nobody there without a credential of their own: keys, agents, passwords and
            // settings of the hub's user are the hub's.
            .env("HOME", self.scratch())
            .env("GIT_SSH_COMMAND", NOBODY)
            .env("LC_ALL", "C");
        command.args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "credential.helper="]);
        if let Some(credential) = &self.credential {
            credential.give(&mut command, &self.origin, self.scratch())?;
        }
        Ok(command)
    }

    async fn output(&self, mut command: Command) -> Result<Vec<u8>, Error> {
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(TIMEOUT, command.output()).await {
            Err(_) => return Err(Error::Timeout(TIMEOUT, self.origin.clone())),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::Unavailable(error.to_string())),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(output)) => output,
        };
        if output.status.success() {
            return Ok(output.stdout);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(Error::Failed { origin: self.origin.clone(), message: told(&text) })
    }
}

/// What git said was wrong. Of a connection it is ssh that knows, in the line before.
fn told(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let at = lines.iter().position(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let at = at.unwrap_or_else(|| lines.len().saturating_sub(1));
    let plain = |line: &str| line.trim_start_matches("fatal: ").trim_start_matches("error: ").to_owned();
    match (lines.get(at), at.checked_sub(1).and_then(|before| lines.get(before))) {
        (Some(last), Some(before)) if last.contains("Could not read from remote") => format!("{} {}", plain(before), plain(last)),
        (Some(last), _) => plain(last),
        (None, _) => "no reason given".into(),
    }
}
