//! From a token to what it may use: Machine, Hub, provider, key, and the accounts that pay.

use super::directory::Directory;
use crate::{
    api::{
        DEFAULT_BUDGET, DEFAULT_HUB, Hub, Kind, Machine,
        capability::{CapabilityName, impossible},
        hub::{Provider, ProviderType},
        machine::{Limits, Phase},
    },
    budget::Level,
    ledger::Account,
    llm::{Protocol, anthropic, openai, prices},
    objects,
};
use axum::http::HeaderMap;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Budgets above each other; more is taken for a circle.
const DEPTH: usize = 16;

/// Where a call goes and who pays.
pub(super) struct Route {
    pub(super) provider: String,
    pub(super) upstream: Upstream,
    /// Whose prices hold; the first that has the model.
    pub(super) price_lists: Vec<String>,
    /// From root to leaf.
    pub(super) accounts: Vec<Account>,
    /// Whether checkpoints can be taken there of a Machine that goes on.
    pub(super) checkpoints: bool,
}

pub(super) enum Upstream {
    Anthropic { endpoint: String, key: SecretString },
    OpenAi { endpoint: String, key: Option<SecretString> },
    Replay { file: String },
}

/// Why a call goes nowhere.
pub(super) enum Unresolved {
    /// Its Machine has ended.
    Ended(String),
    /// Never so; what to change.
    NotAllowed(String),
    /// Something is missing in the hub, or the store failed.
    Unavailable(String),
}

impl From<objects::Error> for Unresolved {
    fn from(error: objects::Error) -> Self {
        tracing::error!("objects cannot be read: {error}");
        Self::Unavailable("the hub's store cannot be read".into())
    }
}

impl Route {
    /// Text of the provider without the key, should it repeat it.
    pub(super) fn without_key(&self, text: Vec<u8>) -> Bytes {
        let (Upstream::Anthropic { key, .. } | Upstream::OpenAi { key: Some(key), .. }) = &self.upstream else { return text.into() };
        let key = key.expose_secret().trim();
        match std::str::from_utf8(&text) {
            Ok(readable) if !key.is_empty() && readable.contains(key) => Bytes::from(readable.replace(key, "[redacted]")),
            _ => text.into(),
        }
    }
}

/// SHA-256 of the token that a request carries, hex, from `x-api-key` or `Authorization: Bearer`; other keys do not count.
pub(super) fn token_hash(headers: &HeaderMap) -> Option<String> {
    let mut found: Option<&str> = None;
    let bearer = headers
        .get_all("authorization")
        .iter()
        .filter_map(|value| value.to_str().ok()?.split_once(' '))
        .filter_map(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()));
    let keys = headers.get_all("x-api-key").iter().filter_map(|value| value.to_str().ok());
    for token in keys.chain(bearer).filter(|token| is_token(token)) {
        if found.is_some_and(|other| other != token) {
            return None;
        }
        found = Some(token);
    }
    found.map(hash_of)
}

