//! Runs one command and waits for its end, but never ends it: a killed `zfs` may have been done or not.

use super::{Error, Runner};
use serde::Deserialize;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
    sync::oneshot,
};

/// A pool under heavy writing needs seconds for one transaction group; minutes mean that it hangs.
const DEADLINE: Duration = Duration::from_mins(2);

/// What a command printed, and its exit status.
#[derive(Clone, Debug, Deserialize)]
pub struct Output {
    pub status: i32,
    #[serde(default)]
    pub stdout: String,
    #[serde(default)]
    pub stderr: String,
}

/// Runs `zfs` with these arguments. Errors: `Unavailable` when it did not start, `Unknown` when its end was not seen.
pub(super) async fn run(runner: &Runner, argv: Vec<String>) -> Result<Output, Error> {
    let command = argv.first().cloned().unwrap_or_default();
    let (sender, receiver) = oneshot::channel();
    let runner = runner.clone();
    // Its own task: neither the deadline nor a caller that goes away stops the command half-way.
    tokio::spawn(async move {
        let result = match &runner {
            Runner::Local => local(&argv).await,
            Runner::Socket(path) => over_socket(path, &argv).await,
            Runner::Service(service) => service.call(argv).await.ok_or_else(|| Error::Unknown("its end was not seen".into())),
        };
        // Nobody waits any more when the deadline has passed.
        let _ = sender.send(result);
    });
    match tokio::time::timeout(DEADLINE, receiver).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::Unknown(format!("`zfs {command}` was given up"))),
        Err(_) => Err(Error::Unknown(format!("`zfs {command}` still runs after {} s", DEADLINE.as_secs()))),
    }
}

async fn local(argv: &[String]) -> Result<Output, Error> {
    let child = Command::new("zfs")
        .args(argv)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Error::Unavailable(error.to_string()))?;
    let output = child.wait_with_output().await.map_err(|error| Error::Unknown(error.to_string()))?;
    let status = output.status.code().ok_or_else(|| Error::Unknown(format!("`zfs {}` was ended: {}", argv[0], output.status)))?;
    let text = |bytes| String::from_utf8(bytes).map_err(|_| Error::Unknown(format!("`zfs {}` printed bytes that are no text", argv[0])));
    Ok(Output { status, stdout: text(output.stdout)?, stderr: text(output.stderr)? })
}

async fn over_socket(path: &Path, argv: &[String]) -> Result<Output, Error> {
    let mut stream = UnixStream::connect(path).await.map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))?;
    let unknown = |error: std::io::Error| Error::Unknown(error.to_string());
    let line = format!("{}\n", serde_json::json!({ "argv": argv }));
    stream.write_all(line.as_bytes()).await.map_err(unknown)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(unknown)?;
    serde_json::from_str(&answer).map_err(|error| Error::Unknown(format!("the helper's answer cannot be read: {error}")))
}
