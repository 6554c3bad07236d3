//! Storage by Proxmox' API alone: a Machine is a linked clone of a template, and its final checkpoint is its VM made a template, which
//! keeps its VMID. No `zfs` command is run, and nothing but a whole VM is ever destroyed, by two marks: its checkpoint's tag, and its
//! description, which names the checkpoint and the VMID. Source: proxmox-zfs facts 5.6, 6.0, 6.4 and 6.8, “Pure-API machine chain”.
//!
//! Not here: Proxmox' own snapshots. One of a running VM stops its CPUs and rewrites the cluster's configuration, and a VM that has
//! any becomes no template.

use super::marks::{self, OwnedVm, Owner, described, owner};
use super::storage::Image;
use super::vm::{TASK, VmSpec, own_values};
use super::{Driver, Error};
use crate::api::capability::{Capabilities, CapabilityName};
use crate::api::checkpoint::Volume;
use crate::clock::Clock;
use crate::proxmox::{self, Power, TaskStatus, VmConfig, Vmid};
use crate::zfs::{Dataset, Snapshot};

/// What it cannot do, and what happens instead.
pub(super) fn capabilities() -> Capabilities {
    Capabilities::all_but(&[
        (CapabilityName::CheckpointInLife, "a checkpoint is the VM itself, made a template when its machine has ended"),
        (CapabilityName::ForkNow, "only the final checkpoint of a machine that has ended can be spawned from"),
        (CapabilityName::Restore, "there is no earlier state of it; spawn another machine from the checkpoint that this one came from"),
        (CapabilityName::Memory, "the guest starts from its disks"),
        (CapabilityName::Move, "a template stays on its node"),
        (CapabilityName::ResumeCopy, "nothing is copied"),
        (CapabilityName::DetachDisks, "a final checkpoint is its VM, which keeps its VMID"),
    ])
}

/// Name of a checkpoint's tag on its template.
pub fn tag(checkpoint_uid: &str) -> String {
    format!("avc-{checkpoint_uid}")
}

/// The Checkpoint that a VM's tags name. A clone bears those of its template until it is adopted.
pub fn tagged(tags: &[String]) -> Option<&str> {
    tags.iter().find_map(|tag| tag.strip_prefix("avc-"))
}

/// A template that both marks prove to be a Checkpoint's, as its config was a moment ago.
struct Kept {
    digest: String,
    protected: bool,
}

impl Driver {
    /// A template that Machines may be spawned from. It stays its owner's: nothing here marks or changes it.
    ///
    /// Errors: `Missing` when there is no such VM; `Settings` when it cannot be cloned here.
    pub async fn find_template(&self, vmid: Vmid) -> Result<Image, Error> {
        let (node, storage) = (self.node(), &self.connection().storage);
        let config = match self.proxmox.config(node, vmid).await {
            Ok(config) => config,
            Err(proxmox::Error::NoConfig(_)) => return Err(Error::Missing(format!("there is no VM {vmid} on node {node}"))),
            Err(error) => return Err(error.into()),
        };
        if !is_template(&config) {
            return Err(Error::Settings(format!("VM {vmid} is no template; on the node: `qm template {vmid}`")));
        }
        let disks = disks(&config);
        if disks.is_empty() {
            return Err(Error::Settings(format!("template {vmid} has no disk")));
        }
        if let Some((key, volume)) = disks.iter().find(|(_, volume)| !volume.starts_with(&format!("{storage}:"))) {
            return Err(Error::Settings(format!(
                "disk {key} of template {vmid} is {volume}, and not on storage {storage}, which infrastructure.templates names"
            )));
        }
        if !self.proxmox.has_feature(node, vmid, "clone").await? {
            return Err(Error::Settings(format!("storage {storage} makes no linked clones of template {vmid}; keep it on one that does")));
        }
        let snapshot = Snapshot { dataset: Dataset(disks[0].1.clone()), name: String::new() };
        let template = Some((vmid, disks.into_iter().map(|(_, volume)| volume).collect()));
        Ok(Image { nodes: vec![node.clone()], snapshot, guid: uuid(&config), stale: false, template })
    }

