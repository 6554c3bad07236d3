//! The same path for documents: what the API server uses. `namespace` is empty for cluster-scoped resources.

use super::{
    DeleteOptions, Deleted, Error, FieldValidation, LastWord, Objects, Part, Patch, WriteOptions, Written, account, decision, leader,
    metadata, namespace, seal,
};
use crate::admission::{self, Resource, patch};
use crate::api::{FieldError, Scope};
use crate::store::{self, Expect, Key, Object, Revision, Transaction};
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

/// Tries of a write that others keep overtaking.
const TRIES: u32 = 64;
/// Wrong fields that are named; each may quote what it was sent.
const MOST_ERRORS: usize = 500;
/// Tries of a generated name. Source: apiserver `maxNameGenerationCreateAttempts`.
const NAMES: u32 = 8;
const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

impl Objects {
    /// As stored; a Secret's data decrypted.
    pub async fn read(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Value, Error> {
        Ok(self.current(&resource.key(namespace, name)).await?.document)
    }

    /// The documents of a page, as [`store::Store::list`] gives them, Secrets decrypted.
    pub async fn read_page(&self, resource: &Resource, query: &store::Query) -> Result<store::Page, Error> {
        let query = store::Query { resource: resource.name(), ..query.clone() };
        let mut page = self.store.list(&query).await?;
        for item in &mut page.items {
            item.document = self.unseal(&item.key.resource, std::mem::take(&mut item.document))?;
        }
        Ok(page)
    }

    /// Changes after a revision, as [`store::Store::told`] gives them, Secrets decrypted.
    pub async fn read_changes(&self, resource: &Resource, after: Revision, limit: u32) -> Result<(Vec<store::Event>, Revision), Error> {
        let (events, complete) = self.store.told(&resource.name(), after, limit).await?;
        Ok((events.into_iter().map(|event| self.unseal_event(event)).collect::<Result<_, _>>()?, complete))
    }

    /// Creates it: defaults, validates, sets uid and creationTimestamp, drops status.
    pub async fn create_document(
        &self,
        resource: &Resource,
        namespace: &str,
        mut document: Value,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        fit(resource, namespace, &mut document)?;
        if !metadata::text(&document, "resourceVersion").is_empty() {
            return Err(Error::BadRequest("resourceVersion should not be set on objects to be created".into()));
        }
        let mut warnings = admit(resource, &mut document, options)?;
        warnings.extend(metadata::courtesy(&mut document, None));
        metadata::begin(&mut document, &self.clock.api_now(), resource.has_status);
        if resource.has_status {
            remove(&mut document, "status");
        }
        namespace::complete(resource, Part::Main, &mut document, None);
        decision::complete(resource, Part::Main, &mut document, None, options.user.as_deref(), &self.clock.api_now());
        let prefix = metadata::text(&document, "generateName").to_owned();
        let generated = metadata::text(&document, "name").is_empty() && !prefix.is_empty();
        for attempt in 1.. {
            if generated {
                document["metadata"]["name"] = metadata::generate_name(&prefix).into();
            }
            let name = metadata::text(&document, "name").to_owned();
            refuse(resource, &name, faults(resource, &document, None, options))?;
            refuse(resource, &name, Box::pin(self.impossible(resource, &document, None)).await?)?;
            LastWord::ask(options.last_word.as_ref(), None, &document)?;
            match self.insert(resource, resource.key(namespace, &name), &document, options).await {
                Ok(object) => return Ok(Written { object, warnings }),
                Err(Error::AlreadyExists { .. }) if generated && attempt < NAMES => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop returns")
    }

    async fn insert(&self, resource: &Resource, key: Key, document: &Value, options: &WriteOptions) -> Result<Value, Error> {
        let outlives = namespace::admits_while_ending(resource);
        if options.dry_run {
            let home = self.store.get(&namespace::key(&key.namespace)).await?;
            namespace::check(&key, home.as_ref(), outlives)?;
            return match self.store.get(&key).await? {
                Some(_) => Err(store::Error::Exists(key).into()),
                None => Ok(document.clone()),
            };
        }
        let (cipher, document, home) = (self.cipher.clone(), document.clone(), namespace::key(&key.namespace));
        let account = namespace::is_namespace(resource).then(|| self.default_account(&key.name));
        let written: Object = if account.is_none() && !leader::is_leaders(&key) {
            let made = key.clone();
            let put = self.store.put(key, Expect::Absent, move |transaction| {
                Box::pin(async move {
                    namespace::check(&made, transaction.get(&home).await?.as_ref(), outlives)?;
                    Ok::<Value, Error>(cipher.seal_document(transaction, &made.resource, document).await?)
                })
            });
            put.await?
        } else {
            let write = self.store.write(move |transaction| {
                Box::pin(async move {
                    namespace::check(&key, transaction.get(&home).await?.as_ref(), outlives)?;
                    let mut document = document;
                    leader::stamp(transaction, &key, &mut document).await?;
                    let object = transaction.put(&key, document, Expect::Absent).await?;
                    if let Some((key, document)) = account {
                        transaction.put(&key, document, Expect::Absent).await?;
                    }
                    Ok::<Object, Error>(object)
                })
            });
            write.await?
        };
        self.unseal(&written.key.resource, written.document)
    }

    /// Replaces all but status, or status alone. Silent when nothing changes.
    pub async fn update_document(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        part: Part,
        mut document: Value,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        fit(resource, namespace, &mut document)?;
        let given = metadata::text(&document, "name");
        if !given.is_empty() && given != name {
            return Err(Error::BadRequest(format!("the name of the object ({given}) does not match the name on the URL ({name})")));
        }
        let key = resource.key(namespace, name);
        let wanted = |_: &Value| {
            if metadata::text(&document, "resourceVersion").is_empty() && resource.has_status {
                let errors = vec![FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update")];
                return Err(Error::Invalid { group: resource.group.into(), kind: resource.plural.into(), name: name.into(), errors });
            }
            Ok(document.clone())
        };
        let result = self.replace(resource, &key, part, options, wanted).await;
        match result {
            // Leader election counts on it.
            Err(Error::NotFound { resource: plural, .. }) if resource.kind == "Lease" && plural == key.resource => {
                remove(metadata_value(&mut document), "resourceVersion");
                self.create_document(resource, namespace, document, options).await
            }
            other => other,
        }
    }

    /// Patches the object as it is now; when another write comes between, patches again.
    pub async fn patch_document(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        part: Part,
        change: &Patch,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let key = resource.key(namespace, name);
        self.replace(resource, &key, part, options, |before| {
            let mut wanted = before.clone();
            let result = match change {
                Patch::Json(operations) => patch::json(&mut wanted, operations),
                Patch::Merge(change) => {
                    patch::merge(&mut wanted, change);
                    Ok(())
                }
                Patch::Strategic(change) => patch::strategic(&mut wanted, change),
            };
            result.map_err(|error| match error {
                patch::PatchError::Malformed(_) => Error::BadRequest(error.to_string()),
                patch::PatchError::Unprocessable(why) => Error::Unprocessable(why),
            })?;
            fit(resource, namespace, &mut wanted)?;
            let given = metadata::text(&wanted, "name");
            if given == name {
                Ok(wanted)
            } else {
                Err(Error::BadRequest(format!("the name of the object ({given}) does not match the name on the URL ({name})")))
            }
        })
        .await
    }

    /// Reads, makes what is wanted of it, admits it, and writes it unless another write came between; then again.
    ///
    /// When what is wanted names a resourceVersion, it must be the one that was read.
    pub(super) async fn replace(
        &self,
        resource: &Resource,
        key: &Key,
        part: Part,
        options: &WriteOptions,
        wanted: impl Fn(&Value) -> Result<Value, Error>,
    ) -> Result<Written, Error> {
        // What this process wrote last is mostly what there is, and the write says so if it is not. What comes of it otherwise is
        // not told: it may be of an old state.
        if let Some(recent) = self.store.recent(key)
            && let Ok(recent) = self.unsealed(recent)
        {
            let (at, before) = (recent.revision, asks(resource, part, &recent));
            if let Ok(Next::Store(next, warnings)) = next(resource, key, part, recent, options, &self.clock.api_now(), &wanted)
                && self.refuse_impossible(resource, &next, before.as_ref()).await.is_ok()
            {
                match self.store_next(resource, key, at, next).await {
                    Err(Error::Conflict { .. } | Error::NotFound { .. }) => {}
                    stored => return stored.map(|object| Written { object, warnings }),
                }
            }
        }
        for _ in 0..TRIES {
            let current = self.current(key).await?;
            let (at, before) = (current.revision, asks(resource, part, &current));
            match next(resource, key, part, current, options, &self.clock.api_now(), &wanted)? {
                Next::Same(written) => return Ok(written),
                Next::Store(next, warnings) => {
                    self.refuse_impossible(resource, &next, before.as_ref()).await?;
                    match self.store_next(resource, key, at, next).await {
                        Err(Error::Conflict { .. }) => {}
                        stored => return stored.map(|object| Written { object, warnings }),
                    }
                }
            }
        }
        Err(conflict(key, MODIFIED))
    }

    /// Errors: `Invalid` when a change of `before` asks for what a Hub cannot do.
    async fn refuse_impossible(&self, resource: &Resource, next: &Value, before: Option<&Value>) -> Result<(), Error> {
        let Some(before) = before else { return Ok(()) };
        refuse(resource, metadata::text(before, "name"), Box::pin(self.impossible(resource, next, Some(before))).await?)
    }

    /// Stores it, or removes it when its deletion waited for nothing but this write.
    async fn store_next(&self, resource: &Resource, key: &Key, at: Revision, next: Value) -> Result<Value, Error> {
        let ends = next["metadata"]["deletionTimestamp"].is_string() && metadata::may_go(&next) && !namespace::is_namespace(resource);
        if ends {
            return self.remove(key, at, next).await;
        }
        if leader::is_leaders(key) {
            let (key, mut document) = (key.clone(), next);
            let put = self.store.write(move |t: &mut Transaction<'_>| {
                Box::pin(async move {
                    leader::stamp(t, &key, &mut document).await?;
                    t.put(&key, document, Expect::At(at)).await
                })
            });
            return Ok(put.await?.document);
        }
        self.put_sealed(key, at, next).await
    }

    /// Stores it; what is returned is not sealed.
    async fn put_sealed(&self, key: &Key, at: Revision, mut document: Value) -> Result<Value, Error> {
        let written: Result<Object, store::Error> = if seal::seals(&key.resource) {
            let (resource, cipher, plain) = (key.resource.clone(), self.cipher.clone(), document.clone());
            let put = self.store.put(key.clone(), Expect::At(at), move |transaction| {
                Box::pin(async move { cipher.seal_document(transaction, &resource, plain).await })
            });
            put.await
        } else {
            self.store.replace(key.clone(), at, document.clone()).await
        };
        let written = written?;
        document["metadata"]["resourceVersion"] = written.revision.0.to_string().into();
        Ok(document)
    }

    /// Replaces status, and does `beside` in the same transaction: both are done, or neither.
    pub(super) async fn replace_status_beside<F>(&self, resource: &Resource, key: &Key, wanted: Value, beside: F) -> Result<Value, Error>
    where
        F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<(), store::Error>> + Send + 'static,
    {
        let current = self.current(key).await?;
        let at = current.revision;
        let wanted = |_: &Value| Ok(wanted.clone());
        let next = next(resource, key, Part::Status, current, &WriteOptions::default(), &self.clock.api_now(), wanted)?;
        let (Next::Store(document, _) | Next::Same(Written { object: document, .. })) = next;
        let (key, sealed) = (key.clone(), document.clone());
        let write = self.store.write(move |transaction: &mut Transaction<'_>| {
            Box::pin(async move {
                beside(transaction).await?;
                transaction.put(&key, sealed, Expect::At(at)).await
            })
        });
        let written: Object = write.await.map_err(|error: store::Error| Error::from(error))?;
        Ok(written.document)
    }

    /// Asks for deletion: gone at once without finalizers, else marked with a deletionTimestamp.
    pub async fn delete_document(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Error> {
        let key = resource.key(namespace, name);
        for _ in 0..TRIES {
            let current = self.current(&key).await?;
            precondition(&key, &current, options)?;
            if namespace::is_namespace(resource) && namespace::is_preset(name) {
                return Err(Error::Forbidden(format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted")));
            }
            match self.delete_once(resource, &key, current, options).await {
                Err(Error::Conflict { .. }) => {}
                Ok(Deleted::Marked(document)) if namespace::is_namespace(resource) && !options.dry_run => {
                    return Ok(if self.finish_namespace(name).await? { Deleted::Gone(document) } else { Deleted::Marked(document) });
                }
                other => return other,
            }
        }
        Err(conflict(&key, MODIFIED))
    }

    /// Removes it for good and returns its last `document` with the deletion's revision.
    async fn remove(&self, key: &Key, at: Revision, mut document: Value) -> Result<Value, Error> {
        let again = self.account_after(key);
        let key = key.clone();
        let remove = self.store.write(move |transaction: &mut Transaction<'_>| {
            Box::pin(async move {
                let gone = transaction.delete(&key, Expect::At(at)).await?;
                if let Some(document) = again
                    && account::is_due(transaction.get(&namespace::key(&key.namespace)).await?.as_ref())
                {
                    transaction.put(&key, document, Expect::Absent).await?;
                }
                Ok::<Object, store::Error>(gone)
            })
        });
        document["metadata"]["resourceVersion"] = remove.await.map_err(Error::from)?.revision.0.to_string().into();
        Ok(document)
    }

    async fn delete_once(&self, resource: &Resource, key: &Key, current: Object, options: &DeleteOptions) -> Result<Deleted, Error> {
        let (at, before) = (current.revision, current.document);
        let mut document = before.clone();
        metadata::propagate(&mut document, options.propagation_policy.as_deref());
        if metadata::may_go(&document) && !namespace::is_namespace(resource) {
            return Ok(Deleted::Gone(if options.dry_run { document } else { self.remove(key, at, document).await? }));
        }
        if !document["metadata"]["deletionTimestamp"].is_string() {
            metadata::mark_deleted(&mut document, &self.clock.api_now());
            namespace::complete(resource, Part::Main, &mut document, Some(&before));
        }
        if document == before || options.dry_run {
            return Ok(Deleted::Marked(document));
        }
        Ok(Deleted::Marked(self.put_sealed(key, at, document).await?))
    }

    /// The object as it is now, decrypted.
    pub(super) async fn current(&self, key: &Key) -> Result<Object, Error> {
        self.unsealed(self.store.get(key).await?.ok_or_else(|| store::Error::NotFound(key.clone()))?)
    }

    fn unsealed(&self, object: Object) -> Result<Object, Error> {
        let document = self.unseal(&object.key.resource, object.document)?;
        Ok(Object { document, ..object })
    }
}

/// What comes of a replacement.
enum Next {
    /// Nothing is to be written.
    Same(Written),
    /// This document, with warnings.
    Store(Value, Vec<String>),
}

/// What an object was, where a change of it may ask for something that a Hub cannot do.
fn asks(resource: &Resource, part: Part, current: &Object) -> Option<Value> {
    (resource.group == crate::api::GROUP && !matches!(part, Part::Status)).then(|| current.document.clone())
}

/// What becomes of `current` by what is wanted of it.
fn next(
    resource: &Resource,
    key: &Key,
    part: Part,
    mut current: Object,
    options: &WriteOptions,
    now: &Time,
    wanted: impl Fn(&Value) -> Result<Value, Error>,
) -> Result<Next, Error> {
    // A field that an older version knew must not make every later write fail.
    admission::prune(resource, &mut current.document);
    let before = &current.document;
    let wanted = wanted(before)?;
    let version = metadata::text(&wanted, "resourceVersion");
    if !version.is_empty() && version != metadata::text(before, "resourceVersion") {
        return Err(conflict(key, MODIFIED));
    }
    let (uid, stored) = (metadata::text(&wanted, "uid"), metadata::text(before, "uid"));
    if !uid.is_empty() && uid != stored {
        // It was deleted and made again: whoever meant the old one must not touch this one.
        let message = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored}");
        return Err(conflict(key, message));
    }
    let (next, warnings) = next_document(resource, part, before, wanted, options, now)?;
    LastWord::ask(options.last_word.as_ref(), Some(before), &next)?;
    let same = next == *before || options.dry_run;
    Ok(if same { Next::Same(Written { object: next, warnings }) } else { Next::Store(next, warnings) })
}

/// What will stand in the store: the wanted part, the rest as before, admitted.
fn next_document(
    resource: &Resource,
    part: Part,
    before: &Value,
    wanted: Value,
    options: &WriteOptions,
    now: &Time,
) -> Result<(Value, Vec<String>), Error> {
    let mut next = match part {
        Part::Main => {
            let mut next = wanted;
            if resource.has_status {
                put(&mut next, "status", before.get("status").cloned());
            }
            next
        }
        Part::Status => {
            let mut next = before.clone();
            put(&mut next, "status", wanted.get("status").cloned());
            next
        }
        Part::Finalizers => {
            let mut next = before.clone();
            put(&mut next, "spec", wanted.get("spec").cloned());
            next
        }
    };
    let mut warnings = admit(resource, &mut next, options)?;
    warnings.extend(metadata::courtesy(&mut next, Some(before)));
    let mut errors = metadata::carry(before, &mut next);
    namespace::complete(resource, part, &mut next, Some(before));
    decision::complete(resource, part, &mut next, Some(before), options.user.as_deref(), now);
    metadata::count_generation(before, &mut next);
    errors.extend(faults(resource, &next, Some(before), options));
    refuse(resource, metadata::text(before, "name"), errors)?;
    Ok((next, warnings))
}

/// Refuses a document that is not of this resource or namespace, and fills in what the URL says.
fn fit(resource: &Resource, namespace: &str, document: &mut Value) -> Result<(), Error> {
    if !document.is_object() {
        return Err(Error::BadRequest(format!("a {} must be an object", resource.kind)));
    }
    for (field, expected) in [("apiVersion", resource.api_version()), ("kind", resource.kind.to_owned())] {
        match document[field].as_str() {
            None | Some("") => document[field] = expected.into(),
            Some(given) if given == expected => {}
            Some(given) if field == "apiVersion" => {
                let message = format!("the API version in the data ({given}) does not match the expected API version ({expected})");
                return Err(Error::BadRequest(message));
            }
            Some(given) => {
                let errors = vec![FieldError::invalid("kind", given, format!("must be {expected}"))];
                return refuse(resource, metadata::text(document, "name"), errors);
            }
        }
    }
    let given = metadata::text(document, "namespace").to_owned();
    if resource.scope == Scope::Cluster {
        metadata::of(document).remove("namespace");
    } else if !given.is_empty() && given != namespace {
        return Err(Error::BadRequest("the namespace of the provided object does not match the namespace sent on the request".into()));
    } else {
        metadata::of(document).insert("namespace".into(), namespace.into());
    }
    Ok(())
}

/// Prunes and defaults. Unknown fields are refused or warned of as the sender wishes; but nothing under the `spec` of our
/// own kinds is accepted and then ignored, unless the sender asks for that.
fn admit(resource: &Resource, document: &mut Value, options: &WriteOptions) -> Result<Vec<String>, Error> {
    metadata::tidy(document);
    let unknown = admission::prune(resource, document);
    admission::default(resource, document);
    let ours = |path: &String| resource.group == crate::api::GROUP && path.starts_with("spec.");
    // Enough to mend them by; a body may hold a hundred thousand.
    let texts = || unknown.iter().take(100).map(|path| format!("unknown field \"{path}\""));
    match options.field_validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn if !unknown.iter().any(ours) => Ok(texts().collect()),
        _ if unknown.is_empty() => Ok(Vec::new()),
        _ => Err(Error::BadRequest(format!(
            "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: {}",
            resource.version,
            texts().collect::<Vec<_>>().join(", "),
            kind = resource.kind,
        ))),
    }
}

/// All that is wrong with a document, by the kind's rules and those of the sender's version.
fn faults(resource: &Resource, document: &Value, old: Option<&Value>, options: &WriteOptions) -> Vec<FieldError> {
    let mut errors = admission::validate(resource, document, old);
    if let Some(rules) = options.rules.filter(|_| errors.is_empty()) {
        errors = rules(document, old);
    }
    errors
}

fn refuse(resource: &Resource, name: &str, mut errors: Vec<FieldError>) -> Result<(), Error> {
    if errors.is_empty() {
        return Ok(());
    }
    if errors.len() > MOST_ERRORS {
        let more = errors.len() - MOST_ERRORS;
        errors.truncate(MOST_ERRORS);
        errors.push(FieldError::forbidden("<nil>", format!("{more} more fields are wrong; correct these first")));
    }
    Err(Error::Invalid { group: resource.group.into(), kind: resource.kind.into(), name: name.into(), errors })
}

fn precondition(key: &Key, current: &Object, options: &DeleteOptions) -> Result<(), Error> {
    for (what, wanted, found) in [
        ("UID", &options.uid, metadata::text(&current.document, "uid")),
        ("ResourceVersion", &options.resource_version, metadata::text(&current.document, "resourceVersion")),
    ] {
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            let message = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have been deleted and then recreated"
            );
            return Err(conflict(key, message));
        }
    }
    Ok(())
}

fn conflict(key: &Key, message: impl Into<String>) -> Error {
    Error::Conflict { resource: key.resource.clone(), name: key.name.clone(), message: message.into() }
}

fn remove(document: &mut Value, field: &str) {
    if let Some(fields) = document.as_object_mut() {
        fields.remove(field);
    }
}

fn put(document: &mut Value, field: &str, value: Option<Value>) {
    match value {
        Some(value) => document[field] = value,
        None => remove(document, field),
    }
}

fn metadata_value(document: &mut Value) -> &mut Value {
    &mut document["metadata"]
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NotFound(key) => Self::NotFound { resource: key.resource, name: key.name },
            store::Error::Exists(key) => Self::AlreadyExists { resource: key.resource, name: key.name },
            store::Error::Conflict(key) => conflict(&key, MODIFIED),
            other => Self::Store(other),
        }
    }
}
