//! The ledger in a real store: reservations of a chain, their endings, and what a dead process leaves.

use crate::database::{Home, on_both};
use autovibe::{
    api::quantity::NanoUsd,
    budget::{Demand, Level},
    clock::Clock,
    ledger::{Account, Actual, LEASE, Ledger, Usage},
    store::{CallEnd, CallKind, CallState, NewCall, NewMessage, Store},
};

use std::time::Duration;

const DOLLAR: i64 = 1_000_000_000;

async fn open(home: &Home) -> (Store, Clock) {
    open_after(home, Duration::ZERO).await
}

/// As [`open`], so much later.
async fn open_after(home: &Home, later: Duration) -> (Store, Clock) {
    let start = jiff::Timestamp::from_second(1_795_000_000).unwrap();
    (home.open().await, Clock::simulated(start + later))
}

fn call(id: &str) -> NewCall {
    NewCall {
        id: id.into(),
        machine_uid: "m".into(),
        kind: CallKind::Main,
        session: "s".into(),
        turn: 1,
        body_hash: "h".into(),
        provider: "anthropic".into(),
        model: "claude-sonnet-4-5".into(),
        price_source: "test 1".into(),
    }
}

fn chain(company: i64, machine: i64) -> Vec<Account> {
    let account = |id: &str, limit: i64| Account {
        id: id.into(),
        level: Level { name: id.into(), remedy: format!("limits of {id}"), money: Some(NanoUsd(limit * DOLLAR)), api_calls: None },
    };
    vec![account("budget/b", company), account("machine/m", machine)]
}

fn dollars(amount: i64) -> Demand {
    Demand { fixed: NanoUsd(amount * DOLLAR), per_token: NanoUsd(0), wanted: 1, floor: 1 }
}

fn actual(cost: i64) -> Actual {
    Actual { cost: NanoUsd(cost), tokens_in: 10, tokens_out: 5 }
}

/// Sums agree with entries, and the leaf with the payee.
async fn assert_books_balance(store: &Store) {
    for account in ["budget/b", "machine/m", "provider/anthropic"] {
        assert_eq!(store.balance(account).await.unwrap(), store.audit(account).await.unwrap(), "{account}");
    }
    let (leaf, payee) = (store.audit("machine/m").await.unwrap(), store.audit("provider/anthropic").await.unwrap());
    assert_eq!((leaf.money + payee.money, leaf.reserved + payee.reserved), (0, 0));
}

on_both! {
    concurrent_reservations_pass_exactly_as_far_as_the_tightest_account_allows,
    what_ends_together_is_posted_once_each,
    a_settle_above_the_worst_case_is_charged_in_full,
    what_a_dead_process_left_open_is_charged_and_a_late_settle_corrects_it,
    a_token_is_found_by_its_hash_until_it_is_revoked,
}

