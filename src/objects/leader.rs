//! The Lease that the leading controllers hold. Who holds it and the leader's epoch change in one transaction, so what the
//! holder before still sends under its own epoch is refused from that commit on.

use crate::api::SYSTEM_NAMESPACE;
use crate::store::{self, Key, Transaction};
use serde_json::Value;

/// Name of the Lease, in the namespace `autovibe-system`.
pub const LEASE: &str = "autovibe-controller";
/// Annotation of the Lease: the epoch of its holder. The server alone sets it.
pub const EPOCH: &str = "autovibe.dev/epoch";

pub(super) fn is_leaders(key: &Key) -> bool {
    key.resource == "leases.coordination.k8s.io" && key.namespace == SYSTEM_NAMESPACE && key.name == LEASE
}

/// Puts the epoch into the document that is about to be stored: another one when the holder is another, or when the one that
/// the Lease names is over (the database was restored).
pub(super) async fn stamp(transaction: &mut Transaction<'_>, key: &Key, document: &mut Value) -> Result<(), store::Error> {
    if !is_leaders(key) {
        return Ok(());
    }
    let holder = |document: &Value| document["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    let before = transaction.get(key).await?.map(|object| object.document);
    let now = transaction.leader_epoch().await?;
    let goes_on = before.is_some_and(|before| {
        holder(&before) == holder(document) && before["metadata"]["annotations"][EPOCH].as_str() == Some(now.to_string().as_str())
    });
    let epoch = if goes_on { now } else { transaction.next_leader().await? };
    document["metadata"]["annotations"][EPOCH] = epoch.to_string().into();
    Ok(())
}
