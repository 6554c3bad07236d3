//! `autovibe retention`: which checkpoints are kept and why, and which of them go; a look ahead that changes nothing.

use super::{Context, Output, lineage, print};
use crate::api::Kind;
use crate::lineage::{Kept, Lineage};
use serde_json::{Value, json};
use std::{collections::BTreeSet, process::ExitCode};

/// Shows which checkpoints are kept and why, and which of them go. Changes nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The Machines, which may be gone; default: all of the namespace
    machines: Vec<String>,
}

impl Show {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let (machines, checkpoints) = lineage::read(&client, Some(&client.namespace)).await?;
        let (lineage, now) = (Lineage::new(&checkpoints, &machines), print::now());
        let owners: BTreeSet<&str> = checkpoints.iter().filter_map(|checkpoint| checkpoint.spec.machine.as_deref()).collect();
        let named = |owner: &&str| self.machines.iter().any(|name| name.strip_prefix("machine/").unwrap_or(name) == *owner);
        let wanted = owners.into_iter().filter(|owner| self.machines.is_empty() || named(owner));
        let rows: Vec<Value> = wanted
            .flat_map(|owner| lineage.judge(owner, now).into_iter().map(move |judged| (owner, judged)))
            .map(|(owner, judged)| {
                let kept: Vec<String> = judged.kept.iter().map(Kept::to_string).collect();
                json!({ "checkpoint": judged.checkpoint.name(), "machine": owner, "kept": kept, "goes": kept.is_empty(), "over": judged.over })
            })
            .collect();
        match context.options.output {
            Some(output @ (Output::Json | Output::Yaml)) => print::out(&print::document(&Value::from(rows), output)?)?,
            _ if rows.is_empty() => eprintln!("No checkpoints of Machines in namespace {}.", client.namespace),
            _ => print::out(&print::printable(&table(&rows)))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(rows: &[Value]) -> String {
    let header = ["CHECKPOINT", "MACHINE", "KEPT AS"].map(str::to_owned);
    let why = |row: &Value| match row["kept"].as_array() {
        Some(kept) if !kept.is_empty() => kept.iter().map(print::cell).collect::<Vec<_>>().join("; "),
        _ if row["over"] == true => "nothing that maxBytes leaves room for: it goes".into(),
        _ => "nothing: it goes".into(),
    };
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| vec![print::cell(&row["checkpoint"]), print::cell(&row["machine"]), why(row)]).collect();
    print::columns(&header, &rows)
}
