//! Whose turn it is on zfs-fuse, over all processes of this machine. The kernel's ZFS needs no turns.
//!
//! When zfs-fuse 0.7 lets a file system go, it closes the descriptor of its session twice (`destroy_fs` in fuse_listener.c),
//! and whatever another command opened in between is closed with it: two workers then read from one socket, and the daemon
//! hangs for good. Two mounts at the same time mix up what they write to one pipe. So what mounts or unmounts runs alone,
//! and ends a moment later than its command.

use crate::clock::Clock;
use std::{fs::File, path::Path, time::Duration};
use tracing::warn;

/// Verbs of `zfs` and `zpool` that touch no mount. They may run beside each other; any other runs alone.
const BESIDE: [&str; 9] = ["get", "list", "status", "snapshot", "hold", "release", "promote", "send", "receive"];
/// By then the daemon has seen that what was unmounted is gone.
const SETTLED: Duration = Duration::from_millis(20);
/// The kernel module's device.
const OPENZFS: &str = "/dev/zfs";

/// Runs a `zfs` or `zpool` command, of this verb, in its turn.
pub async fn in_turn<T>(verb: &str, command: impl Future<Output = T>) -> T {
    if Path::new(OPENZFS).exists() {
        return command.await;
    }
    let alone = !BESIDE.contains(&verb);
    let _turn = wait(std::env::temp_dir().join("autovibe-zfs-turn.lock"), alone).await;
    let done = command.await;
    if alone {
        Clock::system().sleep(SETTLED).await;
    }
    done
}

/// Waits for the lock of this file, which goes with what is returned. Without a file that can be locked there are no turns.
pub(super) async fn wait(path: std::path::PathBuf, alone: bool) -> Option<File> {
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::options().create(true).append(true).open(&path)?;
        if alone { file.lock() } else { file.lock_shared() }?;
        Ok::<_, std::io::Error>(file)
    });
    locked.await.ok()?.inspect_err(|error| warn!("zfs-fuse is asked without a turn: {error}")).ok()
}
