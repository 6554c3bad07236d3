//! One file per agent CLI: environment, start, resume, how it ends; and the scripts that a guest runs. Pure: text in, text out.

mod aider;
mod claude_code;
mod command;
mod qwen_code;
pub mod scripts;
#[cfg(test)]
mod tests;

use crate::api::checkpoint::Content;
use crate::api::machine::{AgentType, Machine};
use crate::wire::asks::MCP_PATH;
use std::collections::BTreeMap;

/// What a guest needs to start the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Counted from 1; above 1 it resumes.
    pub number: u32,
    /// For the runner alone: the agent must not read it.
    pub key: String,
    pub environment: BTreeMap<String, String>,
    pub argv: Vec<String>,
}

/// What the hub gives to a launch, beside the Machine itself.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Counted from 1.
    pub number: u32,
    /// URL of the gateway as the guest reaches it, without a trailing slash.
    pub gateway_url: &'a str,
    /// The key of the launch, for a runner; and the agent's token, which is made of it.
    pub key: &'a str,
    pub token: &'a str,
}

/// How the gateway's last main call of an agent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastCall {
    /// There was none.
    None,
    /// There was none, for the gateway passed none on; why.
    Unsent {
        why: String,
    },
    Open,
    /// Answered to its end.
    Settled {
        stop_reason: Option<String>,
    },
    /// Over the budget.
    Refused,
    /// The stream broke on our side or upstream.
    Cut,
    Failed {
        status: Option<u16>,
        /// What the agent was told, in words.
        why: Option<String>,
    },
}

/// What the end of an agent process means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Completed,
    BudgetExhausted,
    /// It ended through no fault of its own: launch it again, it resumes.
    Interrupted,
    /// Why, in words.
    Failed(String),
}

/// The environment and argv with which `machine`'s agent is launched.
pub fn launch(machine: &Machine, start: &Start<'_>) -> Launch {
    let agent = &machine.spec.agent;
    let mut environment: BTreeMap<String, String> = match agent.r#type {
        AgentType::ClaudeCode => claude_code::environment(agent),
        AgentType::QwenCode => qwen_code::environment(),
        AgentType::Aider => aider::environment(),
        AgentType::Command => BTreeMap::new(),
    };
    environment.insert("HOME".into(), HOME.into());
    environment.extend(agent.env.clone());
    // What follows is not the user's to change: it is how the agent reaches its hub, and nothing else does.
    let gateway = start.gateway_url.trim_end_matches('/');
    let openai = format!("{gateway}/v1");
    for (name, value) in [
        ("ANTHROPIC_BASE_URL", gateway),
        ("ANTHROPIC_API_BASE", gateway),
        ("ANTHROPIC_AUTH_TOKEN", start.token),
        ("OPENAI_BASE_URL", &openai),
        ("OPENAI_API_BASE", &openai),
        ("OPENAI_API_KEY", start.token),
        ("AUTOVIBE_GATEWAY", gateway),
        ("AUTOVIBE_TOKEN", start.token),
        ("AUTOVIBE_PROMPT", &machine.spec.goal.prompt),
        ("AUTOVIBE_CONTINUE", &go_on(machine)),
        ("AUTOVIBE_SESSION", &session(machine.metadata.uid.as_deref().unwrap_or_default())),
        ("AUTOVIBE_LAUNCH", &start.number.to_string()),
        ("AUTOVIBE_WORKSPACE", machine.workspace()),
    ] {
        environment.insert(name.into(), value.into());
    }
    environment.extend(proxy(machine, gateway, start.token));
    if !machine.spec.permissions.is_empty() {
        environment.insert("AUTOVIBE_MCP".into(), format!("{gateway}{MCP_PATH}"));
    }
    if agent.r#type == AgentType::Aider {
        // The only name by which it takes one; Claude Code would ask a person about it.
        environment.insert("ANTHROPIC_API_KEY".into(), start.token.into());
    }
    let argv = match agent.r#type {
        AgentType::ClaudeCode => claude_code::argv(machine),
        AgentType::QwenCode => qwen_code::argv(agent),
        AgentType::Aider => aider::argv(agent),
        AgentType::Command => command::argv(agent),
    };
    Launch { number: start.number, key: start.key.into(), environment, argv }
}

