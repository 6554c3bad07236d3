//! `autovibe doctor`: what is missing on this machine, or to a Hub, for what, and how to get it.

mod exercise;

use super::{Context, Output, client::Client, print, resource};
use crate::api::capability::{CapabilityName, impossible};
use crate::api::{
    Hub,
    hub::{FirewallMode, HubStatus},
};
use anyhow::Context as _;
use exercise::Exercise;
use serde::Serialize;
use std::{collections::BTreeSet, path::Path, process::ExitCode, time::Duration};

/// Says what is missing here, and how to get it.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Look at this Hub instead: whether its Proxmox answers, and what its token lacks, with the commands that give it
    #[arg(long)]
    hub: Option<String>,
    /// Try the Hub's node with one whole life: spawn, checkpoint, fork, end, collect, in a namespace of its own that is deleted
    /// at the end. It takes a minute or two, and no model
    #[arg(long, requires = "hub")]
    exercise: bool,
    /// The image to spawn from, for --exercise [default: the first of the Hub]
    #[arg(long, requires = "exercise")]
    image: Option<String>,
    /// Give a step of --exercise up after so many seconds
    #[arg(long, requires = "exercise", default_value_t = 300)]
    timeout: u32,
}

/// One thing that is needed or useful.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    /// For which part of autovibe.
    part: &'static str,
    what: String,
    present: bool,
    /// Without it the part does not work at all.
    required: bool,
    /// The Debian package that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    package: Option<&'static str>,
    /// What it means, or what to do.
    note: &'static str,
}

/// Programs by part: the program, its Debian package, whether the part needs it, and a note.
const PROGRAMS: &[(&str, &str, &str, bool, &str)] = &[
    ("hub", "git", "git", true, "for `source` of Machines and `autovibe diff`"),
    ("hub", "kubectl", "", false, "only if you want it beside `autovibe`; see kubernetes.io for how to get it"),
    ("real lab", "qemu-system-x86_64", "qemu-system-x86", true, "runs the guests"),
    ("real lab", "zfs", "zfs-fuse", true, "holds their disks; OpenZFS is used where it is there, else zfs-fuse"),
    ("real lab", "zpool", "zfs-fuse", true, "makes the lab's pool on a file"),
    ("real lab", "setsid", "util-linux", true, "lets the guests outlive the lab"),
    ("image building", "apt-get", "apt", true, "images are made of this machine's own Debian or Ubuntu"),
    ("image building", "dpkg-deb", "dpkg", true, "unpacks packages"),
    ("image building", "mmdebstrap", "mmdebstrap", true, "makes the Debian guest"),
    ("image building", "busybox", "busybox-static", true, "is the micro guest's userland"),
    ("image building", "syslinux", "syslinux", true, "boots the disks"),
    ("image building", "mcopy", "mtools", true, "fills the boot partition"),
    ("image building", "mkfs.fat", "dosfstools", true, "makes the boot partition"),
    ("image building", "mkfs.ext4", "e2fsprogs", true, "makes the root partition"),
    ("image building", "sfdisk", "fdisk", true, "partitions the disk"),
    ("image building", "npm", "npm", true, "fetches agents"),
];

