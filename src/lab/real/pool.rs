//! Brings up the pool of a lab: OpenZFS where it is loaded, else zfs-fuse. What is in the pool is the driver's business.
//!
//! One zfs-fuse daemon serves the whole machine; a second would take its socket. A `zfs` command is never killed:
//! that has hung the daemon for good.

use super::Error;
use crate::{clock::Clock, zfs::in_turn};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tracing::{info, warn};

/// How long the daemon may take to answer after its start.
const DAEMON_UP: Duration = Duration::from_secs(15);
/// How long one command may take before the pool counts as hung. The command itself goes on.
const COMMAND: Duration = Duration::from_mins(1);
/// zfs-fuse calls a pool busy for a moment after its last use.
const BUSY: Duration = Duration::from_millis(200);
const TRIES: u32 = 100;
/// The kernel module's device.
const OPENZFS: &str = "/dev/zfs";
/// Where zfs-fuse keeps the pools that it brings back at its start.
const CACHE: &str = "/etc/zfs/zpool.cache";

/// Which ZFS a pool is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zfs {
    /// The kernel's, with volumes.
    OpenZfs,
    /// Debian's daemon, without volumes: disks are files in filesystem datasets.
    Fuse,
}

/// A pool that is imported and mounted.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: String,
    pub mountpoint: PathBuf,
    pub zfs: Zfs,
}

impl Pool {
    /// Where the dataset `data` is mounted, if disks are files there.
    pub fn disk_files(&self) -> Option<PathBuf> {
        matches!(self.zfs, Zfs::Fuse).then(|| self.mountpoint.join("data"))
    }

    /// What a person should know of it.
    pub fn note(&self) -> String {
        match self.zfs {
            Zfs::OpenZfs => format!("pool {} on this machine's OpenZFS", self.name),
            Zfs::Fuse => format!("pool {} on zfs-fuse, as this machine has no OpenZFS: disks are files in its datasets", self.name),
        }
    }

    /// Makes the file system `<pool>/<dataset>`, unless it is there.
    pub async fn ensure(&self, dataset: &str) -> Result<(), Error> {
        let dataset = format!("{}/{dataset}", self.name);
        let made = run("zfs", &["create", &dataset]).await?;
        if String::from_utf8_lossy(&made.stderr).contains("dataset already exists") {
            return Ok(());
        }
        must(&made, &format!("{dataset} cannot be made")).map(|_| ())
    }
}

/// The name of the pool of a data directory: another directory's lab on this machine must have another.
pub fn name(data: &Path) -> String {
    let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
    format!("autovibe-{}", hex::encode(&digest[..4]))
}

/// Imports the pool `name` that lies in `<data>/pool.img`, or makes it with at most `size_bytes` when there is no such file.
///
/// Starts zfs-fuse when no ZFS answers. Errors: `Unavailable` when this machine has no ZFS that can run, with what to do;
/// `Failed` when there is a pool of that name that is not ours, or one that is damaged.
pub async fn bring_up(data: &Path, name: &str, size_bytes: u64, clock: &Clock) -> Result<Pool, Error> {
    let data = std::path::absolute(data).map_err(Error::io("cannot resolve", data))?;
    std::fs::create_dir_all(&data).map_err(Error::io("cannot make", &data))?;
    let image = data.join("pool.img");
    let mountpoint = data.join("mnt");
    let zfs = serve(&image, clock).await?;
    match health(name).await? {
        Some(state) => check(name, &state, &image).await?,
        None if image.exists() => {
            unmount_dead(&mountpoint).await;
            must(
                &zpool(&["import", "-o", "cachefile=none", "-d", text(&data)?, name]).await?,
                &format!("pool {name} in {} cannot be imported", image.display()),
            )?;
            info!("imported pool {name} from {}", image.display());
        }
        None => create(name, zfs, &image, &mountpoint, size_bytes).await?,
    }
    mount(name).await?;
    Ok(Pool { name: name.to_owned(), mountpoint, zfs })
}

/// Destroys the pool that [`bring_up`] made in this directory; fine when it is not there, or not imported: its file is all it is.
///
/// Errors: `Failed` when a pool of its name is on another file, or stays busy.
pub async fn destroy(data: &Path, clock: &Clock) -> Result<(), Error> {
    let data = std::path::absolute(data).map_err(Error::io("cannot resolve", data))?;
    let (image, name) = (data.join("pool.img"), name(&data));
    let served = zpool(&["list", "-H", "-o", "name"]).await.is_ok_and(|listed| listed.status.success());
    if !served || health(&name).await?.is_none() {
        return Ok(());
    }
    on_image(&name, &image).await?;
    for _ in 0..TRIES {
        let output = zpool(&["destroy", "-f", &name]).await?;
        let words = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || words.contains("no such pool") {
            return Ok(());
        }
        if !words.contains("busy") {
            return Err(Error::Failed(format!("pool {name} cannot be destroyed: {}", words.trim())));
        }
        clock.sleep(BUSY).await;
    }
    Err(Error::Failed(format!("pool {name} stays busy: see what uses {}", data.join("mnt").display())))
}

