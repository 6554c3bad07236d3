//! The rows beside objects that controllers read and write. Each call names the object that the row belongs to.

use super::{Client, Via};
use crate::admission::{self, Resource};
use crate::api::{Budget, Checkpoint, Kind, Machine, SYSTEM_NAMESPACE};
use crate::ledger::{Ledger, Usage};
use crate::objects::{Error, Objects, Part, WriteOptions, leader};
use crate::store::{self, BundleRow, CallSummary, VmidLease, ledger::Gap};
use serde_json::Value;

fn ledger(objects: &Objects) -> Ledger {
    Ledger::new(objects.store().clone(), objects.clock().clone())
}

fn leases() -> &'static Resource {
    admission::named("coordination.k8s.io", "leases").expect("leases are in the catalog")
}

impl Client {
    /// The leader's Lease, as a document.
    pub async fn lease(&self) -> Result<Option<Value>, Error> {
        match &self.via {
            Via::Local(objects) => match objects.read(leases(), SYSTEM_NAMESPACE, leader::LEASE).await {
                Ok(lease) => Ok(Some(lease)),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            },
            Via::Remote(remote) => remote.lease().await,
        }
    }

    /// Writes it, if it is still as it was read; makes it when there was none.
    pub async fn put_lease(&self, document: Value) -> Result<Value, Error> {
        match &self.via {
            Via::Local(objects) => {
                let options = WriteOptions::default();
                let mut document = document;
                document["metadata"]["name"] = leader::LEASE.into();
                document["metadata"]["namespace"] = SYSTEM_NAMESPACE.into();
                let written = objects.update_document(leases(), SYSTEM_NAMESPACE, leader::LEASE, Part::Main, document, &options);
                Ok(written.await?.object)
            }
            Via::Remote(remote) => remote.put_lease(&document).await,
        }
    }

    /// Id of the installation that the Hub belongs to.
    pub async fn installation(&self, hub: &str) -> Result<String, Error> {
        match &self.via {
            Via::Local(objects) => Ok(objects.store().installation().to_owned()),
            Via::Remote(remote) => remote.installation(hub).await,
        }
    }

    /// Since when the ledger may lack something.
    pub async fn ledger_gap(&self, hub: &str) -> Result<Option<Gap>, Error> {
        match &self.via {
            Via::Local(objects) => Ok(objects.store().ledger_gap().await?),
            Via::Remote(remote) => remote.ledger_gap(hub).await,
        }
    }

    /// Every lease on a Hub, by VMID.
    pub async fn vmid_leases(&self, hub: &str) -> Result<Vec<VmidLease>, Error> {
        match &self.via {
            Via::Local(objects) => Ok(objects.store().vmid_leases(hub).await?),
            Via::Remote(remote) => remote.vmid_leases(hub).await,
        }
    }

    /// The VMID that is leased to a Machine on a Hub.
    pub async fn vmid_lease(&self, hub: &str, machine_uid: &str) -> Result<Option<u32>, Error> {
        match &self.via {
            Via::Local(objects) => Ok(objects.store().vmid_lease(hub, machine_uid).await?),
            Via::Remote(remote) => {
                let leases = remote.vmid_leases(hub).await?;
                Ok(leases.into_iter().find(|lease| lease.machine_uid == machine_uid).map(|lease| lease.vmid))
            }
        }
    }

    /// The Machine's lease on its Hub: the one it has, else the lowest of `range` that is neither leased nor in `taken`.
    pub async fn lease_vmid(&self, hub: &str, machine: &Machine, range: (u32, u32), taken: Vec<u32>) -> Result<Option<u32>, Error> {
        match &self.via {
            Via::Local(objects) => {
                let (hub, uid) = (hub.to_owned(), machine.uid().to_owned());
                let work = objects.store().write(move |t| Box::pin(async move { t.lease_vmid(&hub, &uid, range, &taken).await }));
                Ok(work.await.map_err(|error: store::Error| error)?)
            }
            Via::Remote(remote) => remote.lease_vmid(machine, range, &taken).await,
        }
    }

    /// Ends the Machine's lease on its Hub and all its tokens; fine when it has none.
    pub async fn end_vmid_lease(&self, hub: &str, machine: &Machine) -> Result<(), Error> {
        match &self.via {
            Via::Local(objects) => {
                let (hub, uid) = (hub.to_owned(), machine.uid().to_owned());
                let work = objects.store().write(move |t| {
                    Box::pin(async move {
                        t.end_vmid_lease(&hub, &uid).await?;
                        t.revoke_tokens(&uid).await
                    })
                });
                Ok(work.await.map_err(|error: store::Error| error)?)
            }
            Via::Remote(remote) => remote.end_vmid_lease(machine).await,
        }
    }

