//! A kept workspace: out of its bundles into a file, a repository of the person who asks, or a directory.

use super::{Credential, Error, Scratch, command::Git, without_password};
use std::{ffi::OsStr, path::Path};
use tokio::process::Command;

/// One commit with its history, in a repository that goes when this is dropped.
pub struct Workspace {
    pub(super) git: Git,
    commit: String,
    /// Holds the repository.
    scratch: Scratch,
}

impl Workspace {
    /// Reads `commit` out of bundles, in an order in which each finds what it builds on.
    ///
    /// Errors: `Failed` when a bundle builds on a commit that is in none of them.
    pub async fn open(bundles: &[Vec<u8>], commit: &str) -> Result<Self, Error> {
        let scratch = Scratch::new()?;
        let git = Git::new(scratch.path().join("repository.git"), "the workspace's bundles".into());
        git.unbundle(bundles).await?;
        git.run(None, ["cat-file", "-e"], [OsStr::new(&format!("{commit}^{{commit}}"))]).await?;
        Ok(Self { git, commit: commit.to_owned(), scratch })
    }

    /// For what is done with a repository elsewhere.
    pub(super) fn known_as(self, url: &str, credential: Option<Credential>) -> Self {
        Self { git: self.git.with(without_password(url), credential), ..self }
    }

    /// Points `branch` at the commit.
    async fn name(&self, branch: &str) -> Result<String, Error> {
        let valid = self.git.run(None, ["check-ref-format", "--branch"], [OsStr::new(branch)]).await;
        if valid.is_err() {
            return Err(Error::NotAllowed(format!("`{branch}` cannot be the name of a branch")));
        }
        let full = format!("refs/heads/{branch}");
        self.git.run(None, ["update-ref", "--"], [OsStr::new(&full), OsStr::new(&self.commit)]).await?;
        self.git.run(None, ["symbolic-ref", "HEAD"], [OsStr::new(&full)]).await?;
        Ok(full)
    }

    /// Writes the commit with all its history to one bundle, in which it is `branch`.
    pub async fn write_bundle(&self, branch: &str, file: &Path) -> Result<(), Error> {
        let full = self.name(branch).await?;
        let file = std::path::absolute(file)?;
        self.git.run(None, ["bundle", "create", "--quiet"], [file.as_os_str(), OsStr::new("HEAD"), OsStr::new(&full)]).await?;
        Ok(())
    }

    /// The same as bytes.
    pub async fn to_bundle(&self, branch: &str) -> Result<Vec<u8>, Error> {
        let file = self.scratch.path().join("whole.bundle");
        self.write_bundle(branch, &file).await?;
        Ok(tokio::fs::read(&file).await?)
    }

    /// Makes the commit `branch` of a repository that is there, or moves that forward. Never moves it back or aside.
    pub async fn fetch_into(&self, repository: &Path, branch: &str) -> Result<(), Error> {
        let full = self.name(branch).await?;
        let mut command = Command::new("git");
        command.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").arg("-C").arg(repository);
        // Not quiet: then it would not say why it refuses to move a branch.
        command.args(["fetch", "--no-tags", "--no-write-fetch-head", "--"]).arg(self.git.path()).arg(format!("{full}:{full}"));
        let output = command.env("LC_ALL", "C").kill_on_drop(true).output().await.map_err(not_run)?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let tells = |line: &&str| line.starts_with("fatal:") || line.starts_with("error:") || line.contains("rejected");
        let why = text.lines().find(tells).unwrap_or("no reason given").trim();
        Err(Error::Refused(format!("fetch branch {branch} into {}: {why}", repository.display())))
    }

    /// Pushes the commit as `branch`, with the credentials and the configuration of who runs this. Never by force.
    ///
    /// Errors: `NotAllowed` for a URL with a password in it, which others could read on the command line.
    pub async fn push(&self, url: &str, branch: &str) -> Result<(), Error> {
        let shown = without_password(url);
        if shown != url {
            return Err(Error::NotAllowed(format!("{shown} carries a password; give it to git's credential helper instead")));
        }
        let full = self.name(branch).await?;
        let mut command = Command::new("git");
        command.env("GIT_DIR", self.git.path()).env_remove("GIT_WORK_TREE");
        command.args(["push", "--quiet", "--no-follow-tags", "--", url]).arg(format!("{full}:{full}"));
        // As the person would run it: it may ask for a password, and what it says is seen.
        let status = command.kill_on_drop(true).status().await.map_err(not_run)?;
        if status.success() { Ok(()) } else { Err(Error::Refused(format!("push branch {branch} to {shown}; its reason stands above"))) }
    }

    /// The paths of all files, a line each.
    pub async fn list(&self) -> Result<String, Error> {
        self.git.run(None, ["ls-tree", "-r", "--name-only", "--full-tree"], [OsStr::new(&self.commit)]).await
    }

    /// What is in one file.
    ///
    /// Errors: `NotFound` when there is none; `NotAllowed` when it is a directory.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let path = path.trim_start_matches("./").trim_end_matches('/');
        let object = format!("{}:{path}", self.commit);
        match self.git.run(None, ["cat-file", "-t"], [OsStr::new(&object)]).await {
            Ok(kind) if kind.trim() == "blob" => self.git.bytes(None, ["cat-file", "blob"], [OsStr::new(&object)]).await,
            Ok(_) => Err(Error::NotAllowed(format!("{path} is a directory of the workspace; it can be written to one"))),
            Err(Error::Failed { .. }) => Err(Error::NotAllowed(format!("the workspace has no file {path}"))),
            Err(other) => Err(other),
        }
    }

    /// Writes files and directories, or all when none is named, into a directory that is new or empty. Nothing of the workspace is
    /// executed, also no filter that it names.
    ///
    /// Errors: `NotAllowed` when something is in the directory already.
    pub async fn extract(&self, paths: &[String], into: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(into)?;
        if std::fs::read_dir(into)?.next().is_some() {
            return Err(Error::NotAllowed(format!("{} is not empty; name a new directory", into.display())));
        }
        let into = into.canonicalize()?;
        let all = [".".to_owned()];
        let paths = if paths.is_empty() { &all[..] } else { paths };
        let options = ["--literal-pathspecs", "checkout", "--quiet", &self.commit, "--"];
        self.git.run(Some(&into), options, paths.iter().map(OsStr::new)).await?;
        Ok(())
    }
}

fn not_run(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound { Error::Unavailable(error.to_string()) } else { error.into() }
}
