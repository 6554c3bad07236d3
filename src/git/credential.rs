//! How the hub shows a repository who it is: never on a command line, never in a URL.

use super::Error;
use secrecy::{ExposeSecret, SecretString};
use std::{os::unix::fs::OpenOptionsExt, path::Path};
use tokio::process::Command;

/// Answers git's question for a password out of its own environment.
const HELPER: &str =
    "!f() { [ \"$1\" = get ] && printf 'username=%s\\npassword=%s\\n' \"$AUTOVIBE_GIT_USERNAME\" \"$AUTOVIBE_GIT_PASSWORD\"; }; f";

/// What a repository lets in.
#[derive(Clone, Debug)]
pub enum Credential {
    /// For `https://`; the password may be a token.
    Basic { username: String, password: SecretString },
    /// For `ssh://`: a private key as OpenSSH writes it, and the `known_hosts` of the server. Another host key is refused.
    Ssh { key: SecretString, known_hosts: String },
}

impl Credential {
    /// Gives it to one command, for the server of `url` alone; a key lies in `scratch` until that goes.
    pub(super) fn give(&self, command: &mut Command, url: &str, scratch: &Path) -> Result<(), Error> {
        match self {
            Self::Basic { username, password } => {
                // Where that server sends git elsewhere, nobody gets it.
                if let Ok(url) = url::Url::parse(url) {
                    command.env("AUTOVIBE_GIT_USERNAME", username).env("AUTOVIBE_GIT_PASSWORD", password.expose_secret());
                    command.args(["-c", &format!("credential.{}.helper={HELPER}", url.origin().ascii_serialization())]);
                }
            }
            Self::Ssh { key, known_hosts } => {
                let (key_file, hosts_file) = (scratch.join("key"), scratch.join("known_hosts"));
                let mut text = key.expose_secret().trim_end().to_owned();
                text.push('\n');
                write_private(&key_file, &text)?;
                write_private(&hosts_file, known_hosts)?;
                // The directory is ours: its name needs no quotes.
                command.env(
                    "GIT_SSH_COMMAND",
                    format!(
                        "ssh -F /dev/null -i {} -o IdentitiesOnly=yes -o IdentityAgent=none -o UserKnownHostsFile={} \
                         -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o BatchMode=yes",
                        key_file.display(),
                        hosts_file.display()
                    ),
                );
            }
        }
        Ok(())
    }
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(())
}