/// The way to hosts that the Machine may reach, for programs to find; none where it may reach none. The gateway itself is reached directly.
fn proxy(machine: &Machine, gateway: &str, token: &str) -> Vec<(String, String)> {
    let reaches = machine.spec.network.as_ref().is_some_and(|network| !network.egress.is_empty());
    let Some((scheme, rest)) = gateway.split_once("://").filter(|_| reaches) else { return Vec::new() };
    let authority = rest.split('/').next().unwrap_or_default();
    // Without its port, which not every program understands here.
    let host = match authority.strip_prefix('[').and_then(|six| six.split_once(']')) {
        Some((six, _)) => six,
        None => authority.split(':').next().unwrap_or_default(),
    };
    let (proxy, direct) = (format!("{scheme}://machine:{token}@{authority}"), format!("{host},localhost,127.0.0.1,::1"));
    // Programs agree on no spelling. Plain HTTP is not carried, so nothing is said of a proxy for it.
    let names: &[&str] = match machine.spec.agent.r#type {
        AgentType::QwenCode => &qwen_code::PROXY,
        AgentType::ClaudeCode | AgentType::Aider | AgentType::Command => &["HTTPS_PROXY", "https_proxy"],
    };
    let proxies = names.iter().map(|name| ((*name).to_owned(), proxy.clone()));
    proxies.chain(["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), direct.clone()))).collect()
}

/// What the end of the agent's process means; `exit_code` is `None` when the process vanished without one.
pub fn verdict(agent: AgentType, exit_code: Option<i32>, last: &LastCall) -> Verdict {
    match agent {
        AgentType::ClaudeCode => by_the_log(claude_code::NAME, exit_code, last),
        AgentType::QwenCode => by_the_log(qwen_code::NAME, exit_code, last),
        AgentType::Aider => by_the_log(aider::NAME, exit_code, last),
        AgentType::Command => command::verdict(exit_code, last),
    }
}

/// Judges by the gateway's log, as exit codes lie: Claude Code's is 1 for a refusal, a cut stream and a failure alike, those of the
/// others are 0.
fn by_the_log(name: &str, exit_code: Option<i32>, last: &LastCall) -> Verdict {
    match last {
        LastCall::Settled { stop_reason: Some(reason) } if reason == "end_turn" || reason == "stop_sequence" => Verdict::Completed,
        LastCall::Refused => Verdict::BudgetExhausted,
        LastCall::Cut | LastCall::Open => Verdict::Interrupted,
        // Answered, but the program ended before the next request: killed, or its turns are used up.
        LastCall::Settled { stop_reason } => match exit_code {
            None => Verdict::Interrupted,
            Some(code) => Verdict::Failed(format!(
                "{name} exited with code {code} after an answer that ended with {}",
                stop_reason.as_deref().unwrap_or("no stop reason")
            )),
        },
        LastCall::Failed { status, why } => {
            let status = status.map_or("no status".to_owned(), |status| format!("status {status}"));
            let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            Verdict::Failed(format!("the model provider answered with {status}{why}"))
        }
        LastCall::Unsent { why } => match exit_code {
            None => Verdict::Interrupted,
            Some(code) => Verdict::Failed(format!("{name} exited with code {code}: the gateway refused its request: {why}")),
        },
        LastCall::None => match exit_code {
            None => Verdict::Interrupted,
            Some(code) => Verdict::Failed(format!("{name} exited with code {code} before its first request")),
        },
    }
}

/// Where the agent's session files lie in the guest; empty when it keeps none.
pub fn session_files(agent: AgentType) -> &'static str {
    match agent {
        AgentType::ClaudeCode => claude_code::SESSION_FILES,
        AgentType::QwenCode => qwen_code::SESSION_FILES,
        AgentType::Aider | AgentType::Command => "",
    }
}

/// What a Machine's agent leaves in its guest, and where.
pub fn contents(machine: &Machine) -> Vec<(Content, String)> {
    let conversation = Some(session_files(machine.spec.agent.r#type)).filter(|directory| !directory.is_empty());
    let conversation = conversation.map(|directory| (Content::Conversation, directory.to_owned()));
    conversation.into_iter().chain([(Content::Workspace, machine.workspace().to_owned())]).collect()
}

/// The conversation's id: the same for every launch of a Machine, another for every Machine, so that a fork begins anew.
pub fn session(machine_uid: &str) -> String {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("autovibe:session:{machine_uid}").as_bytes()).to_string()
}

/// What the launch script reads: the key, in a line of its own, and the environment.
pub fn input(launch: &Launch) -> String {
    format!("{}\n{}", launch.key, exports(&launch.environment))
}

/// Lines `export K='v'` that a shell reads back as exactly this environment.
///
/// Names are legal by admission; one that is not is left out, a value loses its NUL bytes: no environment can carry them.
pub fn exports(environment: &BTreeMap<String, String>) -> String {
    let legal = |name: &str| {
        !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    environment.iter().filter(|(name, _)| legal(name)).map(|(name, value)| format!("export {name}={}\n", quote(value))).collect()
}

/// `text` as one word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', r"'\''"))
}

const HOME: &str = "/home/agent";
/// What an agent is told that goes on, if nothing else happened.
const INTERRUPTED: &str = "Continue from where you left off: the connection was interrupted.";
/// What it is told in any case.
const GO_ON: &str = "Look at the present state of the files before you go on, then finish the goal.";

fn go_on(machine: &Machine) -> String {
    let told = machine.status.as_ref().and_then(|status| status.agent.as_ref()?.told.as_deref());
    format!("{} {GO_ON}", told.unwrap_or(INTERRUPTED))
}
