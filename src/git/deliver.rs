//! A kept workspace goes to a repository of its people as a branch, on top of what it began from.

use super::{Credential, Error, checked_url, workspace::Workspace};
use std::{ffi::OsStr, path::PathBuf};

/// What a commit of a workspace says of the commit that its files began as: a line of its message.
const SOURCE: &str = "Source: ";

/// Where a workspace goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// As [`super::Origin::Repository`].
    pub url: String,
    pub branch: String,
    pub credential: Option<Credential>,
    /// Directories below which `file://` repositories may lie.
    pub roots: Vec<PathBuf>,
}

/// Pushes `commit`, which is in `bundles`, with what came before it, and returns the commit that the repository has now. Where the
/// repository has the commit that all began from, the first stands on that one. Repeated, it makes the same commits. Never by force.
///
/// Errors: `Diverged` when the branch there is not behind it; `NotAllowed`; git's own.
pub async fn deliver(bundles: &[Vec<u8>], commit: &str, target: &Target) -> Result<String, Error> {
    let url = checked_url(&target.url, &target.roots)?;
    let workspace = Workspace::open(bundles, commit).await?.known_as(&target.url, target.credential.clone());
    let git = &workspace.git;
    let full = format!("refs/heads/{}", target.branch);
    if git.run(None, ["check-ref-format", "--branch"], [OsStr::new(&target.branch)]).await.is_err() {
        return Err(Error::NotAllowed(format!("`{}` cannot be the name of a branch", target.branch)));
    }
    let message = git.run(None, ["log", "-1", "--format=%B"], [OsStr::new(commit)]).await?;
    let source = source_of(&message).map(str::to_owned);
    git.run(None, ["fetch", "--quiet", "--no-tags", "--"], [OsStr::new(&url), OsStr::new("+refs/heads/*:refs/remotes/target/*")]).await?;
    let mut parent = None;
    if let Some(source) = source {
        let there = git.run(None, ["cat-file", "-e"], [OsStr::new(&format!("{source}^{{commit}}"))]).await.is_ok();
        parent = there.then_some(source);
    }
    let all = git.run(None, ["rev-list", "--reverse", "--topo-order"], [OsStr::new(commit)]).await?;
    for each in all.lines() {
        let message = git.run(None, ["log", "-1", "--format=%B"], [OsStr::new(each)]).await?;
        let own = message.trim_end();
        let own = source_of(own).and_then(|_| own.rsplit_once('\n')).map_or(own, |(own, _)| own.trim_end());
        parent = Some(git.commit_again(each, parent.as_deref(), own).await?);
    }
    let tip = parent.unwrap_or_default();
    let pushed =
        git.run(None, ["push", "--porcelain", "--no-follow-tags", "--"], [OsStr::new(&url), OsStr::new(&format!("{tip}:{full}"))]).await;
    match pushed {
        Ok(_) => Ok(tip),
        Err(error) => {
            // What is there by now tells why, whatever git's words are.
            let there = git.run(None, ["ls-remote", "--"], [OsStr::new(&url), OsStr::new(&full)]).await?;
            match there.split_whitespace().next() {
                Some(found) if found == tip => Ok(tip),
                Some(_)
                    if git
                        .run(
                            None,
                            ["merge-base", "--is-ancestor"],
                            [OsStr::new(&format!("refs/remotes/target/{}", target.branch)), OsStr::new(&tip)],
                        )
                        .await
                        .is_err() =>
                {
                    Err(Error::Diverged { origin: super::without_password(&target.url), branch: target.branch.clone() })
                }
                _ => Err(error),
            }
        }
    }
}

/// The commit that a message ends with.
fn source_of(message: &str) -> Option<&str> {
    let commit = message.trim_end().lines().last()?.strip_prefix(SOURCE)?;
    (commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(commit)
}
