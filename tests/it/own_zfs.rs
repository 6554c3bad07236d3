//! This machine's own `zfs` and `zpool`, as tests ask them: in their turn, and never waited for without an end. None is killed:
//! that has hung the daemon for good.

use autovibe::zfs::in_turn;
use std::{
    io,
    process::{Command, Output},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Longer than a command of a test takes on a busy machine.
const HUNG: Duration = Duration::from_mins(2);
/// For so long zfs-fuse may call a pool busy after its last use.
const BUSY: Duration = Duration::from_secs(20);

/// Runs it to its end. Errors: it cannot be run, or it does not end.
fn run(program: &'static str, arguments: &[&str]) -> io::Result<Output> {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let said = format!("{program} {} does not end: the pool hangs", arguments.join(" "));
    let (sender, receiver) = mpsc::channel();
    // A thread of its own: callers wait within a runtime and without one.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let verb = arguments[0].clone();
        let command = async { Command::new(program).args(arguments).env("LC_ALL", "C").output() };
        sender.send(runtime.block_on(in_turn(&verb, command))).ok();
    });
    receiver.recv_timeout(HUNG).unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, said)))
}

pub(crate) fn zpool(arguments: &[&str]) -> io::Result<Output> {
    run("zpool", arguments)
}

/// Must succeed.
pub(crate) fn zfs(arguments: &[&str]) {
    let output = run("zfs", arguments).unwrap();
    assert!(output.status.success(), "zfs {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// Mounts it and takes it off again: zfs-fuse keeps a pool busy for a while after an unmount, or until the next one.
pub(crate) fn unmount_again(pool: &str) {
    for verb in ["mount", "unmount"] {
        run("zfs", &[verb, pool]).ok();
    }
    std::thread::sleep(Duration::from_millis(200));
}

/// Destroys a pool that the test made; fine when it is not there.
pub(crate) fn destroy_pool(name: &str) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let gone = zpool(&["destroy", "-f", name]).map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&gone.stderr).into_owned();
        if gone.status.success() || said.contains("no such pool") {
            return Ok(());
        }
        if started.elapsed() > BUSY {
            return Err(format!("pool {name} was left behind: {said}"));
        }
        unmount_again(name);
    }
}
