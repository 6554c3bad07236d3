//! `autovibe restore`: a backup in the place of the store.

use super::{Context, DatabaseArgs, print, up};
use crate::clock::Clock;
use crate::store::{self, Replace};
use std::{path::PathBuf, process::ExitCode};

/// Puts a backup in the place of the store, while no hub runs
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// What `autovibe backup` wrote
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Replace a database that is there: a file is kept under another name, tables of PostgreSQL are deleted
    #[arg(long)]
    overwrite: bool,
}

impl Restore {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let data = context.data();
        up::make_private(&data)?;
        let database = context.database(&self.database)?;
        let replace = if self.overwrite { Replace::Overwrite } else { Replace::Refuse };
        let kept = store::restore(&self.file, &database, replace, &Clock::system()).await?;
        let mut text = format!("{} is restored to {database}.\n", self.file.display());
        if let Some(kept) = kept {
            text += &format!("What was there is kept as {}.\n", kept.display());
        }
        let key = data.join("secrets.key");
        text += &if key.exists() {
            format!("Its Secrets open with the key that it was made with; {} must be that one.\n", key.display())
        } else {
            format!("Its Secrets open with the key that it was made with: put that one to {} before `autovibe up`.\n", key.display())
        };
        text += "What was done since the backup is not in it: VMs that are younger are left alone, and model calls that were paid since \
                 are in no budget. Clients list anew.\n";
        print::out(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
