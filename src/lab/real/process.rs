//! QEMU as a process: started so that it outlives us, found again by pid file and command line, killed if it must be.

use super::{Accelerator, Error, LOOK, QEMU};
use crate::clock::Clock;
use std::path::Path;
use std::time::Duration;

/// Starts QEMU in the background. QEMU leaves our session by itself (`-daemonize`) once all its devices are there,
/// so that the exit code and the words of the program that we start are those of its start.
pub(super) async fn launch(vmid: u32, directory: &Path, accelerator: Accelerator, devices: &[String]) -> Result<(), Error> {
    for socket in ["qmp", "qga", "serial0", "pid"] {
        match std::fs::remove_file(directory.join(socket)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("cannot remove", &directory.join(socket))(error));
            }
            _ => {}
        }
    }
    let output = tokio::process::Command::new(QEMU)
        .args(accelerator.arguments())
        .args(devices)
        .arg("-daemonize")
        .arg("-pidfile")
        .arg(directory.join("pid"))
        .stdin(std::process::Stdio::null())
        .current_dir(directory)
        .output()
        .await
        .map_err(Error::io("cannot run", Path::new(QEMU)))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::Failed(format!("start failed: QEMU of VM {vmid}: {}", words.trim())))
}

/// The pid of the guest's QEMU, if that runs: the pid file's, when that process was started with this very pid file.
pub(super) fn running(directory: &Path) -> Option<u32> {
    let file = directory.join("pid");
    let pid = std::fs::read_to_string(&file).ok()?.trim().parse().ok()?;
    let name = name_of(pid)?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let marked = line.split(|byte| *byte == 0).any(|word| word == file.as_os_str().as_encoded_bytes());
    // One that is ending has no command line any more, but still has its disks open.
    (marked || (line.is_empty() && QEMU.starts_with(&name))).then_some(pid)
}

/// The name of a process; `None` when there is none, or when it is dead to its last thread and only waits to be counted.
fn name_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (name) state …`, where a name may have anything in it.
    let (before, after) = stat.rsplit_once(") ")?;
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.count();
    if after.starts_with(['Z', 'X']) && threads <= 1 {
        return None;
    }
    before.split_once('(').map(|(_, name)| name.to_owned())
}

/// Waits until the process has ended; `false` when it runs on after `timeout`.
pub(super) async fn ended(directory: &Path, pid: u32, timeout: Duration, clock: &Clock) -> bool {
    tokio::time::timeout(timeout, async {
        while running(directory) == Some(pid) {
            clock.sleep(LOOK).await;
        }
    })
    .await
    .is_ok()
}

/// Kills QEMU, if `pid` still is this guest's.
pub(super) async fn kill(directory: &Path, pid: u32) -> Result<(), Error> {
    if running(directory) != Some(pid) {
        return Ok(());
    }
    // The shell's own kill: not every machine has the program.
    let kill = tokio::process::Command::new("sh").args(["-c", r#"kill -KILL "$0""#, &pid.to_string()]).output().await;
    kill.map(|_| ()).map_err(Error::io("cannot run", Path::new("sh")))
}
