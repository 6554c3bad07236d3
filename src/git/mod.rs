//! Git repositories of people: a source becomes a bundle that a guest can clone from, and work goes back as a branch.
//!
//! The system's `git` runs as a child process, never through a shell, never with a prompt. Nothing of the source is
//! executed: no hooks, no filters, no configuration of the directory. What a workspace is, is decided elsewhere.

mod command;
mod compare;
mod credential;
mod deliver;
#[cfg(test)]
mod tests;
mod workspace;

pub use compare::{Comparison, Detail, compare, packages};
pub use credential::Credential;
pub use deliver::{Target, deliver};
pub use workspace::Workspace;

use command::Git;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The largest bundle: it goes into a guest in small pieces, and to the store.
pub const MAX_BYTES: u64 = 64 << 20;

/// What to bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The files of a directory as they are now, as one commit; with a reference, that commit of the repository in it.
    Directory(PathBuf),
    /// A repository by its URL: `https://`, `ssh://`, `user@host:path` or `file://`.
    Repository(String),
}

/// A source, and what may be read for it.
#[derive(Clone, Debug)]
pub struct Source {
    pub origin: Origin,
    /// Branch, tag or commit. Default: the repository's own default.
    pub reference: Option<String>,
    /// Directories below which local sources may lie.
    pub roots: Vec<PathBuf>,
    /// For a repository that does not let everyone in.
    pub credential: Option<Credential>,
}

/// A git bundle whose `HEAD` and `refs/heads/<branch>` are one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pub bytes: Vec<u8>,
    /// The commit, 40 hex digits.
    pub commit: String,
    /// The branch that a clone of the bundle checks out.
    pub branch: String,
}

/// What a caller can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not for this hub to read; nothing was run.
    #[error("{0}")]
    NotAllowed(String),
    #[error("{0} does not exist on the hub, or is not a directory")]
    NotFound(String),
    #[error("{origin} has no branch, tag or commit `{reference}`")]
    NoReference { origin: String, reference: String },
    #[error("{0} holds no files")]
    Empty(String),
    #[error("{origin} makes a bundle of {bytes} bytes; at most {MAX_BYTES} can be put into a guest")]
    TooLarge { origin: String, bytes: u64 },
    #[error("git cannot be run on the hub: {0}; install it")]
    Unavailable(String),
    #[error("git took more than {0:?} for {1}")]
    Timeout(std::time::Duration, String),
    /// The branch there has commits that would be lost; nothing was pushed.
    #[error("branch {branch} of {origin} has gone another way; name another branch, or delete that one there")]
    Diverged { origin: String, branch: String },
    /// Any other refusal, in git's words.
    #[error("git and {origin}: {message}")]
    Failed { origin: String, message: String },
    /// A repository of the person who asks did not take it.
    #[error("git could not {0}")]
    Refused(String),
    #[error("a temporary directory failed: {0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// Whether trying again later can help without anybody changing the source or the hub.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Timeout(..) | Self::Failed { .. } | Self::Io(_))
    }
}

/// Bundles `source`. The same files of a directory always give the same commit.
pub async fn bundle(source: &Source) -> Result<Bundle, Error> {
    let scratch = Scratch::new()?;
    let origin = source.origin.to_string();
    let git = Git::new(scratch.path().join("repository.git"), String::new()).with(origin, source.credential.clone());
    let branch = match (&source.origin, source.reference.as_deref()) {
        (Origin::Directory(path), None) => {
            let path = allowed(path, &source.roots)?;
            git.commit_directory(&path).await?;
            "main".to_owned()
        }
        (Origin::Directory(path), Some(reference)) => {
            let path = allowed(path, &source.roots)?;
            if !path.join(".git").is_dir() {
                let what = path.display();
                return Err(Error::NotAllowed(format!("{what} is no git repository, so it has no `{reference}`; remove spec.source.ref")));
            }
            // Without this, git would look for a repository in the directories above.
            git.clone_repository(&format!("file://{}", path.display())).await?;
            git.check_out(Some(reference)).await?
        }
        (Origin::Repository(url), reference) => {
            git.clone_repository(&checked_url(url, &source.roots)?).await?;
            git.check_out(reference).await?
        }
    };
    git.bundle(&branch, &scratch.path().join("bundle")).await
}

/// `path` with all links resolved, when it lies below one of `roots`.
fn allowed(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, Error> {
    let real = path.canonicalize().ok().filter(|p| p.is_dir()).ok_or_else(|| Error::NotFound(path.display().to_string()))?;
    let inside = roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| real.starts_with(root));
    if inside {
        return Ok(real);
    }
    let shown = path.display();
    Err(Error::NotAllowed(format!(
        "{shown} is not below a directory that this hub may read; start it with `autovibe up --source-root {shown}`"
    )))
}

/// The URL as git gets it, when its protocol is one of ours and it carries no password.
fn checked_url(url: &str, roots: &[PathBuf]) -> Result<String, Error> {
    let refused = |why: &str| Err(Error::NotAllowed(format!("{} {why}", without_password(url))));
    if url.starts_with('-') || url.contains(['\n', '\0']) {
        return refused("is not a URL");
    }
    if let Some(path) = url.strip_prefix("file://") {
        return Ok(format!("file://{}", allowed(Path::new(path), roots)?.display()));
    }
    match url::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "https" | "ssh") => {
            if parsed.password().is_some() {
                return refused("carries a password, which would be readable in the object; give a URL without one");
            }
            Ok(url.into())
        }
        // `user@host:path`, which git takes as ssh.
        Err(_) if url.split_once(':').is_some_and(|(host, path)| host.contains('@') && !host.contains('/') && !path.is_empty()) => {
            Ok(url.into())
        }
        _ => refused("is not a URL that this hub fetches; use https://, ssh://, user@host:path or file://"),
    }
}

fn without_password(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            let _ = parsed.set_password(None);
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

/// Without a password.
impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Repository(url) => f.write_str(&without_password(url)),
        }
    }
}

/// A temporary directory that goes when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("autovibe-git-{}", crate::random::uuid()));
        // What is fetched may be private.
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
