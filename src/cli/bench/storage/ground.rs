//! A pool of the bench's own with the product's driver on it; what the driver asks of `zfs` is counted.

use crate::cli::{bench::place::Place, lab::directory as lab_directory};
use crate::clock::Clock;
use crate::driver::{Connection, Driver, storage};
use crate::lab::{Config, Lab, Mode, real::pool};
use crate::zfs::{self, Dataset, Error, Output, Properties, Runner, Service, Snapshot};
use anyhow::{Context as _, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use std::time::{Duration, Instant};

/// The pool's file is sparse: nothing here fills it.
const POOL_BYTES: u64 = 16 << 30;
/// Of the disk that all others are clones of.
const DISK_BYTES: usize = 1 << 20;
/// What a guest writes before its checkpoint.
const WRITTEN: [u8; 4096] = [0x61; 4096];
/// A free port of this machine's own.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Volumes' device nodes, where disks are volumes.
const DEVICES: &str = "/dev/zvol";

/// What one step asked of `zfs`, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    pub(super) took: Duration,
    pub(super) commands: u64,
    /// That they printed, bytes.
    pub(super) printed: u64,
}

#[derive(Default)]
struct Counts {
    commands: AtomicU64,
    printed: AtomicU64,
}

/// The pool, and the driver on it.
pub(super) struct Ground {
    pub(super) driver: Driver,
    /// A disk with something on it, which all others are clones of.
    pub(super) base: Snapshot,
    pub(super) base_guid: String,
    pub(super) note: String,
    counts: Arc<Counts>,
    /// Where disks are files, their place.
    files: Option<PathBuf>,
    /// Answers for Proxmox, which these verbs do not ask.
    _proxmox: Lab,
}

impl Ground {
    pub(super) async fn new(place: &Place, clock: &Clock) -> anyhow::Result<Self> {
        let directory = lab_directory(place.path());
        let pool = pool::bring_up(&directory, &pool::name(&directory), POOL_BYTES, clock).await?;
        pool.ensure("data").await?;
        let config = Config {
            mode: Mode::Simulated,
            data: place.path().join("proxmox"),
            listen: ANY,
            gateway: ANY,
            lag: Duration::ZERO,
            refusal: Duration::ZERO,
            setup: None,
        };
        let proxmox = crate::lab::start_in_memory(config).await?;
        let counts = Arc::new(Counts::default());
        let connection = Connection {
            runner: Runner::Service(counting(&counts)),
            dataset: Dataset(format!("{}/data", pool.name)),
            keep: Dataset(format!("{}/autovibe", pool.name)),
            made_by: "bench/1".into(),
            ..Connection::of_lab(proxmox.endpoint())
        };
        let driver = Driver::open(connection).await?;
        driver.zfs.create_parent(&driver.connection().keep).await?;
        let image = place.path().join("image.raw");
        std::fs::write(&image, vec![0x62; DISK_BYTES])?;
        let base = Snapshot { dataset: Dataset(format!("{}/base", pool.name)), name: "base".into() };
        driver.zfs.import_disk(&image, &base.dataset, &Properties::new()).await?;
        driver.zfs.snapshot(std::slice::from_ref(&base), &Properties::new()).await?;
        let info = driver.zfs.snapshot_info(&base).await?.context("the base that was made is not there")?;
        let (files, note) = (pool.disk_files(), pool.note());
        Ok(Self { driver, base, base_guid: info.guid, note, counts, files, _proxmox: proxmox })
    }

    /// Does one step of the driver's: what came of it, and what it took.
    pub(super) async fn step<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> anyhow::Result<(T, Step)>
    where
        anyhow::Error: From<E>,
    {
        let (commands, printed) = (self.counts.commands.load(Relaxed), self.counts.printed.load(Relaxed));
        let begun = Instant::now();
        let done = work.await?;
        let took = begun.elapsed();
        let step =
            Step { took, commands: self.counts.commands.load(Relaxed) - commands, printed: self.counts.printed.load(Relaxed) - printed };
        Ok((done, step))
    }

    /// Changes a block of a disk that is there already, as a guest does: its newest snapshot has something of its own then.
    pub(super) async fn write(&self, disk: &Dataset) -> anyhow::Result<()> {
        let name = disk.0.rsplit('/').next().unwrap_or_default();
        let path = match &self.files {
            Some(files) => files.join(name).join("disk.raw"),
            None => PathBuf::from(DEVICES).join(&disk.0),
        };
        let written = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::options().write(true).open(&path).with_context(|| format!("{} cannot be written", path.display()))?;
            std::os::unix::fs::FileExt::write_all_at(&file, &WRITTEN, 0)?;
            anyhow::Ok(file.sync_all()?)
        });
        written.await?
    }
}

/// Marks of a disk or snapshot of a Machine.
pub(super) fn marks(machine_uid: &str, checkpoint_uid: Option<&str>) -> Vec<String> {
    let checkpoint = checkpoint_uid.map(|uid| (storage::CHECKPOINT, uid));
    let all = checkpoint.into_iter().chain([(storage::MACHINE, machine_uid), (storage::MADE_BY, "bench/1")]);
    all.flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]).collect()
}

/// Runs one plain `zfs` command, as a person would; its time.
pub(super) async fn raw(words: &[&str], options: &[String], names: &[String]) -> anyhow::Result<Duration> {
    let argv = [words.iter().map(|word| (*word).to_owned()).collect(), options.to_vec(), names.to_vec()].concat();
    let begun = Instant::now();
    let said = words.join(" ");
    // A task of its own: a `zfs` command that is left in its middle has hung zfs-fuse.
    let output = tokio::spawn(async move { zfs::local(&argv).await }).await??;
    ensure!(output.status == 0, "zfs {said}: {}", output.stderr.trim());
    Ok(begun.elapsed())
}

fn counting(counts: &Arc<Counts>) -> Service {
    let counts = Arc::clone(counts);
    Service::new(move |argv| {
        let counts = Arc::clone(&counts);
        Box::pin(async move {
            counts.commands.fetch_add(1, Relaxed);
            let output = match zfs::local(&argv).await {
                Ok(output) => output,
                // As a helper says it whose `zfs` does not start.
                Err(Error::Unavailable(why)) => Output { status: 1, stdout: String::new(), stderr: why },
                Err(_) => return None,
            };
            counts.printed.fetch_add((output.stdout.len() + output.stderr.len()) as u64, Relaxed);
            Some(output)
        })
    })
}

/// Destroys the pool. What cannot be destroyed stays on its file: zfs-fuse hangs when that goes.
pub(super) async fn clear(place: Place, clock: &Clock) -> anyhow::Result<()> {
    let cleared = pool::destroy(&lab_directory(place.path()), clock).await;
    if cleared.is_err() {
        let left = place.leave();
        return cleared.with_context(|| format!("{} was left behind", left.display()));
    }
    Ok(())
}
