//! Who may do what: the whole matrix, credentials and their ends, grants that go too far, and kubectl as its users type it.

mod credentials;
mod grants;
mod kubectl;
mod matrix;
mod rotation;
mod rotation_live;

use crate::served::Client;
use serde_json::{Value, json};

pub(crate) const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Makes a ServiceAccount and returns its token.
pub(crate) async fn account(client: &Client, namespace: &str, name: &str) -> String {
    let (code, answer) =
        client.post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &json!({"metadata": {"name": name}})).await;
    assert_eq!(code, 201, "{answer}");
    token(client, namespace, name).await
}

async fn token(client: &Client, namespace: &str, name: &str) -> String {
    let (code, answer) = client.post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"), &json!({})).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

pub(crate) fn to_account(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
}

fn to_person(kind: &str, name: &str) -> Value {
    json!({"kind": kind, "apiGroup": "rbac.authorization.k8s.io", "name": name})
}

/// Gives a ClusterRole to a subject in a namespace.
pub(crate) async fn bind(client: &Client, namespace: &str, name: &str, cluster_role: &str, subject: Value) {
    let binding = json!({
        "metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": cluster_role},
    });
    let (code, answer) = client.post(&format!("{RBAC}/namespaces/{namespace}/rolebindings"), &binding).await;
    assert_eq!(code, 201, "{answer}");
}
