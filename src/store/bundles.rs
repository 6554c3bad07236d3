//! The workspaces of checkpoints as git bundles, each built on an earlier one.

use super::{Error, Store, Transaction, connection::query};

/// A stored git bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleRow {
    /// The workspace's commit, 40 hex digits.
    pub commit: String,
    /// The commit that must be known before this bundle can be read; `None` when it stands alone.
    pub base_commit: Option<String>,
    pub bytes: Vec<u8>,
}

type Row = (String, Option<String>, Vec<u8>);

impl From<Row> for BundleRow {
    fn from((commit, base_commit, bytes): Row) -> Self {
        Self { commit, base_commit, bytes }
    }
}

/// More links than any lineage has; a ring in damaged data must not hold a reader for ever.
const MAX_CHAIN: usize = 10_000;

impl Store {
    /// The bundle of a checkpoint; `None` when its workspace was not recorded.
    pub async fn bundle(&self, checkpoint_uid: &str) -> Result<Option<BundleRow>, Error> {
        let mut reader = self.reader().await?;
        let sql = "SELECT commit_id, base_commit, bytes FROM bundles WHERE checkpoint_uid = $1";
        let row: Option<Row> = query(sql).bind(checkpoint_uid).fetch_optional(reader.connection()).await?;
        Ok(row.map(Into::into))
    }

    /// The bundle of a checkpoint and those it builds on, oldest first: read in this order, each finds what it needs.
    /// Empty when the workspace was not recorded.
    ///
    /// Errors: `Corrupt` when one that it builds on is missing.
    pub async fn bundle_chain(&self, checkpoint_uid: &str) -> Result<Vec<BundleRow>, Error> {
        let Some(newest) = self.bundle(checkpoint_uid).await? else { return Ok(Vec::new()) };
        let mut reader = self.reader().await?;
        let mut chain = vec![newest];
        while let Some(base) = chain.last().and_then(|row| row.base_commit.clone()) {
            let sql = "SELECT commit_id, base_commit, bytes FROM bundles WHERE commit_id = $1 AND base_commit IS DISTINCT FROM $1 ORDER BY rowid LIMIT 1";
            let row: Option<Row> = query(sql).bind(&base).fetch_optional(reader.connection()).await?;
            match row {
                Some(row) if chain.len() < MAX_CHAIN => chain.push(row.into()),
                _ => {
                    return Err(Error::Corrupt(format!(
                        "the bundle of checkpoint {checkpoint_uid} builds on commit {base}, which is not stored"
                    )));
                }
            }
        }
        chain.reverse();
        Ok(chain)
    }
}

impl Transaction<'_> {
    /// Stores the bundle of a checkpoint; one that is there already stays, for a checkpoint never changes.
    pub async fn put_bundle(&mut self, checkpoint_uid: &str, commit: &str, base_commit: Option<&str>, bytes: &[u8]) -> Result<(), Error> {
        let sql = "INSERT INTO bundles (checkpoint_uid, commit_id, base_commit, bytes) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        query(sql).bind(checkpoint_uid).bind(commit).bind(base_commit).bind(bytes).execute(self.connection()).await?;
        Ok(())
    }
}
