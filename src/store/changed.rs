//! Whether anything of a few resources changed: the question of whoever keeps a view of them.

use super::{Error, Revision, Store, read};
use sqlx::Connection;

impl Store {
    /// Whether any object of `resources` changed after `after`, and the revision up to which that is known. History that is
    /// gone counts as a change.
    pub async fn changed(&self, resources: &[&str], after: Revision) -> Result<(bool, Revision), Error> {
        let mut reader = self.reader().await?;
        let mut snapshot = reader.connection().begin().await?;
        let newest = read::newest(&mut snapshot).await?;
        match read::retained(&mut snapshot, after).await {
            Err(Error::Expired { .. }) => return Ok((true, newest)),
            other => other?,
        }
        for resource in resources {
            let sql = "SELECT revision FROM log WHERE resource = $1 AND revision > $2 LIMIT 1";
            let row: Option<(i64,)> = sqlx::query_as(sql).bind(*resource).bind(after.0).fetch_optional(&mut *snapshot).await?;
            if row.is_some() {
                return Ok((true, newest));
            }
        }
        Ok((false, newest))
    }
}
