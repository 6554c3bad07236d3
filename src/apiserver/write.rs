//! Creates, updates, patches and deletes.

use super::{
    body,
    cache::Caches,
    catalog::{Entry, Source},
    list,
    needed::refuse_needed,
    present,
    query::{self, Query},
    route::Target,
    selector::Selector,
    status::Status,
};
use crate::{
    admission::{Resource, document::Document, events},
    objects::{DeleteOptions, Deleted, FieldValidation, LastWord, Objects, Part, Patch, VersionRules, WriteOptions, Written},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

/// A request that changes something.
pub(super) struct Request<'a> {
    pub(super) objects: &'a Objects,
    pub(super) caches: &'a Caches,
    pub(super) target: &'a Target,
    pub(super) query: &'a Query,
    pub(super) content_type: Option<&'a str>,
    pub(super) agent: &'a str,
    pub(super) body: Bytes,
    /// Has the last word on what would be written.
    pub(super) last_word: Option<LastWord>,
    /// Name of the user who asks.
    pub(super) user: &'a str,
}

/// What a write is answered with.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) value: Value,
    pub(super) warnings: Vec<String>,
}

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
/// Source: apiserver `maxJSONPatchOperations`.
const MAX_OPERATIONS: usize = 10_000;
/// Deletions of a collection that run at once.
const TOGETHER: usize = 64;

