//! `autovibe backup`: the whole store in one file, also while a hub runs.

use super::{Context, DatabaseArgs, print};
use crate::store;
use std::{path::PathBuf, process::ExitCode};

/// Copies the store to a file, also while a hub runs; the key of the Secrets is not in it
#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// The file to write; it must not exist
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
}

impl Backup {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let database = context.database(&self.database)?;
        store::backup(&database, &self.file).await?;
        let (file, key) = (self.file.display(), context.data().join("secrets.key"));
        print::out(&format!(
            "{database} is copied to {file}.\n\
             The key of its Secrets is not in there: keep a copy of {} in another place. Without it their values are lost.\n\
             Nor are ca.key and ca.crt beside it: without them each kubeconfig that was handed out is to be made again.\n",
            key.display()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}