/// What is stored of a token.
pub(super) fn hash_of(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

pub(super) fn is_token(text: &str) -> bool {
    text.strip_prefix("av_").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Finds provider, key and accounts for a model that is asked for in a protocol.
pub(super) async fn route(directory: &Directory, machine: &Machine, protocol: Protocol, model: &str) -> Result<Route, Unresolved> {
    if let Some(why) = ended(machine) {
        return Err(Unresolved::Ended(why));
    }
    let hub = hub_of(directory, machine).await?;
    let named = |provider: &&Provider| provider.models.iter().any(|pattern| matches(pattern, model));
    let Some(provider) = hub.spec.providers.iter().find(|provider| named(provider) && speaks(provider.r#type, protocol)) else {
        return Err(Unresolved::NotAllowed(match hub.spec.providers.iter().find(named) {
            Some(provider) => format!(
                "model `{model}` is of provider {} in Hub {}, which does not speak {}, in which it was asked for. Use an agent that speaks what \
                 the provider does, or a model of another provider",
                provider.name,
                hub.name(),
                protocol.name()
            ),
            None => not_allowed(&hub, model),
        }));
    };
    let told = hub.status.as_ref().map(|status| status.capabilities.as_slice()).unwrap_or_default();
    Ok(Route {
        checkpoints: impossible(told, CapabilityName::CheckpointInLife).is_none(),
        provider: provider.name.clone(),
        upstream: upstream(directory, provider).await?,
        price_lists: price_lists(provider),
        accounts: accounts(directory, machine, &hub).await?,
    })
}

/// Models that a Machine may name, each with its provider: those that its Hub names in full, and the Machine's own.
pub(super) async fn models(directory: &Directory, machine: &Machine) -> Result<Vec<(String, String)>, objects::Error> {
    let Some(hub) = directory.hub(machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB)).await? else { return Ok(Vec::new()) };
    let own = machine.spec.agent.model.as_deref();
    let of = |provider: &Provider| {
        let full = provider.models.iter().filter(|pattern| !pattern.ends_with('*'));
        let own = own.filter(|model| provider.models.iter().any(|pattern| pattern.ends_with('*') && matches(pattern, model)));
        full.cloned().chain(own.map(str::to_owned)).map(|model| (model, provider.name.clone())).collect::<Vec<_>>()
    };
    let mut models: Vec<_> = hub.spec.providers.iter().flat_map(of).collect();
    models.sort();
    models.dedup_by(|a, b| a.0 == b.0);
    Ok(models)
}

async fn hub_of(directory: &Directory, machine: &Machine) -> Result<Arc<Hub>, Unresolved> {
    let name = machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB);
    directory.hub(name).await?.ok_or_else(|| Unresolved::Unavailable(format!("Hub {name} does not exist")))
}

fn speaks(provider: ProviderType, protocol: Protocol) -> bool {
    match provider {
        ProviderType::Anthropic => protocol == Protocol::Messages,
        ProviderType::OpenAI => matches!(protocol, Protocol::Chat | Protocol::Responses),
        ProviderType::Replay => true,
    }
}

/// The lists whose prices hold. A server that no list knows has none until its provider names one.
fn price_lists(provider: &Provider) -> Vec<String> {
    if let Some(list) = &provider.price_list {
        return vec![list.clone()];
    }
    match provider.r#type {
        ProviderType::Anthropic => vec![prices::ANTHROPIC.into()],
        ProviderType::OpenAI => prices::list_of(provider.endpoint.as_deref().unwrap_or(openai::ENDPOINT)).into_iter().collect(),
        ProviderType::Replay => prices::REPLAYED.map(str::to_owned).into(),
    }
}

/// Whether it is suspended with its memory, or about to be.
pub(super) fn suspended(machine: &Machine) -> bool {
    let status = machine.status.as_ref();
    status.is_some_and(|status| matches!(status.phase, Phase::Suspending | Phase::Suspended) && status.memory_kept_at.is_some())
}

pub(super) fn ended(machine: &Machine) -> Option<String> {
    let name = format!("Machine {}/{}", machine.namespace(), machine.name());
    if machine.is_deleting() {
        return Some(format!("{name} is being deleted"));
    }
    let phase = machine.status.as_ref().map_or(Phase::Pending, |status| status.phase);
    (phase.is_finished() || phase == Phase::Terminating).then(|| format!("{name} has ended ({phase:?})"))
}

/// `*` at the end matches any rest.
fn matches(pattern: &str, model: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == model, |prefix| model.starts_with(prefix))
}

fn not_allowed(hub: &Arc<Hub>, model: &str) -> String {
    let allowed: Vec<&str> = hub.spec.providers.iter().flat_map(|provider| provider.models.iter().map(String::as_str)).collect();
    format!(
        "model `{model}` is not configured in Hub {}; it has: {}. Set spec.agent.model of the Machine, or add it to spec.providers of the Hub",
        hub.name(),
        if allowed.is_empty() { "none".into() } else { allowed.join(", ") }
    )
}

async fn upstream(directory: &Directory, provider: &Provider) -> Result<Upstream, Unresolved> {
    match provider.r#type {
        ProviderType::Replay => {
            let file = provider.replay.as_ref().map(|replay| replay.file.clone()).unwrap_or_default();
            Ok(Upstream::Replay { file })
        }
        ProviderType::Anthropic => {
            let endpoint = provider.endpoint.clone().unwrap_or_else(|| anthropic::ENDPOINT.into());
            let name = provider.api_key_secret_ref.as_ref().map(|reference| reference.name.as_str()).unwrap_or_default();
            Ok(Upstream::Anthropic { endpoint, key: key(directory, provider, name).await? })
        }
        ProviderType::OpenAI => {
            let endpoint = provider.endpoint.clone().unwrap_or_else(|| openai::ENDPOINT.into());
            let key = match &provider.api_key_secret_ref {
                Some(reference) => Some(key(directory, provider, &reference.name).await?),
                None => None,
            };
            Ok(Upstream::OpenAi { endpoint, key })
        }
    }
}

