//! Manifests that are wrong in every way that we could think of, each with its one outcome, and nothing applied of any.
//!
//! `texts.yaml` is the table of texts that are malformed as a whole. Wrong fields come from the schemas: of each field of
//! each kind, what every other type, an unknown neighbour, a missing part and an unlisted choice must be answered with.
//! What `autovibe apply` says, with lines, is the matter of `files`.

mod fields;
mod files;
mod texts;

use crate::served::Client;
use autovibe::admission::resources;
use autovibe::api::Scope;
use reqwest::{Method, header};
use serde_json::Value;

/// What must come back.
#[derive(Debug)]
struct Outcome {
    code: u16,
    reason: String,
    /// Each must be in the message.
    says: Vec<String>,
}

/// What is to be sent, and must not be taken.
#[derive(Debug)]
struct Case {
    what: String,
    /// With query.
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
    outcome: Outcome,
}

impl Case {
    /// What is wrong with the answer.
    async fn fault(&self, client: &Client) -> Option<String> {
        let request = client.request(Method::POST, &self.path).header(header::CONTENT_TYPE, self.content_type);
        let (code, status) = client.send(request.body(self.body.clone())).await;
        let Outcome { code: expected, reason, says } = &self.outcome;
        let message = status["message"].as_str().unwrap_or_default();
        let fits = code == *expected && status["reason"] == reason.as_str() && says.iter().all(|part| message.contains(part));
        (!fits).then(|| format!("{}: expected {:?}, got {code} {}\n    of {}", self.what, self.outcome, status, self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(500).collect()
    }
}

/// Sends all of them; none may be taken, and nothing may be there afterwards.
async fn refuse_all(client: &Client, namespace: &str, cases: &[Case]) {
    let before = objects(client, namespace).await;
    let mut faults = Vec::new();
    for case in cases {
        faults.extend(case.fault(client).await);
    }
    assert!(faults.is_empty(), "{} of {} are answered wrongly:\n{}", faults.len(), cases.len(), faults.join("\n"));
    assert_eq!(objects(client, namespace).await, before, "nothing is applied of what is refused");
}

/// Names of everything that is there.
async fn objects(client: &Client, namespace: &str) -> Vec<String> {
    let mut names = Vec::new();
    for resource in resources().iter().filter(|resource| resource.kind != "Event") {
        let root = if resource.group.is_empty() { "/api/v1".into() } else { format!("/apis/{}", resource.api_version()) };
        let place = if resource.scope == Scope::Namespaced { format!("/namespaces/{namespace}") } else { String::new() };
        let (code, list) = client.get(&format!("{root}{place}/{}", resource.plural)).await;
        assert_eq!(code, 200, "{list}");
        let items = list["items"].as_array().into_iter().flatten();
        names.extend(items.map(|item: &Value| format!("{}/{}", resource.plural, item["metadata"]["name"])));
    }
    names
}