    /// See [`Driver::adopt`].
    pub(super) async fn complete_clone(&self, spec: &VmSpec) -> Result<Vec<String>, Error> {
        let config = self.proxmox.config(self.node(), spec.vmid).await?;
        match owner(spec.vmid, &spec.machine_uid, &config)? {
            Owner::Ours(found) if found.is_whole() => {}
            Owner::Ours(found) => {
                let values = own_values(spec, self.card());
                // A clone has the cards of its template, and any but the first is a way past our rules.
                let is_card = |key: &&str| key.strip_prefix("net").is_some_and(|n| n.parse::<u8>().is_ok());
                let is_confined = self.connection().firewall.is_some();
                let goes = |key: &&str| is_card(key) && (self.is_isolated() || (is_confined && *key != "net0"));
                let cards: Vec<&str> = config.values.keys().map(String::as_str).filter(goes).collect();
                self.proxmox.configure(self.node(), spec.vmid, &values, &cards, Some(found.digest())).await?;
            }
            Owner::Other(why) => return Err(Error::Conflict(why)),
            Owner::Nobody => return Err(Error::Unknown(format!("VM {} vanished while it was looked at", spec.vmid))),
        }
        Ok(disks(&config).into_iter().map(|(_, volume)| volume).collect())
    }

    /// Makes a Machine's stopped VM the template of its final checkpoint; its disks are what the checkpoint is. It bears the marks of
    /// both from then on. Repeated, it finds what was done, and does the rest.
    ///
    /// Errors: `Missing` when the VM is gone; `Conflict` when it is not the Machine's; `Settings` when Proxmox makes no template of it.
    pub async fn keep_as_template(
        &self,
        vmid: Vmid,
        machine_uid: &str,
        checkpoint_uid: &str,
        namespace: &str,
        clock: &Clock,
    ) -> Result<Vec<Volume>, Error> {
        let (config, found) = self.own(vmid, machine_uid).await?;
        if !is_kept_for(vmid, machine_uid, checkpoint_uid, &config) {
            // Before it is a template: from here on it is known as what it becomes.
            let mut about = described(&config);
            about["checkpoint"] = checkpoint_uid.into();
            about["vmid"] = vmid.0.into();
            let values = [
                ("tags", format!("autovibe;{};{}", marks::tag(machine_uid), tag(checkpoint_uid))),
                ("description", serde_json::json!({ "autovibe": about }).to_string()),
                ("protection", "1".into()),
            ];
            let values = values.map(|(key, value)| (key.to_owned(), value)).into();
            self.proxmox.configure(self.node(), vmid, &values, &[], Some(found.digest())).await?;
        }
        if !found.is_template() && self.power(vmid).await? != Some(Power::Stopped) {
            return Err(Error::Unknown(format!("VM {vmid} runs, and was stopped a moment ago")));
        }
        let mut config = config;
        // Its worker may have died between two disks: each that is left is made part of it.
        for _ in 0..=disks(&config).len() {
            let rest = disks(&config).into_iter().find(|(_, volume)| !is_base(volume)).map(|(key, _)| key);
            if is_template(&config) && rest.is_none() {
                return Ok(self.volumes(vmid, &config));
            }
            self.convert(vmid, rest.filter(|_| is_template(&config)), namespace, clock).await?;
            config = self.own(vmid, machine_uid).await?.0;
        }
        Err(Error::Unknown(format!("VM {vmid} was made a template, but not all of its disks are part of it")))
    }

