//! OpenAPI schemas of what all kinds share: metadata, lists, Status, DeleteOptions. Source: apimachinery `meta/v1`.

use serde_json::{Map, Value, json};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A reference to one of the schemas here.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{META}.{name}")})
}

/// A field that refers to `name` and has words of its own.
pub(super) fn field(name: &str, description: &str) -> Value {
    json!({"allOf": [reference(name)], "description": description, "default": {}})
}

pub(super) fn api_version() -> Value {
    json!({"type": "string", "description": "Group and version of the schema of this object."})
}

pub(super) fn kind() -> Value {
    json!({"type": "string", "description": "The kind of this object."})
}

/// All of them, by full name.
pub(super) fn all() -> Map<String, Value> {
    let string = |description: &str| json!({"type": "string", "description": description});
    let int64 = |description: &str| json!({"type": "integer", "format": "int64", "description": description});
    let flag = |description: &str| json!({"type": "boolean", "description": description});
    let time = |description: &str| json!({"allOf": [reference("Time")], "description": description});
    let strings = |description: &str| json!({"type": "object", "additionalProperties": {"type": "string", "default": ""}, "description": description});
    let object = |description: &str, required: &[&str], properties: Value| {
        let mut schema = json!({"type": "object", "description": description, "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    };
    let list = |item: Value, description: &str, extra: Value| {
        let mut schema = json!({"type": "array", "items": item, "description": description});
        for (key, value) in extra.as_object().cloned().unwrap_or_default() {
            schema[key] = value;
        }
        schema
    };
    let schemas = [
        ("Time", json!({"type": "string", "format": "date-time", "description": "A time in RFC 3339 form."})),
        ("MicroTime", json!({"type": "string", "format": "date-time", "description": "A time with microseconds."})),
        ("FieldsV1", json!({"type": "object", "description": "A set of fields, as a tree of their names."})),
        ("Patch", json!({"type": "object", "description": "A change to an object."})),
        (
            "OwnerReference",
            object(
                "An object that this one belongs to.",
                &["apiVersion", "kind", "name", "uid"],
                json!({
                    "apiVersion": string("API version of the owner."), "kind": string("Kind of the owner."), "name": string("Name of the owner."),
                    "uid": string("UID of the owner."), "controller": flag("Whether it is the managing controller."),
                    "blockOwnerDeletion": flag("Whether the owner waits for this object when it is deleted in the foreground."),
                }),
            ),
        ),
        (
            "ManagedFieldsEntry",
            object(
                "Which fields a manager set.",
                &[],
                json!({
                    "apiVersion": string("Version of the object that the fields belong to."), "fieldsType": string("Always FieldsV1."),
                    "fieldsV1": {"allOf": [reference("FieldsV1")], "description": "The fields."}, "manager": string("The manager."),
                    "operation": string("Apply or Update."), "subresource": string("The subresource that was used."), "time": time("When."),
                }),
            ),
        ),
        (
            "ObjectMeta",
            object(
                "Metadata that every stored object has.",
                &[],
                json!({
                    "name": string("Name, unique within a namespace; it cannot be changed."),
                    "generateName": string("Prefix of a generated name, used when there is no name."),
                    "namespace": string("Namespace that the name is unique in."),
                    "uid": string("Unique in time and space; set by the server."),
                    "resourceVersion": string("Changes whenever the object does; opaque to clients."),
                    "generation": int64("Counts changes of the desired state; set by the server."),
                    "creationTimestamp": time("When the object was created; set by the server."),
                    "deletionTimestamp": time("When deletion was asked for; the object goes when its finalizers are gone."),
                    "deletionGracePeriodSeconds": int64("Seconds that deletion may take."),
                    "selfLink": string("No longer set."),
                    "labels": strings("Keys and values that objects are selected by."),
                    "annotations": strings("Keys and values for tools."),
                    "finalizers": list(json!({"type": "string", "default": ""}), "Must be empty before the object is removed.",
                        json!({"x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"})),
                    "ownerReferences": list(json!({"allOf": [reference("OwnerReference")], "default": {}}), "Objects that this one belongs to.",
                        json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"], "x-kubernetes-patch-merge-key": "uid",
                            "x-kubernetes-patch-strategy": "merge"})),
                    "managedFields": list(json!({"allOf": [reference("ManagedFieldsEntry")], "default": {}}), "Which manager set which fields.",
                        json!({"x-kubernetes-list-type": "atomic"})),
                }),
            ),
        ),
        (
            "ListMeta",
            object(
                "Metadata of a list.",
                &[],
                json!({
                    "continue": string("More items are to be had with this token."), "remainingItemCount": int64("How many more."),
                    "resourceVersion": string("The state that the list shows."), "selfLink": string("No longer set."),
                }),
            ),
        ),
        (
            "StatusCause",
            object(
                "One cause of a refusal.",
                &[],
                json!({"field": string("The field at fault."), "message": string("For people."), "reason": string("For programs.")}),
            ),
        ),
        (
            "StatusDetails",
            object(
                "What a refusal is about.",
                &[],
                json!({
                    "causes": list(json!({"allOf": [reference("StatusCause")], "default": {}}), "Its causes.", json!({"x-kubernetes-list-type": "atomic"})),
                    "group": string("Group of the object."), "kind": string("Kind or resource of the object."), "name": string("Name of the object."),
                    "retryAfterSeconds": json!({"type": "integer", "format": "int32", "description": "When to try again."}), "uid": string("UID of the object."),
                }),
            ),
        ),
        (
            "Status",
            object(
                "The answer to a request that has no other.",
                &[],
                json!({
                    "apiVersion": api_version(), "kind": kind(), "metadata": field("ListMeta", "Metadata of a list."),
                    "status": string("Success or Failure."), "message": string("For people."), "reason": string("For programs."),
                    "code": json!({"type": "integer", "format": "int32", "description": "The HTTP status."}),
                    "details": json!({"allOf": [reference("StatusDetails")], "description": "What it is about."}),
                }),
            ),
        ),
        (
            "Preconditions",
            object(
                "What must hold for a deletion.",
                &[],
                json!({"uid": string("UID that the object must have."), "resourceVersion": string("Version that the object must have.")}),
            ),
        ),
        (
            "DeleteOptions",
            object(
                "How to delete.",
                &[],
                json!({
                    "apiVersion": api_version(), "kind": kind(),
                    "dryRun": list(json!({"type": "string", "default": ""}), "All: change nothing.", json!({"x-kubernetes-list-type": "atomic"})),
                    "gracePeriodSeconds": int64("Seconds that deletion may take."),
                    "orphanDependents": flag("Use propagationPolicy."),
                    "preconditions": json!({"allOf": [reference("Preconditions")], "description": "What must hold."}),
                    "propagationPolicy": string("Background, Foreground or Orphan."),
                }),
            ),
        ),
    ];
    schemas.into_iter().map(|(name, schema)| (format!("{META}.{name}"), schema)).collect()
}
