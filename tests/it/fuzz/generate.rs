//! Inputs near to valid ones: documents with a few wrong places, patches at real and at made-up paths, requests.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Map, Value, json};

/// Texts that break things elsewhere.
const WORDS: &[&str] = &[
    "",
    " ",
    "a",
    "machine",
    "~",
    "/",
    "..",
    "../../etc/passwd",
    "\u{0}",
    "\u{feff}x",
    "ä",
    "💥",
    "\u{202e}abc",
    "a\nb",
    "\t",
    "\"",
    "'",
    "$(reboot)",
    "`id`",
    "';--",
    "<script>",
    "%s%n",
    "%00",
    "{{7*7}}",
    "null",
    "true",
    "no",
    "on",
    "010",
    "0x10",
    "1e999",
    ".nan",
    "-.inf",
    "9223372036854775807",
    "18446744073709551615",
    "99999999999999999999999999",
    "-1",
    "0",
    "1.5",
    "4Gi",
    "500m",
    "1h30m",
    "1.",
    "9999999999999Ti",
    "0.0000000001",
    "99999999h",
    "1h1h1h",
    "1ns1ns",
    "2026-01-01T00:00:00Z",
    "2026-13-45T99:99:99Z",
    "-262144-01-01T00:00:00Z",
    "eA==",
    "====",
    "autovibe.dev/machine",
    "kubernetes.io/x",
    "a/b/c",
    "true,a=b",
    "a in (b,c)",
    "a notin ()",
    "!a",
    "a=b,c!=d",
    "metadata.name=x",
    "involvedObject.uid=1",
    "{.a.b}",
    ".spec[0].x",
    "Running",
    "Suspended",
    "Command",
    "default",
    "<<",
    "*a",
    "&a",
    "!!binary",
    "$patch",
    "delete",
    "replace",
    "$deleteFromPrimitiveList/finalizers",
    "$setElementOrder/data",
    "__proto__",
];

const NUMBERS: &[&str] = &[
    "0",
    "-0.0",
    "-1",
    "1",
    "1.5",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1e308",
    "5e-324",
];

pub(crate) struct Generator(StdRng);

/// A request to send.
pub(super) struct Sent {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub(super) fn below(&mut self, most: usize) -> usize {
        self.0.random_range(0..most.max(1))
    }

    pub(super) fn one_in(&mut self, n: u32) -> bool {
        self.0.random_ratio(1, n)
    }

