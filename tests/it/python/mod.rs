//! Python clients that we did not write: that of Kubernetes against a real server (`client.py`), and those of Proxmox against
//! the lab: proxmoxer (`proxmox.py`) and the modules of Ansible (`playbook.yaml`).

use crate::served::Served;
use autovibe::lab::{self, Mode, Setup};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// The releases that are tried. Source: PyPI, 2026-11.
const KUBERNETES: &str = "kubernetes==37.0.2";
/// That of the Model Context Protocol, for the tests of the gateway.
pub(crate) const MCP: &str = "mcp==2.3.0";
const PROXMOXER: &str = "proxmoxer==2.3.0";
const ANSIBLE: &str = "ansible-core==2.19.14";
/// The package that has the collections.
const COLLECTIONS: &str = "ansible==12.3.0";
/// Unpacks one of them, and nothing of the hundred others.
const UNPACK: &str = "import sys, zipfile, pathlib; to = pathlib.Path(sys.argv[1]); w = zipfile.ZipFile(next(to.glob('ansible-*.whl'))); \
                      w.extractall(to, [n for n in w.namelist() if n.startswith('ansible_collections/community/proxmox/')])";

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
pub(crate) async fn run(
    name: &'static str,
    client: &'static str,
    also: &'static [&str],
    script: &str,
    arguments: &[&str],
) -> Option<String> {
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

/// Two nodes, and root's token, which is returned.
async fn lab(directory: &Path) -> (lab::Lab, String) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let file = directory.join("setup.yaml");
    std::fs::write(&file, "nodes: [{ node: pve1 }, { node: pve2 }]\nusers: [{ userid: root@pam, tokens: [{ tokenid: py, privsep: 0 }] }]")
        .unwrap();
    let config = lab::Config {
        mode: Mode::Simulated,
        data: directory.join("lab"),
        listen: "127.0.0.1:0".parse().unwrap(),
        gateway: "127.0.0.1:9".parse().unwrap(),
        lag: Duration::ZERO,
        refusal: Duration::ZERO,
        setup: Some(Setup::read(&file).unwrap()),
    };
    let lab = lab::start(config).await.unwrap();
    let secret = lab.tokens().into_iter().find_map(|token| token.strip_prefix("PVEAPIToken=root@pam!py=").map(str::to_owned)).unwrap();
    (lab, secret)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxmoxer_works_with_the_lab() {
    let directory = tempfile::tempdir().unwrap();
    let (lab, secret) = lab(directory.path()).await;
    if let Some(said) = run("proxmoxer", PROXMOXER, &["requests"], "proxmox.py", &[&lab.endpoint().endpoint, &secret]).await {
        assert!(said.contains("all of 5 passed"), "{said}");
    }
}

/// Speaks TLS as Proxmox' proxy does, before a lab that speaks plain HTTP. Returns its port.
async fn proxy(to: SocketAddr) -> u16 {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let (Ok(mut outside), Ok(mut inside)) = (acceptor.accept(stream).await, TcpStream::connect(to).await) else { return };
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}

/// Ansible with its modules for Proxmox, made once under `target/`. Errors: why there is none.
fn ansible() -> Result<PathBuf, String> {
    let python = python("ansible", ANSIBLE, &[PROXMOXER, "requests"])?;
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ansible");
    if !home.join("ansible_collections/community/proxmox").exists() {
        let done = |arguments: &[&str]| match Command::new(&python).args(arguments).arg(&home).output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        };
        done(&["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", COLLECTIONS, "--dest"])?;
        done(&["-c", UNPACK])?;
    }
    Ok(home)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_modules_of_ansible_work_with_the_lab() {
    let home = match tokio::task::spawn_blocking(ansible).await.unwrap() {
        Ok(home) => home,
        Err(why) => {
            eprintln!("SKIPPED: {ANSIBLE} was not tried: {why}; `make deps` installs python3-venv, and pip must reach its index");
            return;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let (lab, secret) = lab(directory.path()).await;
    let port = proxy(lab.address()).await;
    let mut play = Command::new(home.join("bin/ansible-playbook"));
    play.args(["-i", "localhost,", "-c", "local", "-e", &format!("api_port_={port}"), "-e", &format!("secret={secret}")]);
    play.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python/playbook.yaml"));
    play.env("ANSIBLE_HOME", directory.path()).env("ANSIBLE_COLLECTIONS_PATH", &home).env("NO_PROXY", "127.0.0.1");
    play.env("ANSIBLE_PYTHON_INTERPRETER", home.join("bin/python")).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::task::spawn_blocking(move || play.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("All assertions passed"), "{said}");
    assert!(lab.vms().is_empty(), "{:?}", lab.vms());
}
