//! Proxmox' named formats of values, as far as they refuse something. One that is not here takes any text.

use regex::Regex;
use std::sync::LazyLock;

static VOLUME: LazyLock<Regex> = LazyLock::new(|| regex("^(?i)[a-z][a-z0-9_.-]*[a-z0-9]:.+$"));
static MAC: LazyLock<Regex> = LazyLock::new(|| regex("^(?i)[a-f0-9][02468ace](:[a-f0-9]{2}){5}$"));
static POOL: LazyLock<Regex> = LazyLock::new(|| regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}$"));
static ROLE: LazyLock<Regex> = LazyLock::new(|| regex("^[A-Za-z0-9._-]+$"));
static STORAGE: LazyLock<Regex> = LazyLock::new(|| regex("^(?i)[a-z][a-z0-9_.-]*[a-z0-9]$"));
static USER: LazyLock<Regex> = LazyLock::new(|| regex(r"^[^\s:/]+@[A-Za-z][A-Za-z0-9._-]+$"));
static TOKEN: LazyLock<Regex> = LazyLock::new(|| regex(r"^[^\s:/]+@[A-Za-z][A-Za-z0-9._-]+![A-Za-z][A-Za-z0-9._-]+$"));
static URLENCODED: LazyLock<Regex> = LazyLock::new(|| regex("^[-%a-zA-Z0-9_.!~*'()]*$"));
static SNAPSHOT: LazyLock<Regex> = LazyLock::new(|| regex("^[A-Za-z][A-Za-z0-9_-]+$"));
static ALIAS: LazyLock<Regex> = LazyLock::new(|| regex("^((guest|dc)/)?[A-Za-z][A-Za-z0-9_-]+$"));
static PORTS: LazyLock<Regex> = LazyLock::new(|| regex("^([0-9]+(:[0-9]+)?|[a-z][a-z0-9-]*)(,([0-9]+(:[0-9]+)?|[a-z][a-z0-9-]*))*$"));
static SIZE: LazyLock<Regex> = LazyLock::new(|| regex(r"^\d+(\.\d+)?[KMGT]?$"));
const CONTENTS: &[&str] = &["images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none"];

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern, read by the schema's test")
}

/// What a list is split at.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ';', ' ', '\0', '\n', '\t']).filter(|part| !part.is_empty())
}

/// The reason why a value is not of a format.
pub(super) fn check(format: &str, text: &str) -> Result<(), String> {
    if format == "pve-tag-list" {
        return if split_tags(text).all(is_tag) { Ok(()) } else { Err("invalid characters in tag".to_owned()) };
    }
    if let Some(one) = format.strip_suffix("-list") {
        return list(text).try_for_each(|part| check(one, part));
    }
    let wrong = |fits: bool, why: String| if fits { Ok(()) } else { Err(why) };
    match format {
        "pve-vmid" => {
            let fits = (3..=9).contains(&text.len()) && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
            wrong(fits, "value does not look like a valid VM ID".into())
        }
        "dns-name" => wrong(is_dns_name(text), "value does not look like a valid DNS name".into()),
        "pve-configid" => wrong(SNAPSHOT.is_match(text), format!("invalid configuration ID '{text}'")),
        "pve-poolid" => wrong(POOL.is_match(text), format!("value '{text}' does not look like a valid pool name")),
        "pve-roleid" => wrong(ROLE.is_match(text), format!("value '{text}' does not look like a valid role name")),
        "pve-storage-id" => wrong(STORAGE.is_match(text), format!("storage ID '{text}' contains illegal characters")),
        "pve-userid" => wrong(USER.is_match(text), format!("value '{text}' does not look like a valid user name")),
        "pve-tokenid" => wrong(TOKEN.is_match(text), format!("value '{text}' does not look like a valid token ID")),
        "pve-priv" => wrong(super::permission::is_privilege(text), format!("invalid privilege '{text}'")),
        "pve-storage-content" => wrong(CONTENTS.contains(&text), format!("invalid content type '{text}'")),
        "urlencoded" => wrong(URLENCODED.is_match(text), format!("invalid urlencoded string: {text}")),
        "mac-addr" => wrong(MAC.is_match(text), "value does not look like a valid unicast MAC address".into()),
        "pve-volume-id" => wrong(VOLUME.is_match(text), format!("unable to parse volume ID '{text}'")),
        "pve-volume-id-or-qm-path" => wrong(
            matches!(text, "none" | "cdrom") || text.starts_with('/') || VOLUME.is_match(text),
            format!("unable to parse volume ID '{text}'"),
        ),
        "pve-volume-id-or-absolute-path" => {
            wrong(text.starts_with('/') || VOLUME.is_match(text), format!("unable to parse volume ID '{text}'"))
        }
        "pve-fw-addr-spec" => wrong(text.split(',').all(is_firewall_address), format!("invalid address '{text}'")),
        "pve-fw-dport-spec" | "pve-fw-sport-spec" => wrong(PORTS.is_match(text), format!("invalid port '{text}'")),
        "IPorCIDRorAlias" => wrong(is_network(text) || ALIAS.is_match(text), format!("invalid address or network '{text}'")),
        "disk-size" => wrong(SIZE.is_match(text), format!("value does not look like a valid disk size: {text}")),
        _ => Ok(()),
    }
}

fn is_network(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok() || text.parse::<ipnet::IpNet>().is_ok()
}

/// An address, a network, a range, a set (`+name`) or an alias; no name of a host.
fn is_firewall_address(text: &str) -> bool {
    let range = |(from, to): (&str, &str)| is_network(from) && is_network(to);
    is_network(text) || text.split_once('-').is_some_and(range) || ALIAS.is_match(text.trim_start_matches('+'))
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    text.split('.').all(label)
}

/// Tags may be separated by `;`, `,` and spaces.
pub(super) fn split_tags(text: &str) -> impl Iterator<Item = &str> {
    text.split([';', ',', ' ', '\0']).filter(|tag| !tag.is_empty())
}

fn is_tag(tag: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.starts_with(first) && tag.chars().all(|c| first(c) || "-+.".contains(c))
}
