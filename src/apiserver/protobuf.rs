//! Protobuf bodies, which typed clients send for core kinds whatever we would prefer: decoded into the JSON form.
//!
//! Hand-written messages of the few kinds that are served; field numbers are those of Kubernetes' `generated.proto` files.

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

#[derive(Debug)]
pub(super) enum Error {
    /// No protobuf form of this kind is known here.
    Unsupported,
    Malformed(String),
}

impl From<prost::DecodeError> for Error {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What every body begins with.
pub(super) const MAGIC: &[u8; 4] = b"k8s\0";

/// Source: apimachinery `runtime.Unknown`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Unknown {
    #[prost(message, optional, tag = "1")]
    pub(super) type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) raw: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeMeta {
    #[prost(string, optional, tag = "1")]
    pub(super) api_version: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) kind: Option<String>,
}

/// Decodes the envelope and the object in it, whose kind the URL says to be `kind`.
pub(super) fn decode(bytes: &[u8], kind: &str) -> Result<Value, Error> {
    let raw = bytes.strip_prefix(MAGIC).ok_or_else(|| Error::Malformed("it does not begin with \"k8s\\0\"".into()))?;
    let envelope = Unknown::decode(raw)?;
    let types = envelope.type_meta.unwrap_or_default();
    let raw = envelope.raw.unwrap_or_default();
    let mut value = match kind {
        "Namespace" => json::<Namespace>(&raw),
        "Secret" => json::<Secret>(&raw),
        "ConfigMap" => json::<ConfigMap>(&raw),
        "Event" if types.api_version.as_deref() == Some("events.k8s.io/v1") => json::<EventV1>(&raw),
        "Event" => json::<Event>(&raw),
        "ServiceAccount" => json::<ServiceAccount>(&raw),
        "Lease" => json::<Lease>(&raw),
        "SelfSubjectReview" => json::<SelfSubjectReview>(&raw),
        "SelfSubjectAccessReview" => json::<SelfSubjectAccessReview>(&raw),
        "SelfSubjectRulesReview" => json::<SelfSubjectRulesReview>(&raw),
        // The second's messages are the first's.
        "SubjectAccessReview" | "LocalSubjectAccessReview" => json::<SubjectAccessReview>(&raw),
        "TokenRequest" => json::<TokenRequest>(&raw),
        "Role" => json::<Role>(&raw),
        "ClusterRole" => json::<ClusterRole>(&raw),
        "RoleBinding" | "ClusterRoleBinding" => json::<Binding>(&raw),
        "DeleteOptions" => json::<DeleteOptions>(&raw),
        _ => Err(Error::Unsupported),
    }?;
    for (field, given) in [("apiVersion", types.api_version), ("kind", types.kind)] {
        if let Some(given) = given.filter(|g| !g.is_empty()) {
            value[field] = given.into();
        }
    }
    Ok(value)
}

fn json<M: Message + Default + Serialize>(raw: &[u8]) -> Result<Value, Error> {
    let mut value = serde_json::to_value(M::decode(raw)?).map_err(|e| Error::Malformed(e.to_string()))?;
    drop_empty(&mut value);
    Ok(value)
}

/// Go writes empty strings and messages where JSON says nothing; maps that users fill keep their empty values.
fn drop_empty(value: &mut Value) {
    if let Value::Array(items) = value {
        items.iter_mut().for_each(drop_empty);
    }
    let Value::Object(fields) = value else {
        return;
    };
    for (key, inner) in fields.iter_mut() {
        if !matches!(key.as_str(), "data" | "stringData" | "binaryData" | "labels" | "annotations" | "matchLabels") {
            drop_empty(inner);
        }
    }
    fields.retain(|_, inner| match inner {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    });
}

#[expect(clippy::ref_option, reason = "serde hands the field itself")]
fn whole_seconds<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = time.as_ref().and_then(|t| jiff::Timestamp::from_second(t.seconds?).ok()).map(|t| t.to_string());
    text.serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde hands the field itself")]
