//! Logs: one subscriber, set up once. They go to standard error, so that standard output stays for answers.

use crate::config::Environment;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What is logged when `RUST_LOG` says nothing: our own state changes, and warnings of the libraries.
pub const CHANGES: &str = "warn,autovibe=info";
/// For a hub that is only measured: what it does is not news.
pub const WARNINGS: &str = "warn";

/// Starts logging as `RUST_LOG` says, else as `default` does. A filter that cannot be read is named and the default used.
pub fn start(environment: &Environment, default: &str) {
    let wanted = environment.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|error| {
        eprintln!("warning: RUST_LOG={wanted} is not a filter ({error}); using {default}");
        EnvFilter::new(default)
    });
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // Fails only when a test set one up before; then that one stays.
    logs.with_target(false).try_init().ok();
}