async fn key(directory: &Directory, provider: &Provider, secret: &str) -> Result<SecretString, Unresolved> {
    let missing = || Unresolved::Unavailable(format!("provider {} needs Secret autovibe-system/{secret} with key apiKey", provider.name));
    directory.key(secret).await?.ok_or_else(missing)
}

/// All that pay for a Machine, with their limits, root first.
pub(super) async fn payers(directory: &Directory, machine: &Machine) -> Result<Vec<Account>, Unresolved> {
    let hub = hub_of(directory, machine).await?;
    accounts(directory, machine, &hub).await
}

/// What a Machine itself may spend at most: its own limits, and the Hub's where it has none.
pub(super) async fn limits(directory: &Directory, machine: &Machine) -> Result<Limits, Unresolved> {
    Ok(own_limits(machine, &*hub_of(directory, machine).await?))
}

fn own_limits(machine: &Machine, hub: &Hub) -> Limits {
    let own = machine.spec.budget.as_ref().map(|budget| budget.limits.clone()).unwrap_or_default();
    let defaults = &hub.spec.defaults.limits;
    Limits { money: own.money.or(defaults.money), time: own.time.or(defaults.time), api_calls: own.api_calls.or(defaults.api_calls) }
}

fn account_of(machine: &Machine, hub: &Hub) -> Account {
    let (namespace, name, limits) = (machine.namespace(), machine.name(), own_limits(machine, hub));
    let level = Level {
        name: format!("Machine {namespace}/{name}"),
        remedy: format!("spec.budget.limits of Machine {namespace}/{name}"),
        money: limits.money.map(|money| money.amount),
        api_calls: limits.api_calls,
    };
    Account { id: format!("machine/{}", machine.uid()), level }
}

/// The chain of accounts: the Machine's Budget with all above it, root first, then who spawned the Machine, then the Machine itself.
async fn accounts(directory: &Directory, machine: &Machine, hub: &Hub) -> Result<Vec<Account>, Unresolved> {
    let namespace = machine.namespace();
    let mut chain = vec![account_of(machine, hub)];
    let spawner = |machine: &Machine| machine.spawned_by().map(|(name, uid)| (name.to_owned(), uid.to_owned()));
    let mut next = spawner(machine);
    while let Some((name, uid)) = next {
        let gone = || Unresolved::Unavailable(format!("Machine {namespace}/{name} is gone, whose limits pay for what it spawned"));
        let payer = directory.machine(&uid, namespace, &name).await?.ok_or_else(gone)?;
        let account = account_of(&payer, hub);
        // Whoever writes owners may write a circle; nobody pays twice.
        if chain.len() > DEPTH || chain.iter().any(|known| known.id == account.id) {
            break;
        }
        chain.push(account);
        next = spawner(&payer);
    }
    let machines = chain.len();
    let mut next = machine.spec.budget.as_ref().and_then(|budget| budget.name.clone());
    if next.is_none() && directory.has_default_budget(namespace).await? {
        next = Some(DEFAULT_BUDGET.to_owned());
    }
    while let Some(name) = next {
        if chain.len() > machines + DEPTH {
            return Err(Unresolved::Unavailable(format!(
                "the Budgets above Machine {namespace}/{} go in a circle at {name}",
                machine.name()
            )));
        }
        let missing = || Unresolved::Unavailable(format!("Budget {namespace}/{name} does not exist"));
        let budget = directory.budget(namespace, &name).await?.ok_or_else(missing)?;
        let level = Level {
            name: format!("Budget {namespace}/{name}"),
            remedy: format!("spec.limits of Budget {namespace}/{name}"),
            money: budget.spec.limits.money.map(|money| money.amount),
            api_calls: budget.spec.limits.api_calls,
        };
        chain.push(Account { id: format!("budget/{}", budget.uid()), level });
        next = budget.spec.parent_ref.as_ref().map(|parent| parent.name.clone());
    }
    chain.reverse();
    Ok(chain)
}
