//! `kubectl create token`: bearer tokens of ServiceAccounts. Opaque, stored as a hash, bound to the account's uid.
//!
//! Source: authentication/v1 TokenRequest. They are for this server alone, so they are no JWT and there are no other audiences.

use super::{
    body,
    status::{self, Status},
    write::{Answer, Request},
};
use crate::api::FieldError;
use crate::auth::{AccountToken, TokenHash};
use crate::store::{self, AccountTokenRow, Key};
use serde_json::{Value, json};

const KIND: &str = "TokenRequest";
const GROUP: &str = "authentication.k8s.io";
/// Whom the tokens are for.
const AUDIENCE: &str = "autovibe";
/// Seconds without a wish of the client's. Source: TokenRequest's default.
const DEFAULT: i64 = 3600;
/// Source: TokenRequest's validation.
const LEAST: i64 = 600;
const MOST: i64 = 1 << 32;
/// Seconds that a token lasts at most, whatever is asked; the answer says until when. Source: apiserver
/// `--service-account-max-token-expiration` shortens likewise.
pub(super) const LONGEST: i64 = 365 * 86_400;

impl Request<'_> {
    /// POST to a ServiceAccount's `token`.
    pub(super) async fn token(self) -> Result<Answer, Status> {
        let dry_run = self.query.dry_run("CreateOptions")?;
        let request = body::decode(self.content_type, &self.body, KIND)?.value;
        let given = |field: &str| request[field].as_str().unwrap_or_default();
        if !matches!(given("kind"), "" | KIND) || !matches!(given("apiVersion"), "" | "authentication.k8s.io/v1") {
            return Err(Status::bad_request(format!("the body must be a {KIND} of {GROUP}/v1")));
        }
        let spec = &request["spec"];
        let bound = &spec["boundObjectRef"];
        if !bound.is_null() {
            let text = |field: &str| bound[field].as_str().unwrap_or_default();
            let (version, kind) = (text("apiVersion"), text("kind"));
            return Err(Status::bad_request(format!("cannot bind token for object of type {version}, Kind={kind}")));
        }
        let (namespace, name) = (self.target.namespace.as_deref().unwrap_or_default(), self.target.name.as_deref().unwrap_or_default());
        let errors = wrong(spec);
        if !errors.is_empty() {
            return Err(status::invalid(GROUP, KIND, name, &errors));
        }
        let key = Key::new("serviceaccounts", namespace, name);
        let absent = || Status::not_found("serviceaccounts", name);
        let account = self.objects.store().get(&key).await?.ok_or_else(absent)?;
        let uid = account.document["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let now = self.objects.clock().now().as_second();
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT).min(LONGEST);
        let id = crate::random::draw();
        let token = AccountToken::write(id, crate::random::draw());
        let row = AccountTokenRow {
            id: hex::encode(id),
            hash: TokenHash::of(&token).to_hex(),
            account_uid: uid.clone(),
            namespace: namespace.into(),
            name: name.into(),
            expires_at: now + seconds,
        };
        let expiry = jiff::Timestamp::from_second(row.expires_at).map_err(|e| Status::internal(&e))?;
        if !dry_run {
            let work = self.objects.store().write(move |transaction| {
                Box::pin(async move {
                    let same = transaction.get(&key).await?.is_some_and(|account| account.document["metadata"]["uid"] == uid.as_str());
                    if !same {
                        return Err(store::Error::NotFound(key));
                    }
                    transaction.put_account_token(&row, now).await
                })
            });
            work.await?;
        }
        let value = json!({
            "kind": KIND, "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": self.objects.clock().api_now()},
            "spec": {"audiences": [AUDIENCE], "expirationSeconds": seconds, "boundObjectRef": null},
            "status": {"token": if dry_run { "" } else { &token }, "expirationTimestamp": expiry.to_string()},
        });
        Ok(Answer { code: 201, value, warnings: Vec::new() })
    }
}

fn wrong(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match spec["expirationSeconds"].as_i64() {
        Some(seconds) if seconds < LEAST => {
            errors.push(FieldError::invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"));
        }
        Some(seconds) if seconds > MOST => {
            errors.push(FieldError::invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds"));
        }
        _ => {}
    }
    for (index, audience) in spec["audiences"].as_array().into_iter().flatten().enumerate() {
        if audience != AUDIENCE {
            errors.push(FieldError::not_supported(format!("spec.audiences[{index}]"), audience, &[AUDIENCE]));
        }
    }
    errors
}
