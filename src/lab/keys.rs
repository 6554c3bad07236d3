//! The keys of a VM's config: which there are, what each must be, how each is shown.

use super::{guests::VmConfig, permission, schema, state::Vm};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

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
pub(super) fn family(key: &str) -> Option<(&'static str, u32)> {
    let name = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: u32 = key[name.len()..].parse().ok()?;
    NUMBERED
        .iter()
        .find(|(family, count)| *family == name && number < *count && key == format!("{family}{number}"))
        .map(|(family, _)| (*family, number))
}

pub(super) fn root_only(key: &str) -> bool {
    permission::of_option(key).is_none()
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

/// An option of a disk's value, after its volume: `format=qcow2`.
pub(super) fn option<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(',').skip(1).find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
}

/// The volume itself: a linked clone's name has its base in front, `base-100-disk-0/vm-101-disk-0`.
pub(super) fn last(volume: &str) -> &str {
    volume.rsplit('/').next().unwrap_or(volume)
}

/// The format of a volume, by its name: a file of a directory has it as its end.
pub(super) fn format(volume: &str) -> &str {
    last(volume).rsplit_once('.').map_or("raw", |(_, format)| format)
}

/// Whose volume it is, by the number in its name: `vm-100-disk-0`.
pub(super) fn owner(volume: &str) -> Option<u32> {
    let mut parts = last(volume).split('-');
    matches!(parts.next(), Some("vm" | "base" | "subvol" | "basevol"))
        .then(|| parts.next()?.parse().ok())
        .flatten()
        .filter(|_| parts.next().is_some())
}

/// SHA-1 in Proxmox; only its length and that it changes matter.
pub(super) fn digest(vm: &Vm) -> String {
    let text = serde_json::to_vec(vm).unwrap_or_default();
    hex::encode(&Sha256::digest(text)[..20])
}

/// As `GET …/config` shows it: numbers for integers and flags, text for the rest.
pub(super) fn show(config: &VmConfig) -> Map<String, Value> {
    config
        .iter()
        .map(|(key, value)| {
            let number = schema::is_number(key).then(|| value.parse::<i64>().ok()).flatten();
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
