//! The URL grammar: what a path means.

use super::catalog::{self, Entry};

#[cfg(test)]
mod tests;

/// A path below `/api/v1` or `/apis/GROUP/VERSION` that names objects.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) entry: &'static Entry,
    /// `None` is all namespaces, or cluster scope.
    pub(super) namespace: Option<String>,
    /// `None` is the collection.
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

/// What a path means.
#[derive(Clone, Debug)]
pub(super) enum Route {
    Root,
    /// `/healthz`, `/livez`, `/readyz` and one check below them.
    Health,
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    Resources {
        group: String,
        version: String,
    },
    OpenapiV2,
    OpenapiV3,
    /// `/openapi/v3/apis/GROUP/VERSION`; the key is `apis/GROUP/VERSION`.
    OpenapiGroup(String),
    /// `/autovibe/secrets/key`: the change of the Secrets' key.
    SecretsKey,
    Object(Target),
    Unknown,
}

/// Reads a path, which may be percent-encoded.
pub(super) fn parse(path: &str) -> Route {
    let decode = |s: &str| percent_encoding::percent_decode_str(s).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    let Some(parts) = path.split('/').filter(|p| !p.is_empty()).map(decode).collect::<Option<Vec<String>>>() else {
        return Route::Unknown;
    };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Route::Root,
        ["healthz" | "livez" | "readyz"] | ["healthz" | "livez" | "readyz", "ping" | "store"] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).into()),
        ["api", version] => Route::Resources { group: String::new(), version: (*version).into() },
        ["apis", group, version] => Route::Resources { group: (*group).into(), version: (*version).into() },
        ["openapi", "v2"] => Route::OpenapiV2,
        ["openapi", "v3"] => Route::OpenapiV3,
        ["openapi", "v3", rest @ ..] => Route::OpenapiGroup(rest.join("/")),
        ["autovibe", "secrets", "key"] => Route::SecretsKey,
        ["api", version, rest @ ..] => object("", version, rest),
        ["apis", group, version, rest @ ..] => object(group, version, rest),
        _ => Route::Unknown,
    }
}

fn object(group: &str, version: &str, rest: &[&str]) -> Route {
    // `namespaces/NS/status` is a part of the Namespace, `namespaces/NS/machines` a collection in it.
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (Some((*namespace).to_owned()), inner),
        _ => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some(*name), None),
        [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
        _ => return Route::Unknown,
    };
    let Some(entry) = catalog::find(group, version, plural) else {
        return Route::Unknown;
    };
    // A namespaced object has a namespace in its path; its collection may span all of them.
    let scope_fits = if entry.namespaced { namespace.is_some() || name.is_none() } else { namespace.is_none() };
    let safe = |part: &str| !matches!(part, "." | "..") && !part.contains(['/', '%']);
    if !scope_fits || !name.is_none_or(safe) || !namespace.as_deref().is_none_or(safe) {
        return Route::Unknown;
    }
    Route::Object(Target { entry, namespace, name: name.map(Into::into), subresource: subresource.map(Into::into) })
}
