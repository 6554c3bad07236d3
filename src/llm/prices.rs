//! Prices of models, from the crate `genai-prices`: dated, with tiers and cache rates. At the border all is nano-USD,
//! rounded up.

use super::meter::{Caching, Usage};
use crate::api::quantity::NanoUsd;
use genai_prices::{Calculator, ErrorKind, PriceRequest, UsageKey};
use jiff::Timestamp;
use std::time::SystemTime;

/// Recorded with every call, so that a charge can be traced to its price list. A test compares it with Cargo.lock.
pub const SOURCE: &str = "genai-prices 0.2.1";
/// The list of Anthropic's own prices.
pub const ANTHROPIC: &str = "anthropic";
/// The lists that hold for a written conversation, which may have a model of anyone's.
pub const REPLAYED: [&str; 3] = [ANTHROPIC, "openai", "openrouter"];

/// A model without a price is not called: its cost could not be bounded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "model `{model}` has no known price ({SOURCE}, {}), so its cost cannot be bounded. Use a model that has one, or set \
         `priceList` of the Hub's provider to a list that has it, for example openai or openrouter",
        if lists.is_empty() { "no list is known for this endpoint".into() } else { format!("list {}", lists.join(", ")) }
    )]
    UnknownModel { model: String, lists: Vec<String> },
    #[error("the price of model `{model}` cannot be computed: {why}")]
    Failed { model: String, why: String },
}

/// The worst case of a call: a part for its input and a part per output token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub fixed: NanoUsd,
    pub per_token: NanoUsd,
}

/// Decodes the price list, so that the first call need not wait for it.
pub fn load() {
    let _ = Calculator::bundled();
}

/// The list of the provider behind an endpoint, if it is a known one.
pub fn list_of(endpoint: &str) -> Option<String> {
    let found = Calculator::bundled().find_provider(None, Some(endpoint)).ok()??;
    Some(found.id().to_owned())
}

/// What a call cost, by the first of `lists` (ids of providers) that has the model.
pub fn cost(lists: &[String], model: &str, usage: &Usage, at: Timestamp) -> Result<NanoUsd, Error> {
    for list in lists {
        match cost_by(list, model, usage, at) {
            Err(Error::UnknownModel { .. }) => {}
            decided => return decided,
        }
    }
    Err(Error::UnknownModel { model: model.into(), lists: lists.to_vec() })
}

fn cost_by(list: &str, model: &str, usage: &Usage, at: Timestamp) -> Result<NanoUsd, Error> {
    let unknown = || Error::UnknownModel { model: model.into(), lists: vec![list.into()] };
    let full = full_name(list, model);
    let name = full.as_deref().unwrap_or(model);
    let number = |n: u64| u32::try_from(n).map_or(f64::from(u32::MAX), f64::from);
    let mut priced = genai_prices::Usage::new();
    // The list's input and cache-write units include their parts.
    priced.insert(UsageKey::INPUT_TOKENS, number(usage.total_input()));
    priced.insert(UsageKey::OUTPUT_TOKENS, number(usage.output));
    for (key, count) in [
        (UsageKey::CACHE_WRITE_TOKENS, usage.cache_write + usage.cache_write_long),
        (UsageKey::CACHE_WRITE_1H_TOKENS, usage.cache_write_long),
        (UsageKey::CACHE_READ_TOKENS, usage.cache_read),
        (UsageKey::WEB_SEARCHES, usage.web_searches),
    ] {
        if count > 0 {
            priced.insert(key, number(count));
        }
    }
    let request = PriceRequest::new(name, &priced).with_provider_id(list).with_timestamp(SystemTime::from(at));
    match Calculator::bundled().calculate(&request) {
        // Another provider's price of the same name is no evidence.
        Ok(price) if price.provider_id != list => Err(unknown()),
        Ok(price) => Ok(round_up(price.total_price)),
        Err(error) if matches!(error.kind(), ErrorKind::ModelNotFound | ErrorKind::ProviderNotFound) => Err(unknown()),
        Err(error) => Err(Error::Failed { model: model.into(), why: error.to_string() }),
    }
}

/// The name of a model in a list that puts the maker in front, as openrouter does, where the model is named without it.
fn full_name(list: &str, model: &str) -> Option<String> {
    if list == ANTHROPIC || model.contains('/') {
        return None;
    }
    let provider = Calculator::bundled().find_provider(Some(list), None).ok()??;
    let mut found = provider.models().filter(|known| known.id().split_once('/').is_some_and(|(_, name)| name == model));
    let first = found.next()?;
    found.next().is_none().then(|| first.id().to_owned())
}

/// What a call with so many input tokens may cost at most.
pub fn worst_case(lists: &[String], model: &str, input: u64, caching: Caching, at: Timestamp) -> Result<Rate, Error> {
    let mut worst = Rate { fixed: NanoUsd(0), per_token: NanoUsd(0) };
    // Some write to the cache for less than they read plain input.
    for usage in ways(input, caching) {
        let fixed = cost(lists, model, &usage, at)?;
        let with_output = cost(lists, model, &Usage { output: MANY.unsigned_abs(), ..usage }, at)?;
        worst.fixed = worst.fixed.max(fixed);
        worst.per_token = worst.per_token.max(NanoUsd((with_output.0 - fixed.0 + MANY - 1) / MANY));
    }
    Ok(worst)
}

/// What a call cost of which only the output is known, and the input's bound.
pub fn cost_at_most(lists: &[String], model: &str, usage: &Usage, caching: Caching, at: Timestamp) -> Result<NanoUsd, Error> {
    let mut most = NanoUsd(0);
    for way in ways(usage.total_input(), caching) {
        most = most.max(cost(lists, model, &Usage { output: usage.output, web_searches: usage.web_searches, ..way }, at)?);
    }
    Ok(most)
}

/// The ways in which so much input may be paid for.
fn ways(input: u64, caching: Caching) -> impl Iterator<Item = Usage> {
    let plain = Usage { input, ..Usage::default() };
    let short = Usage { cache_write: input, ..Usage::default() };
    let long = Usage { cache_write_long: input, ..Usage::default() };
    [(plain, Caching::Never), (short, Caching::Short), (long, Caching::Long)]
        .into_iter()
        .filter(move |(_, least)| *least <= caching)
        .map(|(usage, _)| usage)
}

/// Output tokens to measure the rate by.
const MANY: i64 = 1_000_000;

/// Dollars to nano-USD, rounded up but for the noise of floating point.
#[expect(clippy::cast_possible_truncation, reason = "a price of one call is far below 2^63 nano-USD")]
fn round_up(dollars: f64) -> NanoUsd {
    NanoUsd((dollars * 1e9 - 1e-3).ceil() as i64)
}

#[cfg(test)]
mod tests;
