//! Checkpoints as files: out of one hub, into another, and what is refused on the way.

use crate::machine::killed::{end, manifest};
use crate::process::{Hub, LabOf, autovibe, refused, said, wait};
use serde_json::Value;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const ANY: [&str; 6] = ["--lab", "simulated", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];

/// In the environment of the exported Machine's agent.
const SECRET: &str = "not-for-others-5f1c";

/// A hub with its lab, in a directory of its own.
struct Side {
    // In this order they go: a hub starts a lab that ended again.
    hub: Option<Hub>,
    _lab: LabOf,
    directory: tempfile::TempDir,
}

impl Side {
    fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let directory = tempfile::tempdir().unwrap();
        let lab = LabOf(directory.path().into());
        let hub = Some(Hub::start(directory.path(), &ANY).serves());
        Self { hub, _lab: lab, directory }
    }
    fn data(&self) -> &Path {
        self.directory.path()
    }
    fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }
    fn checkpoint(&self, name: &str) -> Option<Value> {
        let output = autovibe(self.data(), &["get", "checkpoint", name, "-o", "json"]);
        serde_json::from_slice(&output.stdout).ok()
    }
    /// Every dataset and snapshot that an import may have left.
    fn imported(&self) -> Vec<String> {
        let state = std::fs::read_to_string(self.data().join("lab/state.json")).unwrap_or_default();
        state.split('"').filter(|text| text.contains("/c-")).map(str::to_owned).collect()
    }
    /// Waits until its controllers lead, and the Hub is connected.
    fn leads(&self) {
        wait("the hub is connected", || {
            let output = autovibe(self.data(), &["get", "hub", "default", "-o", "json"]);
            String::from_utf8_lossy(&output.stdout).contains("\"Ready\"")
        });
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// One that has lived, with its final checkpoint in a file.
fn exported() -> (Side, PathBuf) {
    let side = Side::start();
    let file = manifest(side.data());
    let text_of = std::fs::read_to_string(&file).unwrap();
    let model = r#""model":"claude-sonnet-4-5""#;
    assert!(text_of.contains(model));
    std::fs::write(&file, text_of.replace(model, &format!(r#"{model},"env":{{"API_KEY":"{SECRET}"}}"#))).unwrap();
    said(side.data(), &["apply", "-f", &file]);
    end(side.data(), "the life to be exported");
    let file = side.file("a.tar");
    said(side.data(), &["export", "a-final", "--to", &text(&file)]);
    (side, file)
}

fn tar(file: &Path, into: &Path) {
    std::fs::create_dir_all(into).unwrap();
    assert!(Command::new("tar").arg("-xf").arg(file).arg("-C").arg(into).status().unwrap().success());
}

#[test]
fn a_checkpoint_goes_from_hub_to_hub_and_is_spawned_from() {
    let (one, file) = exported();
    // Any tool opens and checks it.
    let out = one.file("out");
    tar(&file, &out);
    let sums = Command::new("sha256sum").args(["--quiet", "-c", "SHA256SUMS"]).current_dir(&out).status().unwrap();
    assert!(sums.success());
    let manifest: Value = serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let source = one.checkpoint("a-final").unwrap();
    assert_eq!(manifest["checkpoint"]["uid"], source["metadata"]["uid"]);
    assert_eq!(manifest["disks"][0]["guid"], source["status"]["volumes"][0]["guid"]);
    assert!(!manifest["checkpoint"]["ancestors"].as_array().unwrap().is_empty(), "{manifest:#}");
    assert!(!manifest.to_string().contains(SECRET), "{manifest:#}");
    // What is there already is not written over.
    assert!(refused(one.data(), &["export", "a-final", "--to", &text(&file)]).contains("exists"));

    let two = Side::start();
    two.leads();
    let name = text(&file);
    assert!(said(two.data(), &["import", &name]).contains("checkpoint/a-final imported"));
    let imported = two.checkpoint("a-final").unwrap();
    assert_eq!(imported["status"]["phase"], "Ready", "{imported:#}");
    assert_eq!(imported["spec"]["trigger"], "Import");
    assert_eq!(imported["status"]["volumes"][0]["guid"], source["status"]["volumes"][0]["guid"]);
    assert_eq!(imported["status"]["digests"], source["status"]["digests"]);
    // The same once more changes nothing; another of its name is refused.
    assert!(said(two.data(), &["import", &name]).contains("imported before"));
    assert_eq!(two.checkpoint("a-final").unwrap()["metadata"]["uid"], imported["metadata"]["uid"]);
    assert!(said(two.data(), &["lineage"]).contains("archive of checkpoint a-final"));

    let spec = r##"{"apiVersion":"autovibe.dev/v1alpha1","kind":"Machine","metadata":{"name":"a"},
        "spec":{"from":{"checkpoint":"a-final"},"agent":{"type":"Command","command":["true"]},"goal":{"prompt":"#sim turns=0"}}}"##;
    std::fs::write(two.file("m.json"), spec).unwrap();
    said(two.data(), &["apply", "-f", &text(&two.file("m.json"))]);
    let ended = end(two.data(), "a life from what was imported");
    assert_eq!(ended["status"]["terminationReason"], "Completed", "{ended:#}");
    assert!(refused(two.data(), &["import", &name, "--name", "twice"]).contains("here already, as checkpoint a-final"));

    // What changed since goes back to the hub that has the rest.
    let last = ended["status"]["finalCheckpoint"].as_str().unwrap();
    let change = text(&two.file("change.tar"));
    said(two.data(), &["export", last, "--since", "a-final", "--to", &change]);
    said(one.data(), &["import", &change]);
    assert_eq!(one.checkpoint(last).unwrap()["status"]["parent"], "a-final");
    let why = refused(one.data(), &["import", &change, "-n", "autovibe-system"]);
    assert!(why.contains("since checkpoint a-final, which is not in namespace autovibe-system"), "{why}");
    let why = refused(two.data(), &["export", "a-final", "--since", last, "--to", &text(&two.file("no.tar"))]);
    assert!(why.contains("not in its past") && !two.file("no.tar").exists(), "{why}");
}

#[test]
fn a_file_that_is_not_right_is_refused_and_leaves_nothing() {
    let (one, file) = exported();
    let whole = std::fs::read(&file).unwrap();
    let two = Side::start();
    two.leads();
    let at = |needle: &[u8]| whole.windows(needle.len()).position(|window| window == needle).unwrap();
    let stream = at(b"disk-0/00000000.zfs") + 512;
    let end = whole.len();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        bytes
    };
    let version = at(b"\"formatVersion\": 1") + b"\"formatVersion\": ".len();
    let directory = at(b"\"directory\": \"/") + b"\"directory\": \"".len();
    let sums = at(b"SHA256SUMS") + 512;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut in the stream", whole[..stream + 16].to_vec(), "truncated"),
        ("without its end", whole[..end - 1024 - 512].to_vec(), "truncated"),
        ("another text", b"hello".to_vec(), "shorter than any"),
        ("another file", vec![b'x'; 4096], "no tar of autovibe's"),
        ("a newer version", changed(&|bytes| bytes[version] = b'9'), "formatVersion is 9"),
        ("a directory that is none", changed(&|bytes| bytes[directory] = b'x'), "directory: is no absolute path"),
        ("a bit of the stream", changed(&|bytes| bytes[stream + 2] ^= 1), "not imported"),
        ("a bit of the sums", changed(&|bytes| bytes[sums] = if bytes[sums] == b'0' { b'1' } else { b'0' }), "manifest.json"),
    ];
    for (what, bytes, words) in cases {
        let bad = one.file("bad.tar");
        std::fs::write(&bad, bytes).unwrap();
        let why = refused(two.data(), &["import", &text(&bad)]);
        assert!(why.contains(words), "{what}: {why}");
        wait(&format!("{what}: nothing is left"), || two.checkpoint("a-final").is_none() && two.imported().is_empty());
    }
    // After all that, the right one.
    said(two.data(), &["import", &text(&file)]);
    assert!(!two.imported().is_empty(), "what is looked for is not found where it is");
}

#[test]
fn an_import_whose_hub_was_killed_is_of_no_use_and_is_begun_anew() {
    let (_one, file) = exported();
    let mut two = Side::start();
    two.leads();
    let whole = std::fs::read(&file).unwrap();
    let mut import = Command::new(env!("CARGO_BIN_EXE_autovibe"))
        .args(["--data", &text(two.data()), "import", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = import.stdin.as_mut().unwrap();
    stdin.write_all(&whole[..whole.len() - 2048]).unwrap();
    stdin.flush().unwrap();
    wait("it has begun", || two.checkpoint("a-final").is_some_and(|found| found["status"]["volumes"][0].is_object()));
    two.hub.take().unwrap().kill();
    import.kill().ok();
    import.wait().unwrap();
    two.hub = Some(Hub::start(two.data(), &["--lab", "simulated"]).serves());
    wait("it is said to have been cut off", || {
        two.checkpoint("a-final")
            .is_some_and(|found| found["status"]["phase"] == "Failed" && found.to_string().contains("ImportInterrupted"))
    });
    two.leads();
    said(two.data(), &["import", &text(&file)]);
    assert_eq!(two.checkpoint("a-final").unwrap()["status"]["phase"], "Ready");
}
