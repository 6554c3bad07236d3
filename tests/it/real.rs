//! Real parts: the micro guest under QEMU, on a clone in a real pool. Skips aloud where this machine lacks them.

pub(crate) mod hub;
mod templates;

use crate::own_zfs::{destroy_pool, zfs, zpool};
use autovibe::agent::Launch;
use autovibe::api::exec::Exec;
use autovibe::api::hub::VmidRange;
use autovibe::api::quantity::GoDuration;
use autovibe::cli::image::{self, ImageKind};
use autovibe::clock::Clock;
use autovibe::driver::guest::{AgentState, Said};
use autovibe::driver::{Connection, Driver, Turns};
use autovibe::driver::{
    marks::{OwnedVm, Owner},
    vm::VmSpec,
};
use autovibe::lab::guests::VmConfig;
use autovibe::lab::real::{Qemu, pool};
use autovibe::proxmox::{self, ExecStatus, Power, Vmid};
use autovibe::wire::LabEndpoint;
use autovibe::zfs::{Dataset, Runner, Snapshot};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Longer than any guest here needs on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A Machine's token as it looks.
const TOKEN: &str = "av_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Who a guest is: what no other may be.
const IDENTITY: &str = "cat /etc/machine-id /sys/class/net/e*/address /etc/hostname; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '";
/// Which files have the token.
const KEEPS_TOKEN: &str = "for top in /[a-z]*; do case $top in /proc|/sys|/dev) ;; \
    *) find $top -type f -exec grep -l av_0123456789abcdef {} + 2>/dev/null;; esac; done";

/// What this machine lacks for real guests, if anything.
pub(crate) fn lacking() -> Option<String> {
    let found =
        |program: &str| Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|o| o.status.success());
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    let missing: Vec<&str> = ["qemu-system-x86_64", "zpool", "zfs", "syslinux", "mcopy", "mkfs.fat", "mkfs.ext4", "busybox", "apt-get"]
        .into_iter()
        .filter(|p| !found(p))
        .collect();
    match (root, missing.is_empty()) {
        (false, _) => Some("it needs root".into()),
        (true, false) => Some(format!("missing here: {}", missing.join(" "))),
        (true, true) => None,
    }
}

/// A lab's data directory with a pool; both go when the test ends, passed or not.
pub(crate) struct Place {
    pub(crate) data: tempfile::TempDir,
    pub(crate) pool: String,
    pub(crate) vms: Vec<u32>,
    pub(crate) lab: Option<Child>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill_lab();
        for vmid in &self.vms {
            let file = self.data.path().join(format!("vms/{vmid}/pid"));
            if let Ok(pid) = std::fs::read_to_string(&file) {
                Command::new("sh").args(["-c", r#"kill -KILL "$0""#, pid.trim()]).status().ok();
                while Path::new(&format!("/proc/{}/fd/0", pid.trim())).exists() {
                    std::thread::yield_now();
                }
            }
        }
        if let Err(why) = destroy_pool(&self.pool) {
            eprintln!("{why}");
        }
    }
}

impl Place {
    /// Starts the lab as a process of its own, and returns when it serves.
    pub(crate) async fn start_lab(&mut self, gateway: SocketAddr) -> LabEndpoint {
        self.start_lab_from(gateway, None).await
    }

