//! The ServiceAccount `default`, which every namespace has and gets again: clients expect it. Source: Kubernetes'
//! serviceaccounts controller.

use super::{Error, Objects, metadata};
use crate::store::{Expect, Key, Object, Query};
use serde_json::{Value, json};

const ACCOUNTS: &str = "serviceaccounts";
const DEFAULT: &str = "default";

impl Objects {
    /// The account of a new namespace.
    pub(super) fn default_account(&self, namespace: &str) -> (Key, Value) {
        let mut document = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": DEFAULT, "namespace": namespace },
        });
        metadata::begin(&mut document, &self.clock.api_now(), false);
        (Key::new(ACCOUNTS, namespace, DEFAULT), document)
    }

    /// What takes the place of an object that is removed: only a `default` account has a successor, and its tokens none.
    pub(super) fn account_after(&self, removed: &Key) -> Option<Value> {
        let (key, document) = self.default_account(&removed.namespace);
        (key == *removed).then_some(document)
    }

    /// Gives one to every namespace that has none: those that an older version made.
    pub(super) async fn ensure_accounts(&self) -> Result<(), Error> {
        for home in self.store.list(&Query { resource: "namespaces".into(), ..Query::default() }).await?.items {
            let (key, document) = self.default_account(&home.key.name);
            if !is_due(Some(&home)) || self.store.get(&key).await?.is_some() {
                continue;
            }
            let put = self.store.write(move |transaction| Box::pin(async move { transaction.put(&key, document, Expect::Absent).await }));
            match put.await.map_err(Error::from) {
                Ok(_) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a namespace is to have its account: while it is not ending.
pub(super) fn is_due(namespace: Option<&Object>) -> bool {
    namespace.is_some_and(|home| !home.document["metadata"]["deletionTimestamp"].is_string())
}
