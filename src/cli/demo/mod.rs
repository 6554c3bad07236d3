//! `autovibe demo`: the quickstart from the image to the lineage, as a person would do it by hand, with a hub of its own.

mod hub;
mod progress;

use super::{Context, apply, apply::Document, client::Client, diff, lineage, print, resource};
use super::{image, lab, up};
use crate::api::machine::Phase;
use crate::api::{Kind, Machine, SYSTEM_NAMESPACE};
use crate::clock::Clock;
use crate::git::Detail;
use anyhow::{Context as _, bail};
use base64::Engine;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Runs the quickstart: A --"Add authentication"--> B --"Add tests"--> C, each a real Claude Code in a VM of its own.
#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Where the machines run: real QEMU guests, or simulated ones for a computer where nothing real runs
    #[arg(long, value_enum, default_value = "real")]
    lab: lab::process::Mode,
    /// The quickstart's files
    #[arg(long, default_value = "examples/quickstart", value_name = "DIR")]
    examples: PathBuf,
    /// Do it all again, in a namespace of its own, although it was done before
    #[arg(long)]
    fresh: bool,
    /// The written conversation, even when ANTHROPIC_API_KEY is set
    #[arg(long)]
    replay: bool,
}

impl Demo {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let data = std::path::absolute(context.data())?;
        let examples = self.examples.canonicalize();
        let examples = examples.with_context(|| {
            format!("{} is not here; run this in autovibe's own directory, or name it with --examples", self.examples.display())
        })?;
        let image = data.join("images/debian.raw");
        if self.lab == lab::process::Mode::Real {
            say(&format!("The guests' image: {} (built once, in a few minutes)", image.display()))?;
            tokio::task::block_in_place(|| image::build(image::ImageKind::Debian, &image, None, image::this().as_deref()))?;
        }
        let clock = Clock::system();
        let mut hub = hub::Hub::find_or_start(&data, self.lab, &examples, &clock).await?;
        let result = tokio::select! {
            result = self.drive(context, &data, &examples, &image, &clock) => result,
            () = up::signal() => Err(anyhow::anyhow!("interrupted; what was done is kept, and the next `autovibe demo` goes on")),
            why = hub.ended() => Err(why),
        };
        let stopped = hub.stop(&clock).await;
        let achieved = result?;
        stopped?;
        Ok(if achieved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Applies, follows, and shows what came of it. Returns whether every goal was achieved.
    async fn drive(&self, context: &Context, data: &Path, examples: &Path, image: &Path, clock: &Clock) -> anyhow::Result<bool> {
        let client = Client::open(&data.join("kubeconfig"), None)?;
        let key = context.environment.anthropic_api_key.as_ref().filter(|_| !self.replay);
        let files: Vec<PathBuf> = ["hub.yaml", "budget.yaml", "machines.yaml"].iter().map(|name| examples.join(name)).collect();
        let mut documents = apply::read(&files, "default")?;
        let project =
            documents.iter().find(|d| d.kind() == "Namespace").map(|d| d.name.clone()).context("the quickstart has no namespace")?;
        let namespace = self.namespace(&client, &project).await?;
        for document in &mut documents {
            adapt(document, &project, &namespace, examples, image, self.lab, key.is_some());
        }
        match key {
            Some(key) => {
                say("Provider: Anthropic, with the key of ANTHROPIC_API_KEY. This costs real money, at most what the Budget allows.")?;
                store_key(&client, key.expose_secret()).await?;
            }
            None => say("Provider: Replay, a written conversation: no key, no cost; the prices shown are what it would have cost.")?,
        }
        apply::validate(&client, &documents).await?;
        for document in &documents {
            let (outcome, _) = apply::put(&client, document).await?;
            say(&format!("  {} {}", document.short(), outcome.word()))?;
        }
        let machines: Vec<String> = documents.iter().filter(|d| d.kind() == Machine::KIND).map(|d| d.name.clone()).collect();
        let first = documents.iter().find(|d| d.kind() == "Checkpoint").map(|d| d.name.clone());

        say("")?;
        let finished = progress::follow(&client, &namespace, &machines, context.environment.terminal, clock).await?;
        say("")?;
        print::out(&lineage::of(&client, &namespace).await?)?;
        let client = client.within(&namespace);
        let states: Vec<String> = first.into_iter().chain(machines.clone()).collect();
        for pair in states.windows(2) {
            let [from, to] = pair else { continue };
            if finished.iter().any(|machine| machine.name() == to && phase(machine) == Phase::Succeeded) {
                say(&format!("\nautovibe diff {from} {to} -n {namespace} --stat"))?;
                match diff::between(&client, from, to, Detail::Stat, context.environment.color).await {
                    Ok(text) => print::out(&text)?,
                    // Model guests have no files. Real ones must have them.
                    Err(error) if self.lab == lab::process::Mode::Simulated => say(&format!("  {error:#}"))?,
                    Err(error) => return Err(error),
                }
            }
        }
        let mut achieved = true;
        for machine in finished.iter().filter(|machine| phase(machine) != Phase::Succeeded) {
            achieved = false;
            let message = machine.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
            say(&format!("\nmachine/{} did not achieve its goal: {message}", machine.name()))?;
        }
        say(&format!(
            "\nAll of it is kept. To see it again: autovibe up --data {}  and then  autovibe lineage -n {namespace} --data {}",
            data.display(),
            data.display()
        ))?;
        Ok(achieved)
    }

    /// The project's namespace, or the next numbered one when it must be done again: when that is asked for, and when a
    /// Machine of an earlier run failed. What succeeded is not done twice.
    async fn namespace(&self, client: &Client, project: &str) -> anyhow::Result<String> {
        let mut number = 1;
        let mut fresh = self.fresh;
        loop {
            let name = if number == 1 { project.to_owned() } else { format!("{project}-{number}") };
            let machines: Vec<Machine> = client.list(&resource::our::<Machine>(Some(&name), None)).await?;
            if machines.is_empty() {
                return Ok(name);
            }
            let failed = machines.iter().any(|machine| phase(machine) == Phase::Failed);
            // Only the newest run counts: an older one is history.
            let next = format!("{project}-{}", number + 1);
            let newer: Vec<Machine> = client.list(&resource::our::<Machine>(Some(&next), None)).await?;
            if newer.is_empty() && !failed && !fresh {
                say(&format!("Namespace {name}: what was done before is not done again (--fresh does it all anew)."))?;
                return Ok(name);
            }
            if newer.is_empty() {
                fresh = false;
            }
            number += 1;
            if number > 999 {
                bail!("there are {number} runs of the demo already; delete some namespaces");
            }
        }
    }
}

fn phase(machine: &Machine) -> Phase {
    machine.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// Makes a document of the quickstart fit here: paths absolute, so that the hub may be started anywhere; the namespace; the
/// provider.
fn adapt(
    document: &mut Document,
    project: &str,
    namespace: &str,
    examples: &Path,
    image: &Path,
    mode: lab::process::Mode,
    real_provider: bool,
) {
    if document.kind() == "Namespace" && document.name == project {
        namespace.clone_into(&mut document.name);
        document.value["metadata"]["name"] = namespace.into();
    }
    if document.namespace == project {
        document.move_to(namespace);
    }
    // Written relative to the repository, of which the examples are `examples/NAME`.
    let here = |path: &mut Value| {
        if let Some((_, rest)) = path.as_str().and_then(|path| path.split_once("examples/")?.1.split_once('/')) {
            *path = examples.join(rest).display().to_string().into();
        }
    };
    let is_hub = document.kind() == "Hub";
    let at = |pointer: &str, document: &mut Document| document.value.pointer_mut(pointer).map(here).is_some();
    at("/spec/source/directory", document);
    if !is_hub {
        return;
    }
    if real_provider {
        document.value["spec"]["providers"] =
            json!([{ "name": "anthropic", "type": "Anthropic", "apiKeySecretRef": { "name": "anthropic" }, "models": ["claude-*"] }]);
    }
    let mut provider = 0;
    while document.value.pointer(&format!("/spec/providers/{provider}")).is_some() {
        at(&format!("/spec/providers/{provider}/replay/file"), document);
        provider += 1;
    }
    let file = match mode {
        lab::process::Mode::Real => image.to_owned(),
        lab::process::Mode::Simulated => simulated_image(image),
    };
    let images = document.value.pointer_mut("/spec/images").and_then(Value::as_array_mut);
    for entry in images.into_iter().flatten().filter(|entry| entry["name"] == "debian") {
        *entry = json!({ "name": "debian", "file": file });
    }
}

/// A model pool holds no bytes; any file stands for an image.
fn simulated_image(image: &Path) -> PathBuf {
    image.with_file_name("simulated.raw")
}

/// Keeps the provider's key where only the hub reads it.
async fn store_key(client: &Client, key: &str) -> anyhow::Result<()> {
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM_NAMESPACE } });
    if client.find(&format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}")).await?.is_none() {
        client.create("/api/v1/namespaces", &namespace).await?;
    }
    let data = json!({ "apiKey": base64::engine::general_purpose::STANDARD.encode(key) });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "anthropic", "namespace": SYSTEM_NAMESPACE }, "type": "Opaque", "data": data });
    let collection = format!("/api/v1/namespaces/{SYSTEM_NAMESPACE}/secrets");
    let path = format!("{collection}/anthropic");
    match client.find(&path).await? {
        Some(_) => client.merge(&path, &json!({ "data": data })).await?,
        None => client.create(&collection, &secret).await?,
    };
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    print::out(&format!("{text}\n"))
}
