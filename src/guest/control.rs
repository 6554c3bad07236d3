//! Claude Code's control channel: JSON lines. Measured with version 2.1.197. Pure, but for the look at the session's file.

use crate::wire::runner::{ToolAnswer, ToolQuestion};
use serde_json::{Value, json};
use std::path::Path;

/// What asks first, whatever rules the project or the user have: an `ask` goes before an `allow`.
const ASK: &str = r#"{"permissions":{"ask":["Bash"]}}"#;

/// A line of the program.
pub(super) enum Said {
    /// May this tool run?
    Asks { request: String, question: ToolQuestion },
    /// The turn has begun. `asks`: with a question before each tool.
    Begins { asks: bool },
    /// The turn has ended.
    Result,
    /// Something else of the channel.
    Control,
    /// For those who read the log.
    Other,
}

pub(super) fn read(line: &str) -> Said {
    let Ok(said) = serde_json::from_str::<Value>(line) else { return Said::Other };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match (said["type"].as_str(), said["subtype"].as_str()) {
        (Some("control_request"), _) if said["request"]["subtype"] == "can_use_tool" => {
            let request = &said["request"];
            let question =
                ToolQuestion { tool: text(&request["tool_name"]), input: request["input"].clone(), id: text(&request["tool_use_id"]) };
            Said::Asks { request: text(&said["request_id"]), question }
        }
        (Some(kind), _) if kind.starts_with("control_") => Said::Control,
        (Some("system"), Some("init")) => Said::Begins { asks: said["permissionMode"] == "default" },
        (Some("result"), _) => Said::Result,
        _ => Said::Other,
    }
}

/// A user's turn.
pub(super) fn turn(prompt: &str) -> String {
    format!("{}\n", json!({ "type": "user", "message": { "role": "user", "content": prompt } }))
}

/// The answer to a question. Only an allowance lets the tool run.
pub(super) fn answer(request: &str, question: &ToolQuestion, answer: &ToolAnswer) -> String {
    let ruling = match answer {
        ToolAnswer::Allow => json!({ "behavior": "allow", "updatedInput": question.input }),
        ToolAnswer::Deny { words } => json!({ "behavior": "deny", "message": words }),
        ToolAnswer::Wait => json!({ "behavior": "deny", "message": "autovibe: nobody could be asked" }),
    };
    let response = json!({ "subtype": "success", "request_id": request, "response": ruling });
    format!("{}\n", json!({ "type": "control_response", "response": response }))
}

/// Flags with which the program speaks the channel.
pub(super) fn flags(session: &str, resumes: bool) -> Vec<String> {
    let session = [if resumes { "--resume" } else { "--session-id" }, session];
    let channel = ["--input-format", "stream-json", "--permission-prompt-tool", "stdio", "--permission-mode", "default", "--settings", ASK];
    ["-p"].into_iter().chain(session).chain(channel).map(str::to_owned).collect()
}

/// Whether the session was begun on this disk, as `scripts/claude.sh` looks.
pub(super) fn is_begun(home: &Path, session: &str) -> bool {
    let projects = std::fs::read_dir(home.join(".claude/projects")).into_iter().flatten().filter_map(Result::ok);
    let mut files = projects.map(|project| project.path().join(format!("{session}.jsonl")));
    files.any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains(r#""type":"user""#)))
}
