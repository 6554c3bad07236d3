//! Who may do what: users, tokens, roles and pools as `user.cfg` has them, and the privileges that follow for a path.
//!
//! Not here: the calls that read and change them (`access`, `pools`).

use super::{answer::Refusal, parameters::Parameters};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The one user that no list of permissions limits.
pub(super) const ROOT: &str = "root@pam";
/// All privileges of Proxmox VE 9.
const PRIVILEGES: &str = "Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit Group.Allocate \
Mapping.Audit Mapping.Modify Mapping.Use Permissions.Modify Pool.Allocate Pool.Audit Realm.Allocate Realm.AllocateUser SDN.Allocate \
SDN.Audit SDN.Use Sys.AccessNetwork Sys.Audit Sys.Console Sys.Incoming Sys.Modify Sys.PowerMgmt Sys.Syslog User.Modify VM.Allocate \
VM.Audit VM.Backup VM.Clone VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType VM.Config.Memory \
VM.Config.Network VM.Config.Options VM.Console VM.GuestAgent.Audit VM.GuestAgent.FileRead VM.GuestAgent.FileSystemMgmt \
VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted VM.Migrate VM.PowerMgmt VM.Replicate VM.Snapshot VM.Snapshot.Rollback";
/// Roles that every Proxmox has, and no call changes.
const ROLES: &[(&str, &str)] = &[
    ("NoAccess", ""),
    ("PVEAuditor", "Datastore.Audit Mapping.Audit Pool.Audit SDN.Audit Sys.Audit VM.Audit VM.GuestAgent.Audit"),
    ("PVEDatastoreAdmin", "Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit"),
    ("PVEDatastoreUser", "Datastore.AllocateSpace Datastore.Audit"),
    ("PVEPoolAdmin", "Pool.Allocate Pool.Audit"),
    ("PVEPoolUser", "Pool.Audit"),
    ("PVESDNUser", "SDN.Audit SDN.Use"),
    ("PVETemplateUser", "VM.Audit VM.Clone"),
    (
        "PVEVMAdmin",
        "VM.Allocate VM.Audit VM.Backup VM.Clone VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType \
VM.Config.Memory VM.Config.Network VM.Config.Options VM.Console VM.GuestAgent.Audit VM.GuestAgent.FileRead VM.GuestAgent.FileSystemMgmt \
VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted VM.Migrate VM.PowerMgmt VM.Replicate VM.Snapshot VM.Snapshot.Rollback",
    ),
    ("PVEVMUser", "VM.Audit VM.Backup VM.Config.CDROM VM.Config.Cloudinit VM.Console VM.GuestAgent.Audit VM.PowerMgmt"),
];

