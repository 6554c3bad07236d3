//! `autovibe watch MACHINE`: one Machine as it lives, over a restart of the hub, to its end.

use crate::process::{ANY_PORTS, Hub, autovibe, refused, said, wait, write};
use autovibe::remote::Client;
use serde_json::{Value, json};
use std::{path::Path, process::Stdio};

const MACHINES: &str = "/apis/autovibe.dev/v1alpha1/namespaces/default/machines";
const CHECKPOINTS: &str = "/apis/autovibe.dev/v1alpha1/namespaces/default/checkpoints";
const MANIFEST: &str = "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: m, namespace: default}\n\
                        spec: {from: {image: debian}, goal: {prompt: work}}\n";

/// Writes as the controllers do, which do not run here.
struct Controllers(tokio::runtime::Runtime, Client);

impl Controllers {
    fn of(data: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rustls::crypto::ring::default_provider().install_default().ok();
        Self(runtime, Client::open(&data.join("kubeconfig"), None).unwrap())
    }
    fn status(&self, path: &str, status: Value) {
        self.0.block_on(self.1.merge(&format!("{path}/status"), &json!({ "status": status }))).unwrap();
    }
    fn checkpoint(&self, name: &str, trigger: &str, status: Value) {
        let document = json!({
            "apiVersion": "autovibe.dev/v1alpha1", "kind": "Checkpoint", "metadata": { "name": name },
            "spec": { "machine": "m", "trigger": trigger },
        });
        self.0.block_on(self.1.create(CHECKPOINTS, &document)).unwrap();
        self.status(&format!("{CHECKPOINTS}/{name}"), status);
    }
}

#[test]
fn a_machine_is_watched_to_its_end_over_a_restart_of_the_hub() {
    let data = tempfile::tempdir().unwrap();
    let hub = Hub::start(data.path(), &[&ANY_PORTS[..], &["--no-controllers"]].concat()).serves();
    said(data.path(), &["apply", "-f", &write(&data.path().join("m.yaml"), MANIFEST)]);
    let m = format!("{MACHINES}/m");
    let controllers = Controllers::of(data.path());
    controllers.checkpoint("m-0001", "BetweenMessages", json!({ "phase": "Ready", "took": "31ms", "capturedAt": "2026-01-01T00:00:07Z" }));

    let shown = data.path().join("shown");
    let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_autovibe"))
        .arg("--data")
        .arg(data.path())
        .args(["watch", "m"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&shown).unwrap())
        .stderr(std::fs::File::create(data.path().join("complaints")).unwrap())
        .spawn()
        .unwrap();
    let text = || std::fs::read_to_string(&shown).unwrap();
    let shows = |what: &str| wait(what, || text().contains(what));
    shows("── checkpoint 00:00:07  m-0001: between messages, took 31 ms\n");
    controllers
        .status(&m, json!({ "phase": "Running", "message": "the agent works", "usage": { "apiCalls": 1 }, "spent": "$0.22 of $5.00" }));
    shows("  Running: the agent works\n");
    shows("  $0.22 of $5.00, 1 calls\n");
    // A Checkpoint is shown when it is taken, not when it is asked for.
    controllers.checkpoint("m-0002", "Requested", json!({ "phase": "Pending" }));

    hub.kill();
    wait("a complaint", || std::fs::read_to_string(data.path().join("complaints")).unwrap().contains("asking again"));
    let _hub = Hub::start(data.path(), &["--lab", "off", "--no-controllers"]).serves();
    let controllers = Controllers::of(data.path());
    controllers.status(&format!("{CHECKPOINTS}/m-0002"), json!({ "phase": "Ready" }));
    shows("  m-0002: was asked for\n");
    controllers.checkpoint("m-final", "Final", json!({ "phase": "Ready" }));
    controllers.status(&m, json!({ "phase": "Failed", "message": "the verify command did not pass" }));
    assert_eq!(watch.wait().unwrap().code(), Some(1));
    let text = text();
    for once in ["m-0001:", "m-0002:", "m-final: final", "Running: the agent works", "$0.22", "Failed: the verify command did not pass"] {
        assert_eq!(text.matches(once).count(), 1, "{once}\n{text}");
    }
    assert!(text.trim_end().ends_with("Failed: the verify command did not pass"), "{text}");

    // One that has ended is told at once; the exit code says how.
    controllers.status(&m, json!({ "phase": "Succeeded" }));
    let told = said(data.path(), &["watch", "machine/m"]);
    assert!(told.find("m-0001").is_some_and(|at| told[at..].contains("Succeeded")), "{told}");
    let error = refused(data.path(), &["watch", "nobody"]);
    assert!(error.contains("there is no machine nobody in namespace default"), "{error}");
    assert_eq!(autovibe(data.path(), &["watch", "nothing/x"]).status.code(), Some(1));
}
