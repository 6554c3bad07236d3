//! The Python client of Kubernetes against a real server; what it does is in `client.py`.

use crate::served::Served;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The release that is tried. Source: PyPI, 2026-11.
const CLIENT: &str = "kubernetes==37.0.2";

/// A Python with the client, made once under `target/`. Errors: why there is none.
fn python() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    let (python, done) = (home.join("bin/python"), home.join(CLIENT));
    if !done.exists() {
        let say = |what: &str, output: std::io::Result<Output>| match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{what} failed: {}", String::from_utf8_lossy(&output.stderr))),
            Err(error) => Err(format!("{what} failed: {error}")),
        };
        say("python3 -m venv", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home).output())?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", CLIENT];
        say("pip install", Command::new(&python).args(install).output())?;
        std::fs::write(done, "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_works_with_it() {
    let python = match tokio::task::spawn_blocking(python).await.unwrap() {
        Ok(python) => python,
        Err(why) => {
            eprintln!("SKIPPED: the Python client was not tried: {why}; `make deps` installs python3-venv, and pip must reach its index");
            return;
        }
    };
    let server = Served::shared();
    server.namespace("python").await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python/client.py");
    let mut client = Command::new(python);
    client.arg("-B").arg(script).arg(server.directory.join("kubeconfig")).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let output = tokio::task::spawn_blocking(move || client.output()).await.unwrap().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("all of 7 passed"), "{said}");
}
