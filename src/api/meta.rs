//! What our kinds share beyond Kubernetes' own metadata: the `Kind` trait, field errors, and condition helpers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use serde::{Serialize, de::DeserializeOwned};

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A column of `kubectl get`, as CustomResourceDefinition names it. Source: apiextensions/v1 `additionalPrinterColumns`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub r#type: &'static str,
    pub json_path: &'static str,
    /// 0 is always shown, higher only with `-o wide`.
    pub priority: i32,
    pub description: &'static str,
}

/// A kind of this API group.
pub trait Kind: Serialize + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static {
    const KIND: &'static str;
    const PLURAL: &'static str;
    const SINGULAR: &'static str;
    const SHORT_NAMES: &'static [&'static str];
    const SCOPE: Scope;
    const COLUMNS: &'static [Column];

    fn metadata(&self) -> &ObjectMeta;
    fn metadata_mut(&mut self) -> &mut ObjectMeta;

    /// What neither the schema nor its rules ([`super::rule`]) can say.
    fn validate(&self) -> Vec<FieldError> {
        Vec::new()
    }

    /// `metadata.name`; empty when absent.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
    /// `metadata.namespace`; empty for cluster-scoped kinds.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }
    /// `metadata.uid`; empty before the object is stored.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }
    fn generation(&self) -> i64 {
        self.metadata().generation.unwrap_or_default()
    }
    fn is_deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }
    fn has_finalizer(&self, name: &str) -> bool {
        self.metadata().finalizers.iter().flatten().any(|f| f == name)
    }
    /// What an annotation says, if it is there.
    fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// What is wrong with a field; the wire's `causes[].reason` is made of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    Required,
    /// The value as JSON, shown in the message.
    Invalid(serde_json::Value),
    Forbidden,
    NotSupported {
        value: serde_json::Value,
        supported: Vec<String>,
    },
    Duplicate(serde_json::Value),
    TypeInvalid(serde_json::Value),
    /// A text of more than this many characters.
    TooLong(u64),
    /// A list or map of `given` entries, where `most` may be.
    TooMany {
        given: u64,
        most: u64,
    },
    /// A rule that the schema publishes does not hold; the detail speaks for itself.
    Rule,
}

/// One wrong field: where, what, and what to write instead.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path as the user writes it: `spec.agent.command`, `spec.providers[0].name`.
    pub field: String,
    pub problem: Problem,
    /// The remedy, in words; may be empty for `Required`.
    pub detail: String,
}

impl FieldError {
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), problem: Problem::Required, detail: detail.into() }
    }
    pub fn invalid(field: impl Into<String>, value: impl Serialize, detail: impl Into<String>) -> Self {
        let value = serde_json::to_value(value).unwrap_or_default();
        Self { field: field.into(), problem: Problem::Invalid(value), detail: detail.into() }
    }
    pub fn not_supported(field: impl Into<String>, value: impl Serialize, supported: &[&str]) -> Self {
        let (value, supported) = (serde_json::to_value(value).unwrap_or_default(), supported.iter().map(ToString::to_string).collect());
        Self { field: field.into(), problem: Problem::NotSupported { value, supported }, detail: String::new() }
    }
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), problem: Problem::Forbidden, detail: detail.into() }
    }

    /// The wire's `causes[].reason`. Source: apimachinery `field.ErrorType`.
    pub fn reason(&self) -> &'static str {
        match self.problem {
            Problem::Required => "FieldValueRequired",
            Problem::Invalid(_) | Problem::Rule => "FieldValueInvalid",
            Problem::Forbidden => "FieldValueForbidden",
            Problem::NotSupported { .. } => "FieldValueNotSupported",
            Problem::Duplicate(_) => "FieldValueDuplicate",
            Problem::TypeInvalid(_) => "FieldValueTypeInvalid",
            Problem::TooLong(_) => "FieldValueTooLong",
            Problem::TooMany { .. } => "FieldValueTooMany",
        }
    }

    /// The text without the field. Source: apimachinery `field.Error.ErrorBody`.
    pub fn body(&self) -> String {
        let detail = &self.detail;
        let with = |head: String| if detail.is_empty() { head } else { format!("{head}: {detail}") };
        match &self.problem {
            Problem::Required => with("Required value".into()),
            Problem::Invalid(value) | Problem::TypeInvalid(value) => with(format!("Invalid value: {value}")),
            Problem::Forbidden => with("Forbidden".into()),
            Problem::Rule => with("Invalid value".into()),
            Problem::TooLong(most) => format!("Too long: may not be more than {most} bytes"),
            Problem::TooMany { given, most } => format!("Too many: {given}: must have at most {most} items"),
            Problem::Duplicate(value) => with(format!("Duplicate value: {value}")),
            Problem::NotSupported { value, supported } => {
                let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
                with(format!("Unsupported value: {value}: supported values: {}", list.join(", ")))
            }
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Sets one condition in place: `lastTransitionTime` moves only when `status` changes.
///
/// Source: apimachinery `meta.SetStatusCondition`.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    generation: i64,
    now: &Time,
    (kind, status, reason, message): (&str, bool, &str, &str),
) {
    let status = if status { "True" } else { "False" };
    put_condition(conditions, generation, now, (kind, status, reason, message));
}

/// Like [`set_condition`], with the status given as `True`, `False` or `Unknown`.
pub fn put_condition(
    conditions: &mut Vec<Condition>,
    generation: i64,
    now: &Time,
    (kind, status, reason, message): (&str, &str, &str, &str),
) {
    let fresh = Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: Some(generation),
        last_transition_time: now.clone(),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(old) => {
            let since = if old.status == fresh.status { old.last_transition_time.clone() } else { now.clone() };
            *old = Condition { last_transition_time: since, ..fresh };
        }
        None => conditions.push(fresh),
    }
}

/// Removes an abnormal-true condition (`Reconciling`, `Stalled`) that no longer holds.
pub fn clear_condition(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|c| c.type_ != kind);
}

/// Schema of `status.conditions`: a list-map keyed by type.
pub fn conditions_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = <Vec<Condition> as schemars::JsonSchema>::json_schema(generator);
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    schema
}

/// Declares the object type of a kind: `apiVersion`, `kind`, `metadata`, `spec`, `status`.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $spec:ty, $status:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            #[serde(default = "api_version")]
            #[schemars(skip)]
            pub api_version: String,
            #[serde(default = "kind")]
            #[schemars(skip)]
            pub kind: String,
            #[schemars(skip)]
            #[serde(default)]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What is desired.
            pub spec: $spec,
            /// What was observed; written by the hub alone.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub status: Option<$status>,
        }
        fn api_version() -> String {
            crate::api::API_VERSION.into()
        }
        fn kind() -> String {
            <$name as crate::api::Kind>::KIND.into()
        }
        impl $name {
            /// A new object, not yet stored.
            pub fn new(namespace: &str, name: &str, spec: $spec) -> Self {
                let mut metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default();
                metadata.name = Some(name.into());
                metadata.namespace = (!namespace.is_empty()).then(|| namespace.into());
                Self { api_version: api_version(), kind: kind(), metadata, spec, status: None }
            }
        }
    };
}
pub(crate) use object;