/// Mounts what should be mounted in this pool and is not: a lab or a driver may have ended between two commands.
async fn mount(name: &str) -> Result<(), Error> {
    let listed = must(
        &run("zfs", &["list", "-H", "-r", "-t", "filesystem", "-o", "name,mounted,canmount,mountpoint", name]).await?,
        "the pool cannot be listed",
    )?;
    for line in listed.lines() {
        if let [dataset, "no", "on", at] = line.split('\t').collect::<Vec<_>>()[..]
            && at.starts_with('/')
        {
            must(&run("zfs", &["mount", dataset]).await?, &format!("{dataset} cannot be mounted"))?;
        }
    }
    Ok(())
}

/// Makes sure that some ZFS answers.
async fn serve(image: &Path, clock: &Clock) -> Result<Zfs, Error> {
    if Path::new(OPENZFS).exists() {
        return Ok(Zfs::OpenZfs);
    }
    // Labs that start at the same time must not start two daemons: the second would take the socket of the first.
    let path = std::env::temp_dir().join("autovibe-zfs-fuse.lock");
    let _lock = tokio::task::spawn_blocking(move || -> Result<std::fs::File, Error> {
        let file = std::fs::File::create(&path).map_err(Error::io("cannot make", &path))?;
        file.lock().map_err(Error::io("cannot lock", &path))?;
        Ok(file)
    })
    .await
    .map_err(|_| Error::Failed("waiting for another lab to bring zfs-fuse up failed".into()))??;
    let listed = zpool(&["list", "-H", "-o", "name"]).await?;
    if listed.status.success() {
        return Ok(Zfs::Fuse);
    }
    let help = run("zfs-fuse", &["--help"]).await;
    if help.is_err() {
        let words = String::from_utf8_lossy(&listed.stderr);
        return Err(Error::Unavailable(format!("ZFS is installed but does not run ({}): load its kernel module", words.trim())));
    }
    if daemon_runs() {
        let words = String::from_utf8_lossy(&listed.stderr);
        return Err(Error::Failed(format!(
            "zfs-fuse runs and does not answer ({}): see what it hangs on, then end it; nothing here does",
            words.trim()
        )));
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(Error::Unavailable(
            "zfs-fuse needs /dev/fuse, which this machine lacks: load the kernel module fuse, or give the container the device".into(),
        ));
    }
    remove_stale_cache(image);
    // Output goes nowhere: the daemon outlives us, and must not hold what we were started with.
    let daemon = std::process::Command::new("setsid")
        .args(["--fork", "zfs-fuse", "-n"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(Error::io("cannot run", Path::new("setsid")))?;
    if !daemon.success() {
        return Err(Error::Failed(format!("zfs-fuse was not started: {daemon}")));
    }
    let up = tokio::time::timeout(DAEMON_UP, async {
        while !zpool(&["list", "-H", "-o", "name"]).await.is_ok_and(|listed| listed.status.success()) {
            clock.sleep(Duration::from_millis(100)).await;
        }
    });
    up.await.map_err(|_| Error::Unavailable("zfs-fuse was started and does not answer: run `zfs-fuse -n` as root to see why".into()))?;
    info!("started zfs-fuse");
    Ok(Zfs::Fuse)
}

/// Whether a process of that name is there; one that has not answered is not replaced.
fn daemon_runs() -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok()).any(|stat| {
        // `pid (name) state …`; a dead one that nobody waited for is no daemon.
        stat.rsplit_once(") ").is_some_and(|(name, state)| name.ends_with("(zfs-fuse") && !state.starts_with('Z'))
    })
}

/// zfs-fuse hangs on pools whose files are gone. Pools of ours are never in the cache now; those of others are not touched.
fn remove_stale_cache(image: &Path) {
    let Ok(cache) = std::fs::read(CACHE) else { return };
    let foreign = paths_in(&cache).into_iter().any(|path| path != image);
    if foreign {
        warn!("{CACHE} names pools that are not this lab's; left alone");
    } else if let Err(error) = std::fs::remove_file(CACHE) {
        warn!("{CACHE} is stale and cannot be removed: {error}");
    }
}