    fn pick<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        list.choose(&mut self.0).expect("lists here are not empty")
    }

    /// A valid object of a kind.
    pub(crate) fn valid(kind: &str) -> Value {
        let metadata = json!({"name": "m", "namespace": "fuzz", "labels": {"app": "a"}, "annotations": {"note": "n"}, "finalizers": ["example.dev/f"]});
        let (version, body) = match kind {
            "Machine" => (
                "autovibe.dev/v1alpha1",
                json!({"spec": {
                    "from": {"machine": {"name": "x"}}, "goal": {"prompt": "p", "after": ["a", "b"], "verify": {"command": ["true"], "timeout": "5m"}},
                    "agent": {"type": "ClaudeCode", "env": {"A": "b"}, "maxTurns": 5}, "resources": {"cpu": "500m", "memory": "4Gi"},
                    "budget": {"name": "team", "limits": {"money": {"amount": "1.50"}, "time": "1h", "apiCalls": 9}},
                    "source": {"git": "https://git.example/a", "ref": "main"}, "ttlAfterFinished": "1h",
                }, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
            ),
            "Checkpoint" => ("autovibe.dev/v1alpha1", json!({"spec": {"machine": "m", "description": "d", "keep": "Forever"}})),
            "Approval" => (
                "autovibe.dev/v1alpha1",
                json!({"spec": {
                    "machine": "m", "tool": "Bash", "asks": "git push", "call": "c", "class": 4, "rule": "r", "checkpoint": "m-1",
                    "expiresAt": "2036-01-01T00:00:00Z", "onTimeout": "Deny", "decision": "Denied", "reason": "no",
                }}),
            ),
            "Budget" => (
                "autovibe.dev/v1alpha1",
                json!({"spec": {"parentRef": {"name": "up"}, "limits": {"money": {"amount": "5"}, "apiCalls": 3}}}),
            ),
            "Hub" => (
                "autovibe.dev/v1alpha1",
                json!({"spec": {
                    "infrastructure": {
                        "proxmox": {"endpoint": "https://pve:8006", "tokenSecretRef": {"name": "pve"}, "vmids": {"from": 200, "to": 299}},
                        "zfs": {"storage": "z", "dataset": "rpool/data", "keep": "rpool/keep"},
                    },
                    "gateway": {"url": "http://10.0.0.1:8081"},
                    "providers": [{"name": "a", "models": ["*"], "apiKeySecretRef": {"name": "k"}}, {"name": "b", "type": "Replay", "replay": {"file": "f"}, "models": ["*"]}],
                    "images": [{"name": "micro", "file": "f"}],
                }}),
            ),
            "Secret" => ("v1", json!({"data": {"a": "eA=="}, "stringData": {"b": "c"}, "type": "Opaque"})),
            "ConfigMap" => ("v1", json!({"data": {"a": "b"}, "binaryData": {"c": "eA=="}})),
            "Event" => (
                "v1",
                json!({"involvedObject": {"kind": "Machine", "name": "m", "namespace": "fuzz"}, "reason": "R", "message": "m", "count": 1, "firstTimestamp": "2026-01-01T00:00:00Z"}),
            ),
            "Lease" => (
                "coordination.k8s.io/v1",
                json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 5, "renewTime": "2026-01-01T00:00:00.000000Z"}}),
            ),
            "ServiceAccount" => ("v1", json!({"secrets": [{"name": "s"}]})),
            "Role" | "ClusterRole" => (
                "rbac.authorization.k8s.io/v1",
                json!({"rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["a"]}]}),
            ),
            "RoleBinding" | "ClusterRoleBinding" => (
                "rbac.authorization.k8s.io/v1",
                json!({
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
                    "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "fuzz"}],
                }),
            ),
            _ => ("v1", json!({})),
        };
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
        object.as_object_mut().expect("an object").extend(body.as_object().expect("an object").clone());
        object
    }

    pub(super) fn word(&mut self) -> String {
        match self.below(6) {
            0 => (0..self.below(40)).map(|_| self.0.random::<char>()).collect(),
            1 => format!("{}{}", self.pick(WORDS), self.pick(WORDS)),
            2 => "x".repeat(1 << self.below(12)),
            3 => {
                let units = ["", "m", "k", "Ki", "Ti", "ns", "us", "ms", "s", "h", "."];
                let number: u64 = self.0.random::<u64>() >> self.below(64);
                format!("{number}{}{}{}", self.pick(&units), self.below(100), self.pick(&units))
            }
            _ => (*self.pick(WORDS)).to_owned(),
        }
    }

    fn scalar(&mut self) -> Value {
        match self.below(8) {
            0 => Value::Null,
            1 => self.one_in(2).into(),
            2 | 3 => serde_json::from_str(self.pick::<&str>(NUMBERS)).expect("a number"),
            _ => self.word().into(),
        }
    }

    fn any(&mut self, depth: usize) -> Value {
        match self.below(6) {
            0 if depth > 0 => (0..self.below(4)).map(|_| self.any(depth - 1)).collect(),
            1 if depth > 0 => (0..self.below(4)).map(|_| (self.word(), self.any(depth - 1))).collect::<Map<_, _>>().into(),
            2 if self.one_in(20) => (0..90).fold(Value::Null, |inner, _| json!([inner])),
            _ => self.scalar(),
        }
    }

    /// Changes one place.
    pub(super) fn mutate(&mut self, value: &mut Value) {
        let deeper = !self.one_in(4);
        match value {
            Value::Object(fields) if deeper && !fields.is_empty() => {
                let keys: Vec<String> = fields.keys().cloned().collect();
                let key = self.pick(&keys).clone();
                match self.below(8) {
                    0 => drop(fields.remove(&key)),
                    1 => drop(fields.insert(self.word(), self.any(2))),
                    2 => {
                        let moved = fields.remove(&key).unwrap_or_default();
                        fields.insert(self.pick(&keys).clone(), moved);
                    }
                    _ => self.mutate(fields.get_mut(&key).expect("it is there")),
                }
            }
            Value::Array(items) if deeper && !items.is_empty() => {
                let at = self.below(items.len());
                match self.below(5) {
                    0 => drop(items.remove(at)),
                    1 => items.push(items[at].clone()),
                    2 => items.insert(at, self.any(2)),
                    _ => self.mutate(&mut items[at]),
                }
            }
            Value::String(text) if self.one_in(2) => {
                let at = (0..=text.len()).rev().find(|at| text.is_char_boundary(*at) && self.0.random_ratio(1, 3)).unwrap_or(0);
                text.insert_str(at, &self.word());
            }
            other => *other = self.any(3),
        }
    }

    /// The document as JSON or YAML, now and then with broken bytes.
    pub(super) fn text(&mut self, value: &Value) -> Vec<u8> {
        let mut text = match self.below(3) {
            0 => serde_yaml::to_string(value).unwrap_or_default().into_bytes(),
            _ => value.to_string().into_bytes(),
        };
        if self.one_in(3) {
            self.damage(&mut text);
        }
        text
    }

    fn damage(&mut self, text: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(text.len() + 1);
            match self.below(5) {
                0 => text.truncate(at),
                1 if at < text.len() => text[at] ^= 1 << self.below(8),
                2 => drop(text.splice(at..at, self.word().into_bytes())),
                3 if at < text.len() => {
                    let end = (at + self.below(20)).min(text.len());
                    drop(text.drain(at..end));
                }
                _ => {
                    let end = (at + self.below(40)).min(text.len());
                    let copy = text[at..end].to_vec();
                    drop(text.splice(at..at, copy));
                }
            }
        }
    }

    /// A JSON patch, mostly at paths that are there.
    pub(super) fn patch(&mut self, of: &Value) -> Value {
        let mut paths = vec![String::new(), "/".into(), "/spec/-".into(), "/metadata/finalizers/-1".into(), "/status/~2".into()];
        pointers(of, "", &mut paths);
        let mut operations: Vec<Value> = (0..self.below(5))
            .map(|_| {
                let op = *self.pick(&["add", "remove", "replace", "move", "copy", "test", "frob"]);
                let (path, from) = (self.pick(&paths).clone(), self.pick(&paths).clone());
                let path = if self.one_in(4) { format!("{path}/{}", self.word()) } else { path };
                json!({"op": op, "path": path, "from": from, "value": self.any(2)})
            })
            .collect();
        if self.one_in(6) {
            operations.iter_mut().for_each(|operation| self.mutate(operation));
        }
        operations.into()
    }

    pub(super) fn request(&mut self) -> Sent {
        let (root, plural, kind) = *self.pick(&[
            ("/apis/autovibe.dev/v1alpha1", "machines", "Machine"),
            ("/apis/autovibe.dev/v1alpha1", "checkpoints", "Checkpoint"),
            ("/apis/autovibe.dev/v1alpha1", "budgets", "Budget"),
            ("/apis/autovibe.dev/v1alpha1", "approvals", "Approval"),
            ("/apis/autovibe.dev/v1alpha1", "hubs", "Hub"),
            ("/api/v1", "secrets", "Secret"),
            ("/api/v1", "configmaps", "ConfigMap"),
            ("/api/v1", "events", "Event"),
            ("/apis/events.k8s.io/v1", "events", "Event"),
            ("/api/v1", "namespaces", "Namespace"),
            ("/api/v1", "serviceaccounts", "ServiceAccount"),
            ("/apis/coordination.k8s.io/v1", "leases", "Lease"),
            ("/apis/rbac.authorization.k8s.io/v1", "roles", "Role"),
            ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding"),
            ("/apis/authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
            ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition"),
        ]);
        let method =
            self.pick(&[Method::GET, Method::POST, Method::POST, Method::PUT, Method::PATCH, Method::PATCH, Method::DELETE]).clone();
        let mut path = root.to_owned();
        if !matches!(plural, "hubs" | "namespaces" | "clusterrolebindings") && !self.one_in(8) {
            path.push_str("/namespaces/fuzz");
        }
        path.push_str(&format!("/{plural}"));
        if method != Method::POST && !self.one_in(5) {
            let name = if self.one_in(4) { self.word() } else { "m".into() };
            path.push_str(&format!("/{}", encoded(&name)));
            if self.one_in(4) {
                path.push_str(self.pick::<&str>(&["/status", "/log", "/bundle", "/scale", "/x/y"]));
            }
        }
        if self.one_in(30) {
            path = format!("/{}/{}", encoded(&self.word()), encoded(&self.word()));
        }
        let mut separator = '?';
        while !self.one_in(2) {
            let name = *self.pick(&[
                "labelSelector",
                "fieldSelector",
                "limit",
                "continue",
                "resourceVersion",
                "resourceVersionMatch",
                "watch",
                "dryRun",
                "force",
                "fieldManager",
                "fieldValidation",
                "propagationPolicy",
                "orphanDependents",
                "includeObject",
                "after",
                "timeoutSeconds",
                "pretty",
                "allowWatchBookmarks",
                "sendInitialEvents",
                "gracePeriodSeconds",
            ]);
            // A revision that is yet to come is waited for, and then a 504: that is no fault.
            let value = match (name, self.below(4)) {
                ("resourceVersion", _) => (*self.pick(&["0", "1", "-1", "x", "01", "99999999999999999999", ""])).to_owned(),
                ("watch", _) => (*self.pick(&["1", "true", "maybe"])).to_owned(),
                (_, 0) => {
                    (*self.pick(&["1", "0", "true", "All", "Strict", "Exact", "NotOlderThan", "Foreground", "Table", "None"])).to_owned()
                }
                _ => self.word(),
            };
            path.push_str(&format!("{separator}{name}={}", encoded(&value)));
            separator = '&';
        }
        let mut headers = Vec::new();
        if self.one_in(3) {
            let accept = *self.pick(&[
                "application/json",
                "application/yaml",
                "application/json;as=Table;v=v1;g=meta.k8s.io",
                "application/vnd.kubernetes.protobuf",
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                "*/*",
                "text/html",
                ";;,,=;",
                "application/json;as=Table;v=v9",
            ]);
            headers.push(("accept", accept.to_owned()));
        }
        let (content_type, body) = self.body(&method, kind);
        if !content_type.is_empty() {
            headers.push(("content-type", content_type.to_owned()));
        }
        Sent { method, path, headers, body }
    }

    fn body(&mut self, method: &Method, kind: &str) -> (&'static str, Vec<u8>) {
        let mut object = Self::valid(kind);
        if !self.one_in(4) {
            object["metadata"] = json!({"name": if self.one_in(2) { "m".to_owned() } else { format!("n{}", self.below(1000)) }});
        }
        for _ in 0..self.below(3) {
            self.mutate(&mut object);
        }
        if *method == Method::PATCH {
            return match self.below(4) {
                0 => ("application/json-patch+json", self.patch(&object).to_string().into_bytes()),
                1 => ("application/strategic-merge-patch+json", self.text(&object)),
                2 => ("application/apply-patch+yaml", self.text(&object)),
                _ => ("application/merge-patch+json", self.text(&object)),
            };
        }
        if *method == Method::GET || *method == Method::DELETE && self.one_in(2) {
            return ("", Vec::new());
        }
        if *method == Method::DELETE {
            let mut options = json!({"propagationPolicy": "Background", "preconditions": {"uid": "u"}, "gracePeriodSeconds": 0});
            self.mutate(&mut options);
            return ("application/json", options.to_string().into_bytes());
        }
        match self.below(6) {
            0 => ("application/yaml", self.text(&object)),
            1 => ("application/vnd.kubernetes.protobuf", self.protobuf(kind)),
            2 => ("", self.text(&object)),
            _ => ("application/json", self.text(&object)),
        }
    }

    /// An envelope as clients send it, around fields that may or may not be those of the kind.
    fn protobuf(&mut self, kind: &str) -> Vec<u8> {
        let types = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        let metadata = [field(1, b"m"), field(11, &[field(1, b"k"), field(2, b"v")].concat())].concat();
        let mut raw = field(1, &metadata);
        for _ in 0..self.below(5) {
            let inner = self.word().into_bytes();
            raw.extend(field(u8::try_from(self.below(16)).unwrap_or(1), &inner));
        }
        let mut whole = [b"k8s\0".to_vec(), field(1, &types), field(2, &raw)].concat();
        if self.one_in(3) {
            self.damage(&mut whole);
        }
        whole
    }
}

/// A length-delimited field.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap_or(0));
    out.extend(bytes);
    out
}

fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (key, value) in inner {
        let path = format!("{at}/{key}");
        found.push(path.clone());
        pointers(value, &path, found);
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
