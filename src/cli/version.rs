//! `autovibe version`.

use super::{Context, Output, print};
use serde_json::json;
use std::process::ExitCode;

/// Prints the version.
#[derive(Debug, clap::Args)]
pub(super) struct Version {}

impl Version {
    pub(super) fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let version = env!("CARGO_PKG_VERSION");
        match context.options.output {
            Some(output @ (Output::Json | Output::Yaml)) => {
                print::out(&print::document(&json!({ "version": version, "apiVersion": crate::api::API_VERSION }), output)?)?;
            }
            _ => print::out(&format!("autovibe {version}, API {}\n", crate::api::API_VERSION))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
