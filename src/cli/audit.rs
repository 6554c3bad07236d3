//! `autovibe audit`: asks a Hub for an audit, waits for it and shows what does not agree.

use super::{Context, Output, client::Client, print, resource};
use crate::api::hub::{AUDIT, Audit, COLLECT};
use crate::api::{DEFAULT_HUB, Hub};
use crate::clock::Clock;
use anyhow::{Context as _, bail};
use serde_json::json;
use std::{process::ExitCode, time::Duration};

/// How often it looks whether it is done.
const LOOK: Duration = Duration::from_millis(200);

/// Compares what is in the pool and in Proxmox with what the objects say, and changes nothing unless told to collect. Exit code 1
/// when something does not agree.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The Hub
    #[arg(default_value = DEFAULT_HUB)]
    hub: String,
    /// Destroy the snapshots and disks that this installation made and no object stands for, of those that the last audit named
    #[arg(long)]
    collect: bool,
    /// Give up after so many seconds; the audit goes on, and is then shown by `autovibe get hub HUB -o yaml`
    #[arg(long, default_value_t = 600)]
    timeout: u32,
}

impl Run {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let name = self.hub.strip_prefix("hub/").unwrap_or(&self.hub);
        let audit = ask(&context.client()?, name, self.collect, Duration::from_secs(self.timeout.into())).await?;
        if let Some(output @ (Output::Json | Output::Yaml)) = context.options.output {
            print::out(&print::document(&serde_json::to_value(&audit)?, output)?)?;
        } else {
            print::out(&print::printable(&text(name, &audit)))?;
        }
        Ok(if audit.message.is_none() && audit.found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Asks for an audit and waits for it.
pub(super) async fn ask(client: &Client, name: &str, collect: bool, timeout: Duration) -> anyhow::Result<Audit> {
    let path = resource::our::<Hub>(None, Some(name));
    if client.find(&path).await?.is_none() {
        bail!("there is no hub {name}; see `autovibe get hubs`");
    }
    let clock = Clock::system();
    let (asked, begun) = (clock.now().to_string(), tokio::time::Instant::now());
    let collects = collect.then_some(&asked);
    let mut document = client.merge(&path, &json!({"metadata": {"annotations": {AUDIT: asked, COLLECT: collects}}})).await?;
    loop {
        let hub: Hub = serde_json::from_value(document).context("the Hub has a form that this version does not know")?;
        let status = hub.status.unwrap_or_default();
        if let Some(audit) = status.audit.filter(|audit| audit.asked.as_ref() == Some(&asked)) {
            return Ok(audit);
        }
        if begun.elapsed() > timeout {
            let why = status.message.map(|message| format!(": {message}")).unwrap_or_default();
            bail!("hub/{name} was not audited within {} s{why}; does a hub or a controller run?", timeout.as_secs());
        }
        clock.sleep(LOOK).await;
        document = client.get(&path).await?;
    }
}

fn text(hub: &str, audit: &Audit) -> String {
    if let Some(why) = &audit.message {
        return format!("hub/{hub} could not be audited: {why}\n");
    }
    let collected: String = audit.collected.iter().map(|name| format!("{name} was destroyed\n")).collect();
    let looked = format!("{} datasets, {} snapshots and {} VMs were looked at", audit.datasets, audit.snapshots, audit.vms);
    if audit.found == 0 {
        return format!("{collected}hub/{hub}: all agrees; {looked}\n");
    }
    let header = ["FINDING", "WHAT", "MESSAGE"].map(str::to_owned);
    let row = |finding: &crate::api::hub::Finding| vec![format!("{:?}", finding.kind), finding.name.clone(), finding.message.clone()];
    let rows: Vec<Vec<String>> = audit.findings.iter().map(row).collect();
    let rest = usize::try_from(audit.found).unwrap_or_default().saturating_sub(rows.len());
    let more = if rest > 0 { format!("… and {rest} more\n") } else { String::new() };
    let changed = if collected.is_empty() { "; nothing was changed" } else { "" };
    format!("{collected}{}{more}\nhub/{hub}: {} things do not agree; {looked}{changed}\n", print::columns(&header, &rows), audit.found)
}