    /// Likewise, from what this file says.
    pub(crate) async fn start_lab_from(&mut self, gateway: SocketAddr, setup: Option<&Path>) -> LabEndpoint {
        let file = self.data.path().join("endpoint.json");
        std::fs::remove_file(&file).ok();
        let program = env!("CARGO_BIN_EXE_autovibe");
        let mut command = Command::new(program);
        command.arg("lab").arg("--data").arg(self.data.path()).arg("--gateway").arg(gateway.to_string());
        setup.map(|file| command.arg("--config").arg(file));
        self.lab = Some(command.spawn().unwrap());
        let started = Instant::now();
        loop {
            if let Ok(text) = std::fs::read(&file) {
                return serde_json::from_slice(&text).unwrap();
            }
            assert!(self.lab.as_mut().unwrap().try_wait().unwrap().is_none(), "the lab ended");
            assert!(started.elapsed() < PATIENCE, "the lab does not serve");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill_lab(&mut self) {
        if let Some(mut lab) = self.lab.take() {
            lab.kill().ok();
            lab.wait().ok();
        }
    }
}

pub(crate) async fn connect(endpoint: LabEndpoint) -> Driver {
    rustls::crypto::ring::default_provider().install_default().ok();
    Driver::open(Connection {
        proxmox: proxmox::Config {
            endpoint: endpoint.endpoint,
            fingerprint: None,
            credential: proxmox::Credential::token(endpoint.token_id, endpoint.secret),
        },
        service: None,
        node: None,
        others: Vec::new(),
        storage: endpoint.storage,
        dataset: Dataset(endpoint.dataset),
        keep: Dataset(endpoint.keep),
        exports: Vec::new(),
        made_by: autovibe::driver::made_by("i", 0),
        runner: Runner::Local,
        vmids: VmidRange { from: endpoint.vmid_from, to: endpoint.vmid_to },
        bridge: endpoint.bridge,
        firewall: None,
        gateway_url: endpoint.gateway_url,
        breaker: proxmox::Breaker::default(),
        turns: Turns::new(4),
        concurrency: 4,
        tenure: autovibe::clock::Tenure::unlimited(),
    })
    .await
    .unwrap()
}

async fn up(driver: &Driver, vmid: Vmid) {
    let clock = Clock::system();
    let started = Instant::now();
    while !driver.guest(vmid, &clock).answers().await.unwrap_or(false) {
        assert!(started.elapsed() < PATIENCE, "VM {vmid:?} does not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("VM {} answers through the API after {:.1} s", vmid.0, started.elapsed().as_secs_f64());
}

/// Runs a shell command in a guest as root; gives what it printed.
pub(crate) async fn as_root(driver: &Driver, vmid: Vmid, script: &str) -> String {
    let pid = driver.proxmox.agent_exec(driver.node(), vmid, &["/bin/sh", "-c", script], None).await.unwrap();
    let started = Instant::now();
    loop {
        if let ExecStatus::Exited { out, .. } = driver.proxmox.agent_exec_status(driver.node(), vmid, pid).await.unwrap() {
            return out;
        }
        assert!(started.elapsed() < PATIENCE, "{script} does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn owned(driver: &Driver, vmid: Vmid, uid: &str) -> OwnedVm {
    match driver.verify_owned(vmid, uid).await.unwrap() {
        Owner::Ours(vm) => vm,
        other => panic!("not ours: {other:?}"),
    }
}

pub(crate) struct Guest<'a> {
    pub(crate) qemu: &'a Qemu,
    pub(crate) vmid: u32,
}

impl Guest<'_> {
    /// Waits until the agent answers; gives how long that took.
    pub(crate) async fn up(&self) -> Duration {
        let started = Instant::now();
        loop {
            match self.qemu.agent(self.vmid, &json!({"execute": "guest-ping"})).await {
                Ok(reply) => {
                    assert_eq!(reply, json!({"return": {}}));
                    return started.elapsed();
                }
                Err(error) => {
                    assert_eq!(error.to_string(), "QEMU guest agent is not running");
                    assert!(
                        started.elapsed() < PATIENCE,
                        "no agent; console:\n{}",
                        std::fs::read_to_string(self.qemu.console(self.vmid)).unwrap()
                    );
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Runs a shell command in the guest; gives its exit code and output.
    pub(crate) async fn sh(&self, script: &str) -> (i64, String) {
        let command = json!({"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", script], "capture-output": true}});
        let pid = self.qemu.agent(self.vmid, &command).await.unwrap()["return"]["pid"].clone();
        let started = Instant::now();
        loop {
            let status: Value =
                self.qemu.agent(self.vmid, &json!({"execute": "guest-exec-status", "arguments": {"pid": pid}})).await.unwrap();
            let status = &status["return"];
            if status["exited"] == true {
                let text = |key: &str| String::from_utf8(BASE64.decode(status[key].as_str().unwrap_or_default()).unwrap()).unwrap();
                return (status["exitcode"].as_i64().unwrap_or(-1), text("out-data") + &text("err-data"));
            }
            assert!(started.elapsed() < PATIENCE, "{script} does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A script that tries to get out of a guest, to its gateway among others, and prints what it reached.
fn tries(port: u16) -> String {
    let host = ["22", "53", "80", "443", "8006", &port.to_string()].map(|port| format!("10.0.2.2 {port}"));
    let beside = ["22", "80", "443", "8006", "8080", "8081", "8082"].map(|port| format!("10.0.2.100 {port}"));
    let others = [
        // The network's own servers, neighbours, metadata of clouds, names, the internet; IPv6.
        "10.0.2.1 80",
        "10.0.2.3 53",
        "10.0.2.3 80",
        "10.0.2.3 443",
        "10.0.2.3 8006",
        "10.0.2.4 445",
        "10.0.2.16 22",
        "10.0.2.16 8081",
        "169.254.169.254 80",
        "169.254.169.254 443",
        "100.100.100.200 80",
        "10.0.0.1 80",
        "172.17.0.1 80",
        "192.168.0.1 80",
        "192.168.0.1 8006",
        "1.1.1.1 53",
        "1.1.1.1 443",
        "8.8.8.8 53",
        "8.8.8.8 443",
        "fec0::2 80",
        "fec0::3 53",
        "2001:4860:4860::8888 443",
    ];
    let tcp = host.iter().chain(&beside).map(String::as_str).chain(others);
    let tcp = tcp.map(|target| format!("nc -w 3 {target} -e /bin/sh -c 'echo tcp {target} >>/tmp/reached' </dev/null >/dev/null 2>&1 &"));
    let ping = ["1.1.1.1", "8.8.8.8", "169.254.169.254", "192.168.0.1"]
        .map(|target| format!("ping -c 1 -W 3 {target} >/dev/null 2>&1 && echo ping {target} >>/tmp/reached &"));
    let names = ["10.0.2.3", "1.1.1.1", "8.8.8.8"]
        .map(|server| format!("timeout 5 nslookup example.org {server} >/dev/null 2>&1 && echo name {server} >>/tmp/reached &"));
    let all: Vec<String> = tcp.chain(ping).chain(names).collect();
    assert!(all.len() >= 40);
    format!("cat /dev/null >/tmp/reached\n{}\nwait\ncat /tmp/reached", all.join("\n"))
}

/// Answers every HTTP request with the same few bytes; counts connections.
pub(crate) async fn gateway(requests: Arc<AtomicU32>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            requests.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while let Ok(length) = stream.read(&mut request).await {
                    if length == 0 || request[..length].windows(4).any(|end| end == b"\r\n\r\n") {
                        break;
                    }
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\ngateway\n").await.ok();
            });
        }
    });
    address
}

/// The micro image, built once and then reused.
pub(crate) async fn micro_image() -> PathBuf {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/images/micro.raw");
    let built = file.clone();
    tokio::task::spawn_blocking(move || image::build(ImageKind::Micro, &built, None, None)).await.unwrap().unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_a_clone_is_forked_while_it_runs() {
    if let Some(reason) = lacking() {
        eprintln!("SKIPPED a_guest_on_a_clone_is_forked_while_it_runs: {reason}");
        return;
    }
    let image = micro_image().await;
    let data = tempfile::tempdir().unwrap();
    let name = pool::name(data.path());
    let pool = match pool::bring_up(data.path(), &name, 2 << 30, &Clock::system()).await {
        Ok(pool) => pool,
        Err(autovibe::lab::real::Error::Unavailable(reason)) => {
            eprintln!("SKIPPED a_guest_on_a_clone_is_forked_while_it_runs: {reason}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut place = Place { data, pool: name.clone(), vms: vec![100, 101], lab: None };
    eprintln!("{}", pool.note());
    let disk = |dataset: &str| pool.mountpoint.join(dataset).join("disk.raw");
    zfs(&["create", &format!("{name}/base")]);
    std::fs::copy(&image, disk("base")).unwrap();
    zfs(&["snapshot", &format!("{name}/base@s")]);
    zfs(&["clone", &format!("{name}/base@s"), &format!("{name}/vm-100-disk-0")]);

    let requests = Arc::new(AtomicU32::new(0));
    let gateway = gateway(requests.clone()).await;
    let qemu = Qemu::over(place.data.path(), gateway, env!("CARGO_BIN_EXE_autovibe").into()).await.unwrap();
    let config: VmConfig = [
        ("name", "a"),
        ("memory", "256"),
        ("agent", "enabled=1"),
        ("scsihw", "virtio-scsi-single"),
        ("scsi0", "tank:vm-100-disk-0"),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
        ("boot", "order=scsi0"),
        ("serial0", "socket"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();

    assert_eq!(qemu.agent(100, &json!({"execute": "guest-ping"})).await.unwrap_err().to_string(), "VM 100 is not running");
    qemu.start(100, &config, &[disk("vm-100-disk-0")]).await.unwrap();
    assert!(qemu.power(100).await);
    assert_eq!(qemu.start(100, &config, &[disk("vm-100-disk-0")]).await.unwrap_err().to_string(), "VM 100 already running");
    let guest = Guest { qemu: &qemu, vmid: 100 };
    eprintln!("micro guest up after {:.1} s", guest.up().await.as_secs_f64());

    assert_eq!(guest.sh("echo out; exit 3").await, (3, "out\n".into()));
    // It reaches the gateway, and nothing else of this machine or beyond: not even the same listener under the name of the host.
    let reached = guest.sh(&tries(gateway.port())).await;
    assert_eq!(reached, (0, "tcp 10.0.2.100 8081\n".into()));
    requests.store(0, Ordering::SeqCst);
    let (code, said) = guest.sh(&format!("wget -q -O - {}/x", qemu.gateway_url())).await;
    assert_eq!((code, said.as_str()), (0, "gateway\n"));
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    // busybox' wget has no time limit of its own.
    let (code, said) = guest.sh(&format!("timeout 5 wget -q -O - http://10.0.2.2:{}/x", gateway.port())).await;
    assert_ne!(code, 0, "the guest reached its host: {said}");
    assert!(said.contains("can't connect") || said.contains("Terminated"), "not the failure that was meant: {code} {said}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);

    // Another process of the lab finds the guest as it is.
    let again = Qemu::over(place.data.path(), gateway, env!("CARGO_BIN_EXE_autovibe").into()).await.unwrap();
    drop(qemu);
    again.recover().await;
    assert!(again.power(100).await);
    let guest = Guest { qemu: &again, vmid: 100 };
    assert_eq!(guest.sh("echo before > /home/agent/file; sync; echo $$ > /run/alive").await.0, 0);

    let began = Instant::now();
    zfs(&["snapshot", &format!("{name}/vm-100-disk-0@c")]);
    zfs(&["clone", &format!("{name}/vm-100-disk-0@c"), &format!("{name}/vm-101-disk-0")]);
    eprintln!("snapshot and clone of the running guest's disk: {} ms", began.elapsed().as_millis());
    assert_eq!(guest.sh("echo after > /home/agent/file; sync").await.0, 0);

    again.start(101, &config, &[disk("vm-101-disk-0")]).await.unwrap();
    let fork = Guest { qemu: &again, vmid: 101 };
    eprintln!("its fork up after {:.1} s", fork.up().await.as_secs_f64());
    assert_eq!(fork.sh("cat /home/agent/file").await, (0, "before\n".into()));
    assert_eq!(guest.sh("cat /home/agent/file").await, (0, "after\n".into()));

    let began = Instant::now();
    assert!(again.shutdown(100, PATIENCE).await);
    eprintln!("guest off after {:.1} s", began.elapsed().as_secs_f64());
    assert!(!again.power(100).await);
    let console = std::fs::read_to_string(again.console(100)).unwrap();
    assert!(console.contains("Power down"), "the guest did not end by itself: {console}");
    again.stop(101).await.unwrap();
    assert!(!again.power(101).await);
    again.stop(101).await.unwrap();
    again.forget(100).await;
    assert!(!place.data.path().join("vms/100").exists());
    place.vms.clear();
}

/// How many processes there are of the command below.
const RUNS: &str = "grep -l 98[7] /proc/[0-9]*/cmdline 2>/dev/null | wc -l";

/// What a command writes comes before its end, and one that nobody listens to any more is gone.
async fn live_output(driver: &Driver, vmid: Vmid, clock: &Clock) {
    let command = ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 1; done; exec sleep 987"].map(str::to_owned).to_vec();
    let exec = Exec { command, timeout: GoDuration(2 * PATIENCE), ..Exec::default() };
    let (to, mut from) = tokio::sync::mpsc::channel(100);
    let (guest, began) = (driver.guest(vmid, clock), Instant::now());
    let listens = async {
        let mut out = Vec::new();
        while out != b"1\n2\n3\n" {
            match from.recv().await {
                Some(Said::Out(bytes)) => out.extend(bytes),
                other => panic!("{other:?} after {out:?}"),
            }
            eprintln!("{:?} came after {:.1} s", String::from_utf8_lossy(&out), began.elapsed().as_secs_f64());
        }
        assert_ne!(as_root(driver, vmid, RUNS).await.trim(), "0");
        drop(from);
    };
    let (ended, ()) = tokio::join!(guest.exec(&exec, "/", &to), listens);
    ended.unwrap();
    while as_root(driver, vmid, RUNS).await.trim() != "0" {
        assert!(began.elapsed() < PATIENCE, "it runs on, and would for as long again");
    }
    assert_eq!(as_root(driver, vmid, "ls /run/autovibe").await.trim(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lives_and_ends_on_real_parts_while_its_lab_is_killed() {
    if let Some(reason) = lacking() {
        eprintln!("SKIPPED a_machine_lives_and_ends_on_real_parts_while_its_lab_is_killed: {reason}");
        return;
    }
    let image = micro_image().await;
    let data = tempfile::tempdir().unwrap();
    let pool = pool::name(data.path());
    let (vmid, uid, clock) = (Vmid(90_000), "5f0c7d1e-1111-4222-8333-444455556666", Clock::system());
    let mut place = Place { data, pool, vms: vec![vmid.0, vmid.0 + 1], lab: None };
    let requests = Arc::new(AtomicU32::new(0));
    let gateway = gateway(requests.clone()).await;
    let driver = connect(place.start_lab(gateway).await).await;

    let began = Instant::now();
    let base = driver.import_image(&image, "micro").await.unwrap();
    eprintln!("image imported in {:.1} s", began.elapsed().as_secs_f64());
    let disk = driver.fork(&base.snapshot, &base.guid, uid, vmid, 0).await.unwrap();
    let spec = VmSpec {
        vmid,
        machine_uid: uid.into(),
        namespace: "default".into(),
        name: "a".into(),
        installation: "test".into(),
        cores: 1,
        memory_mebibytes: 256,
        first_disk: 0,
        disks: 1,
        template: None,
    };
    driver.create_vm(&spec, &clock).await.unwrap();
    driver.start_vm(vmid).await.unwrap();
    up(&driver, vmid).await;
    driver.guest(vmid, &clock).personalise("a", uid).await.unwrap();
    let script = "echo one > file; wget -q -O - \"$AUTOVIBE_GATEWAY/\"; read wait < fifo; echo two >> file";
    let launch = Launch {
        key: String::new(),
        number: 1,
        environment: [
            ("AUTOVIBE_GATEWAY", driver.connection().gateway_url.as_str()),
            ("AUTOVIBE_WORKSPACE", "/home/agent/work"),
            ("AUTOVIBE_TOKEN", TOKEN),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        argv: ["sh", "-c", &format!("mkfifo fifo; {script}")].map(str::to_owned).to_vec(),
    };
    driver.guest(vmid, &clock).launch(&launch).await.unwrap();
    assert_eq!(driver.guest(vmid, &clock).status().await.unwrap(), AgentState::Running { launch: 1 });
    let verify = |command: &str| ["sh", "-c", command].map(str::to_owned).to_vec();
    // A command of a person, binary and not.
    let command = ["sh", "-c", "id -un; pwd; printf '\\377' >&2; cat; exit 9"].map(str::to_owned).to_vec();
    let exec = Exec { command, stdin: "put in\n".into(), timeout: GoDuration(PATIENCE), ..Exec::default() };
    let (to, mut from) = tokio::sync::mpsc::channel(100);
    driver.guest(vmid, &clock).exec(&exec, "/home/agent/work", &to).await.unwrap();
    from.close();
    let (mut out, mut err, mut ended) = (Vec::new(), Vec::new(), None);
    while let Some(said) = from.recv().await {
        match said {
            Said::Out(bytes) => out.extend(bytes),
            Said::Err(bytes) => err.extend(bytes),
            other => ended = Some(other),
        }
    }
    assert_eq!((ended, err), (Some(Said::Ended(Some(9))), vec![0xff]));
    assert_eq!(String::from_utf8(out).unwrap(), "agent\n/home/agent/work\nput in\n");
    live_output(&driver, vmid, &clock).await;
    let kept = as_root(&driver, vmid, KEEPS_TOKEN).await;
    assert!(kept.contains("agent.env"), "the search finds no token where there is one: {kept}");
    let identity = driver.guest(vmid, &clock).verify(&verify(IDENTITY), "/", PATIENCE).await.unwrap().output;
    let started = Instant::now();
    while requests.load(Ordering::SeqCst) == 0 {
        assert!(started.elapsed() < PATIENCE, "the agent does not call the gateway");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // A checkpoint while it runs.
    let began = Instant::now();
    driver.guest(vmid, &clock).flush("", &[], Duration::from_secs(5)).await.unwrap();
    let flushed = began.elapsed();
    driver.capture(std::slice::from_ref(&disk), "c0000000-1111-4222-8333-444455556666", uid).await.unwrap();
    eprintln!(
        "checkpoint of the running machine: flush {} ms, capture {} ms",
        flushed.as_millis(),
        began.elapsed().saturating_sub(flushed).as_millis()
    );

    // The lab dies; its guest does not notice, and the next lab has it.
    drop(driver);
    place.kill_lab();
    let endpoint = place.start_lab(gateway).await;
    let secret = endpoint.secret.clone();
    let driver = connect(endpoint).await;
    assert_eq!(driver.power(vmid).await.unwrap(), Some(Power::Running));
    assert_eq!(driver.guest(vmid, &clock).status().await.unwrap(), AgentState::Running { launch: 1 });
    assert!(driver.guest(vmid, &clock).verify(&verify("echo go > fifo"), "/home/agent/work", PATIENCE).await.unwrap().passed);
    let started = Instant::now();
    while driver.guest(vmid, &clock).status().await.unwrap() != (AgentState::Exited { launch: 1, code: Some(0) }) {
        assert!(started.elapsed() < PATIENCE, "the agent does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The end: final snapshot, disk out of Proxmox' sight, VM gone.
    driver.shut_down(&owned(&driver, vmid, uid).await, PATIENCE, &clock).await.unwrap();
    assert_eq!(driver.power(vmid).await.unwrap(), Some(Power::Stopped));
    let last = driver.capture(std::slice::from_ref(&disk), "c1111111-1111-4222-8333-444455556666", uid).await.unwrap().remove(0);
    let kept = driver.keep(uid, &[disk]).await.unwrap().remove(0);
    driver.delete_vm(owned(&driver, vmid, uid).await, "shop", &clock).await.unwrap();
    assert_eq!(driver.verify_owned(vmid, uid).await.unwrap(), Owner::Nobody);
    assert!(driver.datasets_of(vmid).await.unwrap().is_empty());
    assert!(!place.data.path().join(format!("vms/{}", vmid.0)).exists());

    // The next one starts from there.
    let (next, next_uid) = (Vmid(vmid.0 + 1), "6f0c7d1e-1111-4222-8333-444455556666");
    driver.fork(&Snapshot { dataset: kept, name: last.snapshot }, &last.guid, next_uid, next, 0).await.unwrap();
    driver.create_vm(&VmSpec { vmid: next, machine_uid: next_uid.into(), name: "b".into(), ..spec }, &clock).await.unwrap();
    driver.start_vm(next).await.unwrap();
    up(&driver, next).await;
    driver.guest(next, &clock).personalise("b", next_uid).await.unwrap();
    let content = driver.guest(next, &clock).verify(&verify("cat file; hostname"), "/home/agent/work", PATIENCE).await.unwrap();
    assert_eq!(content.output, "one\ntwo\nb\n");
    // It is another one, whatever its disk came from, and nowhere in its files is its parent's token; the hub's own never was.
    let other = driver.guest(next, &clock).verify(&verify(IDENTITY), "/", PATIENCE).await.unwrap().output;
    for (own, parents) in other.lines().zip(identity.lines()) {
        assert!(!own.is_empty() && own != parents, "{other}{identity}");
    }
    assert_eq!((other.lines().count(), other.lines().next()), (4, Some(next_uid.replace('-', "").as_str())));
    let seen = as_root(&driver, next, &format!("{KEEPS_TOKEN}; date +%s")).await;
    let now = clock.now().as_second();
    assert!(seen.trim().parse::<i64>().is_ok_and(|time| (now - time).abs() < 10), "{seen}");
    let disk = std::fs::read(place.data.path().join(format!("mnt/data/vm-{}-disk-0/disk.raw", next.0))).unwrap();
    assert!(!disk.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "the credential of Proxmox is on a guest's disk");
    assert_eq!(driver.guest(next, &clock).status().await.unwrap(), AgentState::None);
    // All of it goes with one command, while that guest still runs.
    let remove = || Command::new(env!("CARGO_BIN_EXE_autovibe")).args(["lab", "remove", "--data"]).arg(place.data.path()).output().unwrap();
    let removed = remove();
    let said = String::from_utf8_lossy(&removed.stdout);
    assert!(removed.status.success() && said.contains("and 1 guests with it"), "{said}{}", String::from_utf8_lossy(&removed.stderr));
    assert!(!place.data.path().exists());
    let pools = zpool(&["list", "-H", "-o", "name"]).unwrap();
    assert!(pools.status.success() && !String::from_utf8_lossy(&pools.stdout).lines().any(|name| name == place.pool));
    assert!(remove().status.success(), "what is gone is fine");
}
