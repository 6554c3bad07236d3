//! The lab against the clients that speak to a real Proxmox and a real ZFS: what they see, what is refused, what a lost
//! answer leaves behind, and what a restart finds again.

mod access;
mod agent;
mod cluster;
mod faults;
mod files;
mod firewall;
mod logins;
mod needs;
mod recordings;
mod setup;
mod snapshots;
mod storage;
mod suspended;
mod tasks;

use autovibe::{
    clock::Clock,
    lab::{self, Call, Lab, Mode, Setup},
    proxmox::{self, Client, Error, Node, Power, TaskStatus, Upid, Vmid},
    zfs::{Dataset, Properties, Runner, Snapshot, Zfs},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// A simulated lab in this process, and clients of it.
struct World {
    lab: Lab,
    client: Client,
    zfs: Zfs,
    node: Node,
    directory: tempfile::TempDir,
    /// The file that it began from.
    setup: Option<PathBuf>,
}

async fn start_in(directory: &Path, gateway: std::net::SocketAddr, setup: Option<&Path>) -> Result<(Lab, Client, Zfs), String> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let config = lab::Config {
        mode: Mode::Simulated,
        data: directory.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        gateway,
        lag: Duration::ZERO,
        refusal: Duration::from_millis(10),
        setup: setup.map(|file| Setup::read(file).unwrap()),
    };
    let lab = lab::start(config).await.map_err(|error| error.to_string())?;
    let endpoint = lab.endpoint().clone();
    let client = Client::new(proxmox::Config {
        endpoint: endpoint.endpoint,
        fingerprint: None,
        credential: proxmox::Credential::token(endpoint.token_id, endpoint.secret),
    })
    .unwrap();
    let zfs = Zfs::open(Runner::Socket(endpoint.zfs_socket.unwrap())).await.unwrap();
    Ok((lab, client, zfs))
}

impl World {
    async fn start() -> Self {
        Self::with_gateway("127.0.0.1:9".parse().unwrap()).await
    }

    /// One with a VM 1000 of one disk, and root.
    async fn with_vm() -> (Self, access::Caller) {
        let world = Self::start().await;
        let root = access::Caller::new(&world, "root@pam!full", false);
        world.clone_image(1000).await;
        world.ok(world.client.create(&world.node, Vmid(1000), &Self::values(1000, "src")).await).await;
        (world, root)
    }

    async fn with_gateway(gateway: std::net::SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::in_directory(directory, gateway, None).await
    }

    async fn in_directory(directory: tempfile::TempDir, gateway: std::net::SocketAddr, setup: Option<PathBuf>) -> Self {
        let (lab, client, zfs) = start_in(&directory.path().join("lab"), gateway, setup.as_deref()).await.unwrap();
        let node = Node(lab.endpoint().node.clone());
        Self { lab, client, zfs, node, directory, setup }
    }

    /// One that begins from this YAML.
    async fn with_setup(yaml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = Self::write(&directory, yaml);
        Self::in_directory(directory, "127.0.0.1:9".parse().unwrap(), Some(file)).await
    }

    fn write(directory: &tempfile::TempDir, yaml: &str) -> PathBuf {
        let file = directory.path().join("setup.yaml");
        std::fs::write(&file, yaml).unwrap();
        file
    }

    /// Errors: what the lab said instead of starting.
    async fn try_start(directory: &Path, setup: &Path) -> Result<(), String> {
        start_in(&directory.join("lab"), "127.0.0.1:9".parse().unwrap(), Some(setup)).await.map(drop)
    }

    /// Likewise, in place of this one.
    async fn try_restart(self) -> Result<(), String> {
        let Self { lab, directory, setup, .. } = self;
        drop(lab);
        Self::try_start(directory.path(), &setup.unwrap()).await
    }

    /// The `zfs` of another node.
    async fn zfs_of(&self, node: &str) -> Zfs {
        Zfs::open(Runner::Socket(self.lab.endpoint_of(node).zfs_socket.unwrap())).await.unwrap()
    }

