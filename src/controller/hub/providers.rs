//! Whether the Secrets are there that a Hub's providers need. Not here: whether a provider takes the key, which its first call shows.

use crate::api::{Hub, SYSTEM_NAMESPACE};
use crate::controller::Context;

/// Key of a provider's Secret.
const KEY: &str = "apiKey";

/// Each provider whose Secret was seen to be missing, or to lack the key, in words; and how to make it.
pub(super) async fn keyless(hub: &Hub, context: &Context) -> Vec<String> {
    let mut keyless = Vec::new();
    for provider in &hub.spec.providers {
        let Some(reference) = &provider.api_key_secret_ref else { continue };
        // One that cannot be read may be there: the gateway is it that needs it.
        if matches!(context.objects.secret(SYSTEM_NAMESPACE, &reference.name, KEY).await, Ok(None)) {
            keyless.push(format!(
                "provider {0} needs Secret {SYSTEM_NAMESPACE}/{1} with key {KEY}: kubectl -n {SYSTEM_NAMESPACE} create secret generic {1} \
                 --from-literal={KEY}=…",
                provider.name, reference.name
            ));
        }
    }
    keyless
}