/// The absolute paths in a pool cache, which is a packed list of names and values; every disk's path is among them.
pub(super) fn paths_in(cache: &[u8]) -> Vec<PathBuf> {
    cache
        .split(|byte| !(b' '..=b'~').contains(byte))
        .filter_map(|word| std::str::from_utf8(word).ok())
        .filter(|word| word.len() > 1 && word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// The pool's health as ZFS calls it; `None` when there is no such pool.
async fn health(name: &str) -> Result<Option<String>, Error> {
    let pools = must(&zpool(&["list", "-H", "-o", "name,health"]).await?, "the pools cannot be listed")?;
    Ok(pools.lines().find_map(|line| line.split_once('\t').filter(|(pool, _)| *pool == name).map(|(_, state)| state.trim().to_owned())))
}

async fn check(name: &str, state: &str, image: &Path) -> Result<(), Error> {
    on_image(name, image).await?;
    match state {
        "ONLINE" => Ok(()),
        _ => Err(Error::Failed(format!("pool {name} is {state}: see `zpool status {name}`"))),
    }
}

/// Refuses a pool of another lab that has the name.
async fn on_image(name: &str, image: &Path) -> Result<(), Error> {
    let status = must(&zpool(&["status", name]).await?, "the pool cannot be read")?;
    if !status.split_whitespace().any(|word| Path::new(word) == image) {
        return Err(Error::Failed(format!(
            "there is a pool {name} already, and it is not on {}: give this lab another name",
            image.display()
        )));
    }
    Ok(())
}

/// Makes the pool on a sparse file that never grows beyond what the file system under it can give now.
async fn create(name: &str, zfs: Zfs, image: &Path, mountpoint: &Path, size_bytes: u64) -> Result<(), Error> {
    let directory = image.parent().expect("pool.img is in the data directory");
    let room = run("df", &["-B1", "--output=avail", text(directory)?]).await?;
    let available = String::from_utf8_lossy(&room.stdout).lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok());
    let size = available.map_or(size_bytes, |available| size_bytes.min(available / 10 * 9));
    let part = image.with_extension("part");
    let file = std::fs::File::create(&part).map_err(Error::io("cannot make", &part))?;
    file.set_len(size).map_err(Error::io("cannot size", &part))?;
    std::fs::create_dir_all(mountpoint).map_err(Error::io("cannot make", mountpoint))?;
    // The file gets its name first: a pool knows its disk by path. An empty image left by a crash has no pool to import.
    std::fs::rename(&part, image).map_err(Error::io("cannot make", image))?;
    // The old compression of zfs-fuse costs a guest's first reads more than the room is worth.
    let compression = if zfs == Zfs::Fuse { "compression=off" } else { "compression=on" };
    let made =
        zpool(&["create", "-o", "cachefile=none", "-O", "atime=off", "-O", compression, "-m", text(mountpoint)?, name, text(image)?])
            .await?;
    if let Err(error) = must(&made, &format!("pool {name} cannot be made")) {
        std::fs::remove_file(image).ok();
        return Err(error);
    }
    info!("made pool {name} of {} GiB on {}", size >> 30, image.display());
    Ok(())
}

/// A daemon that died leaves its mounts behind, and nothing can be mounted over them.
async fn unmount_dead(mountpoint: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut dead: Vec<&str> =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(mountpoint)).collect();
    // Deepest first.
    dead.sort_by_key(|at| std::cmp::Reverse(at.len()));
    for at in dead {
        warn!("unmounting {at}, left by a zfs daemon that ended");
        if let Err(error) = run("umount", &["-l", at]).await {
            warn!("{at} cannot be unmounted: {error}");
        }
    }
}

fn text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Config(format!("{} is not UTF-8", path.display())))
}

fn must(output: &Output, what: &str) -> Result<String, Error> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Failed(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

async fn zpool(arguments: &[&str]) -> Result<Output, Error> {
    run("zpool", arguments).await.map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::Unavailable("there is no ZFS on this machine: install OpenZFS, or the package zfs-fuse".into())
        }
        other => other,
    })
}

/// Runs a command to its end; after [`COMMAND`] it is left to itself, not killed.
async fn run(program: &str, arguments: &[&str]) -> Result<Output, Error> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let verb = arguments.first().copied().unwrap_or_default().to_owned();
    // Its own task: when nobody waits any more it still is read to its end.
    let waiting = tokio::spawn(async move {
        let to_its_end = async { command.spawn()?.wait_with_output().await };
        in_turn(&verb, to_its_end).await
    });
    match tokio::time::timeout(COMMAND, waiting).await {
        Ok(Ok(output)) => output.map_err(Error::io("cannot run", Path::new(program))),
        Ok(Err(_)) => Err(Error::Failed(format!("waiting for {program} {} failed", arguments.join(" ")))),
        Err(_) => Err(Error::Failed(format!("{program} {} does not end; the pool may hang", arguments.join(" ")))),
    }
}
