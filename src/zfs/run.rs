//! Runs one command and waits for its end, but never ends it: a killed `zfs` may have been done or not.

use super::{Error, Runner, stream, turn::in_turn};
use crate::clock::Tenure;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
    sync::oneshot,
};

/// A pool under heavy writing needs seconds for one transaction group; minutes mean that it hangs.
pub(super) const DEADLINE: Duration = Duration::from_mins(2);
/// Where it is when the search path leaves it out, as that of an ordinary user does.
const PROGRAMS: [&str; 3] = ["zfs", "/usr/sbin/zfs", "/sbin/zfs"];

/// What a command printed, and its exit status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Output {
    pub status: i32,
    #[serde(default)]
    pub stdout: String,
    #[serde(default)]
    pub stderr: String,
}

/// What changes nothing.
const READS: [&str; 2] = ["get", "list"];

/// Runs `zfs` with these arguments; what changes something, only as long as `tenure` allows. Errors: `Unavailable` when it did
/// not start, `Lapsed` when it was not to, `Unknown` when its end was not seen.
pub(super) async fn run(runner: &Runner, tenure: &Tenure, argv: Vec<String>) -> Result<Output, Error> {
    let command = argv.first().cloned().unwrap_or_default();
    let any = Tenure::unlimited();
    let tenure = if READS.contains(&command.as_str()) { &any } else { tenure };
    match tenure.run(DEADLINE, to_its_end_apart(runner.clone(), tenure.clone(), argv)).await? {
        Some(Some(result)) => result,
        Some(None) => Err(Error::Unknown(format!("`zfs {command}` was given up"))),
        None => Err(Error::Unknown(format!("`zfs {command}` still runs after {} s, or the lead was lost", DEADLINE.as_secs()))),
    }
}

/// In a task of its own: neither the deadline nor a caller that goes away stops the command half-way. `None` is a task that
/// ended without a word.
async fn to_its_end_apart(runner: Runner, tenure: Tenure, argv: Vec<String>) -> Option<Result<Output, Error>> {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        // Nobody waits any more when the deadline has passed.
        let _ = sender.send(to_its_end(&runner, &tenure, &argv).await);
    });
    receiver.await.ok()
}

/// As [`run`], without a deadline. A process that was stopped on the way looks at its `tenure` again.
pub(super) async fn to_its_end(runner: &Runner, tenure: &Tenure, argv: &[String]) -> Result<Output, Error> {
    match runner {
        Runner::Local => {
            tenure.check()?;
            local(argv).await
        }
        Runner::Socket(path) => over_socket(path, tenure, argv).await,
        Runner::Service(service) => service.call(argv.to_vec()).await.ok_or_else(|| Error::Unknown("its end was not seen".into())),
        Runner::Ssh(ssh) => ssh.run(tenure, argv).await,
        Runner::Nowhere => Err(nowhere()),
    }
}

/// What is said where there is no ZFS.
pub(super) fn nowhere() -> Error {
    Error::Unavailable("there is none".into())
}

/// Starts `zfs`, wherever it is.
fn start(argv: &[String], input: fn() -> Stdio) -> Result<Child, Error> {
    let mut result = Err(io::ErrorKind::NotFound.into());
    for program in PROGRAMS {
        let mut command = Command::new(program);
        // A process group of its own: the terminal's Ctrl-C is not for it.
        command.args(argv).env("LC_ALL", "C").process_group(0);
        result = command.stdin(input()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    result.map_err(|error| Error::Unavailable(error.to_string()))
}

/// Runs `zfs` with these arguments on this machine, in its turn, and waits for its end however long that takes.
///
/// Errors: `Unavailable` when it did not start, `Unknown` when its end was not seen. What it refuses is its `Output`.
pub async fn local(argv: &[String]) -> Result<Output, Error> {
    let run = async { start(argv, Stdio::null)?.wait_with_output().await.map_err(|error| Error::Unknown(error.to_string())) };
    let output = in_turn(&argv[0], run).await?;
    ended(argv, output.status, output.stdout, output.stderr)
}

/// Runs a command here that prints a stream.
pub(super) async fn drain(argv: &[String], to: &mut (impl AsyncWrite + Unpin + Send)) -> Result<Output, Error> {
    let run = async { stream::pipe(start(argv, Stdio::piped)?, b"", None::<&mut tokio::io::Empty>, to).await };
    let done = in_turn(&argv[0], run).await?;
    ended(argv, done.status, Vec::new(), done.stderr)
}

/// Runs a command here that reads a stream.
pub(super) async fn feed(argv: &[String], from: &mut (impl AsyncRead + Unpin + Send)) -> Result<Output, Error> {
    let mut printed = Vec::new();
    let run = async { stream::pipe(start(argv, Stdio::piped)?, b"", Some(from), &mut printed).await };
    let done = in_turn(&argv[0], run).await?;
    ended(argv, done.status, printed, done.stderr)
}

fn ended(argv: &[String], status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8>) -> Result<Output, Error> {
    let status = status.code().ok_or_else(|| Error::Unknown(format!("`zfs {}` was ended: {status}", argv[0])))?;
    let text = |bytes| String::from_utf8(bytes).map_err(|_| Error::Unknown(format!("`zfs {}` printed bytes that are no text", argv[0])));
    Ok(Output { status, stdout: text(stdout)?, stderr: text(stderr)? })
}

async fn over_socket(path: &Path, tenure: &Tenure, argv: &[String]) -> Result<Output, Error> {
    let mut stream = connect(path).await?;
    tenure.check()?;
    ask(&mut stream, argv).await?;
    answer(&mut stream).await
}

/// Runs a command there that reads a stream: it follows the request, to the end of what is written.
pub(super) async fn feed_socket(path: &Path, argv: &[String], from: &mut (impl AsyncRead + Unpin + Send)) -> Result<Output, Error> {
    let mut stream = connect(path).await?;
    ask(&mut stream, argv).await?;
    // One that refuses does not read all of it, and says why.
    if tokio::io::copy(from, &mut stream).await.is_ok() {
        stream.shutdown().await.map_err(unseen)?;
    }
    answer(&mut stream).await
}

/// Runs a command there that prints a stream: it follows the answer, which has its length.
pub(super) async fn drain_socket(path: &Path, argv: &[String], to: &mut (impl AsyncWrite + Unpin + Send)) -> Result<Output, Error> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(flatten)]
        output: Output,
        #[serde(default)]
        stream_bytes: u64,
    }
    let mut stream = BufReader::new(connect(path).await?);
    ask(stream.get_mut(), argv).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await.map_err(unseen)?;
    let header: Header = read(&line)?;
    let copied = tokio::io::copy(&mut stream, to).await.map_err(unseen)?;
    if copied != header.stream_bytes {
        return Err(Error::Unknown(format!("{copied} bytes came of {}", header.stream_bytes)));
    }
    Ok(header.output)
}

fn unseen(error: io::Error) -> Error {
    Error::Unknown(error.to_string())
}

async fn connect(path: &Path) -> Result<UnixStream, Error> {
    UnixStream::connect(path).await.map_err(|error| Error::Unavailable(format!("{}: {error}", path.display())))
}

async fn ask(stream: &mut UnixStream, argv: &[String]) -> Result<(), Error> {
    let line = format!("{}\n", serde_json::json!({ "argv": argv }));
    stream.write_all(line.as_bytes()).await.map_err(unseen)
}

async fn answer(stream: &mut UnixStream) -> Result<Output, Error> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(unseen)?;
    read(&answer)
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Unknown(format!("the helper's answer cannot be read: {error}")))
}
