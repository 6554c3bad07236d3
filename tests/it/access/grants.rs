//! Roles and bindings as objects: what is wrong with one, who may grant what, and the ones that are always there.

use super::{RBAC, account, bind, to_account, to_person};
use crate::served::{Client, Served};
use autovibe::store::Options;
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str, subject: Value) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": [subject]})
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_wrong_role_or_binding_is_refused_in_upstreams_words() {
    let admin = Served::shared();
    admin.namespace("wrong-roles").await;
    let base = format!("{RBAC}/namespaces/wrong-roles");
    let bob = || to_person("User", "bob");
    let subject = |subject: Value| binding("b", "Role", "r", subject);
    for (path, document, expect) in [
        (
            "roles",
            role("r", json!([{"apiGroups": [""], "resources": ["x"]}])),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            "roles",
            role("r", json!([{"verbs": ["get"], "resources": ["x"]}])),
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        ),
        (
            "roles",
            role("r", json!([{"verbs": ["get"], "apiGroups": [""]}])),
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ),
        (
            "roles",
            role("r", json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}])),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ),
        ("roles", role("a/b", json!([])), "metadata.name: Invalid value: \"a/b\": may not contain '/'"),
        (
            "rolebindings",
            binding("b", "Rolle", "r", bob()),
            "roleRef.kind: Unsupported value: \"Rolle\": supported values: \"Role\", \"ClusterRole\"",
        ),
        ("rolebindings", binding("b", "Role", "", bob()), "roleRef.name: Required value"),
        (
            "rolebindings",
            subject(json!({"kind": "Bot", "name": "x"})),
            "subjects[0].kind: Unsupported value: \"Bot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
        ),
        ("rolebindings", subject(json!({"kind": "User", "name": "x", "apiGroup": "y"})), "subjects[0].apiGroup: Unsupported value: \"y\""),
        ("rolebindings", subject(json!({"kind": "ServiceAccount", "name": "X_"})), "subjects[0].name: Invalid value: \"X_\""),
    ] {
        let (code, answer) = admin.post(&format!("{base}/{path}"), &document).await;
        assert_eq!(code, 422, "{document} {answer}");
        assert!(message(&answer).contains(expect), "{expect}: {answer}");
    }
    let both = role("r", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["x"], "nonResourceURLs": ["/x"]}]));
    let (_, answer) = admin.post(&format!("{RBAC}/clusterroles"), &both).await;
    assert!(message(&answer).contains("rules cannot apply to both regular resources and non-resource URLs"), "{answer}");
    let cluster = binding("b", "ClusterRole", "view", json!({"kind": "ServiceAccount", "name": "x"}));
    let (_, answer) = admin.post(&format!("{RBAC}/clusterrolebindings"), &cluster).await;
    assert!(message(&answer).contains("subjects[0].namespace: Required value"), "{answer}");

    // A role that a binding names need not exist; which one it is cannot change.
    let (code, made) = admin.post(&format!("{base}/rolebindings"), &binding("system:b", "Role", "later", bob())).await;
    assert_eq!(code, 201, "{made}");
    let mut other = made.clone();
    other["roleRef"]["name"] = "other".into();
    let (code, answer) = admin.put(&format!("{base}/rolebindings/system:b"), &other).await;
    assert_eq!(code, 422);
    assert!(message(&answer).contains("roleRef: Invalid value:") && message(&answer).ends_with("cannot change roleRef"), "{answer}");
    // The groups that are understood are written down.
    let short =
        json!({"metadata": {"name": "short"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "bob"}]});
    let (_, answer) = admin.post(&format!("{base}/rolebindings"), &short).await;
    assert_eq!((&answer["roleRef"]["apiGroup"], &answer["subjects"][0]["apiGroup"]), (&json!(GROUP), &json!(GROUP)));
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let admin = Served::shared();
    admin.namespace("grants").await;
    let owner = admin.with_token(&account(&admin, "grants", "owner").await);
    bind(&admin, "grants", "owner", "admin", to_account("grants", "owner")).await;
    let roles = format!("{RBAC}/namespaces/grants/roles");
    let bindings = format!("{RBAC}/namespaces/grants/rolebindings");
    let bob = || to_person("User", "bob");

    let secrets = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"]}]);
    assert_eq!(owner.post(&roles, &role("secrets", secrets.clone())).await.0, 201);
    assert_eq!(owner.post(&bindings, &binding("secrets", "Role", "secrets", bob())).await.0, 201);
    assert_eq!(owner.post(&bindings, &binding("view", "ClusterRole", "view", bob())).await.0, 201);

    let hubs = json!([{"verbs": ["get", "list"], "apiGroups": ["autovibe.dev"], "resources": ["hubs", "machines"]}]);
    let (code, answer) = owner.post(&roles, &role("hubs", hubs.clone())).await;
    let who = "user \"system:serviceaccount:grants:owner\" (groups=[\"system:serviceaccounts\" \"system:serviceaccounts:grants\" \"system:authenticated\"])";
    let what = "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"autovibe.dev\"], Resources:[\"hubs\"], Verbs:[\"get\" \"list\"]}";
    let expect = format!("roles.rbac.authorization.k8s.io \"hubs\" is forbidden: {who} {what}");
    assert_eq!((code, message(&answer)), (403, expect.as_str()));
    // Neither by an update, a patch, a dry run, nor through a binding.
    let wider = json!({"rules": hubs});
    assert_eq!(owner.patch(&format!("{roles}/secrets"), "application/merge-patch+json", &wider).await.0, 403);
    let json_patch = json!([{"op": "add", "path": "/rules/-", "value": {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}}]);
    assert_eq!(owner.patch(&format!("{roles}/secrets"), "application/json-patch+json", &json_patch).await.0, 403);
    assert_eq!(owner.put(&format!("{roles}/secrets"), &role("secrets", hubs.clone())).await.0, 403);
    assert_eq!(owner.post(&format!("{roles}?dryRun=All"), &role("dry", hubs.clone())).await.0, 403);
    let (code, answer) = owner.post(&bindings, &binding("root", "ClusterRole", "cluster-admin", bob())).await;
    assert!(code == 403 && message(&answer).contains("{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"), "{answer}");
    assert_eq!(admin.post(&roles, &role("theirs", hubs)).await.0, 201);
    assert_eq!(owner.post(&bindings, &binding("theirs", "Role", "theirs", bob())).await.0, 403);
    let (code, answer) = owner.post(&bindings, &binding("none", "Role", "none", bob())).await;
    assert_eq!((code, message(&answer)), (404, "roles.rbac.authorization.k8s.io \"none\" not found"));
    // A subject added to a binding that is beyond them is a grant too.
    assert_eq!(admin.post(&bindings, &binding("theirs", "Role", "theirs", bob())).await.0, 201);
    let more = json!({"subjects": [to_person("User", "eve")]});
    assert_eq!(owner.patch(&format!("{bindings}/theirs"), "application/merge-patch+json", &more).await.0, 403);
    // What takes away, or leaves the grant as it is, does not need it.
    let finalizers = json!({"metadata": {"finalizers": []}});
    assert_eq!(owner.patch(&format!("{bindings}/theirs"), "application/merge-patch+json", &finalizers).await.0, 200);
    assert_eq!(owner.delete(&format!("{bindings}/theirs")).await.0, 200);
    assert_eq!(owner.get(&bindings).await.1["items"].as_array().unwrap().len(), 3, "owner, secrets, view");

    // `bind` and `escalate` lift the rule, for what they name.
    let may = json!([
        {"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"]},
        {"verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["roles"], "resourceNames": ["theirs"]},
    ]);
    assert_eq!(admin.post(&roles, &role("lift", may)).await.0, 201);
    assert_eq!(admin.post(&bindings, &binding("lift", "Role", "lift", to_account("grants", "owner"))).await.0, 201);
    assert_eq!(owner.post(&bindings, &binding("root", "ClusterRole", "cluster-admin", bob())).await.0, 201);
    let all = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    assert_eq!(owner.patch(&format!("{roles}/theirs"), "application/merge-patch+json", &all).await.0, 200);
    assert_eq!(owner.patch(&format!("{roles}/secrets"), "application/merge-patch+json", &all).await.0, 403);

    // Who writes ClusterRoles but has little cannot gather through an aggregation or a label.
    let writes = json!([{"verbs": ["create", "update", "patch", "get"], "apiGroups": [GROUP], "resources": ["clusterroles"]}]);
    assert_eq!(admin.post(&format!("{RBAC}/clusterroles"), &role("writes-roles", writes)).await.0, 201);
    let given = binding("writes-roles", "ClusterRole", "writes-roles", to_account("grants", "owner"));
    assert_eq!(admin.post(&format!("{RBAC}/clusterrolebindings"), &given).await.0, 201);
    let gathers = json!({"metadata": {"name": "gathers"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let (code, answer) = owner.post(&format!("{RBAC}/clusterroles"), &gathers).await;
    assert!(code == 403 && message(&answer).ends_with("must have cluster-admin privileges to use an aggregationRule"), "{answer}");
    let adds = json!({
        "metadata": {"name": "adds", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}],
    });
    assert_eq!(owner.post(&format!("{RBAC}/clusterroles"), &adds).await.0, 403);
}

#[tokio::test]
async fn an_update_that_creates_needs_the_right_to_create() {
    let admin = Served::shared();
    admin.namespace("lease-rights").await;
    let bot = admin.with_token(&account(&admin, "lease-rights", "bot").await);
    let rules = json!([{"verbs": ["get", "update"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}]);
    assert_eq!(admin.post(&format!("{RBAC}/namespaces/lease-rights/roles"), &role("updates", rules)).await.0, 201);
    let given = binding("updates", "Role", "updates", to_account("lease-rights", "bot"));
    assert_eq!(admin.post(&format!("{RBAC}/namespaces/lease-rights/rolebindings"), &given).await.0, 201);
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/lease-rights/leases/l";
    let (code, answer) = bot.put(path, &lease).await;
    assert!(code == 403 && message(&answer).contains("cannot create resource \"leases\" in API group \"coordination.k8s.io\""), "{answer}");
    assert_eq!(admin.put(path, &lease).await.0, 200);
    assert_eq!(bot.put(path, &lease).await.0, 200);
}

#[tokio::test]
async fn a_grant_holds_as_soon_as_it_is_answered_and_so_does_its_end() {
    let admin = Served::shared();
    admin.namespace("at-once").await;
    let bot = admin.with_token(&account(&admin, "at-once", "bot").await);
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}});
    assert_eq!(admin.post("/api/v1/namespaces/at-once/secrets", &secret).await.0, 201);
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]}]);
    assert_eq!(admin.post(&format!("{RBAC}/namespaces/at-once/roles"), &role("one", rules)).await.0, 201);
    let given = binding("one", "Role", "one", to_account("at-once", "bot"));
    let bindings = format!("{RBAC}/namespaces/at-once/rolebindings");
    for turn in 0..25 {
        assert_eq!(bot.get("/api/v1/namespaces/at-once/secrets/s").await.0, 403, "{turn}");
        assert_eq!(admin.post(&bindings, &given).await.0, 201);
        assert_eq!(bot.get("/api/v1/namespaces/at-once/secrets/s").await.0, 200, "{turn}");
        assert_eq!(admin.delete(&format!("{bindings}/one")).await.0, 200);
    }
    // A name in the rule: neither others nor the list, but a list of that one. What is not there looks like what is not theirs.
    assert_eq!(admin.post(&bindings, &given).await.0, 201);
    assert_eq!(bot.get("/api/v1/namespaces/at-once/secrets").await.0, 403);
    let (absent, other) =
        (bot.get("/api/v1/namespaces/at-once/secrets/none").await, bot.get("/api/v1/namespaces/nowhere/secrets/none").await);
    assert_eq!((absent.0, other.0), (403, 403));
    let rules = json!({"rules": [{"verbs": ["list", "watch"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]}]});
    assert_eq!(admin.patch(&format!("{RBAC}/namespaces/at-once/roles/one"), "application/merge-patch+json", &rules).await.0, 200);
    let by_name = |name: &str| format!("/api/v1/namespaces/at-once/secrets?fieldSelector=metadata.name%3D{name}");
    assert_eq!(bot.get(&by_name("s")).await.0, 200);
    assert_eq!(bot.get(&by_name("t")).await.0, 403);
    assert_eq!(bot.get("/api/v1/namespaces/at-once/secrets?fieldSelector=metadata.name!%3Ds").await.0, 403);
    assert_eq!(bot.get("/api/v1/namespaces/at-once/secrets/s").await.0, 403);
}

