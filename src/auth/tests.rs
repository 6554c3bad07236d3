//! Header forms, rules, coverage, bindings.

use super::{rules::allows, *};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use serde_json::{Value, json};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the test's object is whole")
}

#[test]
fn only_a_bearer_header_holds_a_token() {
    for (header, token) in [
        ("Bearer right", Some("right")),
        ("bearer  right", Some("right")),
        ("Basic right", None),
        ("right", None),
        ("Bearer ", None),
        ("", None),
    ] {
        assert_eq!(bearer(header), token, "{header:?}");
    }
}

#[test]
fn a_hash_survives_its_text_form_and_nothing_else_is_read_as_one() {
    let hash = TokenHash::of("t");
    assert!(TokenHash::from_hex(&format!("{}\n", hash.to_hex())).is_some_and(|h| h.matches("t") && !h.matches("u")));
    assert!(TokenHash::from_hex("").is_none());
    assert!(TokenHash::from_hex("abcd").is_none());
}

#[test]
fn an_accounts_token_is_read_as_it_was_written_and_nothing_else_is() {
    let text = AccountToken::write([7; 8], [9; 32]);
    assert_eq!(AccountToken::parse(&text).map(|t| t.id), Some("0707070707070707"));
    for wrong in ["", "av-sa-", "av-sa-07-09", &text[1..], &text[..text.len() - 1], &text.to_uppercase(), &format!("{text}0")] {
        assert_eq!(AccountToken::parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn names_of_accounts_are_taken_apart_as_they_are_made() {
    assert_eq!(account_of(&account_user("ns", "sa")), Some(("ns", "sa")));
    for other in ["ns:sa", "system:serviceaccount:", "system:serviceaccount:ns", "system:serviceaccount::sa", "system:serviceaccount:a:b:c"]
    {
        assert_eq!(account_of(other), None, "{other:?}");
    }
}

fn rule(rule: Value) -> PolicyRule {
    read(rule)
}

/// `verb resource[/sub] group namespace name`, or `verb /path`; `-` is empty.
fn action(text: &str) -> Action {
    let parts: Vec<&str> = text.split(' ').map(|part| if part == "-" { "" } else { part }).collect();
    if let [verb, path] = parts[..] {
        return Action { verb: verb.into(), what: What::Path(path.into()) };
    }
    let (resource, subresource) = parts[1].split_once('/').unwrap_or((parts[1], ""));
    let mut action = Action::on(parts[0], parts[2], resource, parts[3], parts[4]);
    if let What::Resource { subresource: part, .. } = &mut action.what {
        *part = subresource.into();
    }
    action
}

#[test]
fn a_rule_allows_what_upstreams_does() {
    let check = |value: Value, text: &str, expect: bool| {
        assert_eq!(allows(&rule(value.clone()), &action(text)), expect, "{value} {text}");
    };
    let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    check(all.clone(), "get machines/log g ns m", true);
    check(all, "get /healthz", false);
    let one = json!({"verbs": ["get", "list"], "apiGroups": ["g"], "resources": ["machines"]});
    check(one.clone(), "get machines g ns m", true);
    check(one.clone(), "list machines g - -", true);
    check(one.clone(), "watch machines g ns -", false);
    check(one.clone(), "get machines/log g ns m", false);
    check(one.clone(), "get machines - ns m", false);
    check(one, "get machine g ns m", false);
    let parts = json!({"verbs": ["update"], "apiGroups": [""], "resources": ["*/status", "machines/log"]});
    check(parts.clone(), "update machines/status - ns m", true);
    check(parts.clone(), "update machines/log - ns m", true);
    check(parts.clone(), "update budgets/log - ns m", false);
    check(parts, "update machines - ns m", false);
    let named = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]});
    check(named.clone(), "get secrets - ns a", true);
    check(named.clone(), "get secrets - ns b", false);
    check(named.clone(), "create secrets - ns -", false);
    check(named, "list secrets - ns -", false);
    let paths = json!({"verbs": ["get"], "nonResourceURLs": ["/api/*", "/version"]});
    check(paths.clone(), "get /api/v1", true);
    check(paths.clone(), "get /api", false);
    check(paths.clone(), "get /versions", false);
    check(paths, "post /version", false);
}

