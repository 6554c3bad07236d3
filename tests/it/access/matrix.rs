//! Every role tries every verb on every route that the server itself names, in its own namespace, in another, and in all.
//!
//! The routes come from discovery, which is made from the router's catalog: one without a row here fails the test.

use super::{RBAC, account, bind, to_account, to_person, token};
use crate::served::{Client, Served};
use autovibe::store::{AccountTokenRow, Options};
use futures::{StreamExt, stream};
use reqwest::{Method, header};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Verbs as letters: `g`et, `l`ist, `w`atch, `c`reate, `u`pdate, `p`atch, `d`elete, deletecollection (`x`).
const READ: &str = "glw";
const ALL: &str = "glwcupdx";

/// What the roles may do with a resource in the namespace that they are bound in. Everyone: who proved who they are. The
/// admins of everything may do all.
struct Row {
    resource: &'static str,
    everyone: &'static str,
    view: &'static str,
    edit: &'static str,
    admin: &'static str,
}

const fn row(resource: &'static str, everyone: &'static str, view: &'static str, edit: &'static str, admin: &'static str) -> Row {
    Row { resource, everyone, view, edit, admin }
}

const ROWS: &[Row] = &[
    row("machines.autovibe.dev", "", READ, ALL, ALL),
    row("machines/status.autovibe.dev", "", READ, READ, READ),
    row("machines/exec.autovibe.dev", "", "", "c", "c"),
    row("machines/log.autovibe.dev", "", READ, READ, READ),
    row("machines/calls.autovibe.dev", "", "", "", ""),
    row("machines/token.autovibe.dev", "", "", "", ""),
    row("machines/usage.autovibe.dev", "", "", "", ""),
    row("machines/vmid.autovibe.dev", "", "", "", ""),
    row("checkpoints.autovibe.dev", "", READ, ALL, ALL),
    row("checkpoints/status.autovibe.dev", "", READ, READ, READ),
    row("checkpoints/bundle.autovibe.dev", "", READ, READ, READ),
    row("checkpoints/export.autovibe.dev", "", "", "gc", "gc"),
    row("checkpoints/import.autovibe.dev", "", "", "c", "c"),
    row("checkpoints/vmid.autovibe.dev", "", "", "", ""),
    row("approvals.autovibe.dev", "", READ, "glwup", "glwup"),
    row("approvals/status.autovibe.dev", "", READ, READ, READ),
    row("budgets.autovibe.dev", "", READ, READ, ALL),
    row("budgets/status.autovibe.dev", "", READ, READ, READ),
    row("budgets/usage.autovibe.dev", "", "", "", ""),
    row("hubs/vmids.autovibe.dev", "", "", "", ""),
    row("hubs.autovibe.dev", "", "", "", ""),
    row("hubs/status.autovibe.dev", "", "", "", ""),
    // One's own, by name: a list of them is of the whole cluster.
    row("namespaces", "", "g", "g", "g"),
    row("namespaces/status", "", "g", "g", "g"),
    row("namespaces/finalize", "", "", "", ""),
    row("secrets", "", "", ALL, ALL),
    row("configmaps", "", READ, ALL, ALL),
    row("events", "", READ, ALL, ALL),
    row("serviceaccounts", "", READ, ALL, ALL),
    row("serviceaccounts/token", "", "", "c", "c"),
    row("leases.coordination.k8s.io", "", READ, ALL, ALL),
    row("roles.rbac.authorization.k8s.io", "", "", "", ALL),
    row("rolebindings.rbac.authorization.k8s.io", "", "", "", ALL),
    row("clusterroles.rbac.authorization.k8s.io", "", "", "", ""),
    row("clusterrolebindings.rbac.authorization.k8s.io", "", "", "", ""),
    row("events.events.k8s.io", "", READ, ALL, ALL),
    row("customresourcedefinitions.apiextensions.k8s.io", READ, READ, READ, READ),
    row("selfsubjectreviews.authentication.k8s.io", "c", "c", "c", "c"),
    row("selfsubjectaccessreviews.authorization.k8s.io", "c", "c", "c", "c"),
    row("selfsubjectrulesreviews.authorization.k8s.io", "c", "c", "c", "c"),
    row("subjectaccessreviews.authorization.k8s.io", "", "", "", ""),
    row("localsubjectaccessreviews.authorization.k8s.io", "", "", "", "c"),
];

/// What someone may do in the namespace `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// Credentials that prove nothing, or none.
    Unproven,
    Nobody,
    View,
    Edit,
    Admin,
    Everything,
}

struct Role {
    name: &'static str,
    client: Client,
    /// `None` sends no credentials.
    token: Option<String>,
    /// Where the rank holds; elsewhere it is nobody's.
    home: &'static str,
    rank: Rank,
}

struct Route {
    resource: String,
    namespaced: bool,
    verbs: Vec<String>,
    base: String,
}

