//! Which names, labels and annotations are legal, in upstream's own words. Source: apimachinery `util/validation`.

use super::MOST_FAULTS;
use crate::api::FieldError;
use serde_json::Value;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
    alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
    with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
    character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
    an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// All annotations of an object together. Source: apimachinery `TotalAnnotationSizeLimitB`.
const ANNOTATIONS_BYTES: usize = 256 << 10;

/// What is wrong with a DNS label (`web-1`): at most 63 bytes.
pub fn dns_label(name: &str) -> Option<String> {
    if name.len() > 63 { Some(too_long(63)) } else { (!is_label(name)).then(|| LABEL.into()) }
}

/// What is wrong with a DNS subdomain (`web.example`): at most 253 bytes.
pub fn dns_subdomain(name: &str) -> Option<String> {
    if name.len() > 253 { Some(too_long(253)) } else { (!name.split('.').all(is_label)).then(|| SUBDOMAIN.into()) }
}

fn too_long(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !name.is_empty() && name.bytes().all(|b| inner(b) || b == b'-') && !name.starts_with('-') && !name.ends_with('-')
}

fn is_name(name: &str) -> bool {
    let outer = |c: char| c.is_ascii_alphanumeric();
    name.chars().all(|c| outer(c) || "-_.".contains(c)) && name.starts_with(outer) && name.ends_with(outer)
}

/// What is wrong with the key of a label or annotation, or a finalizer: `prefix/name` or `name`.
pub(super) fn qualified(key: &str) -> Option<String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if let Some(wrong) = prefix.and_then(dns_subdomain) {
        return Some(format!("prefix part {wrong}"));
    }
    if name.is_empty() {
        return Some("name part must be non-empty".into());
    }
    if name.len() > 63 { Some(format!("name part {}", too_long(63))) } else { (!is_name(name)).then(|| QUALIFIED.into()) }
}

/// Which names are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    Label,
    Subdomain,
    /// Anything that can stand in a path, such as `system:discovery`.
    PathSegment,
}

impl Naming {
    fn check(self, name: &str) -> Option<String> {
        match self {
            Self::Label => dns_label(name),
            Self::Subdomain => dns_subdomain(name),
            Self::PathSegment => path_segment(name),
        }
    }
}

/// What is wrong with a name that may be anything in a path. Source: apimachinery `path.IsValidPathSegmentName`.
pub fn path_segment(name: &str) -> Option<String> {
    match name {
        "." | ".." => Some(format!("may not be '{name}'")),
        _ => ['/', '%'].into_iter().find(|bad| name.contains(*bad)).map(|bad| format!("may not contain '{bad}'")),
    }
}

/// What is wrong with `metadata` beyond its types.
pub fn metadata(metadata: &Value, naming: Naming) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(detail) = naming.check(name) {
        errors.push(FieldError::invalid("metadata.name", name, detail));
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        if errors.len() >= MOST_FAULTS {
            return errors;
        }
        errors.extend(qualified(key).map(|detail| FieldError::invalid("metadata.labels", key, detail)));
        let text = value.as_str().unwrap_or_default();
        if text.len() > 63 {
            errors.push(FieldError::invalid("metadata.labels", text, too_long(63)));
        } else if !text.is_empty() && !is_name(text) {
            errors.push(FieldError::invalid("metadata.labels", text, VALUE));
        }
    }
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        if errors.len() >= MOST_FAULTS {
            return errors;
        }
        errors.extend(qualified(&key.to_lowercase()).map(|detail| FieldError::invalid("metadata.annotations", key, detail)));
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > ANNOTATIONS_BYTES {
        errors.push(FieldError::invalid(
            "metadata.annotations",
            format!("{size} bytes"),
            format!("may not be more than {ANNOTATIONS_BYTES} bytes"),
        ));
    }
    for finalizer in metadata["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        errors.extend(qualified(finalizer).map(|detail| FieldError::invalid("metadata.finalizers", finalizer, detail)));
    }
    owner_references(metadata, &mut errors);
    errors
}

fn owner_references(metadata: &Value, errors: &mut Vec<FieldError>) {
    let mut controllers = 0;
    for (index, owner) in metadata["ownerReferences"].as_array().into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::invalid(format!("metadata.ownerReferences[{index}].{field}"), &owner[field], "must not be empty"));
            }
        }
        controllers += u32::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let detail = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", &metadata["ownerReferences"], detail));
    }
}
