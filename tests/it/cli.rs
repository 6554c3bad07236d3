//! The executable as people use it: `up` and its restarts, and what the commands say.

use crate::process::{ANY_PORTS, Hub, LabOf, autovibe, refused, said, wait, write};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const BUDGET: &str = "apiVersion: autovibe.dev/v1alpha1\nkind: Budget\nmetadata: {name: team, namespace: default}\nspec: {limits: {money: {amount: \"5\"}}}\n";

#[test]
fn up_says_where_it_serves_and_ends_in_order() {
    let data = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let hub = Hub::start(data.path(), &ANY_PORTS).serves();
    // It takes a fraction of a second; the rest is for a machine that compiles something else meanwhile.
    assert!(started.elapsed() < Duration::from_secs(20), "serving took {:?}", started.elapsed());
    let (code, text) = hub.terminate();
    assert_eq!(code, Some(0), "{text}");
    let kubeconfig = std::fs::read_to_string(data.path().join("kubeconfig")).unwrap();
    let url = text.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
    assert!(kubeconfig.contains(url), "{text}\n{kubeconfig}");
    assert!(text.contains("kubectl --kubeconfig ") && text.trim_end().ends_with("`autovibe up` goes on from here."), "{text}");
    let error = refused(data.path(), &["get", "machines"]);
    assert!(error.contains("does not answer") && error.contains("autovibe up"), "{error}");
}

#[test]
fn a_killed_hub_goes_on_where_it_was_under_the_same_address() {
    let data = tempfile::tempdir().unwrap();
    let manifest = write(&data.path().join("b.yaml"), BUDGET);
    let hub = Hub::start(data.path(), &ANY_PORTS).serves();
    assert_eq!(said(data.path(), &["apply", "-f", &manifest]), "budget/team created\n");
    let uid = said(data.path(), &["get", "budget", "team", "-o", "json"]);
    let uid = uid.lines().find(|line| line.contains("\"uid\"")).unwrap().to_owned();
    let before = std::fs::read_to_string(data.path().join("kubeconfig")).unwrap();
    hub.kill();

    let _hub = Hub::start(data.path(), &["--lab", "off"]).serves();
    assert_eq!(std::fs::read_to_string(data.path().join("kubeconfig")).unwrap(), before, "clients need nothing new");
    assert!(said(data.path(), &["get", "budget/team", "-o", "json"]).contains(&uid));
    assert_eq!(said(data.path(), &["apply", "-f", &manifest]), "budget/team unchanged\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_is_for_the_names_that_clients_elsewhere_use() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = tempfile::tempdir().unwrap();
    let start = |more: &[&str]| Hub::start(data.path(), &[&ANY_PORTS[..], &["--api-only"], more].concat()).serves();
    // Whether a client that trusts the CA believes that it speaks to this one.
    let believes = async |name: &'static str| {
        let ca = std::fs::read(data.path().join("ca.crt")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let kubeconfig = std::fs::read_to_string(data.path().join("kubeconfig")).unwrap();
        let address = kubeconfig.lines().find_map(|line| line.split_once("https://")).unwrap().1.to_owned();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(ServerName::try_from(name).unwrap(), stream).await.is_ok()
    };
    let hub = start(&[]);
    assert!(believes("localhost").await && believes("127.0.0.1").await && !believes("hub.example.org").await);
    let ca = std::fs::read(data.path().join("ca.crt")).unwrap();
    let text = said(data.path(), &["kubeconfig", "--user", "carol", "--server", "https://hub.example.org:6443/"]);
    assert!(text.contains("server: https://hub.example.org:6443\n"), "{text}");
    hub.kill();
    let hub = start(&["--tls-san", "hub.example.org", "--tls-san", "192.0.2.7", "--tls-san", "2001:db8::7"]);
    for name in ["localhost", "hub.example.org", "192.0.2.7", "2001:db8::7"] {
        assert!(believes(name).await, "{name}");
    }
    assert!(!believes("hub.example.com").await && !believes("192.0.2.8").await);
    hub.kill();
    // They stay until others are named, as the address does, and whom clients trust is the same.
    let hub = start(&[]);
    assert!(believes("hub.example.org").await && believes("192.0.2.7").await);
    hub.kill();
    let hub = start(&["--tls-san", "other.example.org"]);
    assert!(believes("other.example.org").await && !believes("hub.example.org").await);
    assert_eq!(std::fs::read(data.path().join("ca.crt")).unwrap(), ca);
    hub.kill();
    // A key that was copied to another server is kept, and what it signed is trusted.
    std::fs::remove_file(data.path().join("ca.crt")).unwrap();
    let key = std::fs::read(data.path().join("ca.key")).unwrap();
    let hub = start(&[]);
    std::fs::write(data.path().join("ca.crt"), &ca).unwrap();
    assert!(believes("other.example.org").await);
    assert_eq!(std::fs::read(data.path().join("ca.key")).unwrap(), key);
    drop(hub);

    for wrong in ["https://hub.example.org", "hub.example.org:6443", "0.0.0.0", "10.0.0.300", "hub example", "hub.example.org.", ""] {
        let output = autovibe(data.path(), &["up", "--tls-san", wrong]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}: {error}");
        assert!(error.contains("--tls-san") && error.contains("such as hub.example.org or 192.0.2.7"), "{error}");
    }
    for wrong in ["hub.example.org", "http://hub.example.org", "https://"] {
        let output = autovibe(data.path(), &["kubeconfig", "--user", "carol", "--server", wrong]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains("--server") && error.contains("such as https://"), "{error}");
    }
}

#[test]
fn a_second_hub_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let hub = Hub::start(data.path(), &ANY_PORTS).serves();
    let error = refused(data.path(), &["up", "--lab", "off"]);
    assert!(error.contains(&hub.child.id().to_string()) && error.contains("stop it first"), "{error}");
    // The one that runs is not disturbed.
    said(data.path(), &["get", "hubs"]);
}

