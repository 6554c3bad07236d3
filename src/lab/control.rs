//! `/lab/…`: what only a lab can do, for scripts and tests: faults by rule, and the power of nodes. No Proxmox has it.
//!
//! It takes the lab's own token, or one of `root@pam`.

use super::{
    answer::{Answer, Refusal},
    cluster::Cluster,
    fault::{Fault, Rule, Which},
    node::TOKEN_ID,
    permission::ROOT,
    schema,
    server::{self, Caller},
    simulated,
};
use crate::api::quantity::GoDuration;
use hyper::Request;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// A rule as it is written: which calls, and what goes wrong with them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Script {
    /// `POST /nodes/*/qemu`, or `zfs snapshot`; `*` stands for one part of the path.
    call: String,
    /// The first such call that it is for.
    #[serde(default = "one")]
    nth: u64,
    /// How many in a row.
    #[serde(default = "one")]
    times: u64,
    fault: What,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum What {
    #[serde(rename_all = "camelCase")]
    Fail {
        status: u16,
        text: String,
    },
    Delay(GoDuration),
    DropReply,
    Hang,
    HangTask,
    #[serde(rename_all = "camelCase")]
    Kill {
        node: String,
        #[serde(default)]
        back: Option<GoDuration>,
    },
}

fn one() -> u64 {
    1
}

impl Script {
    /// The rule that it means. Errors: the field that is wrong, and what it may be.
    pub(super) fn rule(&self, nodes: &[String]) -> Result<Rule, (&'static str, String)> {
        let wrong = |field, why: String| Err((field, why));
        let Some((method, path)) = self.call.split_once(' ') else {
            return wrong("call", format!("`{}` is no call; write `POST /nodes/*/qemu` or `zfs snapshot`", self.call));
        };
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if method == "zfs" {
            if !simulated::socket::VERBS.contains(&path) {
                return wrong("call", format!("`{path}` is none of {}", simulated::socket::VERBS.join(", ")));
            }
        } else if !schema::serves(method, &parts) {
            return wrong(
                "call",
                format!("the lab serves no call like `{}`; see the paths of the Proxmox API below /api2/json", self.call),
            );
        }
        if self.nth == 0 || self.times == 0 {
            return wrong(if self.nth == 0 { "nth" } else { "times" }, "counts from 1".into());
        }
        let fault = match &self.fault {
            What::Fail { status, .. } if !(400..=599).contains(status) => {
                return wrong("fault.fail.status", format!("{status} is no failure; Proxmox answers 400 to 599"));
            }
            What::Kill { node, .. } if !nodes.contains(node) => {
                return wrong("fault.kill.node", format!("there is no node `{node}`; the nodes are {}", nodes.join(", ")));
            }
            What::Fail { status, text } => Fault::Fail { status: *status, text: text.clone() },
            What::Delay(time) => Fault::Delay(time.0),
            What::DropReply => Fault::DropReply,
            What::Hang => Fault::Hang,
            What::HangTask => Fault::HangTask,
            What::Kill { node, back } => Fault::Kill { node: node.clone(), back: back.map(|time| time.0) },
        };
        let which = Which::Path { method: method.to_owned(), parts };
        Ok(Rule { which, nth: self.nth, times: self.times, fault, seen: 0, fired: 0 })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Power {
    /// `on` or `off`.
    power: String,
    /// When it comes back by itself.
    back: Option<GoDuration>,
}

/// Answers one call.
pub(super) async fn answer<B: Caller>(cluster: &Arc<Cluster>, request: Request<B>, path: &[&str]) -> Answer {
    let who = server::authenticate(cluster, request.method(), request.headers()).await?;
    if who.user != ROOT && who.id() != TOKEN_ID {
        return Err(Refusal::Text(403, format!("only {TOKEN_ID} and tokens of {ROOT} may script the lab")));
    }
    let method = request.method().as_str().to_owned();
    let body = server::body(request).await?;
    match (method.as_str(), path) {
        ("GET", ["faults"]) => Ok(cluster.faults.rules().iter().map(row).collect::<Value>().into()),
        ("POST", ["faults"]) => {
            let script: Script = read(&body)?;
            let rule = script.rule(&cluster.names()).map_err(|(field, why)| Refusal::parameter(field, why))?;
            cluster.faults.plant(rule);
            Ok(Value::Null.into())
        }
        ("DELETE", ["faults"]) => {
            cluster.faults.clear();
            Ok(Value::Null.into())
        }
        ("POST", ["nodes", name]) => {
            let Some(node) = cluster.node(name).filter(|node| node.name == *name) else {
                return Err(Refusal::Text(404, format!("there is no node `{name}`; the nodes are {}", cluster.names().join(", "))));
            };
            let wanted: Power = read(&body)?;
            match wanted.power.as_str() {
                "off" => cluster.kill(&node.name, wanted.back.map(|time| time.0)).await,
                "on" => cluster.revive(&node.name),
                other => return Err(Refusal::parameter("power", format!("`{other}` is neither `on` nor `off`"))),
            }
            Ok(Value::Null.into())
        }
        _ => Err(Refusal::Text(501, format!("Method '{method} /lab/{}' not implemented", path.join("/")))),
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut json).map_err(|error| Refusal::parameter(&error.path().to_string(), error.inner().to_string()))
}

/// What waits, and how often it came to pass.
fn row(rule: &Rule) -> Value {
    let call = match &rule.which {
        Which::Call(call) => format!("{call:?}"),
        Which::Path { method, parts } if method == "zfs" => format!("zfs {}", parts.join("/")),
        Which::Path { method, parts } => format!("{method} /{}", parts.join("/")),
    };
    json!({ "call": call, "nth": rule.nth, "times": rule.times, "fault": rule.fault.shown(), "seen": rule.seen, "fired": rule.fired })
}
