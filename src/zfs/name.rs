//! Which names may reach `zfs`: refused here, nothing is run. No name can be taken for an option, a range or a list.

use super::{Dataset, Error, Properties, Snapshot};

/// Of a full name with its snapshot part, in bytes.
const LONGEST_NAME: usize = 255;
const LONGEST_PROPERTY: usize = 256;
const LONGEST_VALUE: usize = 8191;

/// Proxmox' snapshot of a template's disk; no other name may begin so. Source: proxmox-zfs facts 5.5 and 5.7.
const BASE_OF_TEMPLATE: &str = "__base__";

fn component(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:- ".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed)
}

pub(super) fn dataset(name: &Dataset) -> Result<&str, Error> {
    let text = name.0.as_str();
    let legal = text.len() <= LONGEST_NAME && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.split('/').all(component);
    if legal { Ok(text) } else { Err(Error::BadName(format!("`{}`", text.escape_debug()))) }
}

pub(super) fn snapshot(name: &Snapshot) -> Result<String, Error> {
    dataset(&name.dataset)?;
    let text = name.to_string();
    let legal = component(&name.name) || name.name == BASE_OF_TEMPLATE;
    if legal && text.len() <= LONGEST_NAME { Ok(text) } else { Err(Error::BadName(format!("`{}`", text.escape_debug()))) }
}

pub(super) fn tag(tag: &str) -> Result<&str, Error> {
    if component(tag) && tag.len() <= LONGEST_NAME { Ok(tag) } else { Err(Error::BadName(format!("`{}`", tag.escape_debug()))) }
}

/// What `zfs get receive_resume_token` printed. Source: OpenZFS zfs_send_resume_token_to_nvlist: `version-checksum-size-hex`.
pub(super) fn token(token: &str) -> Result<&str, Error> {
    let legal = token.starts_with(|c: char| c.is_ascii_digit()) && token.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if legal { Ok(token) } else { Err(Error::BadName(format!("`{}`", token.escape_debug()))) }
}

/// `-o name=value` for each.
pub(super) fn options(properties: &Properties) -> Result<Vec<String>, Error> {
    let mut options = Vec::new();
    for (name, value) in properties {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ":-._".contains(c);
        let name_legal = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.contains(':')
            && name.len() <= LONGEST_PROPERTY
            && name.chars().all(allowed);
        // A tab or newline in a value would be read back as another column or line.
        if !name_legal || value.len() > LONGEST_VALUE || value.chars().any(char::is_control) {
            return Err(Error::BadName(format!("`{}={}`", name.escape_debug(), value.escape_debug())));
        }
        options.extend(["-o".to_owned(), format!("{name}={value}")]);
    }
    Ok(options)
}
