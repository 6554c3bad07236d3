//! A Machine whose agent asks to leave its VM, as its people see it: by webhook, status, events and commands, with hub and lab as processes.

use super::killed::{end, manifest};
use crate::process::{Hub, LabOf, refused, said, wait};
use ring::hmac;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;

const CONVERSATION: &str = "\
tokensPerSecond: 100000
thinkSeconds: 0
conversations:
  - match: work
    turns:
      - text: I publish it.
        tools: [{name: Bash, input: {command: 'git push https://example.org/x.git main'}}]
      - text: Done.
";
const KEY: &str = "a key of the webhook";

/// A receiver of webhooks: it refuses the first, then takes all; what it got, head and body.
fn receiver() -> (String, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for (count, socket) in listener.incoming().enumerate() {
            let (mut socket, mut bytes) = (socket.unwrap(), Vec::new());
            let (head, body) = loop {
                let mut piece = [0; 4096];
                let length = socket.read(&mut piece).unwrap();
                bytes.extend_from_slice(&piece[..length]);
                let text = String::from_utf8(bytes.clone()).unwrap();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let head = head.to_lowercase();
                let wanted =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
                if body.len() >= wanted {
                    break (head, body.to_owned());
                }
            };
            let status = if count == 0 { "503 Busy" } else { "204 No Content" };
            socket.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
            sender.send((head, body)).ok();
        }
    });
    (url, received)
}

fn get(data: &Path, what: &[&str]) -> Value {
    serde_json::from_str(&said(data, &[&["get"], what, &["-o", "json"]].concat())).unwrap()
}

/// Applies Hub, Secret and Machine.
fn apply(data: &Path, url: &str) {
    let file = manifest(data);
    std::fs::write(data.join("conversation.yaml"), CONVERSATION).unwrap();
    let documents = std::fs::read_to_string(&file).unwrap();
    let (hub, machine) = documents.split_once("\n---\n").unwrap();
    let mut hub: Value = serde_json::from_str(hub).unwrap();
    hub["spec"]["approvals"] = json!({ "webhook": { "url": url, "secretRef": { "name": "hook" } } });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "hook", "namespace": "autovibe-system" }, "stringData": { "key": KEY } });
    std::fs::write(&file, format!("{secret}\n---\n{hub}\n---\n{machine}\n")).unwrap();
    said(data, &["apply", "-f", &file]);
}

#[test]
fn people_are_told_of_a_call_that_leaves_the_vm_and_decide_it() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let _lab = LabOf(data.into());
    let hub = Hub::start(data, &["--lab", "simulated", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"]).serves();
    let (url, received) = receiver();
    apply(data, &url);

    let mut name = String::new();
    wait("an approval", || {
        let approvals: Value = serde_json::from_str(&said(data, &["approvals", "-o", "json"])).unwrap();
        name = approvals["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        !name.is_empty()
    });
    // Refused once, it came again; signed with the key.
    let (first, second) = (received.recv().unwrap(), received.recv().unwrap());
    assert_eq!(first, second);
    let (head, body) = second;
    let signed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), body.as_bytes());
    assert!(head.contains(&format!("x-hub-signature-256: sha256={}", hex::encode(signed))), "{head}");
    let news: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (news["event"].as_str(), news["machine"].as_str(), news["name"].as_str()),
        (Some("ApprovalRequested"), Some("a"), Some(&*name))
    );
    assert_eq!((news["asks"].as_str(), news["class"].as_u64()), (Some("git push https://example.org/x.git main"), Some(4)));
    wait("it is noted that it was taken", || get(data, &["approval", &name])["status"]["notifiedAt"].is_string());

    // The Machine says that it waits, and for what.
    wait("the Machine says so", || {
        let status = get(data, &["machine", "a"])["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "ApprovalPending" && c["status"] == "True")
            && status["message"].as_str().unwrap_or_default().starts_with("waits for a person: approval ")
    });
    let shown = said(data, &["approvals"]);
    for part in [
        &name,
        "machine a, tool Bash: git push, which leaves the VM",
        "checkpoint a-0001",
        "| git push https://example.org/x.git main",
        "then Deny",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(said(data, &["explain", "machine/a"]).contains("ApprovalPending is True (PersonNeeded): waits for a person"));

    assert!(refused(data, &["approve", "nothing"]).contains("there is no approval nothing"));
    assert!(said(data, &["approve", &name, "--reason", "go"]).contains("approved: git push"));
    assert!(said(data, &["approve", &name]).contains("approved by"), "twice is once");
    assert!(refused(data, &["deny", &name]).contains("what was decided stays"));
    let ended = end(data, "the agent goes on");
    assert_eq!(ended["status"]["terminationReason"], "Completed", "{:#}", ended["status"]);
    assert!(!ended["status"]["conditions"].to_string().contains("ApprovalPending"), "{:#}", ended["status"]);
    let approval = get(data, &["approval", &name]);
    assert!(approval["status"]["usedAt"].is_string() && approval["status"]["phase"] == "Approved", "{approval:#}");
    let events = said(data, &["get", "events", "-o", "json"]);
    for reason in ["ApprovalRequested", "ApprovalUsed", "WebhookFailed"] {
        assert!(events.contains(reason), "{reason}");
    }
    assert!(!hub.logged().contains(KEY) && !events.contains(KEY));
    // It goes with its Machine.
    said(data, &["delete", "machine", "a"]);
    wait("it is gone", || get(data, &["approvals"])["items"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(hub.terminate().0, Some(0));
}
