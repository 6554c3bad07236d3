//! KVM or software emulation: decided once per boot of this machine, by seeing a guest come up.

use super::{QEMU, monitor};
use crate::clock::Clock;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tracing::{info, warn};

/// A guest under KVM is up in one or two seconds; one that hangs does so for ever.
const UP: Duration = Duration::from_secs(6);

/// How guests' code is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor itself.
    Kvm,
    /// By software.
    Tcg,
}

impl Accelerator {
    /// The word in logs and in the cached verdict.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }

    pub(super) fn arguments(self) -> [&'static str; 4] {
        match self {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// Decides, by the cached verdict of this boot or by booting the first disk of `disks` without writing to it.
///
/// There are machines on which `/dev/kvm` opens and runs a BIOS while a Linux guest hangs, so nothing less is evidence.
pub(super) async fn choose(data: &Path, disks: &[PathBuf], clock: &Clock) -> Accelerator {
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Accelerator::Tcg;
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let verdict_file = data.join("accelerator");
    if let Ok(text) = std::fs::read_to_string(&verdict_file)
        && let Some((cached_boot, verdict)) = text.trim().split_once(' ')
        && cached_boot == boot.trim()
    {
        return if verdict == "kvm" { Accelerator::Kvm } else { Accelerator::Tcg };
    }
    let Some(disk) = disks.first() else { return Accelerator::Tcg };
    let verdict = if comes_up(data, disk, clock).await { Accelerator::Kvm } else { Accelerator::Tcg };
    info!(accelerator = verdict.name(), "tried KVM with {}", disk.display());
    if verdict == Accelerator::Tcg {
        warn!(
            "no guest came up under KVM within {UP:?}: guests run in software until {} is removed or this machine boots again",
            verdict_file.display()
        );
    }
    if let Err(error) = std::fs::write(&verdict_file, format!("{} {}\n", boot.trim(), verdict.name())) {
        warn!("the accelerator's verdict cannot be kept in {}: {error}", verdict_file.display());
    }
    verdict
}

/// Boots a throw-away view of `disk` under KVM and waits for its guest agent to open its port.
async fn comes_up(data: &Path, disk: &Path, clock: &Clock) -> bool {
    let directory = data.join("probe");
    std::fs::remove_dir_all(&directory).ok();
    if std::fs::create_dir_all(&directory).is_err() {
        return false;
    }
    let socket = directory.join("qmp");
    let mut command = tokio::process::Command::new(QEMU);
    command
        .args(Accelerator::Kvm.arguments())
        .args(["-m", "512", "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-net", "none"])
        .args(["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk", "-drive"])
        .arg(format!("if=none,id=disk,format=raw,snapshot=on,file={}", disk.display().to_string().replace(',', ",,")))
        .args([
            "-chardev",
            "null,id=qga0",
            "-device",
            "virtio-serial",
            "-device",
            "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0,id=port",
        ])
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display().to_string().replace(',', ",,")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let Ok(mut qemu) = command.spawn() else { return false };
    let up = tokio::time::timeout(UP, async {
        loop {
            clock.sleep(Duration::from_millis(50)).await;
            if qemu.try_wait().is_ok_and(|status| status.is_some()) {
                return false;
            }
            let Ok(mut monitor) = monitor::Connection::open(0, &socket, 0).await else { continue };
            while let Ok(devices) = monitor.call(0, "query-chardev").await {
                if devices
                    .as_array()
                    .is_some_and(|list| list.iter().any(|device| device["label"] == "qga0" && device["frontend-open"] == true))
                {
                    return true;
                }
                clock.sleep(Duration::from_millis(50)).await;
            }
        }
    })
    .await
    .unwrap_or(false);
    qemu.kill().await.ok();
    std::fs::remove_dir_all(&directory).ok();
    up
}
