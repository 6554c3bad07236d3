//! `autovibe export` and `autovibe import`: a checkpoint with its disks as one file, or in another pool, from one hub to another.

use super::{Context, Output, client::Client, print, resource};
use crate::api::Kind;
use crate::remote::Error;
use crate::remote::archive::{BLOCK, MANIFEST, MAX_MANIFEST, Manifest, SUMS, padding, read_header};
use anyhow::{Context as _, bail};
use futures::StreamExt;
use reqwest::{Method, header};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

/// Bytes of a file that are read at once.
const BUFFER: usize = 256 << 10;

/// Writes a checkpoint with its disks and its lineage to one file, or to another pool; `autovibe import` reads it on another hub
///
/// The file is a tar: manifest.json, the workspace as a git bundle, each disk as `zfs send` in pieces, SHA256SUMS. In another pool the
/// disks are datasets, and the manifest is in the properties of the first.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// A checkpoint or a Machine (then: its last checkpoint)
    checkpoint: String,
    /// The file to write, which must be new; `-` is standard output
    #[arg(long = "to", short = 'f', value_name = "FILE", required_unless_present = "pool", conflicts_with = "pool")]
    file: Option<PathBuf>,
    /// The dataset of another pool to copy it to, which the Hub lists in spec.infrastructure.exportTo. Repeated, it goes on
    #[arg(long = "to-pool", value_name = "DATASET")]
    pool: Option<String>,
    /// Only what changed since this checkpoint, which the other hub, or the other pool, must have
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<String>,
}

/// Reads a checkpoint from a file of `autovibe export`, or from another pool; it is there when all of it has proved right, or not at all
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file; `-` is standard input. With --from-pool the checkpoint's name or uid there [default: the only one]
    #[arg(value_name = "FILE|CHECKPOINT", required_unless_present = "pool")]
    what: Option<String>,
    /// A dataset that a checkpoint was exported to, which the Hub lists in spec.infrastructure.exportTo
    #[arg(long = "from-pool", value_name = "DATASET")]
    pool: Option<String>,
    /// The checkpoint's name here [default: as it was called there]
    #[arg(long)]
    name: Option<String>,
    /// The Hub that takes it [default: the only one, else the one named default]
    #[arg(long)]
    hub: Option<String>,
    /// The Hub's node that takes it [default: its first; of what changed since a checkpoint, the one that has that]
    #[arg(long)]
    node: Option<String>,
}

impl Export {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let checkpoint = super::workspace::find(&client, &self.checkpoint).await?;
        let name = checkpoint.name();
        let path = format!("{}/export", resource::checkpoint(&client.namespace, name));
        let mut request = client.request(if self.pool.is_some() { Method::POST } else { Method::GET }, &path);
        if let Some(since) = &self.since {
            let since = super::workspace::find(&client, since).await?;
            request = request.query(&[("since", since.name())]);
        }
        if let Some(pool) = &self.pool {
            return to_pool(&client, request.query(&[("toPool", pool)]), name, pool, context).await;
        }
        let bytes = client.send(request).await?.bytes_stream();
        let target = self.file.as_deref().unwrap_or(Path::new("-"));
        if target == Path::new("-") {
            save(bytes, &mut tokio::io::stdout()).await.with_context(|| incomplete(name))?;
            return Ok(ExitCode::SUCCESS);
        }
        // Under another name until it is whole: what is cut off is not taken for a file.
        let partial = PathBuf::from(format!("{}.partial", target.display()));
        if target.exists() {
            bail!("{} exists; name a new file", target.display());
        }
        let mut file = private(&partial).await.with_context(|| format!("{} cannot be written", partial.display()))?;
        let saved = async {
            let size = save(bytes, &mut file).await?;
            file.sync_all().await?;
            anyhow::Ok(size)
        };
        match saved.await {
            Ok(size) => {
                tokio::fs::rename(&partial, target).await.with_context(|| target.display().to_string())?;
                let (size, to) = (print::bytes(size), target.display());
                print::out(&format!("{to} holds checkpoint {name} ({size}): autovibe import {to}, on another hub\n"))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                tokio::fs::remove_file(&partial).await.ok();
                Err(error).with_context(|| incomplete(name))
            }
        }
    }
}

async fn to_pool(client: &Client, request: reqwest::RequestBuilder, name: &str, pool: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let done = match client.send(request).await {
        Err(error @ Error::Unreachable { .. }) => {
            return Err(error)
                .with_context(|| format!("whether checkpoint/{name} is whole in {pool} is not known: run the same command again"));
        }
        done => done?,
    };
    let was_there = done.status() == reqwest::StatusCode::OK;
    let document: serde_json::Value = serde_json::from_slice(&done.bytes().await?).context("the hub's answer is not JSON")?;
    if let Some(output @ (Output::Json | Output::Yaml)) = context.options.output {
        print::out(&print::document(&document, output)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (word, node) = (if was_there { "held it before" } else { "holds it" }, document["node"].as_str().unwrap_or_default());
    let text = format!("{pool} on node {node} {word}: autovibe import --from-pool {pool} {name}, on another hub that has the pool\n");
    print::out(&print::printable(&text))?;
    Ok(ExitCode::SUCCESS)
}

fn incomplete(name: &str) -> String {
    format!("checkpoint/{name} was not exported whole, and what came of it is of no use")
}

/// A new file for its owner alone: it holds all that was ever on the disks.
async fn private(path: &Path) -> std::io::Result<tokio::fs::File> {
    tokio::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).await
}

/// Writes a stream, and looks whether it is whole: its last entry is the one with the sums. Returns its bytes.
async fn save(
    mut bytes: impl futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
) -> anyhow::Result<u64> {
    let mut end = End::default();
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.context("the connection to the hub broke")?;
        end.take(&chunk)?;
        to.write_all(&chunk).await?;
    }
    to.flush().await?;
    if !end.whole {
        bail!("the hub ended it before its end; the hub's log says why. Export it again");
    }
    Ok(end.total)
}

