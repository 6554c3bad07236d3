//! The other end of [`super::Ssh`]: a program that sshd runs whatever the caller asks for, one command a session.
//!
//! A request is one line of JSON on standard input; a stream for the command may follow it. It is run only if [`allow`] knows
//! its form, if what it would change carries our mark, and if its epoch was not revoked. The hub is trusted with no more.

mod allow;
mod epoch;
#[cfg(test)]
mod tests;

pub use allow::Limits;

use super::{Dataset, Error, Properties, Runner, Zfs, listing, name, run, run::Output};
use crate::clock::Tenure;
use allow::{Need, Work};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, Read, Write},
    path::PathBuf,
};

/// What tells whose something is.
const MARKS: &str = "origin,autovibe:machine,autovibe:image,autovibe:checkpoint";
/// Longer than any command of ours with the longest names.
const LONGEST_REQUEST: u64 = 1 << 20;

/// One command, and on whose behalf.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) argv: Vec<String>,
    /// Id of the hub's database.
    pub(super) installation: String,
    /// Grows with each process that takes over from another.
    pub(super) epoch: i64,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    Ran(Output),
    /// Nothing was run.
    Refused(String),
    /// Nothing could be run.
    Unavailable(String),
    Unknown(String),
}

impl Answer {
    pub(super) fn result(self) -> Result<Output, Error> {
        match self {
            Self::Ran(output) => Ok(output),
            Self::Refused(why) => Err(Error::Refused(why)),
            Self::Unavailable(why) => Err(Error::Unavailable(why)),
            Self::Unknown(why) => Err(Error::Unknown(why)),
        }
    }
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(why) => Self::Refused(why),
            Error::Unavailable(why) => Self::Unavailable(why),
            Error::BadName(_) => Self::Refused(error.to_string()),
            error => Self::Unknown(error.to_string()),
        }
    }
}

/// The helper of one node.
#[derive(Clone, Debug)]
pub struct Helper {
    pub limits: Limits,
    /// Directory that remembers the epochs. No one else may write there.
    pub state: PathBuf,
    pub runner: Runner,
}

impl Helper {
    /// Answers the one request on standard input.
    pub async fn serve(&self) {
        let request = match read() {
            Ok(request) => request,
            Err(why) => return say(&Answer::Refused(why), false),
        };
        let streams = request.argv.first().is_some_and(|verb| verb == "send");
        let answer = self.answer(&request).await.unwrap_or_else(Answer::from);
        say(&answer, streams);
    }

    async fn answer(&self, request: &Request) -> Result<Answer, Error> {
        let allowed = self.limits.allow(&request.argv).map_err(Error::Refused)?;
        let epochs = epoch::Epochs { directory: &self.state };
        // Held as long as a command may change something: a higher epoch begins when those before it have ended. What
        // streams changes nothing that counts before a later command says so.
        let held = epochs.enter(&request.installation, request.epoch).await.map_err(Error::Refused)?;
        let _held = matches!(allowed.work, Work::Plain).then_some(held);
        if let Work::Resumes(token) = &allowed.work {
            self.look_at_token(token).await?;
        }
        if let Some(missing) = self.look(&allowed.needs).await? {
            return Ok(Answer::Ran(missing));
        }
        match allowed.work {
            Work::Plain => run::to_its_end(&self.runner, &Tenure::unlimited(), &request.argv).await.map(Answer::Ran),
            Work::Prints | Work::Resumes(_) => run::drain(&request.argv, &mut tokio::io::stdout()).await.map(Answer::Ran),
            Work::Reads => run::feed(&request.argv, &mut tokio::io::stdin()).await.map(Answer::Ran),
            Work::Import { to, size, properties } => self.import(&to, size, &properties).await,
        }
    }

    /// Looks whether everything that a command would change is ours; what is not there is the command's answer.
    async fn look(&self, needs: &[Need]) -> Result<Option<Output>, Error> {
        if needs.is_empty() {
            return Ok(None);
        }
        let names: Vec<String> = needs.iter().map(|need| need.name().to_owned()).collect();
        let words = ["get", "-Hp", "-s", "local,none", "-o", "name,property,value,source", MARKS].map(str::to_owned);
        let output = run::to_its_end(&self.runner, &Tenure::unlimited(), &[words.to_vec(), names].concat()).await?;
        if output.status != 0 {
            return Ok(Some(output));
        }
        let mut items = listing::read(&output.stdout)?;
        for need in needs {
            let item = items.remove(need.name()).unwrap_or_default();
            need.check(item.properties(), item.value("origin"), &self.limits).map_err(Error::Refused)?;
        }
        Ok(None)
    }

    /// A token names a snapshot, but only ZFS can read it: it is asked what it would send.
    async fn look_at_token(&self, token: &str) -> Result<(), Error> {
        let argv = ["send", "-n", "-v", "-t", token].map(str::to_owned);
        let output = run::to_its_end(&self.runner, &Tenure::unlimited(), &argv).await?;
        // Source: OpenZFS libzfs_sendrecv.c, zfs_send_resume_impl, which prints the token's contents as a list.
        let text = output.stdout + &output.stderr;
        let snapshot = text.lines().find_map(|line| line.trim().strip_prefix("toname = "));
        let snapshot = snapshot.ok_or_else(|| Error::Refused("the token does not say what it would send".into()))?;
        self.limits.sendable(snapshot).map_err(Error::Refused)
    }

    async fn import(&self, to: &Dataset, size: u64, properties: &Properties) -> Result<Answer, Error> {
        let zfs = Zfs::open(self.runner.clone()).await?;
        let done = zfs.import_from(std::io::stdin().take(size), size, to, properties).await;
        let refusal = |stderr: String| Answer::Ran(Output { status: 1, stdout: String::new(), stderr });
        match done {
            Ok(()) => Ok(Answer::Ran(Output { status: 0, stdout: String::new(), stderr: String::new() })),
            // In the words that the other side reads.
            Err(Error::Exists(name)) => Ok(refusal(format!("cannot create '{name}': dataset already exists"))),
            Err(Error::NotFound(name)) => Ok(refusal(format!("cannot create '{name}': parent: dataset does not exist"))),
            Err(Error::OutOfSpace(why)) => Ok(refusal(format!("out of space: {why}"))),
            Err(Error::Other(why)) => Ok(refusal(why)),
            Err(error) => Err(error),
        }
    }
}

fn read() -> Result<Request, String> {
    let mut line = String::new();
    let mut input = std::io::stdin().lock();
    let read = input.by_ref().take(LONGEST_REQUEST).read_line(&mut line);
    read.map_err(|error| format!("the request cannot be read: {error}"))?;
    if !line.ends_with('\n') {
        return Err("the request is no line of JSON that ends".into());
    }
    serde_json::from_str(&line).map_err(|error| format!("the request cannot be read: {error}"))
}

/// Prints the answer: where standard output is the stream itself, as the last line on standard error.
fn say(answer: &Answer, streams: bool) {
    let Ok(text) = serde_json::to_string(answer) else { return };
    // One who went away hears nothing, and must look.
    let _ = if streams { writeln!(std::io::stderr(), "\n{text}") } else { writeln!(std::io::stdout(), "{text}") };
}

/// A name that the client would send; the check is the same on both sides.
fn legal(dataset: &str) -> bool {
    name::dataset(&Dataset(dataset.to_owned())).is_ok()
}
