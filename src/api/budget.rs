//! `Budget`: a node in a tree of limits that every Machine below it is charged to.

use super::machine::Usage;
use super::meta::{Column, FieldError, Kind, Scope, conditions_schema, object};
use super::quantity::Money;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

object!(
    /// Limits shared by all Machines and Budgets that name it. A call to a model passes only if every level has room for
    /// its worst case.
    Budget, BudgetSpec, BudgetStatus
);

/// What may be spent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetSpec {
    /// The Budget of this namespace that this one is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_ref: Option<ParentRef>,
    /// Upper bounds.
    #[serde(default)]
    pub limits: BudgetLimits,
}

/// Upper bounds of a Budget, over its whole life.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetLimits {
    /// Money paid to model providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// Calls to model providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_calls: Option<u64>,
}

/// Another Budget of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// Its name.
    pub name: String,
}

/// What was observed of a Budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Exhausted.
    #[serde(default)]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// What was consumed here and below.
    #[serde(default)]
    pub usage: Usage,
    /// What was spent, as `$61.20 of $200.00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<String>,
}

impl Kind for Budget {
    const KIND: &'static str = "Budget";
    const PLURAL: &'static str = "budgets";
    const SINGULAR: &'static str = "budget";
    const SHORT_NAMES: &'static [&'static str] = &[];
    const SCOPE: Scope = Scope::Namespaced;
    const COLUMNS: &'static [Column] = &[
        Column {
            name: "Spent",
            r#type: "string",
            json_path: ".status.spent",
            priority: 0,
            description: "Money paid to providers, of its limit",
        },
        Column { name: "Calls", r#type: "integer", json_path: ".status.usage.apiCalls", priority: 0, description: "Calls to providers" },
        Column { name: "Parent", r#type: "string", json_path: ".spec.parentRef.name", priority: 0, description: "The Budget above it" },
        Column {
            name: "Age",
            r#type: "date",
            json_path: ".metadata.creationTimestamp",
            priority: 0,
            description: "Time since it was created",
        },
    ];

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(parent) = &self.spec.parent_ref
            && Some(&parent.name) == self.metadata.name.as_ref()
        {
            errors.push(FieldError::invalid("spec.parentRef.name", &parent.name, "a Budget cannot be its own parent"));
        }
        errors
    }
}