/// What comes at once is written at once: each ending counts once, with what was said in its call.
async fn what_ends_together_is_posted_once_each(home: Home) {
    let (store, clock) = open(&home).await;
    let ledger = Ledger::new(store.clone(), clock);
    let names: Vec<String> = (0..20).map(|i| format!("call-{i}")).collect();
    for reserved in futures::future::join_all(names.iter().map(|id| ledger.reserve(call(id), chain(50, 50), dollars(1)))).await {
        reserved.unwrap().unwrap();
    }
    let message = |id: &str| NewMessage {
        key: format!("call/{id}"),
        role: "assistant".into(),
        content: serde_json::json!([{ "type": "text", "text": format!("a \"quote\", \u{0}, \\u0000 and 'more' of {id}") }]),
    };
    let end =
        CallEnd { status: Some(200), stop_reason: Some("end\u{0}turn".into()), cost: Some(DOLLAR / 10), ..CallEnd::of(CallState::Settled) };
    let twice = names.iter().chain(&names);
    let settled = twice.map(|id| ledger.settle(id, actual(DOLLAR / 10), end.clone(), Some(message(id))));
    let released = names.iter().map(|id| ledger.release(id, CallEnd::of(CallState::Failed)));
    let (settled, released) = tokio::join!(futures::future::join_all(settled), futures::future::join_all(released));
    settled.into_iter().chain(released).for_each(Result::unwrap);
    assert!(ledger.release("none", CallEnd::of(CallState::Failed)).await.is_err(), "there is no such lease");
    let usage = ledger.usage("machine/m").await.unwrap();
    assert_eq!((usage.money.0, usage.reserved.0, usage.api_calls, usage.tokens_in), (2 * DOLLAR, 0, 20, 200));
    assert_books_balance(&store).await;
    let said = store.transcript("m", 0, 100).await.unwrap();
    let contents: Vec<_> = said.into_iter().map(|entry| (entry.role, entry.content)).collect();
    assert_eq!(contents, names.iter().map(|id| ("assistant".to_owned(), message(id).content)).collect::<Vec<_>>());
    let last = store.last_main_call("m").await.unwrap().unwrap();
    let stop_reason = last.stop_reason.as_deref();
    assert_eq!(
        (last.id.as_str(), last.state, last.status, stop_reason),
        ("call-19", CallState::Settled, Some(200), Some("end\u{FFFD}turn"))
    );
}

async fn concurrent_reservations_pass_exactly_as_far_as_the_tightest_account_allows(home: Home) {
    let (store, clock) = open(&home).await;
    let ledger = Ledger::new(store.clone(), clock);
    let names: Vec<String> = (0..100).map(|i| format!("call-{i}")).collect();
    let results = futures::future::join_all(names.iter().map(|id| ledger.reserve(call(id), chain(3, 50), dollars(1)))).await;
    let passed: Vec<_> = results.iter().zip(&names).filter(|(r, _)| r.as_ref().unwrap().is_ok()).map(|(_, id)| id).collect();
    assert_eq!(passed.len(), 3);
    assert!(
        results.iter().filter_map(|r| r.as_ref().unwrap().as_ref().err()).all(|refusal| refusal.passing && refusal.level == "budget/b")
    );
    for account in ["budget/b", "machine/m"] {
        let usage = ledger.usage(account).await.unwrap();
        assert_eq!((usage.money.0, usage.reserved.0, usage.api_calls), (0, 3 * DOLLAR, 3), "{account}");
    }
    ledger.settle(passed[0], actual(DOLLAR / 5), CallEnd::of(CallState::Settled), None).await.unwrap();
    ledger.release(passed[1], CallEnd::of(CallState::Failed)).await.unwrap();
    // Repeated endings change nothing.
    ledger.release(passed[0], CallEnd::of(CallState::Failed)).await.unwrap();
    ledger.settle(passed[1], actual(DOLLAR), CallEnd::of(CallState::Settled), None).await.unwrap();
    let usage = ledger.usage("budget/b").await.unwrap();
    assert_eq!(usage, Usage { money: NanoUsd(DOLLAR / 5), reserved: NanoUsd(DOLLAR), api_calls: 2, tokens_in: 10, tokens_out: 5 });
    assert_books_balance(&store).await;
}

async fn a_settle_above_the_worst_case_is_charged_in_full(home: Home) {
    let (store, clock) = open(&home).await;
    let ledger = Ledger::new(store.clone(), clock);
    ledger.reserve(call("a"), chain(3, 1), dollars(1)).await.unwrap().unwrap();
    ledger.settle("a", actual(2 * DOLLAR), CallEnd::of(CallState::Settled), None).await.unwrap();
    assert_eq!(ledger.usage("machine/m").await.unwrap().money.0, 2 * DOLLAR);
    let refusal = ledger.reserve(call("b"), chain(3, 1), dollars(1)).await.unwrap().unwrap_err();
    assert!(!refusal.passing);
    assert_eq!(store.last_main_call("m").await.unwrap().unwrap().state, CallState::Refused);
    assert_books_balance(&store).await;
}