impl Request<'_> {
    fn entry(&self) -> &'static Entry {
        self.target.entry
    }
    fn resource(&self) -> Result<&'static Resource, Status> {
        self.entry().resource().ok_or_else(Status::method_not_allowed)
    }
    fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or_default()
    }
    fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }
    /// The part that is written, by a verb that it has.
    fn part(&self, verb: &str) -> Result<Part, Status> {
        let Some(name) = self.target.subresource.as_deref() else { return Ok(Part::Main) };
        let part = self.entry().subresource(name).ok_or_else(Status::no_path)?;
        match name {
            _ if !part.verbs.contains(&verb) => Err(Status::method_not_allowed()),
            "status" => Ok(Part::Status),
            "finalize" => Ok(Part::Finalizers),
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn options(&self, kind: &str) -> Result<WriteOptions, Status> {
        let rules: Option<VersionRules> = self.entry().is_view().then_some(events::validate_new);
        let user = Some(self.user.to_owned());
        Ok(WriteOptions { last_word: self.last_word.clone(), user, rules, ..self.query.write_options(self.agent, kind)? })
    }

    /// Decodes the body as an object of this kind that fits the URL; also what to warn of.
    fn document(&self, name: Option<&str>, options: &WriteOptions) -> Result<(Value, Vec<String>), Status> {
        let Document { mut value, duplicates } = body::decode(self.content_type, &self.body, self.entry().kind)?;
        let warnings = duplicate_fields(self.entry(), duplicates, options)?;
        body::fit(&mut value, self.entry(), self.target.namespace.as_deref(), name)?;
        Ok((present::stored(self.entry(), value), warnings))
    }

    fn answer(&self, code: u16, written: Written, mut warnings: Vec<String>) -> Answer {
        warnings.extend(written.warnings);
        Answer { code, value: present::out(self.entry(), written.object), warnings }
    }

    /// POST to a collection.
    pub(super) async fn create(self) -> Result<Answer, Status> {
        let resource = self.resource()?;
        if self.entry().namespaced && self.target.namespace.is_none() {
            return Err(Status::method_not_allowed());
        }
        let options = self.options("CreateOptions")?;
        let (document, warnings) = self.document(None, &options)?;
        let written = self.objects.create_document(resource, self.namespace(), document, &options).await?;
        Ok(self.answer(201, written, warnings))
    }

    /// PUT of an object or its status.
    pub(super) async fn update(self) -> Result<Answer, Status> {
        let (resource, part) = (self.resource()?, self.part("update")?);
        let options = self.options("UpdateOptions")?;
        let (document, warnings) = self.document(Some(self.name()), &options)?;
        let written = match part {
            Part::Finalizers => self.objects.finalize_namespace(self.name(), document, &options).await?,
            _ => self.objects.update_document(resource, self.namespace(), self.name(), part, document, &options).await?,
        };
        Ok(self.answer(200, written, warnings))
    }

    /// PATCH of an object or its status.
    pub(super) async fn patch(self) -> Result<Answer, Status> {
        let (resource, part) = (self.resource()?, self.part("patch")?);
        let options = self.options("PatchOptions")?;
        let media = body::media_type(self.content_type);
        let strategic = !self.entry().is_custom();
        let accepted: &[&str] = if strategic { &[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH] } else { &[JSON_PATCH, MERGE_PATCH] };
        if !accepted.contains(&media) {
            return Err(Status::unsupported_media(accepted));
        }
        if self.query.flag("force")?.is_some() {
            let body = "Forbidden: may not be specified for non-apply patch";
            return Err(Status::invalid_option("PatchOptions", "force", "FieldValueForbidden", body));
        }
        let Document { value, duplicates } =
            body::json(&self.body).map_err(|s| Status::bad_request(format!("error decoding patch: {}", s.message)))?;
        let warnings = duplicate_fields(self.entry(), duplicates, &options)?;
        let patch = match (media, value.as_array()) {
            (JSON_PATCH, Some(operations)) if operations.len() > MAX_OPERATIONS => {
                let message = format!("the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.len());
                return Err(Status::new(413, "RequestEntityTooLarge", message));
            }
            (JSON_PATCH, Some(_)) => Patch::Json(present::stored_patch(self.entry(), value)),
            (JSON_PATCH, None) => return Err(Status::bad_request("error decoding patch: a JSON patch is a list of operations")),
            _ if !value.is_object() => return Err(Status::bad_request("error decoding patch: a merge patch is an object")),
            // The view of events has no strategic merge of its own: its lists are plain.
            (STRATEGIC_PATCH, _) if matches!(self.entry().source, Source::Stored(_)) => Patch::Strategic(value),
            _ => Patch::Merge(present::stored(self.entry(), value)),
        };
        let written = self.objects.patch_document(resource, self.namespace(), self.name(), part, &patch, &options).await?;
        Ok(self.answer(200, written, warnings))
    }

    /// DELETE of an object.
    pub(super) async fn delete(self) -> Result<Answer, Status> {
        let resource = self.resource()?;
        if self.target.subresource.is_some() {
            return Err(Status::method_not_allowed());
        }
        let options = self.delete_options()?;
        refuse_needed(self.objects, resource, self.namespace(), &[self.name()]).await?;
        let deleted = self.objects.delete_document(resource, self.namespace(), self.name(), &options).await?;
        let value = match deleted {
            Deleted::Gone(last) => {
                let mut details = json!({"name": self.name(), "kind": self.entry().plural});
                if let Some(uid) = last.pointer("/metadata/uid") {
                    details["uid"] = uid.clone();
                }
                if !self.entry().group.is_empty() {
                    details["group"] = self.entry().group.into();
                }
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
            }
            Deleted::Marked(object) => present::out(self.entry(), object),
        };
        Ok(Answer { code: 200, value, warnings: Vec::new() })
    }

    /// DELETE of a collection: each by itself, so that finalizers and refusals count for each; some at once, for the store
    /// commits them together. Where a Checkpoint of it is needed by what is not of it, nothing is deleted.
    pub(super) async fn delete_collection(self) -> Result<Answer, Status> {
        let resource = self.resource()?;
        if self.entry().namespaced && self.target.namespace.is_none() {
            return Err(Status::method_not_allowed());
        }
        let options = self.delete_options()?;
        let selector = Selector::parse(self.entry(), self.query.get("labelSelector"), self.query.get("fieldSelector"))?;
        let request = list::Request { limit: self.query.number("limit")?.unwrap_or(0), ..list::Request::default() };
        let cache = self.caches.of(resource);
        let listing = list::list(cache, self.objects, self.target.namespace.as_deref(), &selector, &request).await?;
        let names: Vec<&str> = listing.items.iter().map(|item| item.name.as_str()).collect();
        refuse_needed(self.objects, resource, self.namespace(), &names).await?;
        let (this, options) = (&self, &options);
        let mut deletions = stream::iter(listing.items)
            .map(|item| async move { this.objects.delete_document(resource, this.namespace(), &item.name, options).await })
            .buffered(TOGETHER);
        let mut items = Vec::new();
        while let Some(deletion) = deletions.next().await {
            match deletion {
                Ok(Deleted::Gone(object) | Deleted::Marked(object)) => items.push(present::out(self.entry(), object)),
                Err(crate::objects::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let value = json!({
            "kind": format!("{}List", self.entry().kind), "apiVersion": self.entry().api_version(),
            "metadata": {"resourceVersion": listing.revision.0.to_string()}, "items": items,
        });
        Ok(Answer { code: 200, value, warnings: Vec::new() })
    }

    /// From the body, or else from the query.
    fn delete_options(&self) -> Result<DeleteOptions, Status> {
        const KIND: &str = "DeleteOptions";
        let given = if self.body.is_empty() { json!({}) } else { body::decode(self.content_type, &self.body, KIND)?.value };
        if !given.is_object() {
            return Err(Status::bad_request("the body of a deletion must be DeleteOptions"));
        }
        let text = |pointer: &str| given.pointer(pointer).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
        let dry = given.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let dry_run = query::dry_run(dry, KIND)? || self.query.dry_run(KIND)?;
        let policy = text("/propagationPolicy").or_else(|| self.query.get("propagationPolicy").map(Into::into));
        let orphan = given.get("orphanDependents").and_then(Value::as_bool).or(self.query.flag("orphanDependents")?);
        let propagation_policy = match (policy, orphan) {
            (Some(_), Some(_)) => {
                let body = "Forbidden: orphanDependents and propagationPolicy cannot both be set";
                return Err(Status::invalid_option(KIND, "propagationPolicy", "FieldValueForbidden", body));
            }
            (None, Some(true)) => Some("Orphan".into()),
            (policy, _) => policy,
        };
        if let Some(policy) = propagation_policy.as_deref()
            && !matches!(policy, "Foreground" | "Background" | "Orphan")
        {
            let body = format!("Unsupported value: {policy:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"");
            return Err(Status::invalid_option(KIND, "propagationPolicy", "FieldValueNotSupported", &body));
        }
        let (uid, resource_version) = (text("/preconditions/uid"), text("/preconditions/resourceVersion"));
        Ok(DeleteOptions { dry_run, uid, resource_version, propagation_policy })
    }
}

/// Refuses duplicate keys, or gives the warnings for them, as the client wishes.
fn duplicate_fields(entry: &Entry, duplicates: Vec<String>, options: &WriteOptions) -> Result<Vec<String>, Status> {
    let texts: Vec<String> = duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    match options.field_validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(texts),
        FieldValidation::Strict if texts.is_empty() => Ok(texts),
        FieldValidation::Strict => Err(Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            entry.kind,
            entry.version,
            entry.kind,
            texts.join(", ")
        ))),
    }
}