#[tokio::test]
async fn reviews_answer_what_requests_meet() {
    let admin = Served::shared();
    admin.namespace("reviews").await;
    let bot = admin.with_token(&account(&admin, "reviews", "bot").await);
    bind(&admin, "reviews", "bots", "view", to_account("reviews", "bot")).await;
    let attributes = |verb: &str, resource: &str, namespace: &str| json!({"verb": verb, "group": "autovibe.dev", "resource": resource, "namespace": namespace});
    let base = "/apis/authorization.k8s.io/v1";
    let own = |client: &Client, spec: Value| {
        let client = client.again();
        async move { client.post(&format!("{base}/selfsubjectaccessreviews"), &json!({"spec": spec})).await }
    };
    let (code, answer) = own(&bot, json!({"resourceAttributes": attributes("get", "machines", "reviews")})).await;
    let reason = "RBAC: allowed by RoleBinding \"bots/reviews\" of ClusterRole \"view\" to ServiceAccount \"bot/reviews\"";
    assert_eq!((code, &answer["status"]), (201, &json!({"allowed": true, "reason": reason})));
    let (_, answer) = own(&bot, json!({"resourceAttributes": attributes("create", "machines", "reviews")})).await;
    assert_eq!(answer["status"], json!({"allowed": false}));
    let (_, answer) = own(&bot, json!({"nonResourceAttributes": {"path": "/apis", "verb": "get"}})).await;
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(own(&bot, json!({})).await.0, 422);
    assert_eq!(own(&bot, json!({"resourceAttributes": {}, "nonResourceAttributes": {}})).await.0, 422);

    let of_bot =
        json!({"spec": {"user": "system:serviceaccount:reviews:bot", "resourceAttributes": attributes("get", "machines", "reviews")}});
    let (code, answer) = admin.post(&format!("{base}/subjectaccessreviews"), &of_bot).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    assert_eq!(bot.post(&format!("{base}/subjectaccessreviews"), &of_bot).await.0, 403);
    let (code, answer) = admin.post(&format!("{base}/namespaces/reviews/localsubjectaccessreviews"), &of_bot).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    assert_eq!(admin.post(&format!("{base}/namespaces/default/localsubjectaccessreviews"), &of_bot).await.0, 422);
    let nobody = json!({"spec": {"resourceAttributes": attributes("get", "machines", "reviews")}});
    assert_eq!(admin.post(&format!("{base}/subjectaccessreviews"), &nobody).await.0, 422);

    let (_, answer) = bot.post(&format!("{base}/selfsubjectrulesreviews"), &json!({"spec": {"namespace": "reviews"}})).await;
    let rules = answer["status"]["resourceRules"].as_array().expect("rules");
    assert!(rules.iter().any(|rule| rule["resources"].as_array().unwrap().contains(&json!("machines/log"))), "{answer}");
    assert!(answer["status"]["nonResourceRules"][0]["nonResourceURLs"].as_array().unwrap().contains(&json!("/version")), "{answer}");
    let (_, answer) = bot.post(&format!("{base}/selfsubjectrulesreviews"), &json!({"spec": {"namespace": "default"}})).await;
    assert!(!answer.to_string().contains("machines"), "{answer}");
}

