//! Reads the environment once at start; nothing else does.

use secrecy::SecretString;
use std::{io::IsTerminal, path::PathBuf};

/// What the environment says. A flag of the command line goes before each of these.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `AUTOVIBE_DATA`: the hub's data directory.
    pub data: Option<PathBuf>,
    /// `AUTOVIBE_DATABASE_URL`: where the store is; it may hold a password.
    pub database_url: Option<SecretString>,
    /// `KUBECONFIG`: the first file of the list.
    pub kubeconfig: Option<PathBuf>,
    /// `ANTHROPIC_API_KEY`, for `autovibe demo`.
    pub anthropic_api_key: Option<SecretString>,
    /// `RUST_LOG`: a filter as `tracing_subscriber::EnvFilter` reads it.
    pub log: Option<String>,
    /// `PATH`, for `autovibe doctor`.
    pub path: Vec<PathBuf>,
    /// Whether colours may be used: standard output is a terminal and `NO_COLOR` is not set.
    pub color: bool,
    /// Whether standard output is a terminal.
    pub terminal: bool,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn read() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one reader of the environment")]
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let secret = |name: &str| variable(name).and_then(|value| value.into_string().ok()).map(SecretString::from);
        let terminal = std::io::stdout().is_terminal();
        Self {
            data: variable("AUTOVIBE_DATA").map(PathBuf::from),
            kubeconfig: variable("KUBECONFIG").and_then(|list| std::env::split_paths(&list).next()),
            database_url: secret("AUTOVIBE_DATABASE_URL"),
            anthropic_api_key: secret("ANTHROPIC_API_KEY"),
            log: variable("RUST_LOG").and_then(|filter| filter.into_string().ok()),
            path: variable("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
            color: terminal && variable("NO_COLOR").is_none(),
            terminal,
        }
    }
}