pub(super) fn is_privilege(text: &str) -> bool {
    PRIVILEGES.split(' ').any(|privilege| privilege == text)
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Who {
    /// `alice@pve`
    pub(super) user: String,
    /// `t1`
    pub(super) token: Option<String>,
}

impl Who {
    pub(super) fn parse(id: &str) -> Self {
        match id.split_once('!') {
            Some((user, token)) => Self { user: user.to_owned(), token: Some(token.to_owned()) },
            None => Self { user: id.to_owned(), token: None },
        }
    }

    /// As UPIDs have it: `alice@pve!t1`.
    pub(super) fn id(&self) -> String {
        self.token.as_ref().map_or_else(|| self.user.clone(), |token| format!("{}!{token}", self.user))
    }

    /// Whether a task of this caller is one's own: a user's are its tokens' too, not the other way round.
    pub(super) fn owns(&self, id: &str) -> bool {
        let other = Self::parse(id);
        other == *self || (self.token.is_none() && other.user == self.user)
    }

    /// A token of root is not root.
    pub(super) fn is_root(&self) -> bool {
        self.user == ROOT && self.token.is_none()
    }
}

/// Root itself, as the node's own programs call.
pub(super) fn root() -> Who {
    Who { user: ROOT.to_owned(), token: None }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct User {
    /// `None` cannot log in.
    pub(super) password: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) disabled: bool,
    /// Unix seconds; 0 is never.
    pub(super) expire: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Token {
    pub(super) secret: String,
    pub(super) privsep: bool,
    #[serde(default)]
    pub(super) comment: Option<String>,
    #[serde(default)]
    pub(super) expire: i64,
}

/// A role on a path, for a user or a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) path: String,
    /// `alice@pve` or `alice@pve!t1`
    pub(super) to: String,
    pub(super) role: String,
    pub(super) propagate: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Members {
    pub(super) comment: Option<String>,
    pub(super) vms: BTreeSet<u32>,
    pub(super) storage: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Access {
    pub(super) users: BTreeMap<String, User>,
    /// By `user!token`.
    pub(super) tokens: BTreeMap<String, Token>,
    /// Those that are not built in.
    pub(super) roles: BTreeMap<String, BTreeSet<String>>,
    pub(super) grants: Vec<Grant>,
    pub(super) pools: BTreeMap<String, Members>,
}

/// Every prefix of a path, the root first.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').skip(1).map(|(at, _)| at).chain((path.len() > 1).then_some(path.len()));
    std::iter::once("/").chain(ends.map(|end| &path[..end]))
}

impl Access {
    pub(super) fn role(&self, name: &str) -> Option<BTreeSet<String>> {
        let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        if name == "Administrator" {
            return Some(words(PRIVILEGES));
        }
        ROLES.iter().find(|(role, _)| *role == name).map(|(_, text)| words(text)).or_else(|| self.roles.get(name).cloned())
    }

    /// Names of all roles; whether each is built in.
    pub(super) fn role_names(&self) -> Vec<(String, bool)> {
        let special = ROLES.iter().map(|(name, _)| (*name).to_owned()).chain(["Administrator".to_owned()]).map(|name| (name, true));
        special.chain(self.roles.keys().map(|name| (name.clone(), false))).collect()
    }

    /// Roles that hold on a path for a user or a token, with whether each reaches further down: the nearest grants win.
    fn roles(&self, to: &str, path: &str) -> BTreeMap<&str, bool> {
        let mut found: BTreeMap<&str, bool> = BTreeMap::new();
        for prefix in prefixes(path) {
            let here: BTreeMap<&str, bool> = self
                .grants
                .iter()
                .filter(|grant| grant.to == to && grant.path == prefix && (grant.propagate || prefix == path))
                .map(|grant| (grant.role.as_str(), grant.propagate))
                .collect();
            if !here.is_empty() {
                found = here;
            }
        }
        if found.contains_key("NoAccess") { BTreeMap::from([("NoAccess", true)]) } else { found }
    }

    /// As `roles`, and what the pools of a guest or storage give it.
    fn privileges_of(&self, to: &str, path: &str) -> BTreeMap<String, bool> {
        let mut roles = self.roles(to, path);
        let pools: Vec<String> = match path.split('/').collect::<Vec<_>>()[..] {
            ["", "vms", vmid] => {
                let vmid = vmid.parse::<u32>().ok();
                self.pools
                    .iter()
                    .filter(|(_, pool)| vmid.is_some_and(|vmid| pool.vms.contains(&vmid)))
                    .map(|(name, _)| name.clone())
                    .collect()
            }
            ["", "storage", name] => {
                self.pools.iter().filter(|(_, pool)| pool.storage.contains(name)).map(|(name, _)| name.clone()).collect()
            }
            _ => Vec::new(),
        };
        for pool in pools {
            roles.extend(self.roles(to, &format!("/pool/{pool}")));
        }
        if roles.contains_key("NoAccess") {
            return BTreeMap::new();
        }
        let mut privileges = BTreeMap::new();
        for (role, propagate) in roles {
            for privilege in self.role(role).unwrap_or_default() {
                *privileges.entry(privilege).or_insert(false) |= propagate;
            }
        }
        privileges
    }

    /// What someone may do on a path, with whether it reaches further down. A separated token has what both it and its
    /// user have.
    pub(super) fn privileges(&self, who: &Who, path: &str) -> BTreeMap<String, bool> {
        let user = if who.user == ROOT {
            PRIVILEGES.split(' ').map(|privilege| (privilege.to_owned(), true)).collect()
        } else {
            self.privileges_of(&who.user, path)
        };
        if who.token.is_none() || self.tokens.get(&who.id()).is_some_and(|token| !token.privsep) {
            return user;
        }
        let own = self.privileges_of(&who.id(), path);
        own.into_iter().filter(|(privilege, _)| user.contains_key(privilege)).collect()
    }

    pub(super) fn may(&self, who: &Who, path: &str, privilege: &str) -> bool {
        self.privileges(who, path).contains_key(privilege)
    }

    /// Errors: 403 naming the first privilege that is missing.
    pub(super) fn need(&self, who: &Who, path: &str, privilege: &str) -> Result<(), Refusal> {
        if self.may(who, path, privilege) { Ok(()) } else { Err(refused(&format!("{path}, {privilege}"))) }
    }

    /// On a VM, or on the pool that it is to be made in.
    pub(super) fn need_on_vm(&self, who: &Who, vmid: u32, pool: Option<&str>, privilege: &str) -> Result<(), Refusal> {
        if pool.is_some_and(|pool| self.may(who, &format!("/pool/{pool}"), privilege)) {
            return Ok(());
        }
        self.need(who, &format!("/vms/{vmid}"), privilege)
    }

    /// One of them, on a path.
    pub(super) fn need_any(&self, who: &Who, path: &str, privileges: &[&str]) -> Result<(), Refusal> {
        let has = self.privileges(who, path);
        if privileges.iter().any(|privilege| has.contains_key(*privilege)) {
            return Ok(());
        }
        Err(refused(&format!("{path}, {}", privileges.join("|"))))
    }

    /// The permissions that the schema names for a call: `["perm", "/vms/{vmid}", ["VM.Audit"]]`, `and`, `or`, …
    pub(super) fn check(&self, who: &Who, check: &Value, parameters: &Parameters) -> Result<(), Refusal> {
        let parts = check.as_array().map(Vec::as_slice).unwrap_or_default();
        let rest = parts.get(1..).unwrap_or_default();
        match parts.first().and_then(Value::as_str).unwrap_or_default() {
            "and" => rest.iter().try_for_each(|part| self.check(who, part, parameters)),
            "or" if rest.iter().any(|part| self.check(who, part, parameters).is_ok()) => Ok(()),
            "perm" => self.check_path(who, rest, parameters),
            "perm-modify" => self.may_grant(who, parameters.get("path").unwrap_or_default()),
            "userid-param" => match rest.first().and_then(Value::as_str) {
                Some("self") if parameters.get("userid") == Some(&who.user) => Ok(()),
                Some("self") | None => Err(refused("")),
                Some(privilege) => {
                    let realm = parameters.get("userid").and_then(|user| user.rsplit_once('@')).map(|(_, realm)| realm).unwrap_or_default();
                    self.need(who, &format!("/access/realm/{realm}"), privilege)
                }
            },
            "userid-group" => {
                let wanted = texts(rest.first());
                self.need_any(who, "/access/groups", &wanted)
            }
            _ => Err(refused("")),
        }
    }

    fn check_path(&self, who: &Who, rest: &[Value], parameters: &Parameters) -> Result<(), Refusal> {
        let [path, privileges, options @ ..] = rest else { return Err(refused("")) };
        let option = |name: &str| options.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1));
        if option("require_param").and_then(Value::as_str).is_some_and(|name| parameters.get(name).is_none()) {
            return Err(refused(""));
        }
        let template = path.as_str().unwrap_or_default();
        let mut path = String::new();
        for part in template.split('/').skip(1) {
            let value = match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) => parameters.get(name).unwrap_or_default(),
                None => part,
            };
            if !value.is_empty() {
                path.push('/');
                path.push_str(value);
            }
        }
        let path = if path.is_empty() { "/" } else { &path };
        // What cannot be a path is refused without its text.
        let shown = if path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-@!".contains(c)) { path } else { "" };
        let privileges = texts(Some(privileges));
        if option("any").is_some() {
            return self.need_any(who, path, &privileges).map_err(|_| refused(&format!("{shown}, {}", privileges.join("|"))));
        }
        for privilege in privileges {
            if shown.is_empty() || !self.may(who, path, privilege) {
                return Err(refused(&format!("{shown}, {privilege}")));
            }
        }
        Ok(())
    }

    /// `Permissions.Modify` there, or what owns the thing.
    fn may_grant(&self, who: &Who, path: &str) -> Result<(), Refusal> {
        let owner = match path.split('/').nth(1).unwrap_or_default() {
            "vms" => "VM.Allocate",
            "storage" => "Datastore.Allocate",
            "pool" => "Pool.Allocate",
            _ => "Permissions.Modify",
        };
        let privileges = if owner == "Permissions.Modify" { vec![owner] } else { vec![owner, "Permissions.Modify"] };
        self.need_any(who, path, &privileges)
    }
}

