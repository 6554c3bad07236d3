//! Access as kubectl's users type it: each step a command, and what it must say.

use crate::kubectl::{Kubectl, ok};
use crate::served::Served;
use autovibe::apiserver::{self, Credential};
use std::{os::unix::fs::PermissionsExt, process::Command};

/// A command, whether it succeeds, and a text that it says; an empty one is nothing at all.
type Step = (&'static str, bool, &'static str);

async fn steps(kubectl: &Kubectl, steps: &[Step]) {
    for (arguments, succeeds, expect) in steps {
        let (succeeded, text) = match kubectl.run(arguments).await {
            Ok(text) => (true, text),
            Err(text) => (false, text),
        };
        assert_eq!(succeeded, *succeeds, "kubectl {arguments}: {text}");
        let said = if expect.is_empty() { text.trim().is_empty() } else { text.contains(expect) };
        assert!(said, "kubectl {arguments} does not say {expect:?}: {text}");
    }
}

#[tokio::test]
async fn an_account_that_may_only_read_machines_of_one_namespace() {
    let Some(kubectl) = Kubectl::new("kubectl-access").await else { return };
    steps(
        &kubectl,
        &[
            ("create serviceaccount reader", true, "serviceaccount/reader created"),
            ("create role reads --verb=get,list,watch --resource=machines.autovibe.dev,machines.autovibe.dev/log", true, "role.rbac.authorization.k8s.io/reads created"),
            ("create rolebinding reader --role=reads --serviceaccount=kubectl-access:reader", true, "rolebinding.rbac.authorization.k8s.io/reader created"),
            ("create clusterrole urls --verb=get --non-resource-url=/metrics", true, "clusterrole.rbac.authorization.k8s.io/urls created"),
            ("create clusterrole gathers --aggregation-rule=a=b", true, "clusterrole.rbac.authorization.k8s.io/gathers created"),
            ("create clusterrolebinding urls --clusterrole=urls --user=eve --group=devs", true, "clusterrolebinding.rbac.authorization.k8s.io/urls created"),
            ("create role named --verb=get --resource=secrets --resource-name=s", true, "created"),
            ("create role bad --verb=get --resource=nonsense", false, "the server doesn't have a resource type \"nonsense\""),
            ("get roles", true, "CREATED AT"),
            ("get role reads -o jsonpath={.rules[0].resources}", true, "[\"machines\",\"machines/log\"]"),
            ("get rolebindings -o wide", true, "Role/reads"),
            ("get rolebindings -o wide", true, "kubectl-access/reader"),
            ("get clusterrolebinding urls -o wide", true, "eve"),
            ("describe role reads", true, "machines.autovibe.dev/log"),
            ("describe rolebinding reader", true, "ServiceAccount  reader"),
            ("describe clusterrole urls", true, "/metrics"),
            ("get clusterroles", true, "cluster-admin"),
            ("explain rolebinding.subjects", true, "apiGroup"),
            ("auth can-i list machines --as=system:serviceaccount:kubectl-access:reader", true, "yes"),
            ("auth can-i list machines -A --as=system:serviceaccount:kubectl-access:reader", false, "no"),
            ("auth can-i get /metrics --as=eve", true, "yes"),
            ("auth can-i get /metrics --as=bob --as-group=devs", true, "yes"),
            ("auth can-i get /metrics --as=bob", false, "no"),
            ("auth can-i create machines --as=bob", false, "no"),
            ("auth whoami --as=bob --as-group=x", true, "bob"),
            ("get machines --as=bob", false, "Error from server (Forbidden): machines.autovibe.dev is forbidden: User \"bob\" cannot list resource \"machines\" in API group \"autovibe.dev\" in the namespace \"kubectl-access\""),
            ("auth reconcile -f none.yaml", false, "none.yaml"),
        ],
    )
    .await;
    let machine = "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: m}\nspec:\n  from: {image: micro}\n  goal: {prompt: x}\n  agent: {type: Command, command: [\"true\"]}\n";
    ok(kubectl.on_file("create", machine).await);

    let token = ok(kubectl.run("create token reader --duration=1h").await);
    let server = Served::shared();
    let cluster = serde_json::json!({"server": server.url, "certificate-authority": server.directory.join("ca.crt")});
    let config = kubectl.home.path().join("reader");
    std::fs::write(&config, apiserver::kubeconfig(&cluster, "reader", &Credential::Token(token.trim().into()), "default")).unwrap();
    let refused = |what: &str| format!("User \"system:serviceaccount:kubectl-access:reader\" cannot {what}");
    let kubectl = kubectl.with_config(config);
    steps(
        &kubectl,
        &[
            ("get machines", true, "m "),
            ("get machine m -o name", true, "machine.autovibe.dev/m"),
            ("auth can-i get machines", true, "yes"),
            ("auth can-i get machines --subresource=log", true, "yes"),
            ("auth can-i delete machines", false, "no"),
            ("auth can-i get secret/s", false, "no"),
            ("auth can-i --list", true, "machines.autovibe.dev/log"),
            ("auth can-i --list", true, "[/openapi/*]"),
            ("auth whoami", true, "system:serviceaccount:kubectl-access:reader"),
            ("api-resources --api-group=autovibe.dev", true, "machines"),
            ("version", true, "Server Version: v1.34"),
            ("wait machine/m --for=jsonpath={.spec.operatingMode}=Running --timeout=10s", true, "condition met"),
        ],
    )
    .await;
    for (arguments, what) in [
        ("get secrets", "list resource \"secrets\" in API group \"\" in the namespace \"kubectl-access\""),
        ("get machines -n default", "list resource \"machines\" in API group \"autovibe.dev\" in the namespace \"default\""),
        ("get machines -A", "list resource \"machines\" in API group \"autovibe.dev\" at the cluster scope"),
        ("delete machine m", "delete resource \"machines\" in API group \"autovibe.dev\" in the namespace \"kubectl-access\""),
        ("label machine m a=b", "patch resource \"machines\" in API group \"autovibe.dev\" in the namespace \"kubectl-access\""),
        ("create serviceaccount x", "create resource \"serviceaccounts\" in API group \"\" in the namespace \"kubectl-access\""),
        ("create token reader", "create resource \"serviceaccounts/token\" in API group \"\" in the namespace \"kubectl-access\""),
        ("get hubs", "list resource \"hubs\" in API group \"autovibe.dev\" at the cluster scope"),
        ("get ns default", "get resource \"namespaces\" in API group \"\" in the namespace \"default\""),
        ("get machines --as=bob", "impersonate resource \"users\" in API group \"\" at the cluster scope"),
        ("get --raw /metrics", "get path \"/metrics\""),
    ] {
        let said = kubectl.run(arguments).await.expect_err(arguments);
        assert!(said.to_lowercase().contains("forbidden") && said.contains(&refused(what)), "kubectl {arguments}: {said}");
    }
    let said = kubectl.on_file("create", &machine.replace("name: m", "name: other")).await.expect_err("it only reads");
    assert!(said.contains(&refused("create resource \"machines\"")), "{said}");
}

