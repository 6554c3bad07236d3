//! The guest agent's line: JSON over a virtio port, made sure of by `guest-sync-delimited`. Source: QEMU docs/interop/qemu-ga.

use super::error::{ANSWER, Error};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

/// How long an agent may take to show that it listens; Proxmox gives its ping as long.
const SYNC: Duration = Duration::from_secs(3);
/// After an answer this recent it is not asked again whether it listens.
const FRESH: Duration = Duration::from_secs(2);
/// Commands that may rightly take long, as Proxmox gives them.
const SLOW: Duration = Duration::from_mins(3);

/// An open line to an agent. QEMU serves one at a time. After any error it must be dropped: an answer may still be under way.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    pid: u32,
    answered: Option<Instant>,
}

impl Connection {
    /// Connects to the port of the QEMU that runs as `pid`.
    pub(super) async fn open(_vmid: u32, socket: &Path, pid: u32) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).await.map_err(Error::io("cannot reach", socket))?;
        Ok(Self { stream: BufReader::new(stream), pid, answered: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it answered just now.
    pub(super) fn is_fresh(&self) -> bool {
        self.answered.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Makes sure that the next answer is that of the next command: flushes the guest's parser, skips answers of before.
    pub(super) async fn sync(&mut self, vmid: u32) -> Result<(), Error> {
        let id = crate::random::draw::<u32>();
        let exchange = async {
            let mut message = vec![0xff];
            message.extend(json!({"execute": "guest-sync-delimited", "arguments": {"id": id}}).to_string().bytes());
            message.push(b'\n');
            self.stream.get_mut().write_all(&message).await?;
            let mut line = Vec::new();
            loop {
                line.clear();
                if self.stream.read_until(b'\n', &mut line).await? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                }
                // What is before the delimiter belongs to an answer that nobody waits for.
                let Some(delimiter) = line.iter().rposition(|byte| *byte == 0xff) else { continue };
                let answer: Option<Value> = serde_json::from_slice(&line[delimiter + 1..]).ok();
                if answer.is_some_and(|answer| answer["return"] == id) {
                    return Ok(());
                }
            }
        };
        match timeout(SYNC, exchange).await {
            Ok(Ok(())) => {
                self.answered = Some(Instant::now());
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(Error::AgentSilent(vmid)),
        }
    }

    /// Sends a command that has no answer.
    pub(super) async fn send(&mut self, vmid: u32, command: &Value) -> Result<(), Error> {
        let line = format!("{command}\n");
        match timeout(ANSWER, self.stream.get_mut().write_all(line.as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::AgentSilent(vmid)),
            Err(_) => Err(lost(vmid, command)),
        }
    }

    /// One command; gives its reply.
    pub(super) async fn call(&mut self, vmid: u32, command: &Value) -> Result<Value, Error> {
        self.send(vmid, command).await?;
        let limit = match command["execute"].as_str() {
            Some("guest-fsfreeze-freeze" | "guest-fsfreeze-thaw" | "guest-fstrim") => SLOW,
            _ => ANSWER,
        };
        let mut line = Vec::new();
        match timeout(limit, self.stream.read_until(b'\n', &mut line)).await {
            Ok(Ok(length)) if length > 0 => {}
            _ => return Err(lost(vmid, command)),
        }
        let reply = serde_json::from_slice(&line).map_err(|_| lost(vmid, command))?;
        self.answered = Some(Instant::now());
        Ok(reply)
    }
}

fn lost(vmid: u32, command: &Value) -> Error {
    Error::AgentTimeout { vmid, command: command["execute"].as_str().unwrap_or_default().to_owned() }
}
