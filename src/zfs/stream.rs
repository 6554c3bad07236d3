//! What flows through `zfs send` and `zfs receive`: a snapshot on its way to another pool, whole or continued.
//!
//! What was received counts once its guid was seen to be the source's; until then it carries no mark of ours.

use super::{Dataset, Error, Runner, Snapshot, client::Zfs, name, run};
use std::process::ExitStatus;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    process::Child,
};

/// How a command ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stderr: Vec<u8>,
}

/// How long standard error may stay open after its end: a connection that is kept has it too.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// Waits for a command to its end: `first` and then `input` go in, what it prints goes to `output`.
pub(super) async fn pipe(
    mut child: Child,
    first: &[u8],
    input: Option<&mut (impl AsyncRead + Unpin + Send)>,
    output: &mut (impl AsyncWrite + Unpin + Send),
) -> Result<Ended, Error> {
    let unknown = |error: std::io::Error| Error::Unknown(error.to_string());
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
        return Err(Error::Other("a command without pipes".into()));
    };
    let feeding = async move {
        // One that ends before it has read all says why on standard error.
        if stdin.write_all(first).await.is_ok()
            && let Some(input) = input
        {
            return copy(input, &mut stdin, false).await;
        }
        Ok(())
    };
    // Its output is closed when nobody takes it any more: a command that goes on printing would never end.
    let draining = async move { copy(&mut stdout, output, true).await };
    let (fed, drained, said) = tokio::join!(feeding, draining, async {
        let (mut said, ended) = (Vec::new(), child.wait());
        tokio::pin!(ended);
        let status = loop {
            tokio::select! {
                status = &mut ended => break status,
                read = stderr.read_buf(&mut said) => if !matches!(read, Ok(1..)) { break ended.await },
            }
        };
        let rest = async { while matches!(stderr.read_buf(&mut said).await, Ok(1..)) {} };
        // What is not said by then is of a process that stays.
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
        status.map(|status| (status, said))
    });
    let (status, said) = said.map_err(unknown)?;
    fed.map_err(unknown)?;
    drained.map_err(unknown)?;
    Ok(Ended { status, stderr: said })
}

/// Copies to the end. When the writer's failure does not count, the command that should read has ended and says why itself.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), writer_counts: bool) -> std::io::Result<()> {
    let mut block = vec![0; 128 << 10];
    loop {
        let read = from.read(&mut block).await?;
        if read == 0 {
            return to.flush().await.or_else(|error| if writer_counts { Err(error) } else { Ok(()) });
        }
        match to.write_all(&block[..read]).await {
            Err(error) if writer_counts => return Err(error),
            // The command has ended, and its status says why.
            Err(_) => return Ok(()),
            Ok(()) => {}
        }
    }
}

impl Zfs {
    /// Writes a snapshot to `to`: all of it, or what changed since `base`. It is whole only if this succeeds.
    pub async fn send(&self, snapshot: &Snapshot, base: Option<&Snapshot>, to: &mut (impl AsyncWrite + Unpin + Send)) -> Result<(), Error> {
        let text = name::snapshot(snapshot)?;
        let mut argv = vec!["send".to_owned()];
        if self.capabilities().resumable {
            argv.extend(["-L", "-e", "-c"].map(str::to_owned));
        }
        if let Some(base) = base {
            argv.extend(["-i".to_owned(), name::snapshot(base)?]);
        }
        argv.push(text.clone());
        self.drain(&text, argv, to).await
    }

    /// Writes the rest of what [`Self::receive`] got half of; `token` is [`Self::resume_token`] of the other side.
    pub async fn send_rest(&self, token: &str, to: &mut (impl AsyncWrite + Unpin + Send)) -> Result<(), Error> {
        self.drain("the rest", vec!["send".into(), "-t".into(), name::token(token)?.to_owned()], to).await
    }

    async fn drain(&self, subject: &str, argv: Vec<String>, to: &mut (impl AsyncWrite + Unpin + Send)) -> Result<(), Error> {
        let output = match &self.runner {
            Runner::Local => run::drain(&argv, to).await?,
            Runner::Ssh(ssh) => ssh.drain(&argv, to).await?,
            Runner::Socket(path) => run::drain_socket(path, &argv, to).await?,
            Runner::Service(_) => return Err(no_streams()),
            Runner::Nowhere => return Err(run::nowhere()),
        };
        super::client::checked(subject, output).map(drop)
    }

