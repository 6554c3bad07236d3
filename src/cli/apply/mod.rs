//! `autovibe apply`: every document is tried first; only when the hub would take them all, they are applied.

mod manifest;
mod merge;
#[cfg(test)]
mod tests;

use super::{Context, Output, client, client::Client, print, resource};
use anyhow::bail;
pub(super) use manifest::Document;
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode};

/// kubectl's annotation of what was applied last, by which a field that is no longer written is removed.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Creates or updates objects from YAML files; a wrong one applies nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    /// Files, directories of *.yaml, or - for standard input
    #[arg(long, short, required = true, num_args = 1.., value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
    /// Only say whether the hub would take them
    #[arg(long)]
    dry_run: bool,
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

impl Apply {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let documents = manifest::read(&self.filename, &client.namespace)?;
        validate(&client, &documents).await?;
        let mut applied = Vec::new();
        for document in &documents {
            if self.dry_run {
                print::out(&format!("{} is accepted\n", document.short()))?;
                continue;
            }
            let (outcome, object) = put(&client, document).await?;
            match context.options.output {
                Some(Output::Json | Output::Yaml) => applied.push(object),
                Some(Output::Name) => print::out(&format!("{}\n", document.short()))?,
                _ => print::out(&format!("{} {}\n", document.short(), outcome.word()))?,
            }
        }
        if let (Some(output @ (Output::Json | Output::Yaml)), false) = (context.options.output, self.dry_run) {
            print::out(&print::document(&json!({ "apiVersion": "v1", "kind": "List", "items": applied }), output)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks the hub about every document without changing anything; names each that it would refuse.
pub(super) async fn validate(client: &Client, documents: &[Document]) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for document in documents {
        let Err(error) = dry_run(client, document, documents).await else { continue };
        match client::refusal(&error) {
            Some(refused) if !refused.causes.is_empty() => {
                wrong.extend(refused.causes.iter().map(|(field, message)| document.complaint_of(field, message)));
            }
            Some(refused) if !unknown_fields(&refused.message).is_empty() => {
                let told = unknown_fields(&refused.message);
                wrong.extend(told.into_iter().map(|field| document.complaint_of(field, "there is no such field")));
            }
            Some(refused) if refused.code < 500 => wrong.push(document.complaint(&refused.message)),
            // The hub itself is in trouble, or not there: that is said as it is.
            _ => return Err(error),
        }
    }
    manifest::nothing_applied(wrong)
}

/// The fields that a strict hub did not know. Source: apimachinery's strict decoding error.
fn unknown_fields(message: &str) -> Vec<&str> {
    message.split("unknown field \"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(field, _)| field).collect()
}

async fn dry_run(client: &Client, document: &Document, all: &[Document]) -> anyhow::Result<()> {
    let query = "dryRun=All&fieldValidation=Strict&fieldManager=autovibe";
    if let Some(current) = client.find(&document.path()).await? {
        let patch = merge::three_way(&current, &document.to_apply());
        client.merge(&format!("{}?{query}", document.path()), &patch).await?;
        return Ok(());
    }
    // A namespace that comes with the same files is not there yet; the object is tried in one that is.
    let mut document = document.clone();
    let brings_namespace = all.iter().any(|other| other.kind() == "Namespace" && other.name == document.namespace);
    if brings_namespace && client.find(&format!("/api/v1/namespaces/{}", document.namespace)).await?.is_none() {
        document.move_to("default");
    }
    match client
        .create(&format!("{}?{query}", resource::collection(document.resource, Some(&document.namespace))), &document.to_apply())
        .await
    {
        Err(error) if error.is("AlreadyExists") => Ok(()),
        other => {
            other?;
            Ok(())
        }
    }
}

/// Creates the object, or changes what the document says otherwise.
pub(super) async fn put(client: &Client, document: &Document) -> anyhow::Result<(Outcome, Value)> {
    let query = "fieldValidation=Strict&fieldManager=autovibe";
    let wanted = document.to_apply();
    // Another client may create or delete it meanwhile: then look again, a few times.
    for _ in 0..5 {
        let Some(current) = client.find(&document.path()).await? else {
            match client.create(&format!("{}?{query}", resource::collection(document.resource, Some(&document.namespace))), &wanted).await {
                Err(error) if error.is("AlreadyExists") => continue,
                other => return Ok((Outcome::Created, other.map_err(|error| document.explain(error.into()))?)),
            }
        };
        let patch = merge::three_way(&current, &wanted);
        if patch == json!({}) {
            return Ok((Outcome::Unchanged, current));
        }
        match client.merge(&format!("{}?{query}", document.path()), &patch).await {
            Err(error) if error.is("NotFound") => {}
            Err(error) => return Err(document.explain(error.into())),
            Ok(after) => {
                let same = after["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"];
                return Ok((if same { Outcome::Unchanged } else { Outcome::Configured }, after));
            }
        }
    }
    bail!("{} is created and deleted all the time by someone else; it was not applied", document.short())
}

/// Reads manifests; for those who apply on behalf of a person.
pub(super) fn read(files: &[PathBuf], namespace: &str) -> anyhow::Result<Vec<Document>> {
    manifest::read(files, namespace)
}
