//! The executable as a process: commands, hubs that are killed, and the labs that outlive them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Far longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn autovibe(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("--data").arg(data).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    for variable in ["KUBECONFIG", "AUTOVIBE_DATA", "AUTOVIBE_DATABASE_URL", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).output().unwrap()
}

/// Standard output of a command that must succeed.
pub(crate) fn said(data: &Path, arguments: &[&str]) -> String {
    let output = autovibe(data, arguments);
    assert!(output.status.success(), "autovibe {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that must fail with exit code 1.
pub(crate) fn refused(data: &Path, arguments: &[&str]) -> String {
    let output = autovibe(data, arguments);
    assert_eq!(output.status.code(), Some(1), "autovibe {arguments:?} printed {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What hubs say, in their data directory.
pub(crate) const LOG: &str = "hub.log";

/// A hub process; killed when dropped.
pub(crate) struct Hub {
    pub(crate) child: Child,
    data: PathBuf,
}

impl Hub {
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        Self::role("up", data, arguments)
    }

    /// The controllers alone, as a client of the hub of this data directory.
    pub(crate) fn controllers(data: &Path, arguments: &[&str]) -> Self {
        Self::role("controller", data, arguments)
    }

    /// A lab, not a hub; its directory is made when there is none.
    pub(crate) fn lab(data: &Path, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(data).unwrap();
        Self::role("lab", data, arguments)
    }

    fn role(role: &str, data: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
        command
            .arg(role)
            .arg("--data")
            .arg(data)
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("AUTOVIBE_DATABASE_URL")
            .stdin(Stdio::null());
        let log = std::fs::File::options().create(true).append(true).open(data.join(LOG)).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        Self { child, data: data.to_owned() }
    }

    pub(crate) fn serves(self) -> Self {
        wait("serving", || autovibe(&self.data, &["get", "hubs"]).status.success());
        self
    }

    /// What it said on standard error.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.data.join(LOG)).unwrap()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it by SIGTERM; returns its exit code and all that it printed.
    pub(crate) fn terminate(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) const ANY_PORTS: [&str; 6] = ["--lab", "off", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];

pub(crate) fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.display().to_string()
}

/// Ends the lab of a data directory, whatever becomes of the test.
pub(crate) struct LabOf(pub(crate) PathBuf);

impl Drop for LabOf {
    fn drop(&mut self) {
        autovibe(&self.0, &["lab", "stop"]);
    }
}
