//! `autovibe export` and `autovibe import`: a checkpoint with its disks as one file, from one hub to another.

use super::{Context, Output, print, resource};
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

/// Writes a checkpoint with its disks, its workspace and its lineage to one file, which `autovibe import` reads on another hub
///
/// The file is a tar: manifest.json, the workspace as a git bundle, each disk as `zfs send` in pieces, SHA256SUMS.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// A checkpoint or a Machine (then: its last checkpoint)
    checkpoint: String,
    /// The file to write, which must be new; `-` is standard output
    #[arg(long = "to", short = 'f', value_name = "FILE")]
    file: PathBuf,
    /// Only what changed since this checkpoint, which the other hub must have
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<String>,
}

/// Reads a checkpoint from a file of `autovibe export`; it is there when all of it has proved right, or not at all
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file; `-` is standard input
    file: PathBuf,
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
        let mut request = client.request(Method::GET, &path);
        if let Some(since) = &self.since {
            let since = super::workspace::find(&client, since).await?;
            request = request.query(&[("since", since.name())]);
        }
        let bytes = client.send(request).await?.bytes_stream();
        if self.file == Path::new("-") {
            save(bytes, &mut tokio::io::stdout()).await.with_context(|| incomplete(name))?;
            return Ok(ExitCode::SUCCESS);
        }
        // Under another name until it is whole: what is cut off is not taken for a file.
        let partial = PathBuf::from(format!("{}.partial", self.file.display()));
        if self.file.exists() {
            bail!("{} exists; name a new file", self.file.display());
        }
        let mut file = private(&partial).await.with_context(|| format!("{} cannot be written", partial.display()))?;
        let saved = async {
            let size = save(bytes, &mut file).await?;
            file.sync_all().await?;
            anyhow::Ok(size)
        };
        match saved.await {
            Ok(size) => {
                tokio::fs::rename(&partial, &self.file).await.with_context(|| self.file.display().to_string())?;
                let (size, to) = (print::bytes(size), self.file.display());
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
        let mut from: Box<dyn AsyncRead + Send + Unpin> = if self.file == Path::new("-") {
            Box::new(tokio::io::stdin())
        } else {
            let file = tokio::fs::File::open(&self.file).await;
            Box::new(file.with_context(|| format!("{} cannot be read", self.file.display()))?)
        };
        let (head, manifest) = head(&mut from).await.with_context(|| format!("{} cannot be imported", self.file.display()))?;
        let name = self.name.clone().unwrap_or(manifest.checkpoint.name);
        let path = format!("{}/import", resource::checkpoint(&client.namespace, &name));
        let whole = std::io::Cursor::new(head).chain(from);
        let mut request = client.request(Method::POST, &path).header(header::CONTENT_TYPE, "application/x-tar");
        let wanted = [("hub", &self.hub), ("node", &self.node)];
        let query: Vec<(&str, &String)> = wanted.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
        request = request.query(&query);
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(whole, BUFFER));
        let answer = client.send(request.body(body)).await;
        let done = match answer {
            Ok(answer) => answer,
            Err(error @ Error::Unreachable { .. }) => {
                return Err(error)
                    .with_context(|| format!("whether checkpoint/{name} was imported is not known: `autovibe get checkpoint {name}`"));
            }
            Err(error) => return Err(error.into()),
        };
        let was_there = done.status() == reqwest::StatusCode::OK;
        let document: serde_json::Value = serde_json::from_slice(&done.bytes().await?).context("the hub's answer is not JSON")?;
        if let Some(output @ (Output::Json | Output::Yaml)) = context.options.output {
            print::out(&print::document(&document, output)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let word = if was_there { "was imported before" } else { "imported" };
        print::out(&format!("checkpoint/{name} {word}; spawn from it with spec.from.checkpoint: {name}\n"))?;
        Ok(ExitCode::SUCCESS)
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
