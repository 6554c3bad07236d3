//! A real sshd on loopback, whose only user may run the helper and nothing else.
//!
//! It runs as the user of the tests: as root it asks for a forced command on its own side too (`forced-commands-only`).

use autovibe::zfs::{Runner, Settings, Ssh};
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const SSHD: &str = "/usr/sbin/sshd";

pub(crate) struct Sshd {
    child: Child,
    pub(crate) port: u16,
    pub(crate) host_key: String,
    key: String,
    user: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn keygen(file: &Path) -> String {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).status().unwrap();
    assert!(made.success());
    fs::read_to_string(file.with_extension("pub")).unwrap()
}

impl Sshd {
    /// Starts one whose key runs `autovibe zfs-helper` with these arguments; `None`, said aloud, where there is no sshd.
    pub(crate) fn start(test: &str, arguments: &str) -> Option<Self> {
        Self::with_command(test, &format!("{} zfs-helper {arguments}", env!("CARGO_BIN_EXE_autovibe")))
    }

    pub(crate) fn with_command(test: &str, command: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("SKIPPED {test}: {SSHD} is not here; install openssh-server");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let host_key = keygen(&at("host"));
        let public = keygen(&at("client"));
        let state = at("state");
        fs::create_dir(&state).unwrap();
        let forced = command.replace("{state}", state.to_str().unwrap());
        assert!(!forced.contains('"'));
        fs::write(at("authorized_keys"), format!("command=\"{forced}\",restrict {public}")).unwrap();
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap().trim().to_owned();
        if user == "root" {
            // Where it is told to drop its privileges before a login; the package's service makes it.
            fs::create_dir_all("/run/sshd").unwrap();
            fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755)).unwrap();
        }
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {keys}\nPidFile none\nStrictModes no\n\
                 UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin forced-commands-only\n",
                host = at("host").display(),
                keys = at("authorized_keys").display(),
            );
            fs::write(at("config"), config).unwrap();
            let log = fs::File::create(at("log")).unwrap();
            let mut child = Command::new(SSHD).args(["-D", "-e", "-f"]).arg(at("config")).stdin(Stdio::null()).stderr(log).spawn().unwrap();
            let started = Instant::now();
            loop {
                let said = fs::read_to_string(at("log")).unwrap();
                if said.contains("Server listening") {
                    let key = fs::read_to_string(at("client")).unwrap();
                    return Some(Self { child, port, host_key, key, user, dir });
                }
                if child.try_wait().unwrap().is_some() {
                    assert!(said.contains("Address already in use"), "sshd ended: {said}");
                    break;
                }
                assert!(started.elapsed() < Duration::from_mins(1), "sshd does not listen: {said}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("no free port");
    }

    /// Where clients keep their keys: a path that is far too long for a socket's, and with a space.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join(format!("a hub's directory {}", "long".repeat(30)))
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            host: "127.0.0.1".into(),
            port: self.port,
            user: self.user.clone(),
            host_key: self.host_key.clone(),
            key: self.key.clone().into(),
            directory: self.home(),
            installation: "test".into(),
            epoch: 1,
        }
    }

    pub(crate) fn runner(&self) -> Runner {
        Runner::Ssh(Ssh::new(self.settings()))
    }

    /// What sshd and the commands that it ran said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}
