//! The nodes of a Hub, each with its own ZFS, which is asked for when it is needed: one that is down harms nobody else.

use super::{Connection, Elsewhere, Error, Turns, vm};
use crate::proxmox::{Client, Node, Vmid};
use crate::zfs::{self, Zfs};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex as Cell},
    time::Duration,
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

/// How many guests are powered off at once: each is a process that waits on the node.
const TASKS: usize = 4;
/// After a node's ZFS did not answer, the time in which that is the answer: who waits for one node must not hold up the others.
const SILENT: Duration = Duration::from_secs(10);

/// One node of a Hub.
pub(super) struct Site {
    pub(super) node: Node,
    /// The Hub's, as it is on this node.
    pub(super) connection: Connection,
    /// ZFS there once it was probed, or since when it does not answer, and why.
    probed: Mutex<Option<Result<Zfs, (Instant, String)>>>,
    pub(super) tasks: Arc<Semaphore>,
    /// What the last boot took.
    pub(super) boot: Cell<Duration>,
    /// The VMIDs that datasets carried when they were last listed, and when that was.
    pub(super) numbers: Mutex<Option<(Instant, Arc<BTreeSet<Vmid>>)>>,
}

impl Site {
    /// All nodes of a connection, `first` first.
    pub(super) fn all(first: Node, connection: Connection) -> Vec<Arc<Self>> {
        let site = |node: Node, runner: zfs::Runner, turns: Turns| {
            turns.limit(connection.concurrency);
            let connection = Connection { node: Some(node.clone()), runner, turns, ..connection.clone() };
            let (tasks, boot) = (Arc::new(Semaphore::new(TASKS)), Cell::default());
            Arc::new(Self { node, connection, probed: Mutex::default(), tasks, boot, numbers: Mutex::default() })
        };
        let others = connection.others.iter().map(|Elsewhere { node, runner, turns }| (node.clone(), runner.clone(), turns.clone()));
        let first = (first, connection.runner.clone(), connection.turns.clone());
        std::iter::once(first).chain(others).map(|(node, runner, turns)| site(node, runner, turns)).collect()
    }

    /// Its ZFS. Errors: it does not answer, now or a moment ago.
    pub(super) async fn zfs(&self, proxmox: &Client) -> Result<Zfs, Error> {
        let mut probed = self.probed.lock().await;
        match &*probed {
            Some(Ok(zfs)) => return Ok(zfs.clone()),
            Some(Err((since, why))) if since.elapsed() < SILENT => return Err(zfs::Error::Unavailable(why.clone()).into()),
            Some(Err(_)) | None => {}
        }
        match Zfs::open(self.connection.runner.clone()).await {
            Ok(zfs) => {
                let zfs = zfs.under(self.connection.tenure.clone());
                vm::count_running(proxmox, &self.node, &self.connection.turns).await;
                *probed = Some(Ok(zfs.clone()));
                Ok(zfs)
            }
            Err(error) => {
                *probed = Some(Err((Instant::now(), format!("node {}: {error}", self.node))));
                Err(error.into())
            }
        }
    }
}