    /// A VM that is the Machine's now, and nothing works on.
    async fn own(&self, vmid: Vmid, machine_uid: &str) -> Result<(VmConfig, OwnedVm), Error> {
        let config = match self.proxmox.config(self.node(), vmid).await {
            Ok(config) => config,
            Err(proxmox::Error::NoConfig(_)) => return Err(Error::Missing(format!("VM {vmid} is gone"))),
            Err(error) => return Err(error.into()),
        };
        match owner(vmid, machine_uid, &config)? {
            Owner::Ours(found) => match found.lock() {
                None => Ok((config, found)),
                Some(lock) => Err(Error::Unknown(format!("VM {vmid} is locked ({lock})"))),
            },
            Owner::Other(why) => Err(Error::Conflict(why)),
            Owner::Nobody => Err(Error::Missing(format!("VM {vmid} is gone"))),
        }
    }

    /// One `POST …/template`, to its end. Errors: what Proxmox refused.
    async fn convert(&self, vmid: Vmid, disk: Option<String>, namespace: &str, clock: &Clock) -> Result<(), Error> {
        let (driver, time) = (self.clone(), clock.clone());
        let work = async move |_: bool| {
            let asked = driver.proxmox.make_template(driver.node(), vmid, disk.as_deref()).await;
            driver.until_done(asked, &time).await
        };
        let refusal = match self.in_turn(namespace, vmid, clock, work).await {
            Ok(()) | Err(Error::Unknown(_) | Error::Proxmox(proxmox::Error::Unknown(_))) => return Ok(()),
            Err(refusal) => refusal,
        };
        match refusal {
            Error::Proxmox(proxmox::Error::Refused(text)) if !text.contains("a template to a template") => Err(Error::Settings(format!(
                "Proxmox makes no template of VM {vmid}: {text}. Its state is kept as it is; delete its snapshots in Proxmox, and it goes on by itself"
            ))),
            // Who did it before was not heard.
            Error::Proxmox(proxmox::Error::Refused(_)) => Ok(()),
            other => Err(other),
        }
    }

    /// How a task ended that was asked for, for [`Driver::in_turn`]. Errors: `Unknown` when that was not seen.
    async fn until_done(&self, asked: Result<proxmox::Upid, proxmox::Error>, clock: &Clock) -> (Result<(), Error>, bool) {
        let upid = match asked {
            Ok(upid) => upid,
            Err(error) => {
                let refused = !matches!(error, proxmox::Error::Unknown(_));
                return (Err(error.into()), refused);
            }
        };
        match self.settled(&upid, TASK, clock).await {
            Ok(TaskStatus::Done { .. }) => (Ok(()), true),
            Ok(TaskStatus::Failed(text)) => (Err(proxmox::Error::from_text(500, &text).into()), true),
            Ok(TaskStatus::Running) => (Err(Error::Unknown(format!("task {upid} still runs"))), false),
            Err(error) => (Err(error), false),
        }
    }

    fn volumes(&self, vmid: Vmid, config: &VmConfig) -> Vec<Volume> {
        let volume =
            |dataset| Volume { node: self.node().0.clone(), dataset, guid: uuid(config), template: Some(vmid.0), ..Volume::default() };
        disks(config).into_iter().map(|(_, name)| volume(name)).collect()
    }

