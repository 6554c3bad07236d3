//! Parts of objects that are rows beside them: what controllers that run elsewhere read and write. Guarded by roles as any
//! other part; no role for people has them.

use super::negotiate::Encoding;
use super::{body, reply, route::Target, status::Status};
use crate::api::DEFAULT_HUB;
use crate::ledger::Ledger;
use crate::objects::Objects;
use crate::remote::{BASE_COMMIT, COMMIT, UID};
use crate::store;
use axum::{http::HeaderMap, response::Response};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// What a Machine's VMID is leased from.
#[derive(Deserialize)]
struct Range {
    uid: String,
    from: u32,
    to: u32,
    taken: Vec<u32>,
}

#[derive(Deserialize)]
struct Named {
    uid: String,
    /// Of a Checkpoint, whose own object does not say it.
    hub: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    uid: String,
    /// SHA-256, hex.
    hash: String,
    keep_others: bool,
}

/// The object that a row belongs to.
struct Owner {
    namespace: String,
    name: String,
    resource: String,
    uid: String,
    hub: String,
    /// Of a Checkpoint: uid of its Machine.
    machine_uid: Option<String>,
}

impl Owner {
    async fn of(objects: &Objects, target: &Target) -> Result<Self, Status> {
        let resource = target.entry.resource().ok_or_else(Status::no_path)?;
        let (namespace, name) = (target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default());
        let document = objects.read(resource, &namespace, &name).await?;
        let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            uid: text("/metadata/uid").unwrap_or_default(),
            hub: text("/spec/hub").unwrap_or_else(|| DEFAULT_HUB.into()),
            machine_uid: text("/status/machineUid"),
            resource: target.entry.name(),
            namespace,
            name,
        })
    }

    /// Errors: 409 when the sender means a namesake of an earlier life.
    fn expect(&self, uid: &str) -> Result<(), Status> {
        if uid == self.uid {
            return Ok(());
        }
        let message = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", self.uid);
        Err(Status::conflict(&self.resource, &self.name, &message))
    }
}

/// Whether a GET of this part is answered here.
pub(super) fn is_read(target: &Target) -> bool {
    matches!(
        (target.entry.plural, target.subresource.as_deref()),
        ("hubs", Some("vmids")) | ("machines", Some("calls" | "usage")) | ("budgets", Some("usage"))
    )
}

/// GET of a part.
pub(super) async fn get(objects: &Objects, target: &Target) -> Result<Response, Status> {
    let store = objects.store();
    if target.entry.plural == "hubs" {
        // Also of one that is deleted: what was leased there is leased still.
        let value = json!({
            "installation": store.installation(),
            "ledgerGap": store.ledger_gap().await?,
            "items": store.vmid_leases(target.name.as_deref().unwrap_or_default()).await?,
        });
        return Ok(reply::encoded(200, &value, Encoding::Json));
    }
    let owner = Owner::of(objects, target).await?;
    let ledger = Ledger::new(store.clone(), objects.clock().clone());
    let value = match (target.entry.plural, target.subresource.as_deref()) {
        ("machines", Some("calls")) => json!({ "main": store.last_main_call(&owner.uid).await? }),
        ("machines", _) => json!(ledger.usage(&format!("machine/{}", owner.uid)).await?),
        _ => json!(ledger.usage(&format!("budget/{}", owner.uid)).await?),
    };
    Ok(reply::encoded(200, &value, Encoding::Json))
}

/// Whether a PUT or DELETE of this part is answered here.
pub(super) fn is_write(target: &Target) -> bool {
    let part = (target.entry.plural, target.subresource.as_deref());
    matches!(part, ("machines", Some("vmid" | "token")) | ("checkpoints", Some("bundle" | "vmid")))
}

/// PUT or, with `ends`, DELETE of a part.
pub(super) async fn write(objects: &Objects, target: &Target, headers: &HeaderMap, bytes: Bytes, ends: bool) -> Result<Response, Status> {
    let owner = Owner::of(objects, target).await?;
    let value = match (target.subresource.as_deref(), ends) {
        (Some("vmid"), true) if target.entry.plural == "checkpoints" => end_lease_of(objects, owner, read(&bytes)?).await?,
        (Some("vmid"), false) if target.entry.plural == "checkpoints" => return Err(Status::method_not_allowed()),
        (Some("vmid"), false) => lease(objects, owner, read(&bytes)?).await?,
        (Some("vmid"), true) => end_lease(objects, owner, read(&bytes)?).await?,
        (Some("token"), false) => put_token(objects, owner, read(&bytes)?).await?,
        (Some("bundle"), false) => put_bundle(objects, owner, headers, bytes).await?,
        _ => return Err(Status::method_not_allowed()),
    };
    Ok(reply::encoded(200, &value, Encoding::Json))
}

fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Status> {
    let document = body::json(bytes)?;
    serde_json::from_value(document.value).map_err(|error| Status::bad_request(error.to_string()))
}

async fn lease(objects: &Objects, owner: Owner, wanted: Range) -> Result<Value, Status> {
    owner.expect(&wanted.uid)?;
    let range = (wanted.from, wanted.to);
    let work = objects.store().write(move |t| Box::pin(async move { t.lease_vmid(&owner.hub, &owner.uid, range, &wanted.taken).await }));
    let vmid: Option<u32> = work.await.map_err(|error: store::Error| error)?;
    Ok(json!({ "vmid": vmid }))
}

async fn end_lease(objects: &Objects, owner: Owner, named: Named) -> Result<Value, Status> {
    owner.expect(&named.uid)?;
    let work = objects.store().write(move |t| {
        Box::pin(async move {
            t.end_vmid_lease(&owner.hub, &owner.uid).await?;
            t.revoke_tokens(&owner.uid).await
        })
    });
    work.await.map_err(|error: store::Error| error)?;
    Ok(json!({}))
}

/// The lease that a Checkpoint's template had.
async fn end_lease_of(objects: &Objects, owner: Owner, named: Named) -> Result<Value, Status> {
    owner.expect(&named.uid)?;
    let Some(machine_uid) = owner.machine_uid.clone() else { return Ok(json!({})) };
    let hub = named.hub.unwrap_or_else(|| DEFAULT_HUB.into());
    let owner = Owner { uid: machine_uid, hub, ..owner };
    let named = Named { uid: owner.uid.clone(), hub: None };
    end_lease(objects, owner, named).await
}

async fn put_token(objects: &Objects, owner: Owner, token: Token) -> Result<Value, Status> {
    owner.expect(&token.uid)?;
    if token.hash.len() != 64 || !token.hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Status::bad_request("hash is not a SHA-256 in hexadecimal digits"));
    }
    let work = objects.store().write(move |t| {
        Box::pin(async move {
            if !token.keep_others {
                t.revoke_tokens(&owner.uid).await?;
            }
            t.put_token(&token.hash, &owner.uid, &owner.namespace, &owner.name).await
        })
    });
    work.await.map_err(|error: store::Error| error)?;
    Ok(json!({}))
}

async fn put_bundle(objects: &Objects, owner: Owner, headers: &HeaderMap, bytes: Bytes) -> Result<Value, Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (Some(uid), Some(commit)) = (text(UID), text(COMMIT)) else {
        return Err(Status::bad_request(format!("a bundle comes with the headers {UID} and {COMMIT}")));
    };
    owner.expect(&uid)?;
    let base = text(BASE_COMMIT);
    let work = objects.store().write(move |t| Box::pin(async move { t.put_bundle(&owner.uid, &commit, base.as_deref(), &bytes).await }));
    work.await.map_err(|error: store::Error| error)?;
    Ok(json!({}))
}