    /// Ends the lease of the VMID that a Checkpoint's template had, which is its Machine's; fine when there is none.
    pub async fn end_vmid_lease_of(&self, hub: &str, checkpoint: &Checkpoint, machine_uid: &str) -> Result<(), Error> {
        match &self.via {
            Via::Local(objects) => {
                let (hub, uid) = (hub.to_owned(), machine_uid.to_owned());
                let work = objects.store().write(move |t| {
                    Box::pin(async move {
                        t.end_vmid_lease(&hub, &uid).await?;
                        t.revoke_tokens(&uid).await
                    })
                });
                Ok(work.await.map_err(|error: store::Error| error)?)
            }
            Via::Remote(remote) => remote.end_vmid_lease_of(hub, checkpoint).await,
        }
    }

    /// Makes the token with this SHA-256 (hex) valid for a Machine; its others are revoked unless they are to be kept.
    pub async fn put_token(&self, machine: &Machine, hash: String, keep_others: bool) -> Result<(), Error> {
        match &self.via {
            Via::Local(objects) => {
                let (uid, namespace, name) = (machine.uid().to_owned(), machine.namespace().to_owned(), machine.name().to_owned());
                let work = objects.store().write(move |t| {
                    Box::pin(async move {
                        if !keep_others {
                            t.revoke_tokens(&uid).await?;
                        }
                        t.put_token(&hash, &uid, &namespace, &name).await
                    })
                });
                Ok(work.await.map_err(|error: store::Error| error)?)
            }
            Via::Remote(remote) => remote.put_token(machine, &hash, keep_others).await,
        }
    }

    /// The newest call of the agent's own conversation.
    pub async fn last_main_call(&self, machine: &Machine) -> Result<Option<CallSummary>, Error> {
        match &self.via {
            Via::Local(objects) => Ok(objects.store().last_main_call(machine.uid()).await?),
            Via::Remote(remote) => remote.last_main_call(machine).await,
        }
    }

    /// What a Machine has consumed.
    pub async fn machine_usage(&self, machine: &Machine) -> Result<Usage, Error> {
        match &self.via {
            Via::Local(objects) => Ok(ledger(objects).usage(&format!("machine/{}", machine.uid())).await?),
            Via::Remote(remote) => remote.usage(machine).await,
        }
    }

    /// What was consumed of a Budget.
    pub async fn budget_usage(&self, budget: &Budget) -> Result<Usage, Error> {
        match &self.via {
            Via::Local(objects) => Ok(ledger(objects).usage(&format!("budget/{}", budget.uid())).await?),
            Via::Remote(remote) => remote.usage(budget).await,
        }
    }

    /// The commit of the workspace that is stored with a checkpoint.
    pub async fn bundle_commit(&self, checkpoint: &Checkpoint) -> Result<Option<String>, Error> {
        match &self.via {
            Via::Local(objects) => Ok(objects.store().bundle(checkpoint.uid()).await?.map(|row| row.commit)),
            Via::Remote(remote) => remote.bundle_commit(checkpoint).await,
        }
    }

    /// The workspace of a checkpoint and what it builds on, oldest first; empty when there is none.
    pub async fn bundle_chain(&self, checkpoint: &Checkpoint) -> Result<Vec<BundleRow>, Error> {
        match &self.via {
            Via::Local(objects) => Ok(objects.store().bundle_chain(checkpoint.uid()).await?),
            Via::Remote(remote) => remote.bundle_chain(checkpoint).await,
        }
    }

    /// Stores the bundle of a checkpoint; one that is there already stays, for a checkpoint never changes.
    pub async fn put_bundle(&self, checkpoint: &Checkpoint, bundle: BundleRow) -> Result<(), Error> {
        match &self.via {
            Via::Local(objects) => {
                let uid = checkpoint.uid().to_owned();
                let work = objects.store().write(move |t| {
                    Box::pin(async move { t.put_bundle(&uid, &bundle.commit, bundle.base_commit.as_deref(), &bundle.bytes).await })
                });
                Ok(work.await.map_err(|error: store::Error| error)?)
            }
            Via::Remote(remote) => remote.put_bundle(checkpoint, bundle).await,
        }
    }
}