    /// Ends the lab as a kill would, and starts it anew on what it left.
    async fn restart(self) -> Self {
        let gateway = self.lab.endpoint().gateway;
        self.restart_for(gateway).await
    }

    /// Likewise, for another gateway.
    async fn restart_for(self, gateway: std::net::SocketAddr) -> Self {
        let Self { lab, directory, setup, .. } = self;
        drop(lab);
        Self::in_directory(directory, gateway, setup).await
    }

    fn volume(&self, vmid: u32) -> Dataset {
        Dataset(format!("{}/vm-{vmid}-disk-0", self.lab.endpoint().dataset))
    }

    async fn clone_image(&self, vmid: u32) {
        let image = Snapshot { dataset: Dataset("tank/images/micro".into()), name: "base".into() };
        self.zfs.clone_snapshot(&image, &self.volume(vmid), &Properties::new()).await.unwrap();
    }

    fn values(vmid: u32, name: &str) -> BTreeMap<String, String> {
        [
            ("name", name),
            ("agent", "enabled=1"),
            ("tags", "AV;b;a"),
            ("scsi0", &format!("tank:vm-{vmid}-disk-0")),
            ("net0", "virtio,bridge=vmbr0"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    async fn ended(&self, upid: &Upid) -> TaskStatus {
        let end = async {
            loop {
                match self.client.task(upid).await.unwrap() {
                    TaskStatus::Running => Clock::system().sleep(Duration::from_millis(5)).await,
                    ended => return ended,
                }
            }
        };
        tokio::time::timeout(PATIENCE, end).await.expect("the task ends")
    }

    async fn ok(&self, upid: Result<Upid, Error>) {
        assert_eq!(self.ended(&upid.unwrap()).await, TaskStatus::Done { warnings: 0 });
    }

    /// A VM with a disk cloned from the image, powered on.
    async fn running(&self, vmid: u32, name: &str) {
        self.clone_image(vmid).await;
        self.ok(self.client.create(&self.node, Vmid(vmid), &Self::values(vmid, name)).await).await;
        self.ok(self.client.start(&self.node, Vmid(vmid)).await).await;
    }
}

#[tokio::test]
async fn a_vm_lives_and_ends() {
    let world = World::start().await;
    let (client, node, vmid) = (&world.client, &world.node, Vmid(1000));
    world.running(1000, "web").await;
    assert_eq!(client.power(node, vmid).await.unwrap(), Power::Running);
    assert_eq!(client.node_vms(node).await.unwrap(), [(vmid, Power::Running)]);
    let config = client.config(node, vmid).await.unwrap();
    assert_eq!(config.values["tags"], "a;av;b");
    assert_eq!(config.values["scsi0"], "tank:vm-1000-disk-0,size=1G");
    assert!(matches!(client.delete(node, vmid).await, Err(Error::AlreadyRunning(_))));
    assert_eq!(world.ended(&client.start(node, vmid).await.unwrap()).await, TaskStatus::Failed("VM 1000 already running".into()));
    world.ok(client.shutdown(node, vmid, Duration::from_secs(5)).await).await;
    world.ok(client.stop(node, vmid).await).await;
    world.ok(client.delete(node, vmid).await).await;
    assert!(matches!(client.config(node, vmid).await, Err(Error::NoConfig(_))));
    assert_eq!(world.zfs.dataset(&world.volume(1000)).await.unwrap(), None);
    // Start of a VM that is not there is accepted; only the task says no.
    let upid = client.start(node, vmid).await.unwrap();
    assert!(matches!(world.ended(&upid).await, TaskStatus::Failed(text) if text.contains("does not exist")));
}

#[tokio::test]
async fn volumes_that_zfs_keeps_are_a_warning_and_stay() {
    let world = World::start().await;
    let (client, node, vmid) = (&world.client, &world.node, Vmid(1000));
    world.clone_image(1000).await;
    world.ok(client.create(node, vmid, &World::values(1000, "held")).await).await;
    let snapshot = Snapshot { dataset: world.volume(1000), name: "av-1".into() };
    world.zfs.snapshot(std::slice::from_ref(&snapshot), &Properties::new()).await.unwrap();
    world.zfs.hold("autovibe", std::slice::from_ref(&snapshot)).await.unwrap();
    let upid = client.delete(node, vmid).await.unwrap();
    assert_eq!(world.ended(&upid).await, TaskStatus::Done { warnings: 1 });
    let log = client.task_log(&upid, 50).await.unwrap();
    assert!(
        log.iter().any(|line| line.starts_with("WARN: Could not remove disk 'tank:vm-1000-disk-0', check manually: zfs error:")),
        "{log:?}"
    );
    assert!(matches!(client.config(node, vmid).await, Err(Error::NoConfig(_))));
    assert_eq!(world.zfs.snapshot_info(&snapshot).await.unwrap().unwrap().holds, 1);
    // The number is free, the volume is not: a new VM of this number would be given it.
    world.ok(client.create(node, vmid, &World::values(1000, "next")).await).await;
}

#[tokio::test]
async fn protection_locks_and_stale_digests_are_refused() {
    let world = World::start().await;
    let (client, node, vmid) = (&world.client, &world.node, Vmid(1000));
    world.clone_image(1000).await;
    let mut values = World::values(1000, "safe");
    values.insert("protection".into(), "1".into());
    world.ok(client.create(node, vmid, &values).await).await;
    assert!(matches!(client.delete(node, vmid).await, Err(Error::Protected(_))));
    let stale = client.config(node, vmid).await.unwrap().digest;
    let off = BTreeMap::from([("protection".to_owned(), "0".to_owned())]);
    client.configure(node, vmid, &off, &[], Some(&stale)).await.unwrap();
    let again = client.configure(node, vmid, &off, &[], Some(&stale)).await;
    assert!(matches!(&again, Err(Error::Changed(message)) if message.contains("checksum mismatch")), "{again:?}");
    world.lab.edit_config(1000, "lock", Some("snapshot"));
    assert!(matches!(client.configure(node, vmid, &off, &[], None).await, Err(Error::Locked(lock)) if lock == "snapshot"));
    let upid = client.delete(node, vmid).await.unwrap();
    assert_eq!(world.ended(&upid).await, TaskStatus::Failed("VM is locked (snapshot)".into()));
    // No token removes a lock.
    assert!(client.configure(node, vmid, &BTreeMap::new(), &["lock"], None).await.is_err());
}

#[tokio::test]
async fn a_number_is_taken_once_and_owns_only_volumes_of_its_name() {
    let world = World::start().await;
    let (client, node) = (&world.client, &world.node);
    world.clone_image(1000).await;
    world.ok(client.create(node, Vmid(1000), &World::values(1000, "a")).await).await;
    assert!(matches!(client.create(node, Vmid(1000), &World::values(1000, "b")).await, Err(Error::VmidTaken(_))));
    // A token that may change the owner's disks may attach them elsewhere; one without is refused.
    let root = access::Caller::new(&world, "root@pam!test", false);
    let thief = access::Caller::new(&world, "eve@pve!t", false);
    root.ok("PUT", "/access/acl", &[("path", "/vms/1001"), ("roles", "PVEVMAdmin"), ("users", "eve@pve")]).await;
    root.ok("PUT", "/access/acl", &[("path", "/storage/tank"), ("roles", "PVEDatastoreUser"), ("users", "eve@pve")]).await;
    let refused = thief.call("POST", "/nodes/lab/qemu", &[("vmid", "1001"), ("scsi0", "tank:vm-1000-disk-0")]).await;
    assert_eq!((refused.status, refused.reason.as_str()), (403, "Permission check failed (/vms/1000, VM.Config.Disk)"));
    let upid = client.create(node, Vmid(1002), &World::values(1002, "no-disk")).await.unwrap();
    let failed = world.ended(&upid).await;
    assert_eq!(failed, TaskStatus::Failed("unable to create VM 1002 - volume 'tank:vm-1002-disk-0' does not exist".into()));
    assert!(matches!(client.config(node, Vmid(1002)).await, Err(Error::NoConfig(_))), "a failed create leaves no config");
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_deed_is_done() {
    let world = World::start().await;
    let (client, node, vmid) = (&world.client, &world.node, Vmid(1000));
    world.clone_image(1000).await;
    world.lab.drop_reply(Call::Create);
    let lost = client.create(node, vmid, &World::values(1000, "lost")).await;
    assert!(matches!(lost, Err(Error::Unknown(_))), "{lost:?}");
    assert_eq!(world.lab.count(Call::Create), 1, "a change is never sent twice");
    let there = async {
        while client.config(node, vmid).await.unwrap().values.contains_key("lock") {
            Clock::system().sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("the create ends");
    for call in [Call::Start, Call::Stop, Call::Delete] {
        world.lab.drop_reply(call);
    }
    assert!(matches!(client.start(node, vmid).await, Err(Error::Unknown(_))));
    assert!(matches!(client.stop(node, vmid).await, Err(Error::Unknown(_))));
    world.lab.drop_reply(Call::Version);
    assert_eq!(client.version().await.unwrap(), "9.2", "a read is tried again");
    world.lab.fail_next(Call::Config, 596);
    assert!(matches!(client.config(node, vmid).await, Err(Error::Unknown(_))));
    world.lab.drop_reply(Call::Zfs("snapshot"));
    let snapshot = Snapshot { dataset: world.volume(1000), name: "s".into() };
    let lost = world.zfs.snapshot(std::slice::from_ref(&snapshot), &Properties::new()).await;
    assert!(matches!(lost, Err(autovibe::zfs::Error::Unknown(_))), "{lost:?}");
    assert!(world.zfs.snapshot_info(&snapshot).await.unwrap().is_some());
}

#[tokio::test]
async fn a_wrong_token_gets_an_empty_401() {
    let world = World::start().await;
    let wrong = proxmox::Config {
        endpoint: world.lab.endpoint().endpoint.clone(),
        fingerprint: None,
        credential: proxmox::Credential::token(&world.lab.endpoint().token_id, "wrong"),
    };
    let refused = Client::new(wrong).unwrap().version().await;
    assert!(
        matches!(&refused, Err(Error::Unauthorized { message, .. }) if message.contains("(401: Authentication failed)")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn names_and_states_lag_in_resources() {
    let world = World::start().await;
    world.lab.set_lag(Duration::from_hours(1));
    world.clone_image(1000).await;
    world.ok(world.client.create(&world.node, Vmid(1000), &World::values(1000, "late")).await).await;
    let row = world.client.resources().await.unwrap().vms.remove(0);
    assert_eq!((row.name, row.status.as_deref(), row.tags), (None, Some("unknown"), vec!["a".into(), "av".into(), "b".into()]));
    world.lab.set_lag(Duration::ZERO);
    let row = world.client.resources().await.unwrap().vms.remove(0);
    assert_eq!((row.name.as_deref(), row.status.as_deref()), (Some("late"), Some("stopped")));
}

#[tokio::test]
async fn a_restarted_lab_finds_everything_again() {
    let world = World::start().await;
    world.running(1000, "survivor").await;
    let secret = world.lab.endpoint().secret.clone();
    let world = world.restart().await;
    assert_eq!(world.lab.endpoint().secret, secret);
    assert_eq!(world.client.power(&world.node, Vmid(1000)).await.unwrap(), Power::Running);
    assert_eq!(world.zfs.dataset(&world.volume(1000)).await.unwrap().unwrap().origin.unwrap().to_string(), "tank/images/micro@base");
    assert_eq!(world.client.config(&world.node, Vmid(1000)).await.unwrap().values["name"], "survivor");
}
