//! What another process takes of the machine.

use anyhow::Context as _;
use std::time::Duration;

/// Resident memory, MiB. Source: proc(5), `VmRSS`.
pub(super) fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse::<f64>().ok());
    Ok(kibibytes.context("the kernel does not say how much memory the process has")? / 1024.0)
}

/// Time that its threads have run so far. Source: Linux, `Documentation/scheduler/sched-stats.rst`, first field of `schedstat`.
pub(super) fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let mut all = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        all += Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default());
    }
    Ok(all)
}
