//! Query parameters of the API, read and checked.

use super::status::Status;
use crate::objects::{FieldValidation, WriteOptions};

/// The parameters of one request.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Self {
        Self(url::form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value; an empty one counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether it is given at all, with or without a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Errors: 400 for what is no boolean.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Status> {
        match self.get(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(Status::bad_request(format!("{name}: {other:?} is neither true nor false"))),
        }
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        let parse = |text: &str| text.parse().map_err(|_| Status::bad_request(format!("{name}: {text:?} is not a number in range")));
        self.get(name).map(parse).transpose()
    }

    /// `resourceVersion`; `None` when unset.
    pub(super) fn revision(&self) -> Result<Option<i64>, Status> {
        let parse = |text: &str| match text.parse::<i64>() {
            Ok(revision) if revision >= 0 => Ok(revision),
            _ => Err(Status::bad_request(format!("invalid resource version: {text:?} is not a non-negative integer"))),
        };
        self.get("resourceVersion").map(parse).transpose()
    }

    /// Whether nothing is to be written. Errors: 422 for anything but `All`.
    pub(super) fn dry_run(&self, options_kind: &str) -> Result<bool, Status> {
        dry_run(self.all("dryRun"), options_kind)
    }

    /// Options of a write. `agent` is the User-Agent, whose first word stands in for a missing field manager.
    pub(super) fn write_options(&self, agent: &str, options_kind: &str) -> Result<WriteOptions, Status> {
        let field_validation = match self.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let body = format!("Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\"");
                return Err(Status::invalid_option(options_kind, "fieldValidation", "FieldValueNotSupported", &body));
            }
        };
        let manager = self.get("fieldManager").unwrap_or_else(|| agent.split('/').next().unwrap_or_default());
        if manager.chars().count() > 128 {
            let body = "Too long: may not be more than 128 bytes";
            return Err(Status::invalid_option(options_kind, "fieldManager", "FieldValueTooLong", body));
        }
        let dry_run = self.dry_run(options_kind)?;
        Ok(WriteOptions { dry_run, field_validation, field_manager: manager.into(), ..WriteOptions::default() })
    }
}

/// Errors: 422 for any value but `All`.
pub(super) fn dry_run<'a>(values: impl Iterator<Item = &'a str>, options_kind: &str) -> Result<bool, Status> {
    let mut dry = false;
    for value in values {
        if value != "All" {
            let body = format!("Unsupported value: [{value:?}]: supported values: \"All\"");
            return Err(Status::invalid_option(options_kind, "dryRun", "FieldValueNotSupported", &body));
        }
        dry = true;
    }
    Ok(dry)
}
