//! Who may do what: roles, pools, tokens of less than their user, and what each is told.

use super::World;
use hyper::ext::ReasonPhrase;
use serde_json::Value;
use std::time::Duration;

/// One token's view of the API.
pub(super) struct Caller {
    http: reqwest::Client,
    base: String,
    authorization: String,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) body: Value,
}

impl Caller {
    pub(super) fn new(world: &World, id: &str, privsep: bool) -> Self {
        Self::with(world, id, &world.lab.token(id, privsep))
    }

    pub(super) fn with(world: &World, id: &str, secret: &str) -> Self {
        Self {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            base: format!("{}/api2/json", world.lab.endpoint().endpoint),
            authorization: format!("PVEAPIToken={id}={secret}"),
        }
    }

    pub(super) async fn call(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Answer {
        let request =
            self.http.request(method.parse().unwrap(), format!("{}{path}", self.base)).header("authorization", &self.authorization);
        let request = if matches!(method, "GET" | "DELETE") { request.query(parameters) } else { request.form(parameters) };
        let response = request.send().await.unwrap();
        let reason = response.extensions().get::<ReasonPhrase>().map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned());
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        Answer { status, reason: reason.unwrap_or_default(), body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    pub(super) async fn ok(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Value {
        let answer = self.call(method, path, parameters).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        answer.body["data"].clone()
    }

    /// How the task of a call ended.
    pub(super) async fn task(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> String {
        let upid = self.ok(method, path, parameters).await;
        let upid = upid.as_str().unwrap();
        self.end(upid.split(':').nth(1).unwrap(), upid).await
    }

    /// Plants a fault.
    pub(super) async fn script(&self, rule: &Value) {
        let url = format!("{}/lab/faults", self.base.trim_end_matches("/api2/json"));
        let request = self.http.post(url).header("authorization", &self.authorization).json(rule);
        assert_eq!(request.send().await.unwrap().status(), 200, "{rule}");
    }

    /// How a task of a node ended.
    pub(super) async fn end(&self, node: &str, upid: &str) -> String {
        let path = format!("/nodes/{node}/tasks/{upid}/status");
        let ended = async {
            loop {
                let status = self.ok("GET", &path, &[]).await;
                if let Some(exit) = status["exitstatus"].as_str() {
                    return exit.to_owned();
                }
                autovibe::clock::Clock::system().sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, ended).await.expect("the task ends")
    }
}

#[tokio::test]
async fn a_pool_gives_rights_on_its_members_and_no_others() {
    let world = World::start().await;
    let root = Caller::new(&world, "root@pam!full", false);
    let alice = Caller::new(&world, "alice@pve!t1", false);
    root.ok("POST", "/pools", &[("poolid", "lab"), ("comment", "test pool")]).await;
    root.ok("POST", "/access/roles", &[("roleid", "Snap"), ("privs", "VM.Audit,VM.Snapshot")]).await;
    root.ok("PUT", "/access/acl", &[("path", "/pool/lab"), ("roles", "Snap,PVEPoolUser"), ("users", "alice@pve")]).await;
    assert_eq!(root.task("POST", "/nodes/lab/qemu", &[("vmid", "100"), ("pool", "lab")]).await, "OK");
    assert_eq!(root.task("POST", "/nodes/lab/qemu", &[("vmid", "101")]).await, "OK");
    let seen = alice.ok("GET", "/cluster/resources", &[("type", "vm")]).await;
    assert_eq!((seen.as_array().unwrap().len(), &seen[0]["vmid"], &seen[0]["pool"]), (1, &100.into(), &"lab".into()));
    assert_eq!(alice.task("POST", "/nodes/lab/qemu/100/snapshot", &[("snapname", "by-alice")]).await, "OK");
    let refused = alice.call("DELETE", "/nodes/lab/qemu/100", &[]).await;
    assert_eq!((refused.status, refused.reason.as_str()), (403, "Permission check failed (/vms/100, VM.Allocate)"));
    // Permissions come before parameters, as recorded.
    let refused = alice.call("POST", "/nodes/lab/qemu/101/snapshot", &[("snapname", "1bad")]).await;
    assert_eq!((refused.status, refused.reason.as_str()), (403, "Permission check failed (/vms/101, VM.Snapshot)"));
    let refused = alice.call("POST", "/nodes/lab/qemu", &[("vmid", "150")]).await;
    assert_eq!((refused.status, refused.reason.as_str()), (403, "Permission check failed"));
    // A member's end takes its place in the pool and its grants with it.
    root.ok("PUT", "/access/acl", &[("path", "/vms/100"), ("roles", "PVEVMAdmin"), ("users", "alice@pve")]).await;
    assert_eq!(root.task("DELETE", "/nodes/lab/qemu/100", &[]).await, "OK");
    assert_eq!(root.task("POST", "/nodes/lab/qemu", &[("vmid", "100")]).await, "OK");
    assert_eq!(alice.call("GET", "/nodes/lab/qemu/100/config", &[]).await.status, 403);
}

#[tokio::test]
async fn a_separated_token_has_what_both_have() {
    let world = World::start().await;
    let root = Caller::new(&world, "root@pam!full", false);
    let token = Caller::new(&world, "bob@pve!sep", true);
    assert_eq!(root.task("POST", "/nodes/lab/qemu", &[("vmid", "100")]).await, "OK");
    let grant = |to: &'static str, id: &'static str, role: &'static str| [("path", "/vms"), (to, id), ("roles", role)];
    root.ok("PUT", "/access/acl", &grant("tokens", "bob@pve!sep", "PVEVMAdmin")).await;
    assert_eq!(token.call("GET", "/nodes/lab/qemu/100/config", &[]).await.status, 403, "the user has nothing");
    root.ok("PUT", "/access/acl", &grant("users", "bob@pve", "PVEAuditor")).await;
    token.ok("GET", "/nodes/lab/qemu/100/config", &[]).await;
    let refused = token.call("POST", "/nodes/lab/qemu/100/status/start", &[]).await;
    assert_eq!((refused.status, refused.reason.as_str()), (403, "Permission check failed (/vms/100, VM.PowerMgmt)"));
    // Nor is a token of root root itself.
    let answer = root.call("PUT", "/nodes/lab/qemu/100/config", &[("args", "-foo")]).await;
    assert_eq!((answer.status, answer.reason.as_str()), (500, "only root can set 'args' config"));
    root.ok("DELETE", "/access/users/bob@pve/token/sep", &[]).await;
    assert_eq!(token.call("GET", "/version", &[]).await.status, 401);
}

/// Method, path, parameters; status and reason phrase.
type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], u16, &'static str);

#[tokio::test]
async fn pools_refuse_what_proxmox_refuses() {
    let world = World::start().await;
    let root = Caller::new(&world, "root@pam!full", false);
    for pool in ["lab", "p2", "p2/sub"] {
        root.ok("POST", "/pools", &[("poolid", pool)]).await;
    }
    assert_eq!(root.task("POST", "/nodes/lab/qemu", &[("vmid", "100")]).await, "OK");
    root.ok("PUT", "/pools/p2", &[("vms", "100")]).await;
    let table: &[Row] = &[
        ("GET", "/pools/nosuch", &[], 500, "pool 'nosuch' does not exist"),
        ("POST", "/pools", &[("poolid", "p2")], 500, "create pool failed: pool 'p2' already exists"),
        ("POST", "/pools", &[("poolid", "a b")], 403, "Permission check failed (, Pool.Allocate)"),
        ("POST", "/pools", &[("poolid", "px/sub")], 500, "create pool failed: parent 'px' of pool 'px/sub' does not exist"),
        (
            "PUT",
            "/pools/lab",
            &[("vms", "100")],
            500,
            "update pools failed: VM 100 belongs already to pool 'p2' and 'allow-move' is not set",
        ),
        ("PUT", "/pools/lab", &[("vms", "100"), ("allow-move", "1")], 200, ""),
        ("PUT", "/pools/lab", &[("vms", "100")], 500, "update pools failed: VM 100 is already a pool member"),
        ("DELETE", "/pools/lab", &[], 500, "delete pool failed: pool 'lab' is not empty (contains VM 100)"),
        ("DELETE", "/pools/p2", &[], 500, "delete pool failed: pool 'p2' is not empty (contains pool 'p2/sub')"),
        ("PUT", "/pools/lab", &[("vms", "100"), ("delete", "1")], 200, ""),
        ("PUT", "/pools/lab", &[("vms", "100"), ("delete", "1")], 500, "update pools failed: VM 100 is not a pool member"),
        ("DELETE", "/pools/p2/sub", &[], 501, "Method 'DELETE /pools/p2/sub' not implemented"),
        ("DELETE", "/pools", &[("poolid", "p2/sub")], 200, ""),
        ("DELETE", "/pools/p2", &[], 200, ""),
        ("DELETE", "/pools/p2", &[], 500, "delete pool failed: pool 'p2' does not exist"),
    ];
    for (method, path, parameters, status, reason) in table {
        let answer = root.call(method, path, parameters).await;
        assert_eq!((answer.status, answer.reason.as_str()), (*status, *reason), "{method} {path} {parameters:?}");
    }
}
