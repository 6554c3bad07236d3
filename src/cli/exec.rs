//! `autovibe exec`: runs a command in the guest of a Machine.

use super::{Context, Output, print, resource};
use crate::api::exec::{Exec, ExecOutput, ExecUser, Executed, MOST_INPUT, MOST_OUTPUT};
use crate::api::quantity::GoDuration;
use anyhow::{Context as _, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use std::{
    io::{Read, Write},
    process::ExitCode,
};

/// Runs a command in the guest of a Machine, in its workspace; exits as the command did
///
/// As the agent's user, unless `--root`. No shell reads it: write `-- sh -c '…'` for one. Its output comes as it is
/// written; when this program ends, it is killed.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// The Machine
    machine: String,
    /// As root
    #[arg(long)]
    root: bool,
    /// Give it the standard input, a text of at most 64 KiB
    #[arg(long, short = 'i')]
    stdin: bool,
    /// When it is killed
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    timeout: GoDuration,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Run {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let name = self.machine.strip_prefix("machine/").unwrap_or(&self.machine);
        let user = if self.root { ExecUser::Root } else { ExecUser::Agent };
        let document = context.options.output.filter(|output| matches!(output, Output::Json | Output::Yaml));
        let output = if document.is_some() { ExecOutput::AtEnd } else { ExecOutput::Live };
        let exec = Exec { command: self.command.clone(), stdin: self.input()?, user, timeout: self.timeout, output };
        let path = format!("{}/exec", resource::machine(&client.namespace, name));
        // It has a time limit of its own, in the guest.
        let mut answer = client.send(client.request(Method::POST, &path).json(&exec)).await.map_err(|error| of_older(error.into()))?;
        let mut shown = (Stream::new(std::io::stdout(), context.environment.terminal), Stream::new(std::io::stderr(), true));
        let (mut lines, mut last) = (Vec::new(), None);
        while let Some(bytes) = answer.chunk().await.context("the connection to the hub broke; the command was or will be killed")? {
            lines.extend_from_slice(&bytes);
            if !bytes.contains(&b'\n') {
                continue;
            }
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = lines.drain(..=end).collect();
                let part: Executed =
                    serde_json::from_slice(&line).context("the hub's answer has a form that this version does not know")?;
                if document.is_none() {
                    shown.0.show(&part.stdout)?;
                    shown.1.show(&part.stderr)?;
                }
                last = Some(part);
            }
        }
        shown.0.end()?;
        shown.1.end()?;
        let last = last.filter(|last| last.error.is_some() || last.exit_code.is_some() || document.is_some());
        let executed = last.context("the hub's answer broke off; the command was or will be killed")?;
        if let Some(output) = document {
            print::out(&print::document(&serde_json::to_value(&executed)?, output)?)?;
        }
        if let Some(error) = executed.error {
            bail!("{error}");
        }
        let code = executed.exit_code.and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }

    fn input(&self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        if self.stdin {
            std::io::stdin().lock().take(MOST_INPUT as u64 + 1).read_to_end(&mut bytes).context("the standard input cannot be read")?;
        }
        if bytes.len() > MOST_INPUT {
            bail!("the standard input has more than {} KiB, which is all that can be given to a command in a guest", MOST_INPUT >> 10);
        }
        String::from_utf8(bytes).context("the standard input is no text (UTF-8); send `base64 FILE`, and decode it in the guest")
    }
}

/// What to do where the server does not know what is asked of it.
fn of_older(error: anyhow::Error) -> anyhow::Error {
    if format!("{error:#}").contains("unknown field `output`") {
        return anyhow::anyhow!("the hub is of an older version, which gives no output before the end; use -o json, or upgrade the hub");
    }
    error
}

/// A stream of the command: printed as it is, unless a terminal could be driven by it.
struct Stream<W> {
    to: W,
    terminal: bool,
    length: usize,
    /// The beginning of a character whose end has not come.
    held: Vec<u8>,
}

impl<W: Write> Stream<W> {
    fn new(to: W, terminal: bool) -> Self {
        Self { to, terminal, length: 0, held: Vec::new() }
    }

    fn show(&mut self, text: &str) -> anyhow::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let bytes = STANDARD.decode(text).context("the hub's answer is not base64")?;
        self.length += bytes.len();
        if !self.terminal {
            self.to.write_all(&bytes)?;
            return Ok(self.to.flush()?);
        }
        self.held.extend_from_slice(&bytes);
        let whole = whole(&self.held);
        let text: Vec<u8> = self.held.drain(..whole).collect();
        self.print(&text)
    }

    fn print(&mut self, text: &[u8]) -> anyhow::Result<()> {
        self.to.write_all(print::printable(&String::from_utf8_lossy(text)).as_bytes())?;
        Ok(self.to.flush()?)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let rest = std::mem::take(&mut self.held);
        self.print(&rest)?;
        if self.length >= MOST_OUTPUT {
            eprintln!("(only the first {} MiB came)", MOST_OUTPUT >> 20);
        }
        Ok(())
    }
}

/// How many of these bytes are before the beginning of a character whose end is missing.
fn whole(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let last = bytes[tail..].iter().rposition(|byte| *byte >= 0xc0).map(|at| tail + at);
    let needs = |byte| match byte {
        0xf0.. => 4,
        0xe0.. => 3,
        _ => 2,
    };
    last.filter(|at| bytes.len() - at < needs(bytes[*at])).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_comes_in_two_parts_is_shown_whole() {
        let all = "zwölf 😀 ✔\u{1b}[2J\n".as_bytes();
        for cut in 0..=all.len() {
            let mut stream = Stream::new(Vec::new(), true);
            for part in [&all[..cut], &all[cut..], b"\xff\xf0"] {
                stream.show(&STANDARD.encode(part)).unwrap();
            }
            stream.end().unwrap();
            assert_eq!(String::from_utf8(stream.to).unwrap(), "zwölf 😀 ✔[2J\n\u{fffd}\u{fffd}", "cut at {cut}");
        }
    }

    #[test]
    fn a_server_of_before_is_told_of() {
        let said = anyhow::anyhow!("the body must be JSON such as {{}}: unknown field `output`, expected one of `command`");
        assert!(of_older(said).to_string().contains("an older version"));
        assert_eq!(of_older(anyhow::anyhow!("not found")).to_string(), "not found");
    }
}