impl Doctor {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        if let Some(hub) = &self.hub {
            let hub = hub.strip_prefix("hub/").unwrap_or(hub);
            return if self.exercise { self.exercise(hub, context).await } else { of_hub(hub, context).await };
        }
        let findings = examine(&context.environment.path, Path::new("/"));
        match context.options.output {
            Some(output @ (Output::Json | Output::Yaml)) => print::out(&print::document(&serde_json::to_value(&findings)?, output)?)?,
            _ => print::out(&text(&findings))?,
        }
        let fine = findings.iter().all(|finding| finding.present || !finding.required);
        Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Doctor {
    async fn exercise(&self, name: &str, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let hub = find(&client, name).await?;
        let first = hub.spec.images.first().map(|image| image.name.clone());
        let image = self.image.clone().or(first).with_context(|| format!("hub/{name} has no image; name one in spec.images"))?;
        let format = context.options.output.filter(|output| matches!(output, Output::Json | Output::Yaml));
        if format.is_none() {
            print::out(&print::printable(&format!("hub/{name}: one life from image {image}\n")))?;
        }
        let told = hub.status.as_ref().map(|status| status.capabilities.as_slice()).unwrap_or_default();
        let in_life = impossible(told, CapabilityName::CheckpointInLife).is_none();
        let exercise = Exercise::new(&client, (name, in_life), image, Duration::from_secs(self.timeout.into()), format.is_none());
        let outcome = exercise.run().await;
        match (format, &outcome.error) {
            (Some(format), _) => print::out(&print::document(&serde_json::to_value(&outcome.steps)?, format)?)?,
            (None, None) => print::out("all is well, and nothing of it is left\n")?,
            (None, Some(_)) => {}
        }
        outcome.error.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.context(format!("the exercise of hub/{name}"))))
    }
}

async fn find(client: &Client, name: &str) -> anyhow::Result<Hub> {
    let found = client.find(&resource::our::<Hub>(None, Some(name))).await?;
    let found = found.with_context(|| format!("there is no hub {name}; see `autovibe get hubs`"))?;
    serde_json::from_value(found).context("the Hub has a form that this version does not know")
}

