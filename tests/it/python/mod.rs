//! Python clients that we did not write: that of Kubernetes against a real server (`client.py`), and that of Proxmox against
//! the lab (`proxmox.py`).

use crate::served::Served;
use autovibe::lab::{self, Mode, Setup};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The releases that are tried. Source: PyPI, 2026-11.
const KUBERNETES: &str = "kubernetes==37.0.2";
const PROXMOXER: &str = "proxmoxer==2.3.0";

/// A Python with a client, made once under `target/`. Errors: why there is none.
fn python(name: &str, client: &str, also: &[&str]) -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (python, done) = (home.join("bin/python"), home.join(client));
    if !done.exists() {
        let say = |what: &str, output: std::io::Result<Output>| match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{what} failed: {}", String::from_utf8_lossy(&output.stderr))),
            Err(error) => Err(format!("{what} failed: {error}")),
        };
        say("python3 -m venv", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home).output())?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", client];
        say("pip install", Command::new(&python).args(install).args(also).output())?;
        std::fs::write(done, "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

/// What a script says, run by a Python with `client`; `None`, said aloud, where there is none.
async fn run(name: &'static str, client: &'static str, also: &'static [&str], script: &str, arguments: &[&str]) -> Option<String> {
    let python = match tokio::task::spawn_blocking(move || python(name, client, also)).await.unwrap() {
        Ok(python) => python,
        Err(why) => {
            eprintln!("SKIPPED: {client} was not tried: {why}; `make deps` installs python3-venv, and pip must reach its index");
            return None;
        }
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python").join(script);
    let mut client = Command::new(python);
    client.arg("-B").arg(script).args(arguments).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let output = tokio::task::spawn_blocking(move || client.output()).await.unwrap().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    Some(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_works_with_it() {
    let server = Served::shared();
    server.namespace("python").await;
    let kubeconfig = server.directory.join("kubeconfig");
    if let Some(said) = run("python-client", KUBERNETES, &[], "client.py", &[kubeconfig.to_str().unwrap()]).await {
        assert!(said.contains("all of 7 passed"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxmoxer_works_with_the_lab() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("setup.yaml");
    std::fs::write(&file, "nodes: [{ node: pve1 }, { node: pve2 }]\nusers: [{ userid: root@pam, tokens: [{ tokenid: py, privsep: 0 }] }]")
        .unwrap();
    let config = lab::Config {
        mode: Mode::Simulated,
        data: directory.path().join("lab"),
        listen: "127.0.0.1:0".parse().unwrap(),
        gateway: "127.0.0.1:9".parse().unwrap(),
        lag: Duration::ZERO,
        refusal: Duration::ZERO,
        setup: Some(Setup::read(&file).unwrap()),
    };
    let lab = lab::start(config).await.unwrap();
    let secret = lab.tokens().into_iter().find_map(|token| token.strip_prefix("PVEAPIToken=root@pam!py=").map(str::to_owned)).unwrap();
    if let Some(said) = run("proxmoxer", PROXMOXER, &["requests"], "proxmox.py", &[&lab.endpoint().endpoint, &secret]).await {
        assert!(said.contains("all of 5 passed"), "{said}");
    }
}