    /// Makes `to` of a stream, mounted nowhere; or brings it a snapshot further. Of a stream that was cut nothing stays, or
    /// where this ZFS can ([`super::Capabilities::resumable`]) what came, to be continued.
    pub async fn receive(&self, to: &Dataset, from: &mut (impl AsyncRead + Unpin + Send)) -> Result<(), Error> {
        self.fill(to, None, from).await
    }

    /// As [`Self::receive`], of what changed since `origin`: `to` becomes a clone of it. A ZFS that cannot be told so finds the origin
    /// by itself, where the stream is of another dataset than its base.
    pub async fn receive_onto(&self, origin: &Snapshot, to: &Dataset, from: &mut (impl AsyncRead + Unpin + Send)) -> Result<(), Error> {
        let origin = if self.capabilities().resumable { Some(name::snapshot(origin)?) } else { None };
        self.fill(to, origin, from).await
    }

    async fn fill(&self, to: &Dataset, origin: Option<String>, from: &mut (impl AsyncRead + Unpin + Send)) -> Result<(), Error> {
        let text = name::dataset(to)?;
        let options: &[&str] = if self.capabilities().resumable { &["-s", "-u"] } else { &[] };
        let mut argv: Vec<String> = ["receive"].iter().chain(options).map(|word| (*word).to_owned()).collect();
        argv.extend(origin.into_iter().flat_map(|origin| ["-o".to_owned(), format!("origin={origin}")]));
        argv.push(text.to_owned());
        // It may take hours; the Lease is renewed meanwhile.
        self.tenure.begin(run::DEADLINE)?;
        let output = match &self.runner {
            Runner::Local => run::feed(&argv, from).await?,
            Runner::Ssh(ssh) => ssh.feed(&argv, from).await?,
            Runner::Socket(path) => run::feed_socket(path, &argv, from).await?,
            Runner::Service(_) => return Err(no_streams()),
            Runner::Nowhere => return Err(run::nowhere()),
        };
        super::client::checked(text, output).map(drop)
    }

    /// What the sender needs to go on with a receive that was cut; `None` when there is nothing to continue.
    pub async fn resume_token(&self, dataset: &Dataset) -> Result<Option<String>, Error> {
        if !self.capabilities().resumable {
            return Ok(None);
        }
        let text = name::dataset(dataset)?;
        let argv = ["get", "-Hp", "-o", "value", "receive_resume_token", text].map(str::to_owned).to_vec();
        match super::client::checked(text, run::run(&self.runner, &self.tenure, argv).await?) {
            Ok(token) => Ok(Some(token.trim().to_owned()).filter(|token| token != "-" && !token.is_empty())),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a file system would be mounted; `none` and `legacy` are nowhere.
    pub async fn mountpoint(&self, dataset: &Dataset) -> Result<String, Error> {
        let text = name::dataset(dataset)?;
        let argv = ["get", "-Hp", "-o", "value", "mountpoint", text].map(str::to_owned).to_vec();
        let output = run::run(&self.runner, &self.tenure, argv).await?;
        super::client::checked(text, output).map(|value| value.trim().to_owned())
    }

    /// Gives up a receive that was cut: what came of it goes.
    pub async fn abort_receive(&self, dataset: &Dataset) -> Result<(), Error> {
        let text = name::dataset(dataset)?;
        self.act(text, ["receive", "-A", text].map(str::to_owned).to_vec()).await
    }

    /// Marks a dataset that was received whole as ours.
    pub async fn mark(&self, dataset: &Dataset, property: &str, value: &str) -> Result<(), Error> {
        self.set(name::dataset(dataset)?, property, value).await
    }

    /// Marks a snapshot that was received whole as ours: a stream brings no marks with it.
    pub async fn mark_snapshot(&self, snapshot: &Snapshot, property: &str, value: &str) -> Result<(), Error> {
        self.set(&name::snapshot(snapshot)?, property, value).await
    }

    async fn set(&self, text: &str, property: &str, value: &str) -> Result<(), Error> {
        let [_, assignment] = &name::options(&[(property.to_owned(), value.to_owned())].into())?[..] else {
            return Err(Error::BadName(property.to_owned()));
        };
        self.act(text, vec!["set".into(), assignment.clone(), text.to_owned()]).await
    }
}

fn no_streams() -> Error {
    Error::Unavailable("a service in this process takes no streams".into())
}
