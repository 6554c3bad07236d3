//! The model's `zfs` program: one command a connection on a unix socket.

use super::{open_datasets, zfs};
use crate::lab::{
    fault::{Call, Fault},
    node::Node,
};
use serde::Deserialize;
use serde_json::json;
use std::{path::Path, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

pub(in crate::lab) const VERBS: &[&str] = &[
    "get", "list", "snapshot", "hold", "release", "clone", "create", "rename", "promote", "rollback", "destroy", "set", "mount", "unmount",
    "inherit", "send", "receive",
];

#[derive(Deserialize)]
struct Request {
    argv: Vec<String>,
}

/// Listens where a former lab's socket may still lie.
pub(in crate::lab) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Answers until it is dropped.
pub(in crate::lab) async fn serve(listener: UnixListener, node: Arc<Node>, volumes: std::path::PathBuf) {
    loop {
        // An error here is of one connection: the next may do.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (node, volumes) = (node.clone(), volumes.clone());
        tokio::spawn(async move {
            let ended = node.shutdown.clone();
            tokio::select! {
                // A caller that hangs up is its own affair.
                _ = answer(stream, &node, &volumes) => {}
                () = ended.cancelled() => {}
            }
        });
    }
}

async fn answer(stream: UnixStream, node: &Node, volumes: &Path) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let request: Request = serde_json::from_str(&line)?;
    let verb = request.argv.first().map(String::as_str).unwrap_or_default();
    let mut input = Vec::new();
    if verb == "receive" && !request.argv.iter().any(|word| word == "-A") {
        stream.read_to_end(&mut input).await?;
    }
    let Some(((status, stdout, stderr), is_cut)) = run_with(&request.argv, node, Some(volumes), &input).await? else { return Ok(()) };
    if verb == "send" {
        let header = json!({ "status": status, "stderr": stderr, "stream_bytes": stdout.len() });
        stream.get_mut().write_all(format!("{header}\n").as_bytes()).await?;
        let end = if is_cut { stdout.len() * 2 / 3 } else { stdout.len() };
        stream.get_mut().write_all(&stdout.as_bytes()[..end]).await?;
        return stream.get_mut().shutdown().await;
    }
    if is_cut {
        return Ok(());
    }
    let answer = json!({ "status": status, "stdout": stdout, "stderr": stderr }).to_string();
    stream.get_mut().write_all(answer.as_bytes()).await?;
    stream.get_mut().shutdown().await
}

/// Runs one command, with the fault that waits for it; `None` when its end is not to be seen. Errors: a volume was not made.
pub(in crate::lab) async fn run(argv: &[String], node: &Node, volumes: Option<&Path>) -> std::io::Result<Option<zfs::Answer>> {
    Ok(run_with(argv, node, volumes, &[]).await?.filter(|(_, is_cut)| !is_cut).map(|(answer, _)| answer))
}

/// The same, with what it reads; and whether the connection breaks before its answer, or in the middle of what it prints.
async fn run_with(argv: &[String], node: &Node, volumes: Option<&Path>, input: &[u8]) -> std::io::Result<Option<(zfs::Answer, bool)>> {
    let verb = argv.first().and_then(|verb| VERBS.iter().find(|known| *known == verb)).copied().unwrap_or("other");
    if !node.is_up(&node.name) {
        return Ok(None);
    }
    let fault = node.faults.met(Call::Zfs(verb), "zfs", &[verb]);
    if let Some(Fault::Delay(time)) = &fault {
        node.clock.sleep(*time).await;
    }
    if let Some(Fault::Kill { node: name, back }) = &fault {
        node.cluster().kill(name, *back).await;
        if *name == node.name {
            return Ok(None);
        }
    }
    let answer = match &fault {
        Some(Fault::Fail { text, .. }) => (1, String::new(), format!("internal error: {text}\n")),
        Some(Fault::Hang) => return std::future::pending().await,
        _ => {
            if let Some(answer) = node.store.read(|state| state.pools.get(&node.name).and_then(|pool| zfs::look(pool, argv))) {
                answer
            } else {
                let answer = node.store.change(|state| {
                    let open = open_datasets(state, &node.name);
                    let pool = state.pools.entry(node.name.clone()).or_default();
                    if verb == "receive" { zfs::receive(pool, argv, &String::from_utf8_lossy(input)) } else { zfs::run(pool, argv, &open) }
                });
                if verb == "create"
                    && answer.0 == 0
                    && let Some(volumes) = volumes
                {
                    show_volume(node, argv.last(), volumes)?;
                }
                node.store.settled().await;
                answer
            }
        }
    };
    Ok(Some((answer, fault == Some(Fault::DropReply))))
}

/// A new volume's device: a sparse file, which takes an image and is not looked at again.
fn show_volume(node: &Node, name: Option<&String>, volumes: &Path) -> std::io::Result<()> {
    let Some(name) = name else { return Ok(()) };
    let Some(size) = node.store.read(|state| state.pools.get(&node.name)?.datasets.get(name)?.volume) else { return Ok(()) };
    let path = volumes.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(path)?.set_len(size)
}
