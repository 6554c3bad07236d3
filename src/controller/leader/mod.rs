//! One leader among all processes that run controllers: whoever holds the Lease `autovibe-system/autovibe-controller`.
//!
//! Candidates judge whether it ran out by their own monotonic clock, from when they last saw it change; no two machines'
//! clocks are compared. What a leader writes carries its epoch, and is refused once another leads; what Proxmox and ZFS are
//! asked for by it begins only while enough of its Lease is left.

mod process;

use super::client::Client;
use crate::clock::Tenure;
use crate::objects::{Error, leader::EPOCH};
use serde_json::{Value, json};
use std::{future::Future, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often a candidate looks at who leads, at least: a leader may be seen to be dead long before its Lease runs out.
const LOOK: Duration = Duration::from_secs(2);

/// A candidate.
pub struct Candidate {
    client: Client,
    identity: String,
    lease: Duration,
}

/// A Lease that is ours.
struct Held {
    document: Value,
    epoch: i64,
    until: Instant,
    /// The same for the calls that act.
    tenure: Tenure,
}

impl Candidate {
    /// `lease` is how long a leader that is not heard of is still the leader.
    pub fn new(client: Client, lease: Duration) -> Self {
        Self { client, identity: process::identity(), lease: lease.max(Duration::from_secs(1)) }
    }

    /// Runs `work` whenever this process leads, with a client under the leader's epoch; it must end soon after its token is
    /// cancelled, which is when the lead is lost. Returns after `shutdown`, with the Lease released.
    pub async fn run<F: Future<Output = ()>>(&self, work: impl Fn(Client, CancellationToken) -> F, shutdown: CancellationToken) {
        while let Some(mut held) = shutdown.run_until_cancelled(self.acquire()).await {
            info!("leading, in epoch {}", held.epoch);
            let stop = shutdown.child_token();
            let mut working = Box::pin(work(self.client.under(held.epoch, held.tenure.clone()), stop.clone()));
            let why = tokio::select! {
                biased;
                () = &mut working => None,
                why = self.keep(&mut held) => Some(why),
            };
            if let Some(why) = why {
                held.tenure.end();
                warn!("no longer leading: {why}; a candidate again once what runs has ended");
                stop.cancel();
                working.await;
            } else {
                self.release(&held).await;
            }
        }
    }

    async fn acquire(&self) -> Held {
        let mut seen: Option<(Value, Instant)> = None;
        let mut told = String::new();
        loop {
            let asked = Instant::now();
            let why = match self.client.lease().await {
                Ok(found) => {
                    let version = found.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone()).unwrap_or_default();
                    if seen.as_ref().is_none_or(|(last, _)| *last != version) {
                        seen = Some((version, Instant::now()));
                    }
                    let unchanged = seen.as_ref().map(|(_, since)| since.elapsed()).unwrap_or_default();
                    match self.taken(found.as_ref(), unchanged) {
                        Some(holder) => format!("{holder} leads; standing by"),
                        None => match self.client.put_lease(self.document(found.as_ref(), true)).await {
                            Ok(document) => {
                                let tenure = Tenure::new(self.client.clock().clone(), self.lease, asked);
                                return Held { epoch: epoch(&document), document, until: asked + self.lease, tenure };
                            }
                            Err(error) => error.to_string(),
                        },
                    }
                }
                Err(error) => format!("who leads cannot be seen: {error}"),
            };
            if why != told {
                info!("{why}");
                told = why;
            }
            self.client.clock().sleep((self.lease / 5).min(LOOK)).await;
        }
    }

    /// Who holds it, unless it is free, ours, or its holder's time or process has ended.
    fn taken(&self, lease: Option<&Value>, unchanged: Duration) -> Option<String> {
        let spec = &lease?["spec"];
        let holder = spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty() && *holder != self.identity)?;
        let lasts = Duration::from_secs(spec["leaseDurationSeconds"].as_u64().unwrap_or_default());
        (unchanged < lasts && !process::is_dead(holder)).then(|| holder.to_owned())
    }

    /// Renews it until that fails for too long, or another has it; why.
    async fn keep(&self, held: &mut Held) -> String {
        loop {
            self.client.clock().sleep(self.lease / 4).await;
            let asked = Instant::now();
            let over = || format!("the Lease could not be renewed for {} s", self.lease.as_secs());
            if asked >= held.until {
                return over();
            }
            let renewal = self.client.put_lease(self.document(Some(&held.document), false));
            let renewed = match tokio::time::timeout_at(held.until, renewal).await {
                Err(_) => return over(),
                // Someone else wrote it: a person's label, our own write whose answer was lost, or another leader.
                Ok(Err(Error::Conflict { .. })) => self.client.lease().await.map(Option::unwrap_or_default),
                Ok(other) => other,
            };
            match renewed {
                Ok(document) if document["spec"]["holderIdentity"] != self.identity.as_str() => {
                    return format!("{} leads", document["spec"]["holderIdentity"]);
                }
                Ok(document) => {
                    let now = epoch(&document);
                    if now != held.epoch {
                        return format!("epoch {now} began");
                    }
                    // Of a document that was only read, the time is not known to be renewed: the next turn does it.
                    if document["spec"]["renewTime"] != held.document["spec"]["renewTime"] {
                        held.until = asked + self.lease;
                        held.tenure.renew(asked);
                    }
                    held.document = document;
                }
                Err(Error::NotFound { .. }) => return "the Lease was deleted".into(),
                Err(error) => warn!("the Lease was not renewed: {error}"),
            }
        }
    }

    async fn release(&self, held: &Held) {
        held.tenure.end();
        let mut document = self.document(Some(&held.document), false);
        document["spec"]["holderIdentity"] = "".into();
        if let Err(error) = self.client.put_lease(document).await {
            info!("the Lease was not released, others wait until it runs out: {error}");
        }
    }

    /// The Lease as we write it. Source: coordination.k8s.io/v1 LeaseSpec.
    fn document(&self, before: Option<&Value>, acquired: bool) -> Value {
        let mut lease = before.cloned().unwrap_or_else(|| json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease" }));
        let now = format!("{:.6}", self.client.clock().now());
        if acquired {
            lease["spec"]["acquireTime"] = now.clone().into();
            let transitions = lease["spec"]["leaseTransitions"].as_i64().map_or(0, |count| count + 1);
            lease["spec"]["leaseTransitions"] = transitions.into();
        }
        lease["spec"]["holderIdentity"] = self.identity.as_str().into();
        lease["spec"]["leaseDurationSeconds"] = self.lease.as_secs().into();
        lease["spec"]["renewTime"] = now.into();
        lease
    }
}

fn epoch(lease: &Value) -> i64 {
    lease["metadata"]["annotations"][EPOCH].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}
