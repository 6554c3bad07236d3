use super::*;
use serde_json::json;

fn seen<'a>(session: Option<&'a str>, agent: Option<&'a str>, has_tools: bool, messages: &'a [Value]) -> Seen<'a> {
    Seen { session, agent, has_tools, messages }
}

fn main_context() -> Context {
    Context { session: "s".into(), part: Part::Main }
}
fn sub(id: &str) -> Context {
    Context { session: "s".into(), part: Part::Sub(id.into()) }
}

#[test]
fn requests_are_told_apart_as_recorded() {
    let of = |session, agent, tools| context(&seen(session, agent, tools, &[])).part;
    assert_eq!(of(Some("s"), None, true), Part::Main);
    assert_eq!(of(Some("s"), None, false), Part::Side);
    assert_eq!(of(Some("s"), Some("ab12"), true), Part::Sub("ab12".into()));
    assert_eq!(of(None, None, false), Part::Main, "a plain program's requests are its conversation");
}

#[test]
fn a_boundary_is_a_prompt_or_a_set_of_results() {
    let user = |content| json!({"role": "user", "content": content});
    let at = |messages: &[Value]| boundary(&main_context(), messages);
    assert_eq!(at(&[user(json!("do it"))]), Some(Boundary::Prompt));
    let results =
        json!([{"type": "tool_result", "tool_use_id": "a"}, {"type": "tool_result", "tool_use_id": "b"}, {"type": "text", "text": "x"}]);
    let note = json!({"role": "system", "content": "a reminder"});
    assert_eq!(at(&[user(results.clone()), note]), Some(Boundary::Results(vec!["a".into(), "b".into()])));
    assert_eq!(at(&[user(json!("do it")), json!({"role": "assistant", "content": "I"})]), None, "a prefilled answer goes on");
    assert_eq!(at(&[]), None);
    assert_eq!(boundary(&Context { part: Part::Side, ..main_context() }, &[user(results)]), None);
}

#[test]
fn an_equal_body_is_a_repeat_until_another_came() {
    let mut contexts = Contexts::default();
    assert!(!contexts.request(&main_context(), "1"));
    assert!(contexts.request(&main_context(), "1"));
    assert!(!contexts.request(&sub("x"), "1"), "another context has its own");
    assert!(!contexts.request(&main_context(), "2"));
    assert!(!contexts.request(&main_context(), "1"));
    let mut restarted = Contexts::default();
    restarted.resume(main_context(), "1".into());
    assert!(restarted.request(&main_context(), "1"));
}

#[test]
fn quiescent_is_when_nothing_acts_but_the_wait_for_sub_agents() {
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let mut contexts = Contexts::default();
    contexts.request(&main_context(), "1");
    assert!(contexts.quiescent());
    contexts.answered(&main_context(), names(&["Bash"]));
    assert!(!contexts.quiescent(), "its tool runs");
    contexts.request(&main_context(), "2");
    contexts.answered(&main_context(), names(&["Agent", "Agent"]));
    contexts.request(&sub("x"), "3");
    contexts.request(&sub("y"), "4");
    assert!(contexts.quiescent(), "both sub-agents wait for the model");
    contexts.answered(&sub("x"), names(&["Write"]));
    assert!(!contexts.quiescent());
    contexts.answered(&sub("x"), names(&[]));
    assert!(contexts.quiescent(), "it ended");
    contexts.answered(&main_context(), names(&["Agent", "Write"]));
    assert!(!contexts.quiescent());
}
