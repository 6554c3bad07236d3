//! Whether anything of a few resources changed: the question of whoever keeps a view of them.

use super::{Error, Revision, Store, connection::Snapshot, connection::query, read};

impl Store {
    /// Whether any object of `resources` changed after `after`, as far as [`Store::revisions`] has told, and the revision up to
    /// which that is known. History that is gone counts as a change.
    pub async fn changed(&self, resources: &[&str], after: Revision) -> Result<(bool, Revision), Error> {
        if self.knows_all()
            && let Some(known) = self.shared.tail.changed(resources, after)
        {
            return Ok(known);
        }
        let mut reader = self.reader().await?;
        let mut snapshot = reader.snapshot().await?;
        let found = look(&mut snapshot, resources, after).await?;
        snapshot.end().await?;
        Ok(found)
    }
}

async fn look(snapshot: &mut Snapshot<'_>, resources: &[&str], after: Revision) -> Result<(bool, Revision), Error> {
    let newest = read::newest(snapshot.link()).await?;
    match read::retained(snapshot.link(), after).await {
        Err(Error::Expired { .. }) => return Ok((true, newest)),
        other => other?,
    }
    for resource in resources {
        let sql = "SELECT revision FROM log WHERE resource = $1 AND revision > $2 LIMIT 1";
        let row: Option<(i64,)> = query(sql).bind(*resource).bind(after.0).fetch_optional(snapshot.link()).await?;
        if row.is_some() {
            return Ok((true, newest));
        }
    }
    Ok((false, newest))
}
