//! From a path to its handler, in Proxmox' order: is there such a call, may this caller, are its parameters right.

use super::{
    answer::{Answer, Refusal},
    cluster::Cluster,
    node::Node,
    parameters::Parameters,
    permission::refused,
    schema,
};
use serde_json::json;
use std::sync::Arc;

/// For `root@pam` itself, whatever its tokens may.
const ROOT_ONLY: &[&str] = &["skiplock", "keepActive", "migratedfrom", "stateuri"];

/// Answers one call. `parameters` has the caller, or nobody.
pub(super) async fn route(cluster: &Arc<Cluster>, method: &str, path: &[&str], mut parameters: Parameters) -> Answer {
    let Some((name, call, placed)) = schema::find(method, path) else {
        return Err(Refusal::Text(501, format!("Method '{method} /{}' not implemented", path.join("/"))));
    };
    for (name, value) in placed {
        parameters.place(name, &value)?;
    }
    if call.ticket && parameters.who.token.is_some() {
        let text = format!("URI '/{}' not available with API token, need proper ticket.\n", path.join("/"));
        return Err(Refusal::Text(403, format!("Permission check failed ({text})")));
    }
    if let Some(check) = call.check.as_ref().filter(|_| !parameters.who.is_root()) {
        cluster.access(|access| access.check(&parameters.who, check, &parameters))?;
    }
    let node = node(cluster, &parameters)?;
    call.verify(&parameters)?;
    if let Some(option) = ROOT_ONLY.iter().find(|option| !parameters.who.is_root() && parameters.get(option).is_some()) {
        return Err(Refusal::parameter(option, "Only root may use this option."));
    }
    if method != "GET" && !cluster.is_quorate() && !writes_nothing(name) {
        return Err(Refusal::die("cluster not ready - no quorum?"));
    }
    dispatch(&node, name, &parameters).await
}

/// The node that a call names, or the one that was asked. Errors: what the one that was asked says when that one is not there.
fn node(cluster: &Arc<Cluster>, parameters: &Parameters) -> Result<Arc<Node>, Refusal> {
    // Nobody is up to answer.
    let asked = cluster.asked().ok_or(Refusal::Lost)?;
    let Some(name) = parameters.get("node") else { return Ok(asked) };
    let node = cluster.node(name).ok_or_else(|| {
        Refusal::die(format!("hostname lookup '{name}' failed - failed to get address info for: {name}: Name or service not known"))
    })?;
    if cluster.is_up(&node.name) { Ok(node) } else { Err(Refusal::Empty(595, "No route to host".into())) }
}

/// Whether a call that is not a read leaves `/etc/pve` as it is, and so needs no quorum.
fn writes_nothing(name: &str) -> bool {
    name.contains("/agent/") || name.contains("/status/") || name.contains("/tasks/") || name.contains("/content")
}

