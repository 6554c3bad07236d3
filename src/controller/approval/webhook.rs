//! The POST that tells people outside: JSON, signed as GitHub signs its webhooks.

use crate::api::hub::Webhook;
use crate::api::{Approval, Kind, SYSTEM_NAMESPACE};
use crate::controller::client::Client;
use crate::objects;
use ring::hmac;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;

/// Key of the Secret that signs.
const KEY: &str = "key";
/// Source: GitHub's `X-Hub-Signature-256`.
const SIGNATURE: &str = "x-hub-signature-256";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Posts it once; why it was not taken. Errors: of our own store.
pub(super) async fn post(
    approval: &Approval,
    hub: &str,
    webhook: &Webhook,
    objects: &Client,
) -> Result<Result<(), String>, objects::Error> {
    let name = &webhook.secret_ref.name;
    let Some(key) = objects.secret(SYSTEM_NAMESPACE, name, KEY).await? else {
        return Ok(Err(format!(
            "secret {SYSTEM_NAMESPACE}/{name} has no key {KEY}: create it with `kubectl -n {SYSTEM_NAMESPACE} create secret generic {name} \
             --from-literal={KEY}=…`"
        )));
    };
    let body = body(approval, hub).to_string();
    let signature = signature(key.expose_secret().as_bytes(), body.as_bytes());
    Ok(send(&webhook.url, body, &signature, approval.uid()).await)
}

async fn send(url: &str, body: String, signature: &str, id: &str) -> Result<(), String> {
    // No redirects and no proxies: it goes where the Hub says.
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().timeout(TIMEOUT).build();
    let request = client
        .map_err(|error| error.to_string())?
        .post(url)
        .header("user-agent", concat!("autovibe/", env!("CARGO_PKG_VERSION")))
        .header("content-type", "application/json")
        .header("x-autovibe-event", EVENT)
        .header("x-autovibe-delivery", id)
        .header(SIGNATURE, signature);
    // An error of reqwest would show the URL, in which some services put a password.
    match request.body(body).send().await.map_err(reqwest::Error::without_url) {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("it answered {}", answer.status())),
        Err(error) if error.is_timeout() => Err(format!("no answer within {TIMEOUT:?}")),
        Err(error) => Err(error.to_string()),
    }
}

const EVENT: &str = "ApprovalRequested";

fn body(approval: &Approval, hub: &str) -> Value {
    let spec = &approval.spec;
    json!({
        "event": EVENT,
        "hub": hub,
        "namespace": approval.namespace(),
        "name": approval.name(),
        "uid": approval.uid(),
        "machine": spec.machine,
        "tool": spec.tool,
        "asks": spec.asks,
        "class": spec.class,
        "rule": spec.rule,
        "checkpoint": spec.checkpoint,
        "expiresAt": spec.expires_at,
        "onTimeout": spec.on_timeout,
        "approve": format!("autovibe approve {} -n {}", approval.name(), approval.namespace()),
        "deny": format!("autovibe deny {} -n {}", approval.name(), approval.namespace()),
    })
}

pub(super) fn signature(key: &[u8], body: &[u8]) -> String {
    format!("sha256={}", hex::encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), body)))
}
