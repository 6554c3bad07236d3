use super::*;

fn lists(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn cost(model: &str, usage: &Usage, at: Timestamp) -> Result<NanoUsd, Error> {
    super::cost(&lists(&[ANTHROPIC]), model, usage, at)
}

fn at() -> Timestamp {
    "2026-11-22T00:00:00Z".parse().unwrap()
}

#[test]
fn the_recorded_session_costs_what_its_program_said() {
    // Six calls of 1000 in, 200 cache write, 3000 cache read, 120 out at claude-opus-4-8 prices: 0.0645 USD.
    let usage = Usage { input: 1000, cache_write: 200, cache_read: 3000, output: 120, ..Usage::default() };
    assert_eq!(cost("claude-opus-4-8", &usage, at()).unwrap().0 * 6, 64_500_000);
}

#[test]
fn cache_factors_and_tiers_are_the_lists() {
    let million = |usage: Usage| cost("claude-opus-4-8", &usage, at()).unwrap().to_string();
    let m = 1_000_000;
    assert_eq!(million(Usage { input: m, ..Usage::default() }), "5");
    assert_eq!(million(Usage { cache_write: m, ..Usage::default() }), "6.25");
    assert_eq!(million(Usage { cache_write_long: m, ..Usage::default() }), "10");
    assert_eq!(million(Usage { cache_read: m, ..Usage::default() }), "0.5");
    assert_eq!(million(Usage { output: m, ..Usage::default() }), "25");
    // Above 200k of input this model costs more per token.
    let long = |input| cost("claude-sonnet-4-5", &Usage { input, ..Usage::default() }, at()).unwrap();
    assert_eq!((long(100_000).to_string(), long(300_000).to_string()), ("0.3".into(), "1.8".into()));
}

#[test]
fn a_part_of_a_nano_dollar_counts_as_a_whole_one() {
    let usage = Usage { cache_read: 1, ..Usage::default() };
    assert_eq!(cost("claude-3-haiku", &usage, at()).unwrap(), NanoUsd(30));
    assert_eq!(round_up(0.000_000_000_4), NanoUsd(1));
    assert_eq!(round_up(0.1 + 0.2), NanoUsd(300_000_000));
}

#[test]
fn the_worst_case_bounds_every_split_of_the_input() {
    for model in ["claude-opus-4-8", "claude-sonnet-4-5", "claude-haiku-4-5"] {
        for input in [10, 5_000, 150_000, 250_000] {
            for (caching, worst) in [Caching::Never, Caching::Short, Caching::Long]
                .map(|c| (c, worst_case(&lists(&[ANTHROPIC]), model, input, c, at()).unwrap()))
            {
                for written in [0, input / 2, input] {
                    let mut usage = Usage { input: input - written, output: 777, ..Usage::default() };
                    match caching {
                        Caching::Never => usage.cache_read = std::mem::take(&mut usage.input),
                        Caching::Short => usage.cache_write = written,
                        Caching::Long => (usage.cache_write, usage.cache_write_long) = (written / 2, written - written / 2),
                    }
                    if caching == Caching::Never {
                        usage.input = written;
                    }
                    let real = cost(model, &usage, at()).unwrap();
                    assert!(real.0 <= worst.fixed.0 + 777 * worst.per_token.0, "{model} {input} {caching:?} {usage:?}");
                }
            }
        }
    }
}

#[test]
fn the_worst_case_bounds_every_model_of_the_lists() {
    for list in REPLAYED {
        let provider = Calculator::bundled().find_provider(Some(list), None).unwrap().unwrap();
        for model in provider.models() {
            let lists = lists(&[list]);
            let Ok(worst) = worst_case(&lists, model.id(), 50_000, Caching::Short, at()) else { continue };
            for written in [0, 20_000, 50_000] {
                let usage = Usage { input: 50_000 - written, cache_write: written, output: 777, ..Usage::default() };
                let real = super::cost(&lists, model.id(), &usage, at()).unwrap();
                assert!(real.0 <= worst.fixed.0 + 777 * worst.per_token.0, "{list} {} {written}", model.id());
                let most = cost_at_most(&lists, model.id(), &usage, Caching::Short, at()).unwrap();
                assert!(real <= most, "{list} {} {written}", model.id());
            }
        }
    }
}

#[test]
fn an_unknown_model_has_no_price() {
    for model in ["gpt-5", "claude-unheard-of", "", "http://claude-opus-4-8"] {
        let unknown = Error::UnknownModel { model: model.into(), lists: lists(&[ANTHROPIC]) };
        assert_eq!(cost(model, &Usage::default(), at()), Err(unknown), "{model}");
    }
    assert!(super::cost(&[], "gpt-5", &Usage::default(), at()).unwrap_err().to_string().contains("no list is known for this endpoint"));
}

#[test]
fn the_list_follows_from_the_endpoint_and_the_first_that_has_the_model_holds() {
    let of = |endpoint| list_of(endpoint);
    assert_eq!(of("https://api.openai.com/v1").as_deref(), Some("openai"));
    assert_eq!(of("https://openrouter.ai/api/v1").as_deref(), Some("openrouter"));
    assert_eq!(of("http://10.0.0.7:8000/v1"), None);
    let m = 1_000_000;
    let price = |model, usage: Usage| super::cost(&lists(&REPLAYED), model, &usage, at()).unwrap().to_string();
    // gpt-4o: 2.5 in, 1.25 from the cache, 10 out, USD per million.
    assert_eq!(price("gpt-4o", Usage { input: m, ..Usage::default() }), "2.5");
    assert_eq!(price("gpt-4o", Usage { cache_read: m, ..Usage::default() }), "1.25");
    assert_eq!(price("gpt-4o", Usage { output: m, ..Usage::default() }), "10");
    // openai does not have it, openrouter has it as qwen/qwen3-coder-plus: 0.65 in, 3.25 out.
    for name in ["qwen3-coder-plus", "qwen/qwen3-coder-plus"] {
        assert_eq!(price(name, Usage { output: m, ..Usage::default() }), "3.25", "{name}");
    }
    assert!(super::cost(&lists(&["openrouter"]), "qwen3-coder-unheard-of", &Usage::default(), at()).is_err());
}

#[test]
fn the_recorded_source_is_the_linked_one() {
    let (name, version) = SOURCE.split_once(' ').unwrap();
    let lock = include_str!("../../../Cargo.lock");
    assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{SOURCE} is not what Cargo.lock says");
}