async fn dispatch(node: &Arc<Node>, name: &str, parameters: &Parameters) -> Answer {
    let vmid: u32 = parameters.number("vmid").unwrap_or_default();
    let text = |name: &str| parameters.get(name).unwrap_or_default();
    let words: Vec<&str> = name.split([' ', '/']).filter(|word| !word.is_empty()).collect();
    match words[..] {
        ["GET", "version"] | ["GET", "nodes", _, "version"] => Node::version(),
        ["GET", "access", "acl"] => node.acl(parameters),
        ["PUT", "access", "acl"] => node.grant(parameters),
        ["GET", "access", "domains"] => Node::domains(),
        ["GET", "access", "permissions"] => node.permissions(parameters),
        ["GET", "access", "roles"] => node.roles(),
        ["POST", "access", "roles"] => node.set_role(parameters, true),
        ["GET", "access", "roles", _] => node.role(parameters),
        ["PUT", "access", "roles", _] => node.set_role(parameters, false),
        ["DELETE", "access", "roles", _] => node.delete_role(parameters),
        ["GET", "access", "users"] => node.users(parameters),
        ["POST", "access", "users"] => node.add_user(parameters),
        ["GET", "access", "users", _] => node.user(parameters),
        ["DELETE", "access", "users", _] => node.delete_user(parameters),
        ["GET", "access", "users", _, "token"] => node.tokens(parameters),
        ["GET", "access", "users", _, "token", _] => node.token(parameters),
        ["POST", "access", "users", _, "token", _] => node.add_token(parameters),
        ["DELETE", "access", "users", _, "token", _] => node.delete_token(parameters),
        ["POST", "access", "ticket"] => node.log_in(parameters).await,
        ["PUT", "access", "password"] => Err(refused("")),
        ["GET", "pools"] => node.pools(parameters).await,
        ["POST", "pools"] => node.add_pool(parameters),
        ["PUT", "pools"] | ["PUT", "pools", _] => node.update_pool(parameters),
        ["DELETE", "pools"] | ["DELETE", "pools", _] => node.delete_pool(parameters),
        ["GET", "pools", _] => node.one_pool(parameters).await,
        ["GET", "cluster", "nextid"] => node.next_id(parameters),
        ["GET", "cluster", "status"] => node.cluster().cluster_status(),
        ["GET", "cluster", "resources"] => node.resources(parameters).await,
        ["GET", "cluster", "firewall", "options"] => node.firewall_options(None),
        ["PUT", "cluster", "firewall", "options"] => node.set_firewall_options(None, parameters),
        ["GET", "nodes"] => node.nodes(&parameters.who),
        ["GET", "nodes", _, "qemu"] => node.list(parameters).await,
        ["POST", "nodes", _, "qemu"] => node.create(parameters),
        ["GET", "storage"] => node.storage_list(parameters),
        ["GET", "storage", _] => node.storage_config(text("storage")),
        ["GET", "nodes", _, "storage"] => node.storages(parameters).await,
        ["GET", "nodes", _, "storage", _, "content"] => node.content(text("storage"), parameters).await,
        ["GET", "nodes", _, "storage", _, "content", _] => node.volume(parameters).await,
        ["GET", "nodes", _, "storage", _, "status"] => node.storage_status(text("storage")).await,
        ["POST", "nodes", _, "storage", _, "content"] => node.allocate(parameters).await,
        ["DELETE", "nodes", _, "storage", _, "content", _] => node.free_volume(parameters),
        ["GET", "nodes", _, "tasks"] => node.task_list(parameters),
        ["DELETE", "nodes", _, "tasks", _] => node.task_stop(parameters),
        ["GET", "nodes", _, "tasks", _] => Ok(json!([{ "name": "log" }, { "name": "status" }]).into()),
        ["GET", "nodes", _, "tasks", _, "status"] => node.task_status(parameters),
        ["GET", "nodes", _, "tasks", _, "log"] => node.task_log(parameters),
        ["DELETE", "nodes", _, "qemu", _] => node.delete(vmid, parameters).await,
        ["GET", "nodes", _, "qemu", _, "config"] => node.config(vmid, parameters),
        ["PUT", "nodes", _, "qemu", _, "config"] => node.configure(vmid, parameters).await,
        ["POST", "nodes", _, "qemu", _, "config"] => node.configure_later(vmid, parameters).await,
        ["GET", "nodes", _, "qemu", _, "pending"] => node.pending(vmid),
        ["GET", "nodes", _, "qemu", _, "status", "current"] => node.status(vmid).await,
        ["POST", "nodes", _, "qemu", _, "status", "start"] => node.start_task(vmid, &parameters.who),
        ["POST", "nodes", _, "qemu", _, "status", "stop"] => node.stop(vmid, parameters),
        ["POST", "nodes", _, "qemu", _, "status", "shutdown"] => node.shut_down(vmid, parameters),
        ["POST", "nodes", _, "qemu", _, "status", "suspend"] => node.suspend(vmid, parameters).await,
        ["GET", "nodes", _, "qemu", _, "snapshot"] => node.snapshots(vmid).await,
        ["POST", "nodes", _, "qemu", _, "snapshot"] => node.take_snapshot(vmid, parameters),
        ["GET", "nodes", _, "qemu", _, "snapshot", _] => Ok(json!([{ "cmd": "rollback" }, { "cmd": "config" }]).into()),
        ["DELETE", "nodes", _, "qemu", _, "snapshot", _] => node.delete_snapshot(vmid, parameters),
        ["GET", "nodes", _, "qemu", _, "snapshot", _, "config"] => node.snapshot_config(vmid, text("snapname")),
        ["PUT", "nodes", _, "qemu", _, "snapshot", _, "config"] => node.describe_snapshot(vmid, parameters).await,
        ["POST", "nodes", _, "qemu", _, "snapshot", _, "rollback"] => node.roll_back(vmid, parameters),
        ["POST", "nodes", _, "qemu", _, "template"] => node.make_template(vmid, parameters).await,
        ["POST", "nodes", _, "qemu", _, "clone"] => node.clone_vm(vmid, parameters).await,
        ["GET", "nodes", _, "qemu", _, "feature"] => node.feature(vmid, parameters),
        ["POST", "nodes", _, "qemu", _, "agent", "exec"] => node.agent_exec(vmid, parameters).await,
        ["GET", "nodes", _, "qemu", _, "agent", "exec-status"] => node.agent_exec_status(vmid, parameters).await,
        ["POST", "nodes", _, "qemu", _, "agent", "file-write"] => node.agent_write(vmid, parameters).await,
        ["POST", "nodes", _, "qemu", _, "agent", name] => node.agent_simple(vmid, name).await,
        // It has no containers.
        ["GET", "nodes", _, "lxc"] => Ok(json!([]).into()),
        ["GET" | "DELETE", "nodes", _, "lxc", _, ..] => Err(Refusal::die(node.no_container(vmid))),
        [method, "nodes", _, "qemu", _, "firewall", ref rest @ ..] => firewall(node, method, rest, vmid, parameters),
        // In the schema and not served.
        _ => Err(not_served(name)),
    }
}

fn not_served(name: &str) -> Refusal {
    Refusal::Text(501, format!("this lab does not serve '{name}'"))
}

/// The calls below a VM's `firewall`.
fn firewall(node: &Node, method: &str, rest: &[&str], vmid: u32, parameters: &Parameters) -> Answer {
    let name = parameters.get("name").unwrap_or_default();
    match (method, rest) {
        ("GET", ["options"]) => node.firewall_options(Some(vmid)),
        ("PUT", ["options"]) => node.set_firewall_options(Some(vmid), parameters),
        ("GET", ["rules"]) => node.firewall_rules(vmid),
        ("POST", ["rules"]) => node.add_firewall_rule(vmid, parameters),
        ("GET", ["rules", _]) => node.firewall_rule(vmid, parameters),
        ("PUT", ["rules", _]) => node.set_firewall_rule(vmid, parameters),
        ("DELETE", ["rules", _]) => node.delete_firewall_rule(vmid, parameters),
        ("GET", ["ipset"]) => node.ipsets(vmid),
        ("POST", ["ipset"]) => node.add_ipset(vmid, name),
        ("GET", ["ipset", _]) => node.ipset(vmid, name),
        ("POST", ["ipset", _]) => node.add_to_ipset(vmid, name, parameters),
        ("DELETE", ["ipset", _]) => node.delete_ipset(vmid, name, parameters),
        _ => Err(not_served(rest.first().copied().unwrap_or_default())),
    }
}