#[test]
fn what_is_missing_is_found_permission_by_permission() {
    let check = |owned: Value, wanted: Value, expect: &str| {
        let (owned, wanted): (Vec<PolicyRule>, Vec<PolicyRule>) = (read(owned), read(wanted));
        assert_eq!(summary(&missing(&owned, &wanted).expect("few")), expect);
    };
    let pods = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    check(pods.clone(), pods.clone(), "");
    check(json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]), pods.clone(), "");
    check(json!([]), pods.clone(), r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#);
    let halves =
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}, {"verbs": ["list"], "apiGroups": ["*"], "resources": ["*"]}]);
    check(halves, pods.clone(), "");
    let named = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a", "b"]}]);
    check(pods.clone(), named.clone(), "");
    check(
        named.clone(),
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["b", "c"]}]),
        r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["c"], Verbs:["get"]}"#,
    );
    check(named, pods, r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#);
    let status = json!([{"verbs": ["get"], "apiGroups": ["g"], "resources": ["machines/status"]}]);
    check(json!([{"verbs": ["get"], "apiGroups": ["g"], "resources": ["*/status"]}]), status.clone(), "");
    check(
        json!([{"verbs": ["get"], "apiGroups": ["g"], "resources": ["machines"]}]),
        status,
        r#"{APIGroups:["g"], Resources:["machines/status"], Verbs:["get"]}"#,
    );
    // What stands for all is not had by having much.
    check(
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]),
        json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}]),
        r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#,
    );
    check(
        json!([{"verbs": ["get"], "nonResourceURLs": ["/a/*"]}]),
        json!([{"verbs": ["get"], "nonResourceURLs": ["/a/b", "/b"]}]),
        r#"{NonResourceURLs:["/b"], Verbs:["get"]}"#,
    );
    let many: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let many: PolicyRule = read(json!({"verbs": many, "apiGroups": many, "resources": many}));
    assert!(missing(&[], &[many]).is_err());
}

fn policy() -> Policy {
    let mut cluster_roles = cluster_roles();
    cluster_roles.push(read::<ClusterRole>(json!({
        "metadata": {"name": "more-view", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["x"], "resources": ["things"]}],
    })));
    let mut cluster_role_bindings = cluster_role_bindings();
    cluster_role_bindings.push(read::<ClusterRoleBinding>(json!({
        "metadata": {"name": "eve"}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "apiGroup": RBAC, "name": "eve"}],
    })));
    let binding = |name: &str, role: Value, subject: Value| -> RoleBinding {
        read(json!({"metadata": {"name": name, "namespace": "a"}, "roleRef": role, "subjects": [subject]}))
    };
    let cluster = |name: &str| json!({"apiGroup": RBAC, "kind": "ClusterRole", "name": name});
    let role_bindings = vec![
        binding("team", cluster("view"), json!({"kind": "Group", "apiGroup": RBAC, "name": "team"})),
        binding("bot", json!({"apiGroup": RBAC, "kind": "Role", "name": "own"}), json!({"kind": "ServiceAccount", "name": "bot"})),
        binding("lost", cluster("gone"), json!({"kind": "User", "apiGroup": RBAC, "name": "lost"})),
        binding("ed", cluster("edit"), json!({"kind": "User", "apiGroup": RBAC, "name": "ed"})),
        binding("ad", cluster("admin"), json!({"kind": "User", "apiGroup": RBAC, "name": "ad"})),
    ];
    let roles = vec![read::<Role>(json!({
        "metadata": {"name": "own", "namespace": "a"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}],
    }))];
    Policy::new(Documents { roles, cluster_roles, role_bindings, cluster_role_bindings })
}

#[test]
fn bindings_hold_for_their_subjects_where_they_stand() {
    let policy = policy();
    let may = |user: &User, text: &str| policy.decide(user, &action(text)).is_allowed();
    let member = User::certified("mia", ["team".to_owned()]);
    assert!(may(&member, "get machines autovibe.dev a m"));
    assert!(may(&member, "get machines/log autovibe.dev a m"));
    assert!(!may(&member, "get machines autovibe.dev b m"));
    assert!(!may(&member, "list machines autovibe.dev - -"), "all namespaces are more than one");
    assert!(!may(&member, "get secrets - a s") && !may(&member, "create machines autovibe.dev a -"));
    assert!(may(&member, "get /apis") && may(&member, "create selfsubjectreviews authentication.k8s.io - -"));
    let bot = User::account("a", "bot", "u");
    assert!(may(&bot, "get secrets - a s") && !may(&bot, "get secrets - b s"));
    assert!(!may(&User::account("b", "bot", "u"), "get secrets - a s"), "a namesake from elsewhere");
    let eve = User::certified("eve", []);
    assert!(may(&eve, "delete hubs autovibe.dev - h") && may(&eve, "put /any"));
    assert!(may(&User::admin(), "delete hubs autovibe.dev - h"));
    // Roles take in what is aggregated to them, and to those that they take in.
    for user in ["ed", "ad"] {
        assert!(may(&User::certified(user, []), "get things x a t"), "{user}");
    }
    assert!(!may(&User::certified("ed", []), "update budgets autovibe.dev a b"));
    assert!(may(&User::certified("ad", []), "update budgets autovibe.dev a b"));
}