    /// Whether this is the template of that Checkpoint of that Machine, by both marks. `None` when there is no such VM.
    async fn kept_template(&self, vmid: Vmid, machine_uid: &str, checkpoint_uid: &str) -> Result<Option<Kept>, Error> {
        let config = match self.proxmox.config(self.node(), vmid).await {
            Ok(config) => config,
            Err(proxmox::Error::NoConfig(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(lock) = config.values.get("lock") {
            return Err(Error::Unknown(format!("VM {vmid} is locked ({lock})")));
        }
        if !is_template(&config) || !is_kept_for(vmid, machine_uid, checkpoint_uid, &config) {
            return Err(Error::Conflict(format!(
                "VM {vmid} does not bear the marks of a template of checkpoint {checkpoint_uid}; it is left alone, and its VMID stays leased"
            )));
        }
        let protected = config.values.get("protection").is_some_and(|flag| flag == "1");
        Ok(Some(Kept { digest: config.digest, protected }))
    }

    /// Destroys the template of a Checkpoint, with its disks; fine when it is gone. Then nothing bears its VMID any more.
    ///
    /// Errors: `Conflict` when a mark is not the Checkpoint's; `InUse` when something is cloned from it, and it is as it was;
    /// `Unknown` when something of it is still there.
    pub async fn destroy_template(
        &self,
        vmid: Vmid,
        machine_uid: &str,
        checkpoint_uid: &str,
        namespace: &str,
        clock: &Clock,
    ) -> Result<(), Error> {
        if self.kept_template(vmid, machine_uid, checkpoint_uid).await?.is_some() {
            let (driver, time) = (self.clone(), clock.clone());
            let (machine, checkpoint) = (machine_uid.to_owned(), checkpoint_uid.to_owned());
            let work = async move |_: bool| driver.destroy_now(vmid, &machine, &checkpoint, &time).await;
            self.in_turn(namespace, vmid, clock, work).await?;
            if self.kept_template(vmid, machine_uid, checkpoint_uid).await?.is_some() {
                return Err(Error::Unknown(format!("template {vmid} was deleted, but its config is still there")));
            }
        }
        match self.left_of(vmid).await? {
            None => Ok(()),
            Some(left) => Err(Error::Unknown(format!("disk {left} of template {vmid} is still there; its VMID stays leased"))),
        }
    }

    async fn destroy_now(&self, vmid: Vmid, machine_uid: &str, checkpoint_uid: &str, clock: &Clock) -> (Result<(), Error>, bool) {
        let protection = |flag: &str| [("protection".to_owned(), flag.to_owned())].into();
        // Its marks are compared right before, not before the others whose turn it was.
        let unprotected = async {
            let Some(kept) = self.kept_template(vmid, machine_uid, checkpoint_uid).await? else { return Ok(false) };
            if kept.protected {
                self.proxmox.configure(self.node(), vmid, &protection("0"), &[], Some(&kept.digest)).await?;
            }
            Ok(true)
        };
        match unprotected.await {
            Ok(true) => {}
            Ok(false) => return (Ok(()), true),
            Err(error) => return (Err(error), true),
        }
        let asked = self.proxmox.delete(self.node(), vmid).await;
        let (outcome, ended) = self.until_done(asked, clock).await;
        match outcome {
            Ok(()) | Err(Error::Unknown(_) | Error::Proxmox(proxmox::Error::Unknown(_) | proxmox::Error::NoConfig(_))) => (Ok(()), ended),
            Err(refusal) => {
                // It stays, and so does what keeps others from deleting it.
                if let Err(error) = self.proxmox.configure(self.node(), vmid, &protection("1"), &[], None).await {
                    tracing::warn!(vm.id = %vmid, "template {vmid} is not protected any more: {error}");
                }
                let in_use = matches!(refusal, Error::Proxmox(proxmox::Error::InUse(_)));
                (Err(if in_use { Error::InUse(format!("VMs are linked clones of template {vmid}")) } else { refusal }), ended)
            }
        }
    }

    /// The first disk on the storage whose name bears this VMID.
    pub(super) async fn left_of(&self, vmid: Vmid) -> Result<Option<String>, Error> {
        let all = self.proxmox.images(self.node(), &self.connection().storage, Some(vmid)).await?;
        Ok(all.into_iter().map(|(name, _)| name).next())
    }

    /// The Checkpoint that a VM is the template of, by all its marks and that of this installation. `None` of any other, and where there
    /// is none.
    pub async fn template_of(&self, vmid: Vmid, installation: &str) -> Result<Option<String>, Error> {
        match self.proxmox.config(self.node(), vmid).await {
            Ok(config) => {
                let about = described(&config);
                let (machine, checkpoint) = (about["machine"].as_str().unwrap_or_default(), about["checkpoint"].as_str());
                let ours =
                    |uid: &&str| about["installation"] == installation && is_template(&config) && is_kept_for(vmid, machine, uid, &config);
                Ok(checkpoint.filter(ours).map(str::to_owned))
            }
            Err(proxmox::Error::NoConfig(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_template(config: &VmConfig) -> bool {
    config.values.get("template").is_some_and(|flag| flag == "1")
}

/// Whether a disk is part of a template. Source: proxmox-zfs facts 5.5: its name is `base-<vmid>-…`, after that of its own base.
fn is_base(volume: &str) -> bool {
    volume.rsplit(['/', ':']).next().unwrap_or_default().starts_with("base-")
}

/// Whether all marks name this Checkpoint of this Machine, and this VMID: of a copy that someone made the last is another.
fn is_kept_for(vmid: Vmid, machine_uid: &str, checkpoint_uid: &str, config: &VmConfig) -> bool {
    let about = described(config);
    let tags = config.values.get("tags").map(String::as_str).unwrap_or_default();
    tags.split([';', ',', ' ']).any(|found| found == tag(checkpoint_uid))
        && about["checkpoint"] == checkpoint_uid
        && about["vmid"] == vmid.0
        && uuid(config).eq_ignore_ascii_case(machine_uid)
}

/// The uuid of its board, which a copy gets anew.
fn uuid(config: &VmConfig) -> String {
    let smbios = config.values.get("smbios1").map(String::as_str).unwrap_or_default();
    smbios.split(',').find_map(|part| part.strip_prefix("uuid=")).unwrap_or_default().to_owned()
}

/// Key and volume of each disk of a VM that is not a CD.
pub(super) fn disks(config: &VmConfig) -> Vec<(String, String)> {
    let is_disk = |key: &str| {
        let (family, number) = key.split_at(key.trim_end_matches(|c: char| c.is_ascii_digit()).len());
        matches!(family, "scsi" | "virtio" | "sata" | "ide" | "efidisk" | "tpmstate") && !number.is_empty()
    };
    let volume = |value: &str| Some(value.split(',').next()?).filter(|first| first.contains(':')).map(str::to_owned);
    let found = config.values.iter().filter(|(key, value)| is_disk(key) && !value.contains("media=cdrom"));
    found.filter_map(|(key, value)| Some((key.clone(), volume(value)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(change: &[(&str, &str)]) -> bool {
        let about = serde_json::json!({ "autovibe": { "machine": "m", "checkpoint": "c", "vmid": 1000 } }).to_string();
        let mut values: std::collections::BTreeMap<String, String> =
            [("tags", "autovibe;av-m;avc-c"), ("description", &about), ("smbios1", "uuid=m")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        values.extend(change.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        is_kept_for(Vmid(1000), "m", "c", &VmConfig { digest: String::new(), values })
    }

    #[test]
    fn a_template_is_a_checkpoints_only_if_every_mark_says_so() {
        assert!(kept(&[]));
        assert!(!kept(&[("tags", "autovibe;av-m")]));
        assert!(!kept(&[("smbios1", "uuid=x")]), "a copy has another board");
        assert!(!kept(&[("description", r#"{"autovibe":{"machine":"m","checkpoint":"c","vmid":1001}}"#)]), "a copy has another VMID");
        assert!(!kept(&[("description", "")]));
    }

    #[test]
    fn disks_are_told_from_all_else() {
        let values = [
            ("scsi0", "s:100/base-100-disk-0.qcow2,size=4G"),
            ("scsihw", "virtio-scsi-single"),
            ("ide2", "none,media=cdrom"),
            ("sata0", "s:iso/debian.iso,media=cdrom"),
            ("efidisk0", "s:base-100-disk-1"),
            ("unused0", "s:vm-100-disk-2"),
        ];
        let values = values.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let found = disks(&VmConfig { digest: String::new(), values });
        let names: Vec<&str> = found.iter().map(|(_, volume)| volume.as_str()).collect();
        assert_eq!(names, ["s:base-100-disk-1", "s:100/base-100-disk-0.qcow2"]);
        assert!(names.iter().all(|name| is_base(name)) && !is_base("s:base-100-disk-0/vm-101-disk-0"));
    }
}