fn texts(value: Option<&Value>) -> Vec<&str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// 403; Proxmox names no reason where several would do.
pub(super) fn refused(what: &str) -> Refusal {
    Refusal::Text(403, if what.is_empty() { "Permission check failed".to_owned() } else { format!("Permission check failed ({what})") })
}

/// The privilege that a config's key takes; `None`: `root@pam` alone.
pub(super) fn of_option(key: &str) -> Option<&'static str> {
    let family = key.trim_end_matches(|c: char| c.is_ascii_digit());
    Some(match key {
        "cores" | "cpu" | "cpulimit" | "cpuunits" | "numa" | "sockets" | "vcpus" | "smp" => "VM.Config.CPU",
        "memory" | "balloon" | "shares" | "allow-ksm" => "VM.Config.Memory",
        "acpi" | "hotplug" | "kvm" | "machine" | "scsihw" | "smbios1" | "tablet" | "vga" | "watchdog" | "audio0" | "rng0" => {
            "VM.Config.HWType"
        }
        "agent" | "autostart" | "bios" | "description" | "keyboard" | "localtime" | "migrate_downtime" | "migrate_speed" | "name"
        | "onboot" | "ostype" | "protection" | "reboot" | "startdate" | "tdf" | "template" | "tags" | "startup" => "VM.Config.Options",
        "boot" | "bootdisk" | "vmstatestorage" | "vmstate" | "efidisk0" | "tpmstate0" => "VM.Config.Disk",
        "cdrom" => "VM.Config.CDROM",
        "cicustom" | "cipassword" | "citype" | "ciupgrade" | "ciuser" | "nameserver" | "searchdomain" | "sshkeys" => "VM.Config.Cloudinit",
        "freeze" => "VM.PowerMgmt",
        _ => match family {
            "numa" => "VM.Config.CPU",
            "serial" | "virtiofs" | "usb" | "hostpci" => "VM.Config.HWType",
            "scsi" | "ide" | "sata" | "virtio" | "unused" => "VM.Config.Disk",
            "net" => "VM.Config.Network",
            "ipconfig" => "VM.Config.Cloudinit",
            _ => return None,
        },
    })
}