#[tokio::test]
async fn kubeconfigs_that_autovibe_writes_let_in_whom_they_say() {
    let Some(kubectl) = Kubectl::new("kubectl-config").await else { return };
    let server = Served::shared();
    ok(kubectl.run("create serviceaccount bot").await);
    ok(kubectl.run("create rolebinding devs --clusterrole=view --group=devs").await);
    ok(kubectl.run("create rolebinding bot --clusterrole=edit --serviceaccount=kubectl-config:bot").await);
    let autovibe = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
        command
            .arg("--data")
            .arg(&server.directory)
            .args(arguments.split_whitespace())
            .env_remove("KUBECONFIG")
            .env_remove("AUTOVIBE_DATA");
        command.output().unwrap()
    };
    let file = |name: &str| kubectl.home.path().join(name);
    let write = |arguments: &str, name: &str| {
        let output = autovibe(&format!("kubeconfig {arguments} --file {}", file(name).display()));
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::metadata(file(name)).unwrap().permissions().mode() & 0o777, 0o600);
        file(name)
    };
    let carol = write("--user carol --group devs --group others -n kubectl-config", "carol");
    let bot = write("--service-account kubectl-config/bot --duration 1h", "bot");
    for (arguments, complaint) in [
        ("kubeconfig", "--user"),
        ("kubeconfig --user a --service-account b", "cannot be used with"),
        ("kubeconfig --user a --duration 9000h", "out of range"),
        ("kubeconfig --user system:admin", "the server's own"),
        ("kubeconfig --service-account kubectl-config/none", "serviceaccounts \"none\" not found"),
    ] {
        let output = autovibe(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(complaint), "{arguments}: {said}");
    }
    // Our own commands take it too.
    let output = Command::new(env!("CARGO_BIN_EXE_autovibe")).arg("--kubeconfig").arg(&carol).args(["get", "machines"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kubectl = kubectl.with_config(carol);
    steps(
        &kubectl,
        &[
            ("auth whoami", true, "[devs others system:authenticated]"),
            ("get machines", true, ""),
            ("get secrets", false, "User \"carol\" cannot list resource \"secrets\""),
        ],
    )
    .await;
    let kubectl = kubectl.with_config(bot);
    steps(
        &kubectl,
        &[
            ("auth whoami", true, "system:serviceaccount:kubectl-config:bot"),
            ("create secret generic s --from-literal=a=b", true, "secret/s created"),
            ("create rolebinding more --clusterrole=admin --user=x", false, "cannot create resource \"rolebindings\""),
        ],
    )
    .await;
}