/// Every resource and part that discovery names.
async fn routes(server: &Client) -> Vec<Route> {
    let (_, groups) = server.get("/apis").await;
    let mut bases = vec![("/api/v1".to_owned(), String::new())];
    for group in groups["groups"].as_array().expect("groups") {
        for version in group["versions"].as_array().expect("versions") {
            let name = group["name"].as_str().expect("a name");
            bases.push((format!("/apis/{}", version["groupVersion"].as_str().expect("a version")), format!(".{name}")));
        }
    }
    let mut routes = Vec::new();
    for (base, suffix) in bases {
        let (_, list) = server.get(&base).await;
        for resource in list["resources"].as_array().expect("resources") {
            let name = resource["name"].as_str().expect("a name");
            routes.push(Route {
                resource: format!("{name}{suffix}"),
                namespaced: resource["namespaced"] == true,
                verbs: resource["verbs"].as_array().expect("verbs").iter().map(|v| v.as_str().expect("text").to_owned()).collect(),
                base: base.clone(),
            });
        }
    }
    routes
}

fn letter(verb: &str) -> char {
    match verb {
        "deletecollection" => 'x',
        verb => verb.chars().next().expect("a verb"),
    }
}

/// Where a verb is tried: the namespace (`None`: cluster scope or all of them) and the path.
fn request(route: &Route, verb: &str, place: Option<&str>) -> Option<(Method, String)> {
    let (plural, part) = route
        .resource
        .split('.')
        .next()
        .expect("a name")
        .split_once('/')
        .map_or_else(|| (route.resource.split('.').next().expect("a name"), None), |(plural, part)| (plural, Some(part)));
    let collection_verb = matches!(verb, "list" | "watch" | "create" | "deletecollection");
    let mut path = route.base.clone();
    let mut name = "none".to_owned();
    match place {
        Some(namespace) if plural == "namespaces" => {
            // Its name is its place.
            if collection_verb {
                return None;
            }
            name = namespace.into();
        }
        Some(namespace) => path += &format!("/namespaces/{namespace}"),
        None if route.namespaced && !matches!(verb, "list" | "watch") => return None,
        None => {}
    }
    path += &format!("/{plural}");
    let method = match verb {
        "get" | "list" | "watch" => Method::GET,
        "create" => Method::POST,
        "update" => Method::PUT,
        "patch" => Method::PATCH,
        _ => Method::DELETE,
    };
    if let Some(part) = part {
        path += &format!("/{name}/{part}");
    } else if !collection_verb {
        path += &format!("/{name}");
    }
    path += match verb {
        "watch" => "?watch=true&timeoutSeconds=1",
        "get" | "list" => "",
        "deletecollection" => "?dryRun=All&labelSelector=none%3Dnone",
        _ => "?dryRun=All",
    };
    Some((method, path))
}

/// Whether a role may do it, by the table.
fn expected(role: &Role, row: &Row, verb: &str, place: Option<&str>) -> bool {
    let at_home = place == Some(role.home);
    let letters = match role.rank {
        Rank::Unproven => "",
        Rank::Everything => return true,
        Rank::View if at_home => row.view,
        Rank::Edit if at_home => row.edit,
        Rank::Admin if at_home => row.admin,
        _ => row.everyone,
    };
    letters.contains(letter(verb))
}

struct Cell {
    what: String,
    request: reqwest::RequestBuilder,
    allowed: bool,
    proven: bool,
}

fn cell(role: &Role, method: &Method, path: &str, allowed: bool) -> Cell {
    let mut request = role.client.http.request(method.clone(), format!("{}{path}", role.client.url));
    if let Some(token) = &role.token {
        request = request.bearer_auth(token);
    }
    request = match *method {
        Method::PATCH => request.header(header::CONTENT_TYPE, "application/merge-patch+json").body("{}"),
        Method::POST | Method::PUT => request.header(header::CONTENT_TYPE, "application/json").body("{}"),
        _ => request,
    };
    Cell { what: format!("{} {method} {path}", role.name), request, allowed, proven: role.rank != Rank::Unproven }
}

/// Sends it, and says what is wrong with the answer.
async fn check(cell: Cell) -> Option<String> {
    let response = cell.request.send().await.expect("the server answers");
    let code = response.status().as_u16();
    let fine = match (cell.allowed, cell.proven) {
        // What comes of it (not found, invalid) is not the matter here, unless the server broke.
        (true, _) => !matches!(code, 401 | 403) && code < 500,
        (false, true) => code == 403,
        (false, false) => code == 401,
    };
    // A refusal is a Status; a watch that is allowed is left unread.
    let told = cell.allowed || response.json::<Value>().await.is_ok_and(|status| status["kind"] == "Status" && status["code"] == code);
    (!fine || !told).then(|| format!("{}: expected {}, got {code}", cell.what, if cell.allowed { "it to be allowed" } else { "a refusal" }))
}