#[test]
fn a_malformed_manifest_applies_nothing_and_is_named_by_file_document_and_field() {
    let data = tempfile::tempdir().unwrap();
    let _hub = Hub::start(data.path(), &ANY_PORTS).serves();
    let machine = "---\napiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: m}\n";
    // What is wrong, the line it is on, and what is said of it.
    for (wrong, line, expect) in [
        ("spec:\n  from: {image: debian}\n  goal: {prompt: x}\n  colour: red\n", 12, "spec.colour: there is no such field"),
        ("spec:\n  goal: {prompt: x}\n", 9, "spec.from: Required value"),
        (
            "spec:\n  from: {image: debian}\n  goal: {prompt: x}\n  resources:\n    cpu: \"1\"\n    memory: lots\n",
            14,
            "spec.resources.memory",
        ),
        ("spec:\n  from: {image: debian}\n  goal: {prompt: x}\n  agent:\n    type: Parrot\n", 13, "spec.agent.type: Unsupported value"),
        ("spec:\n  from: {image: debian}\n  goal:\n    prompt: true\n", 12, "spec.goal.prompt: Invalid value: \"boolean\""),
        (
            "spec:\n  from: {image: debian}\n  goal:\n    prompt: x\n    after:\n    - a\n    - a\n",
            15,
            "spec.goal.after[1]: Duplicate value: \"a\"",
        ),
    ] {
        let file = write(&data.path().join("m.yaml"), &format!("{BUDGET}{machine}{wrong}"));
        let error = refused(data.path(), &["apply", "-f", &file]);
        let expect = format!("nothing was applied: {file}, document 2 (Machine default/m), line {line}: {expect}");
        assert!(error.contains(&expect), "{error}\n{expect}");
    }
    // What is no manifest at all.
    for (wrong, expect) in [
        ("spec:\n\tfrom: {image: debian}\n", "document 2: spec: found character that cannot start any token at line 10 column 1"),
        ("spec: {from: {image: debian}\n", "document 2: "),
        ("spec: {goal: {prompt: a, prompt: b}}\n", "document 2, line 9: spec.goal.prompt: is written twice"),
        ("spec: {goal: {maxTurns: .nan}}\n", "document 2: spec.goal.maxTurns: NaN is no number that JSON has at line 9"),
        ("spec: *nothing\n", "document 2: spec: unknown anchor at line 9"),
        ("spec: !python/object:os.system {}\n", "document 2: spec: invalid type: enum"),
        ("---\njust words\n", "document 3: it is no object"),
        (
            "---\napiVersion: autovibe.dev/v2\nkind: Machine\nmetadata: {name: n}\n",
            "document 3: apiVersion: `autovibe.dev/v2` has no kind Machine",
        ),
        ("---\napiVersion: autovibe.dev/v1alpha1\nkind: Mashine\nmetadata: {name: n}\n", "document 3: kind: `Mashine` is not known"),
    ] {
        let file = write(&data.path().join("m.yaml"), &format!("{BUDGET}{machine}{wrong}"));
        let error = refused(data.path(), &["apply", "-f", &file]);
        assert!(error.contains("nothing was applied") && error.contains(&format!("{file}, {expect}")), "{error}\n{expect}");
    }
    let utf16: Vec<u8> = std::iter::once(0xfeff).chain(BUDGET.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let file = data.path().join("m.yaml").display().to_string();
    std::fs::write(&file, utf16).unwrap();
    assert!(refused(data.path(), &["apply", "-f", &file]).contains("UTF-8"));
    assert_eq!(said(data.path(), &["get", "budgets", "-o", "name"]), "", "a good document was applied too");
    // Aliases and merge keys are followed, and a byte order mark is no mistake.
    let shared = "spec: {from: &base {image: debian}, goal: {prompt: x}, source: {<<: &s {git: \"https://git.example/a\"}, ref: main}}\n";
    let file = write(&data.path().join("m.yaml"), &format!("\u{feff}{BUDGET}{machine}{shared}"));
    assert_eq!(said(data.path(), &["apply", "-f", &file]), "budget/team created\nmachine/m created\n");
}

#[test]
fn people_get_tables_programs_get_documents() {
    let data = tempfile::tempdir().unwrap();
    let _hub = Hub::start(data.path(), &ANY_PORTS).serves();
    said(data.path(), &["apply", "-f", "examples/quickstart"]);
    let table = said(data.path(), &["get", "machines", "-n", "todo"]);
    assert!(table.lines().next().unwrap().starts_with("NAME ") && table.contains("add-tests"), "{table}");
    let list: serde_json::Value = serde_json::from_str(&said(data.path(), &["get", "machines", "-A", "-o", "json"])).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    wait("a status", || {
        said(data.path(), &["explain", "machine/add-tests", "-n", "todo"]).contains("Waiting for machine add-authentication")
    });
    let lineage = said(data.path(), &["lineage", "-n", "todo"]);
    let asked = |name: &str, machine: &str| {
        format!(
            "apiVersion: autovibe.dev/v1alpha1\nkind: Checkpoint\nmetadata: {{name: {name}, namespace: todo}}\nspec: {{machine: {machine}}}\n---\n"
        )
    };
    let file = write(&data.path().join("c.yaml"), &format!("{}{}", asked("x", "add-tests"), asked("y", "add-authentication")));
    said(data.path(), &["apply", "-f", &file]);
    let retention = said(data.path(), &["retention", "-n", "todo", "machine/add-tests"]);
    assert!(retention.contains("it is not taken yet") && !retention.contains("add-authentication"), "{retention}");
    let all: serde_json::Value = serde_json::from_str(&said(data.path(), &["retention", "-n", "todo", "-o", "json"])).unwrap();
    let rows: Vec<_> = all.as_array().unwrap().iter().map(|row| (row["checkpoint"].as_str().unwrap(), row["goes"].as_bool())).collect();
    assert_eq!(rows, [("y", Some(false)), ("x", Some(false))], "{all}");
    let order: Vec<Option<usize>> = ["todo-a", "└─ add-authentication", "   └─ add-tests"].iter().map(|what| lineage.find(what)).collect();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{lineage}");
    let dot = said(data.path(), &["lineage", "machine/add-authentication", "-n", "todo", "-o", "dot"]);
    let edges: Vec<&str> = dot.lines().filter(|line| line.contains(" -> ")).collect();
    assert_eq!(edges.len(), 4, "{dot}");
    assert!(edges[0].contains(r#""todo/checkpoint/todo-a" -> "todo/machine/add-authentication" [label="Add "#), "{dot}");
    let svg = said(data.path(), &["lineage", "-n", "todo", "-o", "svg"]);
    assert!(svg.contains("<svg ") && svg.trim_end().ends_with("</svg>") && svg.contains(">add-tests</text>"), "{svg}");
    let error = refused(data.path(), &["lineage", "machine/nobody", "-n", "todo"]);
    assert!(error.contains("no machine or checkpoint machine/nobody in namespace todo"), "{error}");
    assert_eq!(autovibe(data.path(), &["get", "machines", "-o", "svg"]).status.code(), Some(2));
    assert_eq!(said(data.path(), &["delete", "machine", "add-tests", "-n", "todo"]), "machine/add-tests deleted\n");
    let error = refused(data.path(), &["describe", "machine/add-tests", "-n", "todo"]);
    assert!(error.contains("\"add-tests\" not found"), "{error}");
}

#[test]
fn an_image_takes_only_agents_that_there_are() {
    let data = tempfile::tempdir().unwrap();
    let text = refused(data.path(), &["image", "build", "debian", "--agents", "claude-code,cursor=1.0"]);
    assert!(text.contains("there is no agent `cursor` to put into an image; there are claude-code, qwen-code, aider"), "{text}");
    assert!(!data.path().join("images").exists(), "nothing was begun");
}

#[test]
fn without_a_hub_it_says_how_to_get_one() {
    let data = tempfile::tempdir().unwrap();
    let error = refused(data.path(), &["get", "machines"]);
    assert!(error.contains("autovibe up") && error.contains("kubeconfig"), "{error}");
    assert_eq!(autovibe(data.path(), &["get"]).status.code(), Some(2), "a wrong command line is another matter");
}

#[test]
fn the_lab_outlives_a_killed_hub_and_is_found_again() {
    let data = tempfile::tempdir().unwrap();
    let _lab = LabOf(data.path().into());
    let arguments = ["--lab", "simulated", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];
    let ready = || said(data.path(), &["get", "hub", "default", "-o", "json"]).contains("proxmoxVersion");
    let made = || autovibe(data.path(), &["get", "hub", "default"]).status.success();
    let pid = || {
        let endpoint: serde_json::Value = serde_json::from_slice(&std::fs::read(data.path().join("lab/endpoint.json")).unwrap()).unwrap();
        endpoint["pid"].as_u64().unwrap()
    };
    let hub = Hub::start(data.path(), &arguments).serves();
    wait("the Hub that drives the lab", made);
    wait("an answer of the lab", ready);
    let fine = said(data.path(), &["doctor", "--hub", "default"]);
    assert!(fine.contains("✔ Proxmox 9.") && fine.contains("✔ the token may do all that is needed"), "{fine}");
    let agrees = said(data.path(), &["audit"]);
    assert!(agrees.starts_with("hub/default: all agrees; ") && agrees.trim_end().ends_with("0 VMs were looked at"), "{agrees}");
    let error = refused(data.path(), &["audit", "nowhere"]);
    assert!(error.contains("there is no hub nowhere") && error.contains("autovibe get hubs"), "{error}");
    let error = refused(data.path(), &["verify", "checkpoint/nowhere"]);
    assert!(error.contains("there is no checkpoint nowhere in namespace default"), "{error}");
    let first = pid();
    hub.kill();
    assert!(Path::new(&format!("/proc/{first}")).exists(), "the lab went with the hub");

    let hub = Hub::start(data.path(), &["--lab", "simulated"]).serves();
    wait("an answer of the lab", ready);
    assert_eq!(pid(), first, "a second lab was started");
    hub.kill();
    let text = said(data.path(), &["lab", "stop"]);
    assert!(text.contains("ended, and 0 guests"), "{text}");
    // Its parent is gone, so whoever reaps orphans may leave a zombie for a moment; it has no command line any more.
    assert!(std::fs::read(format!("/proc/{first}/cmdline")).unwrap_or_default().is_empty());
    assert!(said(data.path(), &["lab", "stop"]).starts_with("No lab runs in "));
    assert!(said(data.path(), &["lab", "remove"]).starts_with("No lab runs in "));
    assert!(!data.path().join("lab").exists() && data.path().join("kubeconfig").exists());
}

#[test]
fn a_lab_begins_from_a_file_and_prints_its_tokens() {
    let data = tempfile::tempdir().unwrap();
    let file = write(&data.path().join("lab.yaml"), "users: [{ userid: a@pve, tokens: [{ tokenid: t1, secret: s3cret }] }]");
    let lab = data.path().join("lab");
    let arguments = ["lab", "--mode", "simulated", "--listen", "127.0.0.1:0", "--config", &file];
    {
        let mut process = Hub::lab(&lab, &arguments[1..]);
        let out = std::io::BufReader::new(process.child.stdout.take().unwrap());
        let lines: Vec<String> = std::io::BufRead::lines(out).map(Result::unwrap).take(3).collect();
        assert!(lines[0].starts_with("The lab serves on http://127.0.0.1:") && lines[0].ends_with(". Its tokens:"), "{lines:?}");
        assert_eq!(lines[1], "PVEAPIToken=a@pve!t1=s3cret");
        assert!(lines[2].starts_with("PVEAPIToken=autovibe@pve!lab="), "{lines:?}");
        assert!(!std::fs::read_to_string(lab.join(crate::process::LOG)).unwrap().contains("s3cret"), "a secret is in its log");
    }
    // From another file it does not go on, and from a wrong one it does not begin.
    let other = write(&data.path().join("other.yaml"), "nodes: [{ node: pve1 }]");
    let text = refused(&lab, &[&arguments[..6], &[other.as_str()]].concat());
    assert!(text.contains("other.yaml: the file: the lab's directory has another state already"), "{text}");
    let wrong = write(&data.path().join("wrong.yaml"), "vms: [{ vmid: 100, config: { scsi0: 'nas:1' } }]");
    let text = refused(&data.path().join("new"), &[&arguments[..6], &[wrong.as_str()]].concat());
    assert!(text.contains("wrong.yaml: vms[0]: storage 'nas' does not exist"), "{text}");
}