async fn of_hub(name: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let hub = find(&context.client()?, name).await?;
    let managed = hub.spec.infrastructure.proxmox.as_ref().map(|proxmox| proxmox.firewall.mode == FirewallMode::Managed);
    let status = hub.status.unwrap_or_default();
    match context.options.output {
        Some(output @ (Output::Json | Output::Yaml)) => print::out(&print::document(&serde_json::to_value(&status)?, output)?)?,
        _ => print::out(&print::printable(&text_of_hub(name, &status, managed)))?,
    }
    let fine = status.message.is_none() && status.proxmox_version.is_some() && status.lacking.is_empty();
    let bad = ["FirewallInactive", "StorageLow"];
    let fine = fine && !status.conditions.iter().any(|condition| bad.contains(&&*condition.type_) && condition.status == "True");
    let fine = fine && status.nodes.iter().all(|node| node.message.is_none());
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `managed`: whether the hub makes firewall rules; `None` where there is no Proxmox to make any in.
fn text_of_hub(name: &str, status: &HubStatus, managed: Option<bool>) -> String {
    let version = status.proxmox_version.as_ref();
    let answers = version.map_or_else(|| "✘ Proxmox has not answered yet".into(), |version| format!("✔ Proxmox {version} answers"));
    let mut lines = vec![format!("hub/{name}"), format!("  {answers}")];
    lines.extend(status.message.iter().map(|message| format!("  ✘ {message}")));
    lines.extend(status.nodes.iter().map(|node| match &node.message {
        None => format!("  ✔ node {} can take machines", node.name),
        Some(why) => format!("  ✘ node {}: {why}", node.name),
    }));
    let cannot = status.capabilities.iter().filter_map(|capability| impossible(&status.capabilities, capability.name));
    lines.extend(cannot.map(|why| format!("  – its storage {why}")));
    // In the words of its condition, which have the token's name.
    let lacking = status.conditions.iter().find(|condition| condition.type_ == "PermissionsMissing" && condition.status == "True");
    match lacking.and_then(|condition| condition.message.split_once(" As root on a node: ")) {
        Some((what, commands)) => {
            lines.push(format!("  ✘ {what}"));
            lines.push("    As root on a node:".into());
            lines.extend(commands.split("; ").map(|command| format!("      {command}")));
        }
        None if version.is_some() => lines.push("  ✔ the token may do all that is needed".into()),
        None => {}
    }
    let low = status.conditions.iter().find(|condition| condition.type_ == "StorageLow" && condition.status == "True");
    lines.extend(low.map(|condition| format!("  ✘ {}", condition.message)));
    let inactive = status.conditions.iter().find(|condition| condition.type_ == "FirewallInactive" && condition.status == "True");
    match (managed, inactive) {
        (_, Some(inactive)) => lines.push(format!("  ✘ {}", inactive.message)),
        (Some(true), None) if version.is_some() => lines.push("  ✔ guests are confined to the gateway by the firewall of Proxmox".into()),
        (Some(false), None) => lines.push(
            "  – guests reach what their bridge lets them; with infrastructure.proxmox.firewall.mode: Managed the hub confines them".into(),
        ),
        _ => {}
    }
    lines.join("\n") + "\n"
}

/// Looks at the programs on `path` and at what the machine below `root` has.
fn examine(path: &[std::path::PathBuf], root: &Path) -> Vec<Finding> {
    // Programs of administrators are not always on a user's path.
    let places: Vec<_> = path.iter().cloned().chain(["usr/sbin", "sbin"].map(|place| root.join(place))).collect();
    let mut findings: Vec<Finding> = PROGRAMS
        .iter()
        .map(|(part, program, package, required, note)| Finding {
            part,
            what: (*program).into(),
            present: places.iter().any(|place| place.join(program).is_file()),
            required: *required,
            package: (!package.is_empty()).then_some(*package),
            note,
        })
        .collect();
    let mut device = |part, what: &str, present, required, note| {
        findings.push(Finding { part, what: what.into(), present, required, package: None, note });
    };
    device("real lab", "root", rustix::process::geteuid().is_root(), true, "pools and images can be made only as root; run it with sudo");
    device(
        "real lab",
        "/dev/kvm",
        root.join("dev/kvm").exists(),
        false,
        "makes guests fast where it really works, which is tried; without it QEMU emulates",
    );
    if !root.join("dev/zfs").exists() {
        device(
            "real lab",
            "/dev/fuse",
            root.join("dev/fuse").exists(),
            true,
            "zfs-fuse needs it: load the kernel module fuse, or give the container the device",
        );
    }
    findings
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for part in ["hub", "real lab", "image building"] {
        let rows: Vec<Vec<String>> = findings
            .iter()
            .filter(|finding| finding.part == part)
            .map(|finding| {
                let mark = match (finding.present, finding.required) {
                    (true, _) => "✔",
                    (false, true) => "✘",
                    (false, false) => "–",
                };
                vec![format!("  {mark}"), finding.what.clone(), finding.note.to_owned()]
            })
            .collect();
        let missing = findings.iter().any(|finding| finding.part == part && finding.required && !finding.present);
        text += &format!("{part}: {}\n{}", if missing { "something is missing" } else { "fine" }, print::columns(&[], &rows));
    }
    let packages: BTreeSet<&str> = findings.iter().filter(|f| !f.present && f.required).filter_map(|f| f.package).collect();
    if !packages.is_empty() {
        text += &format!("\nTo get it:  apt-get install {}   (or `make deps`)\n", packages.into_iter().collect::<Vec<_>>().join(" "));
        text += "Without the lab:  autovibe up --lab simulated  needs none of it.\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_package() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        for program in PROGRAMS.iter().map(|row| row.1).filter(|program| !["mcopy", "kubectl"].contains(program)) {
            std::fs::write(if program == "zfs" { root.path().join("usr/sbin/zfs") } else { bin.join(program) }, "").unwrap();
        }
        let findings = examine(&[bin], root.path());
        let missing: Vec<&str> = findings.iter().filter(|f| !f.present).map(|f| f.what.as_str()).filter(|what| *what != "root").collect();
        assert_eq!(missing, ["kubectl", "mcopy", "/dev/kvm", "/dev/fuse"]);
        let text = text(&findings);
        assert!(
            text.contains("apt-get install mtools ") && text.contains("image building: something is missing") && text.contains("hub: fine"),
            "{text}"
        );
    }
}
