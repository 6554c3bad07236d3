//! `autovibe approvals`, `approve` and `deny`: the tool calls that wait for a person, and the person's word.

use super::{Context, Output, client::Client, print, resource};
use crate::api::Kind;
use crate::api::approval::{Approval, ApprovalPhase, Decision};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Lists the tool calls that wait for a person
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only those of this Machine
    machine: Option<String>,
    /// Also those that were decided, or expired
    #[arg(long)]
    all: bool,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

/// Lets an agent make the one tool call that an Approval is for
#[derive(Debug, clap::Args)]
pub(super) struct Approve {
    /// The Approval
    name: String,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// Refuses a tool call; the agent is told so, and goes on without it
#[derive(Debug, clap::Args)]
pub(super) struct Deny {
    /// The Approval
    name: String,
    /// Why, for the agent to read
    #[arg(long)]
    reason: Option<String>,
}

impl List {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let namespace = (!self.all_namespaces).then_some(client.namespace.as_str());
        let mut list = client.get(&resource::our::<Approval>(namespace, None)).await?;
        let machine = self.machine.as_ref().map(|name| name.strip_prefix("machine/").unwrap_or(name));
        if let Some(items) = list["items"].as_array_mut() {
            items.retain(|item| self.all || item["status"]["phase"].as_str().is_none_or(|phase| phase == "Pending"));
            items.retain(|item| machine.is_none_or(|name| item["spec"]["machine"] == name));
        }
        if let Some(output @ (Output::Json | Output::Yaml)) = context.options.output {
            print::out(&print::document(&list, output)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let items = list["items"].as_array().into_iter().flatten().map(read).collect::<anyhow::Result<Vec<_>>>()?;
        if items.is_empty() {
            eprintln!("Nothing {}.", if self.all { "was asked for" } else { "waits for you" });
            return Ok(ExitCode::SUCCESS);
        }
        print::out(&items.iter().map(|item| described(item, self.all_namespaces)).collect::<Vec<_>>().join("\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// An Approval with all that a person needs to decide it.
fn described(approval: &Approval, with_namespace: bool) -> String {
    let spec = &approval.spec;
    let place = if with_namespace { format!("{}/", approval.namespace()) } else { String::new() };
    let state = match approval.phase() {
        ApprovalPhase::Pending => {
            format!("waits {} more, then {:?}", print::span(print::between(print::now(), spec.expires_at.0)), spec.on_timeout)
        }
        phase => outcome(approval).unwrap_or_else(|| format!("{phase:?}")),
    };
    let checkpoint = spec.checkpoint.as_ref().map(|name| format!("; the state before it is checkpoint {name}")).unwrap_or_default();
    let mut lines = vec![
        format!("{place}{}  {state}", approval.name()),
        format!("  machine {}, tool {}: {}{checkpoint}", spec.machine, spec.tool, spec.rule),
    ];
    lines.extend(spec.asks.lines().map(|line| format!("  | {line}")));
    print::printable(&(lines.join("\n") + "\n"))
}

/// `approved by alice: looks good`; `None` while nobody decided.
fn outcome(approval: &Approval) -> Option<String> {
    let who = approval.status.as_ref()?.decided_by.clone()?;
    let reason = approval.spec.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Some(format!("{} by {who}{reason}", format!("{:?}", approval.phase()).to_lowercase()))
}

impl Approve {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        decide(context, &self.name, Decision::Approved, self.reason.as_deref()).await
    }
}

impl Deny {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        decide(context, &self.name, Decision::Denied, self.reason.as_deref()).await
    }
}

async fn decide(context: &Context, name: &str, decision: Decision, reason: Option<&str>) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let name = name.strip_prefix("approval/").unwrap_or(name);
    let approval = find(&client, name).await?;
    if let Some(outcome) = outcome(&approval) {
        if approval.spec.decision == Some(decision) {
            print::out(&print::printable(&format!("approval/{name} was {outcome}\n")))?;
            return Ok(ExitCode::SUCCESS);
        }
        bail!("approval/{name} was {outcome}; what was decided stays, the agent asks again when it makes the call again");
    }
    let mut spec = json!({ "decision": decision });
    if let Some(reason) = reason {
        spec["reason"] = reason.into();
    }
    let decided = client.merge(&resource::our::<Approval>(Some(&client.namespace), Some(name)), &json!({ "spec": spec })).await?;
    if let Some(output @ (Output::Json | Output::Yaml)) = context.options.output {
        print::out(&print::document(&decided, output)?)?;
    } else {
        let words = format!("{decision:?}").to_lowercase();
        let asks = print::shorten(&approval.spec.asks, 80);
        print::out(&print::printable(&format!("approval/{name} {words}: {asks}\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn find(client: &Client, name: &str) -> anyhow::Result<Approval> {
    match client.find(&resource::our::<Approval>(Some(&client.namespace), Some(name))).await? {
        Some(found) => read(&found),
        None => bail!("there is no approval {name} in namespace {}; see `autovibe approvals --all`", client.namespace),
    }
}

fn read(object: &Value) -> anyhow::Result<Approval> {
    serde_json::from_value(object.clone()).context("the Approval has a form that this version does not know")
}