#[tokio::test]
async fn the_default_roles_are_repaired_at_start_and_additions_stay() {
    let first = Served::start(Options::default()).await;
    let view = format!("{RBAC}/clusterroles/view");
    let edit = format!("{RBAC}/clusterroles/edit");
    let basic = format!("{RBAC}/clusterrolebindings/system:basic-user");
    let merge = "application/merge-patch+json";
    let (_, before) = first.get(&view).await;
    assert_eq!(before["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    let own = json!({"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]});
    assert_eq!(first.patch(&view, merge, &json!({"rules": [own], "metadata": {"labels": {"mine": "yes"}}})).await.0, 200);
    let left = json!({"rules": [], "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
    assert_eq!(first.patch(&edit, merge, &left).await.0, 200);
    assert_eq!(first.patch(&basic, merge, &json!({"subjects": [to_person("User", "bob")]})).await.0, 200);
    assert_eq!(first.delete(&format!("{RBAC}/clusterrolebindings/system:discovery")).await.0, 200);
    assert_eq!(first.delete(&format!("{RBAC}/clusterrolebindings/cluster-admin")).await.0, 200);
    assert_eq!(first.get("/api/v1/secrets").await.0, 200, "masters need no binding");

    let second = Served::start_in_same(first.stop().await).await;
    let (_, after) = second.get(&view).await;
    let rules = after["rules"].as_array().unwrap();
    assert!(rules.contains(&own) && before["rules"].as_array().unwrap().iter().all(|rule| rules.contains(rule)), "{after}");
    assert_eq!(after["metadata"]["labels"]["mine"], "yes");
    assert_eq!(second.get(&edit).await.1["rules"], json!([]), "left alone, as it says");
    let (_, subjects) = second.get(&basic).await;
    assert_eq!(subjects["subjects"].as_array().unwrap().len(), 2);
    for name in ["system:discovery", "cluster-admin"] {
        assert_eq!(second.get(&format!("{RBAC}/clusterrolebindings/{name}")).await.0, 200, "{name}");
    }
    // Nothing to repair is nothing written.
    let version = after["metadata"]["resourceVersion"].clone();
    let third = Served::start_in_same(second.stop().await).await;
    assert_eq!(third.get(&view).await.1["metadata"]["resourceVersion"], version);
}

/// Who lets a Machine's agent do something could do it themselves: else a Machine would be a way to more rights.
#[tokio::test]
async fn nobody_permits_an_agent_what_they_may_not_do() {
    let admin = Served::shared();
    admin.namespace("permits").await;
    let rules = json!([{"verbs": ["create", "get", "patch", "update"], "apiGroups": ["autovibe.dev"], "resources": ["machines"]}]);
    assert_eq!(admin.post(&format!("{RBAC}/namespaces/permits/roles"), &role("runner", rules)).await.0, 201);
    let runner = admin.with_token(&account(&admin, "permits", "runner").await);
    let bound = binding("runner", "Role", "runner", to_account("permits", "runner"));
    assert_eq!(admin.post(&format!("{RBAC}/namespaces/permits/rolebindings"), &bound).await.0, 201);
    let editor = admin.with_token(&account(&admin, "permits", "editor").await);
    bind(&admin, "permits", "editor", "edit", to_account("permits", "editor")).await;
    let machines = "/apis/autovibe.dev/v1alpha1/namespaces/permits/machines";
    let machine = |name: &str, permissions: Value| {
        let spec = json!({"from": {"image": "i"}, "goal": {"prompt": "p"}, "permissions": permissions});
        json!({"apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": {"name": name}, "spec": spec})
    };
    for (permission, missing) in [
        ("Checkpoint", "Resources:[\"checkpoints\"], Verbs:[\"create\"]"),
        ("ReadBudget", "Resources:[\"budgets\"], Verbs:[\"get\"]"),
        ("ReadLineage", "Resources:[\"checkpoints\"], Verbs:[\"get\"]"),
        ("SpawnMachines", "Resources:[\"machines\"], Verbs:[\"list\"]"),
    ] {
        let (code, answer) = runner.post(machines, &machine("m", json!([permission]))).await;
        let text = message(&answer);
        assert_eq!(code, 403, "{permission}: {answer}");
        assert!(text.starts_with("machines.autovibe.dev \"m\" is forbidden: user \"system:serviceaccount:permits:runner\""), "{text}");
        assert!(text.contains("is attempting to grant RBAC permissions not currently held") && text.contains(missing), "{text}");
        assert_eq!(editor.post(machines, &machine(&permission.to_lowercase(), json!([permission]))).await.0, 201, "{permission}");
    }
    // What another gave may stay, and be taken away; more may not be added.
    let (code, answer) = runner.post(machines, &machine("m", json!([]))).await;
    assert_eq!(code, 201, "{answer}");
    let change = async |client: &Client, permissions: Value| {
        let body = json!({"spec": {"permissions": permissions}, "metadata": {"annotations": {"n": permissions.to_string()}}});
        client.patch(&format!("{machines}/m"), "application/merge-patch+json", &body).await.0
    };
    assert_eq!(change(&runner, json!(["Checkpoint"])).await, 403);
    assert_eq!(change(&editor, json!(["Checkpoint", "ReadBudget"])).await, 200);
    assert_eq!(change(&runner, json!(["Checkpoint", "ReadLineage"])).await, 403);
    assert_eq!(change(&runner, json!(["Checkpoint"])).await, 200);
    assert_eq!(change(&runner, json!([])).await, 200);
    for wrong in [json!(["Root"]), json!(["Checkpoint", "Checkpoint"]), json!("Checkpoint")] {
        let (code, answer) = admin.post(machines, &machine("wrong", wrong.clone())).await;
        assert!((code == 422 || code == 400) && answer.to_string().contains("spec.permissions"), "{wrong}: {code} {answer}");
    }
}