async fn roles(served: &Served) -> Vec<Role> {
    let admin: &Client = served;
    for namespace in ["a", "b"] {
        admin.namespace(namespace).await;
    }
    let mut roles = Vec::new();
    let mut add = |name, token: Option<String>, home, rank| {
        roles.push(Role { name, client: admin.again(), token, home, rank });
    };
    add("anonymous", None, "a", Rank::Unproven);
    add("wrong token", Some("wrong".into()), "a", Rank::Unproven);
    add("unknown account token", Some(format!("av-sa-{}-{}", "0".repeat(16), "0".repeat(64))), "a", Rank::Unproven);
    for (name, home, cluster_role, rank) in [
        ("nobody", "a", None, Rank::Nobody),
        ("viewer", "a", Some("view"), Rank::View),
        ("editor", "a", Some("edit"), Rank::Edit),
        ("owner", "a", Some("admin"), Rank::Admin),
        ("neighbour", "b", Some("admin"), Rank::Admin),
    ] {
        let token = account(admin, home, name).await;
        if let Some(cluster_role) = cluster_role {
            bind(admin, home, name, cluster_role, to_account(home, name)).await;
        }
        add(name, Some(token), home, rank);
    }
    let root = account(admin, "a", "root").await;
    let binding = json!({
        "metadata": {"name": "root"}, "subjects": [to_account("a", "root")],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    });
    assert_eq!(admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.0, 201);
    add("root", Some(root), "a", Rank::Everything);
    add("master", Some(admin.token.clone()), "a", Rank::Everything);

    // Once an admin, now no more: its account was made anew, with the same name and the same bindings.
    let revoked = account(admin, "a", "revoked").await;
    bind(admin, "a", "revoked", "admin", to_account("a", "revoked")).await;
    assert_eq!(admin.delete("/api/v1/namespaces/a/serviceaccounts/revoked").await.0, 200);
    account(admin, "a", "revoked").await;
    add("revoked", Some(revoked), "a", Rank::Unproven);

    // Its time is up.
    let expired = token(admin, "a", "owner").await;
    let id = expired.split('-').nth(2).expect("an id").to_owned();
    let row = served.objects.store().account_token(&id).await.unwrap().expect("it was issued");
    let other = "f".repeat(16);
    let over = expired.replacen(&id, &other, 1);
    let hash = autovibe::auth::TokenHash::of(&over).to_hex();
    let row = AccountTokenRow { id: other, hash, expires_at: 1, ..row };
    served.objects.store().write(move |t| Box::pin(async move { t.put_account_token(&row, 0).await })).await.unwrap();
    add("expired", Some(over), "a", Rank::Unproven);

    bind(admin, "a", "carols", "view", to_person("Group", "readers")).await;
    let carol = admin.certified("carol", &["readers", "others"]);
    roles.push(Role { name: "carol, by certificate", client: carol, token: None, home: "a", rank: Rank::View });
    roles
}

#[tokio::test]
async fn every_role_on_every_route() {
    let served = Served::start(Options::default()).await;
    let roles = roles(&served).await;
    let routes = routes(&served).await;
    let named: BTreeSet<&str> = routes.iter().map(|route| route.resource.as_str()).collect();
    let judged: BTreeSet<&str> = ROWS.iter().map(|row| row.resource).collect();
    assert_eq!(named, judged, "each resource and part that is served has a row here, and no other has");

    let mut cells = Vec::new();
    for route in &routes {
        let row = ROWS.iter().find(|row| row.resource == route.resource).expect("compared above");
        let cluster = !route.namespaced && !route.resource.starts_with("namespaces");
        let places: &[Option<&str>] = if cluster { &[None] } else { &[Some("a"), Some("b"), None] };
        for verb in &route.verbs {
            for place in places {
                let Some((method, path)) = request(route, verb, *place) else { continue };
                cells.extend(roles.iter().map(|role| cell(role, &method, &path, expected(role, row, verb, *place))));
            }
        }
    }
    // Paths that are no resources: those that the server names, and some that it does not have.
    let (_, root) = served.get("/").await;
    for path in root["paths"].as_array().expect("paths").iter().filter_map(Value::as_str).chain(["/", "/openapi/v3/api/v1"]) {
        let open = ["/healthz", "/livez", "/readyz", "/version"].contains(&path);
        for role in &roles {
            let wrong = role.token.is_some() && role.rank == Rank::Unproven;
            cells.push(cell(role, &Method::GET, path, role.rank != Rank::Unproven || (open && !wrong)));
            cells.push(cell(role, &Method::POST, path, role.rank == Rank::Everything));
        }
    }
    for path in ["/metrics", "/logs", "/debug/pprof", "/autovibe/secrets/key", "/nowhere"] {
        cells.extend(roles.iter().map(|role| cell(role, &Method::GET, path, role.rank == Rank::Everything)));
    }
    let count = cells.len();
    assert!(count >= 2000, "{count} cells");
    let wrong: Vec<String> = stream::iter(cells).map(check).buffer_unordered(8).filter_map(std::future::ready).collect().await;
    assert!(wrong.is_empty(), "{} of {count} cells:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} cells");
}
