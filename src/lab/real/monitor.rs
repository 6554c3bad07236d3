//! QEMU's monitor (QMP): one JSON line per command, answers among events. Source: QEMU docs/interop/qmp-spec.

use super::error::{ANSWER, Error};
use serde_json::{Value, json};
use std::path::Path;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// An open monitor. QEMU serves one at a time, so it is kept and shared.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    pid: u32,
}

impl Connection {
    /// Connects to the monitor of the QEMU that runs as `pid`.
    pub(super) async fn open(vmid: u32, socket: &Path, pid: u32) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).await.map_err(Error::io("cannot reach", socket))?;
        let mut connection = Self { stream: BufReader::new(stream), pid };
        connection.call(vmid, "qmp_capabilities").await?;
        Ok(connection)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// One command; gives what it returns.
    pub(super) async fn call(&mut self, vmid: u32, command: &str) -> Result<Value, Error> {
        self.call_with(vmid, command, None).await
    }

    /// Likewise, with arguments.
    pub(super) async fn call_with(&mut self, vmid: u32, command: &str, arguments: Option<&Value>) -> Result<Value, Error> {
        let failed = |why: String| Error::Failed(format!("VM {vmid} qmp command '{command}' failed - {why}"));
        let mut message = json!({"execute": command});
        if let Some(arguments) = arguments {
            message["arguments"] = arguments.clone();
        }
        let exchange = async {
            self.stream.get_mut().write_all(format!("{message}\n").as_bytes()).await?;
            let mut line = String::new();
            loop {
                line.clear();
                if self.stream.read_line(&mut line).await? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                }
                let answer: Value = serde_json::from_str(&line)?;
                // The greeting and events come in between.
                if answer.get("return").is_some() || answer.get("error").is_some() {
                    return Ok(answer);
                }
            }
        };
        match tokio::time::timeout(ANSWER, exchange).await {
            Err(_) => Err(failed("got timeout".into())),
            // `quit` may close before it answers.
            Ok(Err(error)) if command == "quit" && error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Value::Null),
            Ok(Err(source)) => Err(failed(source.to_string())),
            Ok(Ok(mut answer)) => match answer.get("error") {
                Some(error) => Err(failed(error["desc"].as_str().unwrap_or("no reason given").to_owned())),
                None => Ok(answer["return"].take()),
            },
        }
    }
}
