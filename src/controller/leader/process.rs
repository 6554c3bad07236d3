//! Names this process so that another on the same machine can prove that it is dead.

use std::fs;

/// `host_boot_namespace_pid_start`.
pub(super) fn identity() -> String {
    let host = read("/proc/sys/kernel/hostname").replace('_', "-");
    let pid = std::process::id();
    format!("{host}_{}_{}_{pid}_{}", boot(), pids(), started(pid).unwrap_or_default())
}

/// Whether the process of this name ran here, in our own namespace of process ids since our own boot, and runs no more.
pub(super) fn is_dead(identity: &str) -> bool {
    let parts: Vec<&str> = identity.split('_').collect();
    let [_, its_boot, its_pids, pid, start] = parts.as_slice() else { return false };
    let (Ok(pid), Ok(start)) = (pid.parse(), start.parse::<u64>()) else { return false };
    let here = !its_boot.is_empty() && *its_boot == boot() && !its_pids.is_empty() && *its_pids == pids();
    here && started(pid) != Some(start)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn boot() -> String {
    read("/proc/sys/kernel/random/boot_id")
}

fn pids() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// When a process began, in ticks since the boot; `None` when there is none, or only its remains. Source: proc(5) `stat`.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything, brackets too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}
