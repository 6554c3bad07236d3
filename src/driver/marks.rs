//! Whose a VM is, by what it bears.
//!
//! A VM is ours only if its tag *and* its smbios uuid name the Machine: [`OwnedVm`] can be made by that check alone, and
//! nothing is stopped or deleted without one. A clone that was just made has neither yet, as Proxmox' call for it takes none: until it is
//! adopted it is known by what did come with that call, and before it is deleted it gets both.

#[cfg(test)]
mod tests;

use super::Error;
use super::vm::VmSpec;
use crate::proxmox::{VmConfig, Vmid};

/// A VM that both marks prove to be a Machine's, as its config was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedVm {
    pub(super) vmid: Vmid,
    pub(super) machine_uid: String,
    pub(super) digest: String,
    pub(super) protected: bool,
    /// `lock:` in the config.
    pub(super) lock: Option<String>,
    /// It is a template now.
    template: bool,
    /// It bears all its marks. A clone that was just made says whose it is, and has all else from its template.
    pub(super) whole: bool,
}

impl OwnedVm {
    /// Whether it is a template, which never runs again.
    pub fn is_template(&self) -> bool {
        self.template
    }
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
    pub(super) fn is_protected(&self) -> bool {
        self.protected
    }
    pub fn vmid(&self) -> Vmid {
        self.vmid
    }
    /// The kind of lock on its config: something works on it, or died while it did.
    pub fn lock(&self) -> Option<&str> {
        self.lock.as_deref()
    }
}

/// Whose VM has a VMID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Proxmox says that there is no config of that number.
    Nobody,
    Ours(OwnedVm),
    /// Someone else's; says why it is not ours.
    Other(String),
}

/// The Machine that a VM was made for, as its marks name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    pub machine_uid: String,
    pub namespace: String,
    pub name: String,
}

/// Name of a Machine's own tag.
pub fn tag(machine_uid: &str) -> String {
    format!("av-{machine_uid}")
}

/// The Machine that a VM's tags name.
pub fn tagged(tags: &[String]) -> Option<&str> {
    tags.iter().find_map(|tag| tag.strip_prefix("av-"))
}

/// What a VM's description says of its Machine; and `more`.
pub(super) fn about(spec: &VmSpec, more: &[(&str, &str)]) -> String {
    let mut about = serde_json::json!({
        "machine": spec.machine_uid, "namespace": spec.namespace, "name": spec.name, "installation": spec.installation,
    });
    for (key, value) in more {
        about[*key] = (*value).into();
    }
    serde_json::json!({ "autovibe": about }).to_string()
}

/// What the description of a VM of ours says.
pub(super) fn described(config: &VmConfig) -> serde_json::Value {
    let text = config.values.get("description").map(|text| text.trim()).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(text).map(|mut whole| whole["autovibe"].take()).unwrap_or_default()
}

/// The two marks by which a VM is a Machine's.
pub(super) fn marks(machine_uid: &str) -> [(&'static str, String); 2] {
    [("tags", format!("autovibe;{}", tag(machine_uid))), ("smbios1", format!("uuid={machine_uid}"))]
}

/// Whether a clone was just made for a Machine: that is in its description, with its own VMID, and in its name, both of which come with
/// the call that makes it; and its disks are its own, as Proxmox named them when it made them for this VMID. Of a copy that someone made
/// of it the VMID is another. Once it is adopted its description says so no more, and only the marks count.
fn is_fresh_clone(vmid: Vmid, machine_uid: &str, config: &VmConfig) -> bool {
    let (about, value) = (described(config), |key: &str| config.values.get(key).map(String::as_str));
    about["machine"] == machine_uid
        && about["clone"] == vmid.to_string()
        && about["name"].as_str().is_some_and(|name| value("name") == Some(name))
        && value("template") != Some("1")
        && has_own_disks(vmid, config)
}

/// Whether there are disks, and each is named after this VMID: `vm-<vmid>-…`, whatever it is linked to. Source: proxmox-zfs facts 5.5.
fn has_own_disks(vmid: Vmid, config: &VmConfig) -> bool {
    let (disks, own) = (super::templates::disks(config), format!("vm-{vmid}-"));
    let is_own = |volume: &str| volume.rsplit(['/', ':']).next().is_some_and(|name| name.starts_with(&own));
    !disks.is_empty() && disks.iter().all(|(_, volume)| is_own(volume))
}

/// Errors: `Unknown` when it lacks but our tag, and while it is being made. A number is taken with nothing but `lock: create` or `lock: clone`, and its marks come with
/// the rest: it may be the one that we asked for, whose answer we did not get.
pub(super) fn owner(vmid: Vmid, machine_uid: &str, config: &VmConfig) -> Result<Owner, Error> {
    let value = |key: &str| config.values.get(key).map(String::as_str).unwrap_or_default();
    let tagged = value("tags").split([';', ',', ' ']).any(|found| found == tag(machine_uid));
    let uuid = value("smbios1").split(',').find_map(|part| part.strip_prefix("uuid="));
    let stamped = uuid.is_some_and(|uuid| uuid.eq_ignore_ascii_case(machine_uid));
    if matches!(value("lock"), "create" | "clone") && value("tags").is_empty() && uuid.is_none() {
        let remedy = format!("if nothing creates it any more, remove it with `qm unlock {vmid}` and `qm destroy {vmid}`");
        return Err(Error::Unknown(format!("VM {vmid} is being created and bears no marks yet; {remedy}")));
    }
    let owned = |whole| {
        Owner::Ours(OwnedVm {
            vmid,
            machine_uid: machine_uid.to_owned(),
            digest: config.digest.clone(),
            protected: value("protection") == "1",
            lock: config.values.get("lock").cloned(),
            template: value("template") == "1",
            whole,
        })
    };
    Ok(match (tagged, stamped) {
        (true, true) => owned(true),
        _ if is_fresh_clone(vmid, machine_uid, config) => owned(false),
        (true, false) => Owner::Other(format!("VM {vmid} has our tag, but the smbios uuid {}; it is left alone", uuid.unwrap_or("(none)"))),
        // Tags are what people change by hand; and it may run on our disks.
        (false, true) => {
            return Err(Error::Unknown(format!(
                "VM {vmid} has the smbios uuid of its machine, but not the tag {}: add that again; if it is to be autovibe's no more, change \
                 its uuid too",
                tag(machine_uid)
            )));
        }
        (false, false) => Owner::Other(format!("VM {vmid} is not autovibe's; it is left alone")),
    })
}

pub(super) fn bearer(vmid: Vmid, installation: &str, config: &VmConfig) -> Option<Bearer> {
    let about = described(config);
    let text = |key: &str| about[key].as_str().map(str::to_owned);
    let bearer = Bearer { machine_uid: text("machine")?, namespace: text("namespace")?, name: text("name")? };
    let ours = text("installation")? == installation && matches!(owner(vmid, &bearer.machine_uid, config), Ok(Owner::Ours(_)));
    ours.then_some(bearer)
}
