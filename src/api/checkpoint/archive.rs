//! A Checkpoint that came from a file of another installation: what it was there, for information.

use super::Trigger;
use crate::api::rule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes a first base: exactly one of `image` and `archive`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::one_of(&["image", "archive"])]))]
pub struct Import {
    /// Name of an image of the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The exported Checkpoint that `autovibe import` reads from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Box<Archive>>,
    /// The Hub. Default: the one named `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
}

impl Import {
    pub fn of_image(name: &str) -> Self {
        Self { image: Some(name.into()), ..Self::default() }
    }

    /// What it is made of, in words.
    pub fn words(&self) -> String {
        match (&self.image, &self.archive) {
            (_, Some(archive)) => format!("archive of checkpoint {}", archive.checkpoint),
            (Some(image), None) => format!("image {image}"),
            (None, None) => "nothing".into(),
        }
    }
}

/// Which Checkpoint of which installation a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Archive {
    /// Its name there.
    pub checkpoint: String,
    /// Its uid there.
    pub uid: String,
    /// The installation that exported it.
    pub installation: String,
}

/// What an imported Checkpoint was where it was taken. Information: nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// Name of its Machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The CLI that its agent ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What caused it.
    #[serde(default)]
    pub trigger: Trigger,
    /// What led to it, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
}

/// A checkpoint before an exported one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ancestor {
    pub name: String,
    pub uid: String,
    #[serde(default)]
    pub trigger: Trigger,
    /// Name of its Machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The goal that led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// What its Machine had spent when it was exported, as a decimal with its currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_at: Option<Time>,
}
