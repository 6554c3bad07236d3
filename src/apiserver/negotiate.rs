//! Which form of an answer a client wants: the `Accept` header, parsed, never compared as text.

use super::status::Status;

/// How an answer is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Yaml,
    /// gnostic's OpenAPI v2 document.
    OpenapiV2,
}

/// What an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The kind itself.
    Plain,
    Table,
    /// `PartialObjectMetadata`, and its list.
    Metadata,
    /// `APIGroupDiscoveryList` in this version of `apidiscovery.k8s.io`.
    Discovery(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) encoding: Encoding,
    pub(super) shape: Shape,
}

const PLAIN: Form = Form { encoding: Encoding::Json, shape: Shape::Plain };

/// The first clause of `accept` that `offered` allows.
///
/// Errors: 406 when there is none.
pub(super) fn negotiate(accept: Option<&str>, offered: impl Fn(Form) -> bool) -> Result<Form, Status> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else {
        return Ok(PLAIN);
    };
    accept.split(',').filter_map(clause).find(|form| offered(*form)).ok_or_else(Status::not_acceptable)
}

/// Objects: JSON, YAML, tables, metadata.
pub(super) fn object(accept: Option<&str>) -> Result<Form, Status> {
    negotiate(accept, |form| match form.encoding {
        Encoding::Json => !matches!(form.shape, Shape::Discovery(_)),
        Encoding::Yaml => form.shape == Shape::Plain,
        Encoding::OpenapiV2 => false,
    })
}

/// Watches: one JSON document a line.
pub(super) fn stream(accept: Option<&str>) -> Result<Form, Status> {
    negotiate(accept, |form| form.encoding == Encoding::Json && !matches!(form.shape, Shape::Discovery(_)))
}

fn clause(clause: &str) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
    let media = parts.next()?;
    let (mut kind, mut version, mut group) = ("", "", "");
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        match key.trim() {
            "as" => kind = value.trim(),
            "v" => version = value.trim(),
            "g" => group = value.trim(),
            _ => {}
        }
    }
    let encoding = match media {
        "application/json" | "application/*" | "*/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" | "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" => {
            Encoding::OpenapiV2
        }
        _ => return None,
    };
    let shape = match (kind, group, version) {
        ("", _, _) => Shape::Plain,
        ("Table", "meta.k8s.io", "v1") => Shape::Table,
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => Shape::Metadata,
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Shape::Discovery("v2"),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Shape::Discovery("v2beta1"),
        _ => return None,
    };
    Some(Form { encoding, shape })
}