async fn what_a_dead_process_left_open_is_charged_and_a_late_settle_corrects_it(home: Home) {
    let (store, clock) = open(&home).await;
    let ledger = Ledger::new(store.clone(), clock);
    ledger.reserve(call("a"), chain(9, 9), dollars(2)).await.unwrap().unwrap();
    drop(ledger);
    store.close().await;

    if !home.is_sqlite() {
        // It may be another one's, that lives.
        let (store, clock) = open(&home).await;
        assert_eq!(Ledger::new(store, clock).recover().await.unwrap(), 0);
    }
    let later = if home.is_sqlite() { Duration::ZERO } else { LEASE + Duration::from_secs(1) };
    let (store, clock) = open_after(&home, later).await;
    let ledger = Ledger::new(store.clone(), clock);
    assert_eq!(ledger.recover().await.unwrap(), 1);
    assert_eq!(ledger.recover().await.unwrap(), 0);
    let usage = ledger.usage("budget/b").await.unwrap();
    assert_eq!((usage.money.0, usage.reserved.0), (2 * DOLLAR, 0));
    assert_eq!(store.last_main_call("m").await.unwrap().unwrap().state, CallState::Cut);
    ledger.settle("a", actual(DOLLAR / 2), CallEnd::of(CallState::Settled), None).await.unwrap();
    assert_eq!(ledger.usage("budget/b").await.unwrap().money.0, DOLLAR / 2);
    assert_books_balance(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_lives_as_long_as_it_is_renewed() {
    // Paused time and a server's socket do not go together.
    let home = Home::sqlite();
    let (store, clock) = open(&home).await;
    let ledger = Ledger::new(store.clone(), clock.clone());
    for id in ["kept", "left"] {
        ledger.reserve(call(id), chain(9, 9), dollars(1)).await.unwrap().unwrap();
    }
    clock.sleep(LEASE * 2 / 3).await;
    ledger.renew("kept").await.unwrap();
    clock.sleep(LEASE * 2 / 3).await;
    ledger.reserve(call("next"), chain(9, 9), dollars(1)).await.unwrap().unwrap();
    let usage = ledger.usage("machine/m").await.unwrap();
    assert_eq!((usage.money.0, usage.reserved.0), (DOLLAR, 2 * DOLLAR), "`left` is charged, `kept` and `next` are held");
    assert_books_balance(&store).await;
}

async fn a_token_is_found_by_its_hash_until_it_is_revoked(home: Home) {
    let (store, _) = open(&home).await;
    let put = |hash: &'static str| {
        let store = store.clone();
        async move {
            store.write(move |t| Box::pin(async move { t.put_token(hash, "uid", "shop", "m").await })).await
                as Result<(), autovibe::store::Error>
        }
    };
    put("one").await.unwrap();
    put("two").await.unwrap();
    assert_eq!(store.find_token("two").await.unwrap().unwrap().name, "m");
    assert_eq!(store.find_token("' OR 1=1 --").await.unwrap(), None);
    // Of each family the first address stays.
    for (address, is_ipv4, known) in
        [("10.0.0.7", true, "10.0.0.7"), ("10.0.0.8", true, "10.0.0.7"), ("2001:db8::/64", false, "2001:db8::/64")]
    {
        let bound = store.write(move |t| Box::pin(async move { t.bind_token("two", address, is_ipv4).await })).await;
        assert_eq!((bound as Result<String, autovibe::store::Error>).unwrap(), known);
    }
    let bound = store.find_token("two").await.unwrap().unwrap();
    assert_eq!((bound.ipv4.as_deref(), bound.ipv6.as_deref()), (Some("10.0.0.7"), Some("2001:db8::/64")));
    assert_eq!(store.find_token("one").await.unwrap().unwrap().ipv4, None);
    let revoked: Result<(), autovibe::store::Error> = store.write(|t| Box::pin(async move { t.revoke_tokens("uid").await })).await;
    revoked.unwrap();
    assert_eq!(store.find_token("one").await.unwrap(), None);
}
