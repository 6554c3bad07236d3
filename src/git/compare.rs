//! What changed between two commits that came as bundles.

use super::{Error, Scratch, command::Git};
use std::ffi::OsStr;

/// The tree without files, which every repository knows.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

/// Two commits and the bundles that hold them.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// In an order in which each finds what it builds on.
    pub bundles: Vec<Vec<u8>>,
    /// `None`: nothing was there yet.
    pub from: Option<String>,
    pub to: String,
}

/// How much of a change is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Every changed line.
    Full,
    /// Files with the number of changed lines.
    Stat,
}

/// The commit of the list of what was installed, if a bundle of a workspace has one. Source: gitformat-bundle.
pub fn packages(bundle: &[u8]) -> Option<String> {
    let end = bundle.windows(2).position(|pair| pair == b"\n\n")?;
    let mut lines = std::str::from_utf8(&bundle[..end]).ok()?.lines();
    let named = lines.find_map(|line| line.split_once(" refs/autovibe-packages/"))?.0;
    (named.len() >= 40 && named.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| named.to_owned())
}

/// The change as `git diff` prints it; empty when nothing changed.
///
/// Errors: `Failed` when a bundle builds on a commit that is in none of them.
pub async fn compare(comparison: &Comparison, detail: Detail, color: bool) -> Result<String, Error> {
    let scratch = Scratch::new()?;
    let git = Git::new(scratch.path().join("repository.git"), "the workspaces' bundles".into());
    git.unbundle(&comparison.bundles).await?;
    let from = comparison.from.as_deref().unwrap_or(EMPTY_TREE);
    let mut options =
        vec!["diff", "--no-ext-diff", "--no-textconv", "--find-renames", if color { "--color=always" } else { "--color=never" }];
    if detail == Detail::Stat {
        options.push("--stat=120");
    }
    options.push("--end-of-options");
    git.run(None, options, [OsStr::new(from), OsStr::new(&comparison.to), OsStr::new("--")]).await
}