/// Follows the entries of a tar as they come by.
#[derive(Default)]
struct End {
    head: Vec<u8>,
    /// Bytes until the next header.
    skip: u64,
    sums: bool,
    whole: bool,
    total: u64,
}

impl End {
    fn take(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        self.total += bytes.len() as u64;
        while !bytes.is_empty() && !self.whole {
            if self.skip > 0 {
                let some = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= some as u64;
                bytes = &bytes[some..];
                continue;
            }
            let some = (BLOCK - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..some]);
            bytes = &bytes[some..];
            let Ok(block) = <&[u8; BLOCK]>::try_from(self.head.as_slice()) else { continue };
            match read_header(block).map_err(anyhow::Error::msg)? {
                Some((name, size)) => {
                    self.sums = name == SUMS;
                    self.skip = size + padding(size) as u64;
                }
                None => self.whole = self.sums,
            }
            if self.head.iter().all(|byte| *byte == 0) && !self.whole {
                bail!("it ends without {SUMS}");
            }
            self.head.clear();
        }
        Ok(())
    }
}

impl Import {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let (name, request) = match &self.pool {
            Some(pool) => self.of_pool(&client, pool),
            None => self.of_file(&client, Path::new(self.what.as_deref().unwrap_or("-"))).await?,
        };
        let wanted = [("hub", &self.hub), ("node", &self.node)];
        let query: Vec<(&str, &String)> = wanted.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
        let answer = client.send(request.query(&query)).await;
        let done = match answer {
            Ok(answer) => answer,
            Err(error @ Error::Unreachable { .. }) => {
                return Err(error).with_context(|| format!("whether {name} was imported is not known; `autovibe get checkpoints` says it"));
            }
            Err(error) => return Err(error.into()),
        };
        let was_there = done.status() == reqwest::StatusCode::OK;
        let document: serde_json::Value = serde_json::from_slice(&done.bytes().await?).context("the hub's answer is not JSON")?;
        if let Some(output @ (Output::Json | Output::Yaml)) = context.options.output {
            print::out(&print::document(&document, output)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let name = document["metadata"]["name"].as_str().unwrap_or(&name);
        let word = if was_there { "was imported before" } else { "imported" };
        print::out(&format!("checkpoint/{name} {word}; spawn from it with spec.from.checkpoint: {name}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Import {
    /// What it is called in messages, and the request.
    fn of_pool(&self, client: &Client, pool: &str) -> (String, reqwest::RequestBuilder) {
        // `-`: as it was called there.
        let path = format!("{}/import", resource::checkpoint(&client.namespace, self.name.as_deref().unwrap_or("-")));
        let mut query = vec![("fromPool", pool)];
        query.extend(self.what.as_deref().map(|what| ("checkpoint", what)));
        let what = self.what.clone().unwrap_or_else(|| "the checkpoint".into());
        (format!("{what} of {pool}"), client.request(Method::POST, &path).query(&query))
    }

    async fn of_file(&self, client: &Client, file: &Path) -> anyhow::Result<(String, reqwest::RequestBuilder)> {
        let mut from: Box<dyn AsyncRead + Send + Unpin> = if file == Path::new("-") {
            Box::new(tokio::io::stdin())
        } else {
            let open = tokio::fs::File::open(file).await;
            Box::new(open.with_context(|| format!("{} cannot be read", file.display()))?)
        };
        let (head, manifest) = head(&mut from).await.with_context(|| format!("{} cannot be imported", file.display()))?;
        let name = self.name.clone().unwrap_or(manifest.checkpoint.name);
        let path = format!("{}/import", resource::checkpoint(&client.namespace, &name));
        let whole = std::io::Cursor::new(head).chain(from);
        let request = client.request(Method::POST, &path).header(header::CONTENT_TYPE, "application/x-tar");
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(whole, BUFFER));
        Ok((format!("checkpoint/{name}"), request.body(body)))
    }
}

/// The first entry, as it came, and what it says.
async fn head(from: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<(Vec<u8>, Manifest)> {
    let mut head = vec![0; BLOCK];
    from.read_exact(&mut head).await.context("it is no file of `autovibe export`: it is shorter than any")?;
    let block = <&[u8; BLOCK]>::try_from(head.as_slice()).context("a block")?;
    let Some((name, size)) = read_header(block).map_err(anyhow::Error::msg)? else { bail!("it is empty") };
    if name != MANIFEST || size > MAX_MANIFEST {
        bail!("it is no file of `autovibe export`: its first entry is not {MANIFEST}");
    }
    let length = usize::try_from(size)?;
    let mut text = vec![0; length + padding(size)];
    from.read_exact(&mut text).await.context("it is truncated")?;
    let manifest = Manifest::read(&text[..length]).map_err(anyhow::Error::msg)?;
    head.append(&mut text);
    Ok((head, manifest))
}
