//! The keys of a VM's config: which there are, what each must be, how each is shown.

use super::{guests::VmConfig, parameters::Kind};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const INTEGERS: &[(&str, i64)] =
    &[("balloon", 0), ("cores", 1), ("cpuunits", 1), ("migrate_speed", 0), ("shares", 0), ("smp", 1), ("sockets", 1), ("vcpus", 1)];
const FLAGS: &[&str] = &[
    "acpi",
    "allow-ksm",
    "autostart",
    "ciupgrade",
    "freeze",
    "keephugepages",
    "kvm",
    "localtime",
    "numa",
    "onboot",
    "protection",
    "reboot",
    "tablet",
    "tdf",
    "template",
];
const TEXTS: &[&str] = &[
    "affinity",
    "agent",
    "amd-sev",
    "args",
    "audio0",
    "boot",
    "bootdisk",
    "cdrom",
    "cicustom",
    "cipassword",
    "ciuser",
    "cpu",
    "efidisk0",
    "hookscript",
    "hotplug",
    "intel-tdx",
    "ivshmem",
    "machine",
    "nameserver",
    "rng0",
    "searchdomain",
    "spice_enhancements",
    "sshkeys",
    "startdate",
    "startup",
    "tpmstate0",
    "vga",
    "vmgenid",
    "vmstatestorage",
    "watchdog",
];
/// Families of numbered keys, and how many each has.
const NUMBERED: &[(&str, u32)] = &[
    ("scsi", 31),
    ("net", 32),
    ("serial", 4),
    ("ide", 4),
    ("sata", 6),
    ("virtio", 16),
    ("unused", 256),
    ("ipconfig", 32),
    ("numa", 8),
    ("hostpci", 16),
    ("parallel", 3),
    ("usb", 14),
    ("virtiofs", 10),
];
const DISKS: &[&str] = &["scsi", "ide", "sata", "virtio", "unused"];
/// `root@pam` itself, never a token of it.
const ROOT_ONLY: &[&str] = &["args", "lock", "hookscript", "affinity", "ivshmem", "vmgenid", "arch", "hugepages", "spice_enhancements"];
const LOCKS: &[&str] = &["backup", "clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete", "suspending", "suspended"];

fn family(key: &str) -> Option<(&'static str, u32)> {
    let name = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: u32 = key[name.len()..].parse().ok()?;
    NUMBERED
        .iter()
        .find(|(family, count)| *family == name && number < *count && key == format!("{family}{number}"))
        .map(|(family, _)| (*family, number))
}

/// What the value of a config key must be; `None` when there is no such key.
pub(super) fn kind(key: &str) -> Option<Kind> {
    if let Some((_, min)) = INTEGERS.iter().find(|(name, _)| *name == key) {
        return Some(Kind::Integer(*min, i64::MAX));
    }
    if FLAGS.contains(&key) {
        return Some(Kind::Flag);
    }
    if TEXTS.contains(&key) || family(key).is_some() {
        return Some(Kind::Text(usize::MAX));
    }
    Some(match key {
        "arch" => Kind::OneOf(&["x86_64", "aarch64"]),
        "bios" => Kind::OneOf(&["seabios", "ovmf"]),
        "citype" => Kind::OneOf(&["configdrive2", "nocloud", "opennebula"]),
        "cpulimit" | "migrate_downtime" => Kind::Number,
        "description" => Kind::Text(8192),
        "hugepages" => Kind::OneOf(&["any", "2", "1024"]),
        "keyboard" => Kind::Text(5),
        "lock" => Kind::OneOf(LOCKS),
        "memory" => Kind::Memory,
        "name" => Kind::DnsName,
        "ostype" => {
            Kind::OneOf(&["other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24", "l26", "solaris"])
        }
        "scsihw" => Kind::OneOf(&["lsi", "lsi53c810", "virtio-scsi-pci", "virtio-scsi-single", "megasas", "pvscsi"]),
        "smbios1" => Kind::Text(512),
        "tags" => Kind::Tags,
        _ => return None,
    })
}

pub(super) fn root_only(key: &str) -> bool {
    ROOT_ONLY.contains(&key)
}

/// `scsi0`, `unused1`, …
pub(super) fn is_disk(key: &str) -> bool {
    family(key).is_some_and(|(family, _)| DISKS.contains(&family))
}

pub(super) fn is_net(key: &str) -> bool {
    family(key).is_some_and(|(family, _)| family == "net")
}

/// Taken at once by a running VM; all others wait for its next start.
pub(super) fn is_live(key: &str) -> bool {
    matches!(key, "name" | "description" | "tags" | "onboot" | "protection" | "startup" | "autostart" | "lock")
        || family(key).is_some_and(|(family, _)| family == "unused")
}

/// The storage and volume of a disk's value: `tank:vm-100-disk-0,size=1G`. `None` for `none`.
pub(super) fn volume(value: &str) -> Option<(&str, &str)> {
    value.split(',').next()?.split_once(':')
}

/// Whose volume it is, by the number in its name: `vm-100-disk-0`.
pub(super) fn owner(volume: &str) -> Option<u32> {
    let mut parts = volume.split('-');
    matches!(parts.next(), Some("vm" | "base" | "subvol" | "basevol"))
        .then(|| parts.next()?.parse().ok())
        .flatten()
        .filter(|_| parts.next().is_some())
}

/// SHA-1 in Proxmox; only its length and that it changes matter.
pub(super) fn digest(config: &VmConfig, pending: &impl serde::Serialize) -> String {
    let text = serde_json::to_vec(&(config, pending)).unwrap_or_default();
    hex::encode(&Sha256::digest(text)[..20])
}

/// As `GET …/config` shows it: numbers for integers and flags, text for the rest.
pub(super) fn show(config: &VmConfig) -> Map<String, Value> {
    config
        .iter()
        .map(|(key, value)| {
            let number = matches!(kind(key), Some(Kind::Integer(..) | Kind::Flag)).then(|| value.parse::<i64>().ok()).flatten();
            (key.clone(), number.map_or_else(|| Value::from(value.as_str()), Value::from))
        })
        .collect()
}

/// A size as Proxmox writes it: the largest unit that divides it.
pub(super) fn size(bytes: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    units
        .iter()
        .find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}
