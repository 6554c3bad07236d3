//! Prices of models, from the crate `genai-prices`: dated, with tiers and cache rates. At the border all is nano-USD,
//! rounded up.

use super::meter::{Caching, Usage};
use crate::api::quantity::NanoUsd;
use genai_prices::{Calculator, ErrorKind, PriceRequest, UsageKey};
use jiff::Timestamp;
use std::time::SystemTime;

/// Recorded with every call, so that a charge can be traced to its price list. A test compares it with Cargo.lock.
pub const SOURCE: &str = "genai-prices 0.2.1";
/// The provider whose price list holds.
const PROVIDER: &str = "anthropic";

/// A model without a price is not called: its cost could not be bounded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "model `{0}` has no known price ({SOURCE}), so its cost cannot be bounded. Use a model that has one, for example claude-sonnet-4-5"
    )]
    UnknownModel(String),
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

/// What a call cost.
pub fn cost(model: &str, usage: &Usage, at: Timestamp) -> Result<NanoUsd, Error> {
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
    let request = PriceRequest::new(model, &priced).with_provider_id(PROVIDER).with_timestamp(SystemTime::from(at));
    match Calculator::bundled().calculate(&request) {
        // Another provider's price of the same name is no evidence.
        Ok(price) if price.provider_id != PROVIDER => Err(Error::UnknownModel(model.into())),
        Ok(price) => Ok(round_up(price.total_price)),
        Err(error) if matches!(error.kind(), ErrorKind::ModelNotFound | ErrorKind::ProviderNotFound) => {
            Err(Error::UnknownModel(model.into()))
        }
        Err(error) => Err(Error::Failed { model: model.into(), why: error.to_string() }),
    }
}

/// What a call with so many input tokens may cost at most.
pub fn worst_case(model: &str, input: u64, caching: Caching, at: Timestamp) -> Result<Rate, Error> {
    let usage = match caching {
        Caching::Never => Usage { input, ..Usage::default() },
        Caching::Short => Usage { cache_write: input, ..Usage::default() },
        Caching::Long => Usage { cache_write_long: input, ..Usage::default() },
    };
    let fixed = cost(model, &usage, at)?;
    let with_output = cost(model, &Usage { output: MANY.unsigned_abs(), ..usage }, at)?;
    Ok(Rate { fixed, per_token: NanoUsd((with_output.0 - fixed.0 + MANY - 1) / MANY) })
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
