//! Who asks: the admin's token, a ServiceAccount's, a client certificate; and for whom they ask.

use super::{Shared, access::Access, peer::Peer, status::Status};
use crate::auth::{
    ANONYMOUS, AUTHENTICATED, AccountToken, Action, Authentication, TokenHash, UNAUTHENTICATED, User, account_groups, account_of, bearer,
};
use crate::store::Key;
use axum::http::{HeaderMap, header::AUTHORIZATION};

/// Judges the credentials of a request. Any that proves someone will do; one that proves nobody is refused, not ignored.
///
/// Errors: the store's.
pub(super) async fn authenticate(server: &Shared, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Authentication, Status> {
    if let Some(peer) = peer.filter(|peer| server.objects.clock().now().as_second() < peer.not_after) {
        return Ok(Authentication::User(peer.user.clone()));
    }
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Ok(if peer.is_some() { Authentication::Rejected } else { Authentication::Anonymous });
    };
    let Some(token) = header.to_str().ok().and_then(bearer) else {
        return Ok(Authentication::Rejected);
    };
    if server.admin.matches(token) {
        return Ok(Authentication::User(User::admin()));
    }
    Ok(account(server, token).await?.map_or(Authentication::Rejected, Authentication::User))
}

/// The ServiceAccount whose token this is: found by its id, known by its hash, in time, and still the account that it was
/// made for. All that is refused is refused alike.
async fn account(server: &Shared, token: &str) -> Result<Option<User>, Status> {
    let Some(token) = AccountToken::parse(token) else { return Ok(None) };
    let Some(row) = server.objects.store().account_token(token.id).await? else { return Ok(None) };
    let known = TokenHash::from_hex(&row.hash).is_some_and(|hash| hash.matches(token.text));
    if !known || row.expires_at <= server.objects.clock().now().as_second() {
        return Ok(None);
    }
    let account = server.objects.store().get(&Key::new("serviceaccounts", &*row.namespace, &*row.name)).await?;
    let metadata = account.map(|account| account.document["metadata"].clone()).unwrap_or_default();
    let alive = metadata["uid"] == row.account_uid.as_str() && !metadata["deletionTimestamp"].is_string();
    Ok(alive.then(|| User::account(&row.namespace, &row.name, &row.account_uid)))
}

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";

/// Whom `user` asks for: itself, or whom the `Impersonate-` headers name, if it may. Source: apiserver `WithImpersonation`.
///
/// Errors: 400 for headers that name nobody or say what is not known here; 403 where the verb `impersonate` is missing.
pub(super) async fn impersonated(access: &Access, user: User, headers: &HeaderMap) -> Result<User, Status> {
    let asked = headers.keys().map(axum::http::HeaderName::as_str).filter(|name| name.starts_with("impersonate-")).collect::<Vec<_>>();
    if asked.is_empty() {
        return Ok(user);
    }
    if let Some(other) = asked.iter().find(|name| ![USER, GROUP, UID].contains(name)) {
        return Err(Status::bad_request(format!("the header {other} is not supported: only a user, groups and a uid can be impersonated")));
    }
    let values = |name: &str| -> Result<Vec<String>, Status> {
        let unreadable = |_| Status::bad_request(format!("the header {name} is not plain text"));
        headers.get_all(name).iter().map(|value| value.to_str().map(str::to_owned).map_err(unreadable)).collect()
    };
    let (name, mut groups) = (values(USER)?.into_iter().next().unwrap_or_default(), values(GROUP)?);
    let uid = values(UID)?.into_iter().next().unwrap_or_default();
    if name.is_empty() {
        return Err(Status::bad_request("requested to impersonate groups or a uid without impersonating a user"));
    }
    let account = account_of(&name);
    let may = |group: &str, resource: &str, namespace: &str, name: &str| Action::on("impersonate", group, resource, namespace, name);
    match account {
        Some((namespace, account)) => access.authorize(&user, &may("", "serviceaccounts", namespace, account)).await?,
        None => access.authorize(&user, &may("", "users", "", &name)).await?,
    }
    for group in &groups {
        access.authorize(&user, &may("", "groups", "", group)).await?;
    }
    if !uid.is_empty() {
        access.authorize(&user, &may("authentication.k8s.io", "uids", "", &uid)).await?;
    }
    if let (true, Some((namespace, _))) = (groups.is_empty(), account) {
        groups = account_groups(namespace);
    }
    let all = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        groups.push(all.into());
    }
    Ok(User { name, uid, groups })
}
