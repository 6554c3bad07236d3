//! `autovibe delete`.

use super::{Context, print, resource};
use crate::clock::Clock;
use anyhow::bail;
use std::{process::ExitCode, time::Duration};

/// How often it looks whether an object is gone.
const LOOK: Duration = Duration::from_millis(300);

/// Deletes objects and waits until they are gone. Checkpoints of a Machine stay when the Machine goes.
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// A kind, or KIND/NAME
    kind: String,
    /// Names
    names: Vec<String>,
    /// Do not wait until they are gone
    #[arg(long)]
    no_wait: bool,
    /// Do not complain about what is not there
    #[arg(long)]
    ignore_not_found: bool,
}

impl Delete {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let first = self.names.first().map(String::as_str);
        let (kind, name) = resource::named(&self.kind, first)?;
        let client = context.client()?;
        let mut names = vec![name];
        names.extend(self.names.iter().skip(1).cloned());
        for name in names {
            let path = resource::path(kind, &client.namespace, &name);
            let object = match client.find(&path).await? {
                Some(object) => object,
                None if self.ignore_not_found => continue,
                None => bail!("there is no {} {name} in namespace {}; see `autovibe get {}`", kind.singular, client.namespace, kind.plural),
            };
            match client.delete(&path).await {
                Err(error) if error.is("NotFound") => {}
                other => drop(other?),
            }
            if !self.no_wait {
                let uid = object["metadata"]["uid"].as_str();
                let clock = Clock::system();
                let mut told = false;
                while client.find(&path).await?.is_some_and(|now| now["metadata"]["uid"].as_str() == uid) {
                    if !told {
                        eprintln!("{}/{name} is ending; waiting until it is gone (Ctrl-C leaves it to the hub)", kind.singular);
                        told = true;
                    }
                    clock.sleep(LOOK).await;
                }
            }
            print::out(&format!("{}/{name} {}\n", kind.singular, if self.no_wait { "is to be deleted" } else { "deleted" }))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