fn micros<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    let instant = time.as_ref().and_then(|t| jiff::Timestamp::new(t.seconds?, t.nanos.unwrap_or_default()).ok());
    instant.map(|t| format!("{t:.6}")).serialize(serializer)
}

fn base64_values<S: Serializer>(data: &BTreeMap<String, Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(data.iter().map(|(key, value)| (key, STANDARD.encode(value))))
}

#[expect(clippy::ref_option, reason = "serde hands the field itself")]
fn raw_json<S: Serializer>(fields: &Option<FieldsV1>, serializer: S) -> Result<S::Ok, S::Error> {
    let raw = fields.as_ref().and_then(|f| f.raw.as_deref()).unwrap_or_default();
    serde_json::from_slice::<Value>(raw).unwrap_or(Value::Object(Map::new())).serialize(serializer)
}

/// Declares messages with the JSON names of their fields.
macro_rules! messages {
    ($($name:ident { $($(#[$attr:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            #[derive(Clone, PartialEq, Message, Serialize)]
            #[serde(rename_all = "camelCase")]
            pub(super) struct $name {
                $($(#[$attr])* pub(super) $field: $type,)*
            }
        )*
    };
}

messages! {
    Time {
        #[prost(int64, optional, tag = "1")] seconds: Option<i64>,
        #[prost(int32, optional, tag = "2")] nanos: Option<i32>,
    }
    FieldsV1 {
        #[prost(bytes = "vec", optional, tag = "1")] raw: Option<Vec<u8>>,
    }
    ManagedFieldsEntry {
        #[prost(string, optional, tag = "1")] manager: Option<String>,
        #[prost(string, optional, tag = "2")] operation: Option<String>,
        #[prost(string, optional, tag = "3")] api_version: Option<String>,
        #[prost(message, optional, tag = "4")] #[serde(serialize_with = "whole_seconds")] time: Option<Time>,
        #[prost(string, optional, tag = "6")] fields_type: Option<String>,
        #[prost(message, optional, tag = "7")] #[serde(serialize_with = "raw_json", rename = "fieldsV1")] fields_v1: Option<FieldsV1>,
        #[prost(string, optional, tag = "8")] subresource: Option<String>,
    }
    OwnerReference {
        #[prost(string, optional, tag = "1")] kind: Option<String>,
        #[prost(string, optional, tag = "3")] name: Option<String>,
        #[prost(string, optional, tag = "4")] uid: Option<String>,
        #[prost(string, optional, tag = "5")] api_version: Option<String>,
        #[prost(bool, optional, tag = "6")] controller: Option<bool>,
        #[prost(bool, optional, tag = "7")] block_owner_deletion: Option<bool>,
    }
    ObjectMeta {
        #[prost(string, optional, tag = "1")] name: Option<String>,
        #[prost(string, optional, tag = "2")] generate_name: Option<String>,
        #[prost(string, optional, tag = "3")] namespace: Option<String>,
        #[prost(string, optional, tag = "5")] uid: Option<String>,
        #[prost(string, optional, tag = "6")] resource_version: Option<String>,
        #[prost(int64, optional, tag = "7")] generation: Option<i64>,
        #[prost(message, optional, tag = "8")] #[serde(serialize_with = "whole_seconds")] creation_timestamp: Option<Time>,
        #[prost(message, optional, tag = "9")] #[serde(serialize_with = "whole_seconds")] deletion_timestamp: Option<Time>,
        #[prost(int64, optional, tag = "10")] deletion_grace_period_seconds: Option<i64>,
        #[prost(btree_map = "string, string", tag = "11")] labels: BTreeMap<String, String>,
        #[prost(btree_map = "string, string", tag = "12")] annotations: BTreeMap<String, String>,
        #[prost(message, repeated, tag = "13")] owner_references: Vec<OwnerReference>,
        #[prost(string, repeated, tag = "14")] finalizers: Vec<String>,
        #[prost(message, repeated, tag = "17")] managed_fields: Vec<ManagedFieldsEntry>,
    }
    NamespaceSpec {
        #[prost(string, repeated, tag = "1")] finalizers: Vec<String>,
    }
    NamespaceStatus {
        #[prost(string, optional, tag = "1")] phase: Option<String>,
    }
    Namespace {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, optional, tag = "2")] spec: Option<NamespaceSpec>,
        #[prost(message, optional, tag = "3")] status: Option<NamespaceStatus>,
    }
    Secret {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(btree_map = "string, bytes", tag = "2")] #[serde(serialize_with = "base64_values")] data: BTreeMap<String, Vec<u8>>,
        #[prost(string, optional, tag = "3")] r#type: Option<String>,
        #[prost(btree_map = "string, string", tag = "4")] string_data: BTreeMap<String, String>,
        #[prost(bool, optional, tag = "5")] immutable: Option<bool>,
    }
    ConfigMap {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(btree_map = "string, string", tag = "2")] data: BTreeMap<String, String>,
        #[prost(btree_map = "string, bytes", tag = "3")] #[serde(serialize_with = "base64_values")] binary_data: BTreeMap<String, Vec<u8>>,
        #[prost(bool, optional, tag = "4")] immutable: Option<bool>,
    }
    ObjectReference {
        #[prost(string, optional, tag = "1")] kind: Option<String>,
        #[prost(string, optional, tag = "2")] namespace: Option<String>,
        #[prost(string, optional, tag = "3")] name: Option<String>,
        #[prost(string, optional, tag = "4")] uid: Option<String>,
        #[prost(string, optional, tag = "5")] api_version: Option<String>,
        #[prost(string, optional, tag = "6")] resource_version: Option<String>,
        #[prost(string, optional, tag = "7")] field_path: Option<String>,
    }
    EventSource {
        #[prost(string, optional, tag = "1")] component: Option<String>,
        #[prost(string, optional, tag = "2")] host: Option<String>,
    }
    EventSeries {
        #[prost(int32, optional, tag = "1")] count: Option<i32>,
        #[prost(message, optional, tag = "2")] #[serde(serialize_with = "micros")] last_observed_time: Option<Time>,
    }
    Event {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, optional, tag = "2")] involved_object: Option<ObjectReference>,
        #[prost(string, optional, tag = "3")] reason: Option<String>,
        #[prost(string, optional, tag = "4")] message: Option<String>,
        #[prost(message, optional, tag = "5")] source: Option<EventSource>,
        #[prost(message, optional, tag = "6")] #[serde(serialize_with = "whole_seconds")] first_timestamp: Option<Time>,
        #[prost(message, optional, tag = "7")] #[serde(serialize_with = "whole_seconds")] last_timestamp: Option<Time>,
        #[prost(int32, optional, tag = "8")] count: Option<i32>,
        #[prost(string, optional, tag = "9")] r#type: Option<String>,
        #[prost(message, optional, tag = "10")] #[serde(serialize_with = "micros")] event_time: Option<Time>,
        #[prost(message, optional, tag = "11")] series: Option<EventSeries>,
        #[prost(string, optional, tag = "12")] action: Option<String>,
        #[prost(message, optional, tag = "13")] related: Option<ObjectReference>,
        #[prost(string, optional, tag = "14")] reporting_component: Option<String>,
        #[prost(string, optional, tag = "15")] reporting_instance: Option<String>,
    }
    EventV1 {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, optional, tag = "2")] #[serde(serialize_with = "micros")] event_time: Option<Time>,
        #[prost(message, optional, tag = "3")] series: Option<EventSeries>,
        #[prost(string, optional, tag = "4")] reporting_controller: Option<String>,
        #[prost(string, optional, tag = "5")] reporting_instance: Option<String>,
        #[prost(string, optional, tag = "6")] action: Option<String>,
        #[prost(string, optional, tag = "7")] reason: Option<String>,
        #[prost(message, optional, tag = "8")] regarding: Option<ObjectReference>,
        #[prost(message, optional, tag = "9")] related: Option<ObjectReference>,
        #[prost(string, optional, tag = "10")] note: Option<String>,
        #[prost(string, optional, tag = "11")] r#type: Option<String>,
        #[prost(message, optional, tag = "12")] deprecated_source: Option<EventSource>,
        #[prost(message, optional, tag = "13")] #[serde(serialize_with = "whole_seconds")] deprecated_first_timestamp: Option<Time>,
        #[prost(message, optional, tag = "14")] #[serde(serialize_with = "whole_seconds")] deprecated_last_timestamp: Option<Time>,
        #[prost(int32, optional, tag = "15")] deprecated_count: Option<i32>,
    }
    LocalObjectReference {
        #[prost(string, optional, tag = "1")] name: Option<String>,
    }
    ServiceAccount {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, repeated, tag = "2")] secrets: Vec<ObjectReference>,
        #[prost(message, repeated, tag = "3")] image_pull_secrets: Vec<LocalObjectReference>,
        #[prost(bool, optional, tag = "4")] automount_service_account_token: Option<bool>,
    }
    LeaseSpec {
        #[prost(string, optional, tag = "1")] holder_identity: Option<String>,
        #[prost(int32, optional, tag = "2")] lease_duration_seconds: Option<i32>,
        #[prost(message, optional, tag = "3")] #[serde(serialize_with = "micros")] acquire_time: Option<Time>,
        #[prost(message, optional, tag = "4")] #[serde(serialize_with = "micros")] renew_time: Option<Time>,
        #[prost(int32, optional, tag = "5")] lease_transitions: Option<i32>,
        #[prost(string, optional, tag = "6")] strategy: Option<String>,
        #[prost(string, optional, tag = "7")] preferred_holder: Option<String>,
    }
    Lease {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, optional, tag = "2")] spec: Option<LeaseSpec>,
    }
    SelfSubjectReview {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
    }
    ResourceAttributes {
        #[prost(string, optional, tag = "1")] namespace: Option<String>,
        #[prost(string, optional, tag = "2")] verb: Option<String>,
        #[prost(string, optional, tag = "3")] group: Option<String>,
        #[prost(string, optional, tag = "4")] version: Option<String>,
        #[prost(string, optional, tag = "5")] resource: Option<String>,
        #[prost(string, optional, tag = "6")] subresource: Option<String>,
        #[prost(string, optional, tag = "7")] name: Option<String>,
    }
    NonResourceAttributes {
        #[prost(string, optional, tag = "1")] path: Option<String>,
        #[prost(string, optional, tag = "2")] verb: Option<String>,
    }
    SelfSubjectAccessReviewSpec {
        #[prost(message, optional, tag = "1")] resource_attributes: Option<ResourceAttributes>,
        #[prost(message, optional, tag = "2")] non_resource_attributes: Option<NonResourceAttributes>,
    }
    SelfSubjectAccessReview {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, optional, tag = "2")] spec: Option<SelfSubjectAccessReviewSpec>,
    }
    SelfSubjectRulesReviewSpec {
        #[prost(string, optional, tag = "1")] namespace: Option<String>,
    }
    SelfSubjectRulesReview {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, optional, tag = "2")] spec: Option<SelfSubjectRulesReviewSpec>,
    }
    SubjectAccessReviewSpec {
        #[prost(message, optional, tag = "1")] resource_attributes: Option<ResourceAttributes>,
        #[prost(message, optional, tag = "2")] non_resource_attributes: Option<NonResourceAttributes>,
        #[prost(string, optional, tag = "3")] user: Option<String>,
        #[prost(string, repeated, tag = "4")] groups: Vec<String>,
        #[prost(string, optional, tag = "6")] uid: Option<String>,
    }
    SubjectAccessReview {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, optional, tag = "2")] spec: Option<SubjectAccessReviewSpec>,
    }
    BoundObjectReference {
        #[prost(string, optional, tag = "1")] kind: Option<String>,
        #[prost(string, optional, tag = "2")] api_version: Option<String>,
        #[prost(string, optional, tag = "3")] name: Option<String>,
        #[prost(string, optional, tag = "4")] uid: Option<String>,
    }
    TokenRequestSpec {
        #[prost(string, repeated, tag = "1")] audiences: Vec<String>,
        #[prost(message, optional, tag = "3")] bound_object_ref: Option<BoundObjectReference>,
        #[prost(int64, optional, tag = "4")] expiration_seconds: Option<i64>,
    }
    TokenRequest {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, optional, tag = "2")] spec: Option<TokenRequestSpec>,
    }
    PolicyRule {
        #[prost(string, repeated, tag = "1")] verbs: Vec<String>,
        #[prost(string, repeated, tag = "2")] api_groups: Vec<String>,
        #[prost(string, repeated, tag = "3")] resources: Vec<String>,
        #[prost(string, repeated, tag = "4")] resource_names: Vec<String>,
        #[prost(string, repeated, tag = "5")] #[serde(rename = "nonResourceURLs")] non_resource_urls: Vec<String>,
    }
    LabelSelectorRequirement {
        #[prost(string, optional, tag = "1")] key: Option<String>,
        #[prost(string, optional, tag = "2")] operator: Option<String>,
        #[prost(string, repeated, tag = "3")] values: Vec<String>,
    }
    LabelSelector {
        #[prost(btree_map = "string, string", tag = "1")] match_labels: BTreeMap<String, String>,
        #[prost(message, repeated, tag = "2")] match_expressions: Vec<LabelSelectorRequirement>,
    }
    AggregationRule {
        #[prost(message, repeated, tag = "1")] cluster_role_selectors: Vec<LabelSelector>,
    }
    Role {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, repeated, tag = "2")] rules: Vec<PolicyRule>,
    }
    ClusterRole {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, repeated, tag = "2")] rules: Vec<PolicyRule>,
        #[prost(message, optional, tag = "3")] aggregation_rule: Option<AggregationRule>,
    }
    Subject {
        #[prost(string, optional, tag = "1")] kind: Option<String>,
        #[prost(string, optional, tag = "2")] api_group: Option<String>,
        #[prost(string, optional, tag = "3")] name: Option<String>,
        #[prost(string, optional, tag = "4")] namespace: Option<String>,
    }
    RoleRef {
        #[prost(string, optional, tag = "1")] api_group: Option<String>,
        #[prost(string, optional, tag = "2")] kind: Option<String>,
        #[prost(string, optional, tag = "3")] name: Option<String>,
    }
    Binding {
        #[prost(message, optional, tag = "1")] metadata: Option<ObjectMeta>,
        #[prost(message, repeated, tag = "2")] subjects: Vec<Subject>,
        #[prost(message, optional, tag = "3")] role_ref: Option<RoleRef>,
    }
    Preconditions {
        #[prost(string, optional, tag = "1")] uid: Option<String>,
        #[prost(string, optional, tag = "2")] resource_version: Option<String>,
    }
    DeleteOptions {
        #[prost(int64, optional, tag = "1")] grace_period_seconds: Option<i64>,
        #[prost(message, optional, tag = "2")] preconditions: Option<Preconditions>,
        #[prost(bool, optional, tag = "3")] orphan_dependents: Option<bool>,
        #[prost(string, optional, tag = "4")] propagation_policy: Option<String>,
        #[prost(string, repeated, tag = "5")] dry_run: Vec<String>,
    }
}
