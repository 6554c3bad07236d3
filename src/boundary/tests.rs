use super::*;
use serde_json::json;

fn main_context() -> Context {
    Context { session: "s".into(), part: Part::Main }
}
fn sub(id: &str) -> Context {
    Context { session: "s".into(), part: Part::Sub(id.into()) }
}

#[test]
fn requests_are_told_apart_as_recorded() {
    use AgentType::{Aider, ClaudeCode, Command, QwenCode};
    let of = |program, session, agent, has_tools, stream| context(&Seen { program, session, agent, has_tools, stream }).part;
    assert_eq!(of(ClaudeCode, Some("s"), None, true, true), Part::Main);
    assert_eq!(of(ClaudeCode, Some("s"), None, false, true), Part::Side);
    assert_eq!(of(ClaudeCode, Some("s"), Some("ab12"), true, true), Part::Sub("ab12".into()));
    assert_eq!(of(ClaudeCode, Some("s"), None, true, false), Part::Main, "the repeat of a broken stream");
    assert_eq!(of(Command, None, None, false, false), Part::Main, "a plain program's requests are its conversation");
    assert_eq!(of(Command, Some("s"), None, false, true), Part::Side, "it runs Claude Code");
    assert_eq!(of(QwenCode, None, None, true, true), Part::Main);
    assert_eq!(of(QwenCode, None, None, false, true), Part::Side);
    assert_eq!(of(Aider, None, None, false, true), Part::Main);
    assert_eq!(of(Aider, None, None, false, false), Part::Side, "a commit message");
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

/// Requests as the programs were seen to send them, their texts shortened.
#[test]
fn the_boundaries_of_recorded_requests_are_found() {
    use crate::llm::{Protocol, request::Request};
    let system = json!({"role": "system", "content": "You are an agent"});
    let user = |text: &str| json!({"role": "user", "content": [{"type": "text", "text": text}]});
    let assistant = |text: &str| json!({"role": "assistant", "content": text});
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "write_file", "arguments": "{}"}});
    let calls =
        |ids: &[&str]| json!({"role": "assistant", "content": null, "tool_calls": ids.iter().map(|id| call(id)).collect::<Vec<_>>()});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": "done"}]});
    let qwen = [system.clone(), user("This is the Qwen Code."), assistant("Got it. Thanks for the context!"), user("write a program")];
    let aider = [
        system.clone(),
        json!({"role": "user", "content": "I am not sharing any files that you can edit yet."}),
        assistant("Ok."),
        json!({"role": "user", "content": "create hello.py"}),
        json!({"role": "system", "content": "# *SEARCH/REPLACE block* Rules"}),
    ];
    let commit = [system, json!({"role": "user", "content": "# Diffs: +print(1)"})];
    let results = |ids: &[&str]| Some(Boundary::Results(ids.iter().map(|id| (*id).to_owned()).collect()));
    let check = |program, more: Value, messages: &[&[Value]], part: Part, expected: Option<Boundary>| {
        let mut body = json!({"model": "m", "messages": messages.concat()});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = Request::parse(Protocol::Chat, body.to_string().into(), false).unwrap();
        let seen = Seen { program, session: None, agent: None, has_tools: request.has_tools(), stream: request.stream };
        let context = context(&seen);
        assert_eq!((&context.part, boundary(&context, request.messages())), (&part, expected), "{body}");
    };
    let tools = json!({"stream": true, "tools": [{"type": "function", "function": {"name": "write_file"}}]});
    let stream = json!({"stream": true});
    let one = [calls(&["call_1"]), result("call_1")];
    let two = [calls(&["call_2", "call_3"]), result("call_2"), result("call_3")];
    check(AgentType::QwenCode, tools.clone(), &[&qwen], Part::Main, Some(Boundary::Prompt));
    check(AgentType::QwenCode, tools.clone(), &[&qwen, &one], Part::Main, results(&["call_1"]));
    check(AgentType::QwenCode, tools.clone(), &[&qwen, &one, &two], Part::Main, results(&["call_2", "call_3"]));
    check(AgentType::QwenCode, tools, &[&qwen, &one, &[assistant("All done."), user("go on")]], Part::Main, Some(Boundary::Prompt));
    check(AgentType::QwenCode, stream.clone(), &[&qwen, &one], Part::Side, None);
    check(AgentType::Aider, stream.clone(), &[&aider], Part::Main, Some(Boundary::Prompt));
    check(AgentType::Aider, json!({}), &[&commit], Part::Side, None);
    check(AgentType::Command, stream, &[&qwen, &one], Part::Main, results(&["call_1"]));
}