#[test]
fn decisions_say_why() {
    let policy = policy();
    let reason = |user: &User, text: &str| policy.decide(user, &action(text)).reason();
    let member = User::certified("mia", ["team".to_owned()]);
    let expect = r#"RBAC: allowed by RoleBinding "team/a" of ClusterRole "view" to Group "team""#;
    assert_eq!(reason(&member, "get machines autovibe.dev a m"), expect);
    let expect = r#"RBAC: allowed by RoleBinding "bot/a" of Role "own" to ServiceAccount "bot/a""#;
    assert_eq!(reason(&User::account("a", "bot", "u"), "get secrets - a s"), expect);
    let expect = r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#;
    assert_eq!(reason(&User::certified("lost", []), "get secrets - a s"), expect);
    assert_eq!(reason(&member, "get secrets - a s"), "");
    let refusal = |text: &str| action(text).refusal("mia");
    assert_eq!(refusal("get secrets - a s"), r#"User "mia" cannot get resource "secrets" in API group "" in the namespace "a""#);
    assert_eq!(refusal("list hubs/status g - -"), r#"User "mia" cannot list resource "hubs/status" in API group "g" at the cluster scope"#);
    assert_eq!(refusal("get /x"), r#"User "mia" cannot get path "/x""#);
}

#[test]
fn an_admin_of_a_namespace_can_grant_what_it_has_and_no_more() {
    let policy = policy();
    let (owned, _) = policy.rules(&User::certified("ad", []), "a");
    for (role, granted) in [("view", true), ("edit", true), ("admin", true), ("cluster-admin", false)] {
        let reference = read(json!({"apiGroup": RBAC, "kind": "ClusterRole", "name": role}));
        let wanted = policy.role(&reference, Some("a")).expect("it is there");
        assert_eq!(missing(&owned, wanted).expect("few").is_empty(), granted, "{role}");
    }
}

#[test]
fn a_machines_agent_may_do_what_its_permissions_say_in_its_own_namespace_and_nothing_else() {
    use crate::api::{Kind, Machine, Permission, machine::MachineSpec};
    let all = ["create checkpoints", "get budgets", "get checkpoints", "create machines", "list machines"];
    let never =
        ["delete checkpoints", "update machines", "get machines", "update budgets", "create budgets", "update approvals", "get secrets"];
    for (permissions, may) in [
        (vec![], vec![]),
        (vec![Permission::Checkpoint], vec!["create checkpoints"]),
        (vec![Permission::ReadBudget], vec!["get budgets"]),
        (vec![Permission::ReadLineage], vec!["get checkpoints"]),
        (vec![Permission::SpawnMachines], vec!["create machines", "list machines"]),
        (Permission::ALL.to_vec(), all.to_vec()),
    ] {
        let machine = Machine::new("shop", "m", MachineSpec { permissions, ..MachineSpec::default() });
        let (policy, user) = (policy_of(&machine), User::machine(&machine));
        assert_eq!((user.name.as_str(), user.is_master(), machine.name()), ("system:machine:shop:m", false, "m"));
        for text in all.iter().chain(&never) {
            let (verb, resource) = text.split_once(' ').unwrap();
            let at = |namespace| policy.decide(&user, &Action::on(verb, crate::api::GROUP, resource, namespace, "x")).is_allowed();
            assert_eq!((at("shop"), at("other"), at("")), (may.contains(text), false, false), "{text}");
        }
        let other = User::machine(&Machine::new("shop", "n", MachineSpec::default()));
        assert!(!policy.decide(&other, &Action::on("create", crate::api::GROUP, "checkpoints", "shop", "x")).is_allowed());
    }
}
