//! The verbs that the hub runs in a guest, by their name: what they print and leave, as the real scripts do.

use super::{
    Guests,
    disk::{Disk, Exit},
    guest::Launch,
    prompt,
};
use crate::agent::scripts::OTHER_SOURCE;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a killed agent's shell reports: 128 + SIGTERM.
const TERMINATED: i32 = 143;

/// A command that ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    code: i32,
    out: String,
    err: String,
    /// Runs until then.
    until: Option<Instant>,
}

/// What a person's command wrote: its lines, one after each while.
#[derive(Debug)]
struct Streams {
    began: Instant,
    lines: Vec<String>,
    every: Duration,
}

impl Streams {
    fn so_far(&self) -> String {
        let passed = self.began.elapsed();
        let is_there = |(line, _): &(u32, &String)| passed >= self.every * *line;
        (0..).zip(&self.lines).filter(is_there).map(|(_, text)| text.as_str()).collect()
    }
}

/// Commands of one guest: those whose end nobody has read, and the agent.
#[derive(Debug, Default)]
pub(super) struct Commands {
    last_pid: u64,
    pub(super) ended: BTreeMap<u64, Ended>,
    streams: BTreeMap<String, Streams>,
    pub(super) agent: Option<CancellationToken>,
}

impl Commands {
    pub(super) fn add(&mut self, ended: Ended) -> u64 {
        self.last_pid = self.last_pid.max(100) + 2;
        self.ended.insert(self.last_pid, ended);
        self.last_pid
    }

    /// As guest-exec-status gives it; `None` when there is no such command, or its end was read before: it is told once.
    pub(super) fn report(&mut self, pid: u64) -> Option<Value> {
        if self.ended.get(&pid)?.until.is_some_and(|until| until > Instant::now()) {
            return Some(json!({ "exited": false }));
        }
        self.ended.remove(&pid).map(Ended::report)
    }
}

impl Ended {
    fn printed(out: String) -> Self {
        Self { out, ..Self::default() }
    }

    fn report(self) -> Value {
        let mut report = json!({ "exited": true, "exitcode": self.code });
        for (key, text) in [("out-data", self.out), ("err-data", self.err)] {
            if !text.is_empty() {
                report[key] = STANDARD.encode(text).into();
            }
        }
        report
    }
}

impl Guests {
    pub(super) fn verb(&self, vmid: u32, verb: &str, args: &[&str], input: &str) -> Ended {
        let arg = |at: usize| args.get(at).copied().unwrap_or_default().to_owned();
        match verb {
            "autovibe-personalise" => {
                self.on_disk(vmid, |disk| {
                    // Another machine's launches, on the disk of a fork, are not this one's.
                    if disk.machine_id.replace(arg(1)) != disk.machine_id {
                        disk.launches.clear();
                        disk.exit = None;
                    }
                    disk.hostname = Some(arg(0));
                });
                Ended::default()
            }
            "autovibe-source" => {
                let came = (arg(2), arg(0));
                let other = self.on_disk(vmid, |disk| {
                    if let Some((origin, workspace)) = &disk.origin
                        && *origin != came.0
                        && *workspace == came.1
                    {
                        return Some(origin.clone());
                    }
                    disk.source = Some(arg(1));
                    disk.origin = Some(came);
                    None
                });
                match other.flatten() {
                    Some(origin) => Ended { code: OTHER_SOURCE, err: format!("{origin}\n"), ..Ended::default() },
                    None => Ended::default(),
                }
            }
            "autovibe-launch" => self.launch(vmid, &arg(0), input),
            "autovibe-status" => Ended::printed(self.status(vmid)),
            "autovibe-verify" => self.verify(vmid, &arg(1), args.get(2..).unwrap_or_default()),
            "autovibe-digest" => Ended::printed(self.digests(vmid, args.get(1..).unwrap_or_default())),
            "autovibe-exec" => self.for_person(vmid, [&arg(0), &arg(2), &arg(3)], args.get(5..).unwrap_or_default(), input),
            "autovibe-exec-read" => {
                let number = |at: usize| arg(at).parse().unwrap_or_default();
                let mut memory = self.memory();
                let streams = memory.get_mut(&vmid).and_then(|memory| memory.commands.streams.get(&arg(0)));
                let Some(so_far) = streams.map(Streams::so_far) else { return Ended { code: 3, ..Ended::default() } };
                let part: Vec<u8> = so_far.into_bytes().into_iter().skip(number(1)).take(number(3)).collect();
                Ended::printed(STANDARD.encode(part))
            }
            "autovibe-reach" => Ended::printed(self.reach(vmid)),
            "autovibe-exec-end" => {
                self.memory().get_mut(&vmid).map(|memory| memory.commands.streams.remove(&arg(0)));
                Ended::default()
            }
            "autovibe-flush" => Ended::printed("flushed=true\n".into()),
            "autovibe-stop" => {
                self.stop_agent(vmid);
                Ended::default()
            }
            "autovibe-bundle" => {
                let bundle = self.on_disk(vmid, |disk| disk.bundle.clone()).flatten();
                Ended::printed(format!("{}\n", bundle.as_deref().unwrap_or("none")))
            }
            // Anything else that is run in a guest works and prints nothing.
            _ => Ended::default(),
        }
    }

    fn launch(&self, vmid: u32, number: &str, input: &str) -> Ended {
        let failed = |code, err: String| Ended { code, err, ..Ended::default() };
        let Ok(number) = number.parse() else {
            return failed(64, format!("`{number}` is no launch number\n"));
        };
        let environment = prompt::exports(input);
        let launched = self.store.change(|state| {
            let guest = state.guests.get_mut(&vmid).ok_or(0_u32)?;
            let disk = &mut state.pools.get_mut(&guest.pool).and_then(|pool| pool.datasets.get_mut(&guest.disk)).ok_or(0_u32)?.disk;
            if disk.launches.contains(&number) {
                return Ok(false);
            }
            if let Some(agent) = guest.agent.as_ref().filter(|_| disk.exit.is_none()) {
                return Err(agent.number);
            }
            disk.launches.push(number);
            disk.exit = None;
            guest.agent = Some(Launch { number, environment });
            Ok(true)
        });
        match launched {
            Ok(true) => self.play(vmid),
            Ok(false) => {}
            Err(running) => return failed(75, format!("launch {running} still runs\n")),
        }
        Ended::default()
    }

    fn status(&self, vmid: u32) -> String {
        self.store.read(|state| {
            let guest = state.guests.get(&vmid);
            let disk = guest.and_then(|guest| state.pools.get(&guest.pool)?.datasets.get(&guest.disk)).map(|dataset| &dataset.disk);
            let Some(launch) = disk.and_then(|disk| disk.launches.last()) else { return "state=none\n".to_owned() };
            match disk.and_then(|disk| disk.exit) {
                Some(exit) => format!("state=exited\nlaunch={launch}\nexit={}\n", exit.code),
                None if guest.is_some_and(|guest| guest.agent.is_some()) => format!("state=running\nlaunch={launch}\n"),
                // The power was cut before it ended.
                None => format!("state=exited\nlaunch={launch}\n"),
            }
        })
    }

    /// Whether anything listens where the agent was told that the gateway is.
    fn reach(&self, vmid: u32) -> String {
        let told = self.store.read(|state| state.guests.get(&vmid)?.agent.as_ref()?.environment.get("AUTOVIBE_GATEWAY").cloned());
        match told.map(|url| self.gateway.connects(&url)) {
            None => "reached=unknown\n".into(),
            Some(Ok(())) => "reached=yes\n".into(),
            Some(Err(error)) => format!("reached=no\nwhy={error}\n"),
        }
    }

    /// Of the conversation where the name of a directory says that it is an agent's, else of the workspace.
    fn digests(&self, vmid: u32, directories: &[&str]) -> String {
        let held = self.on_disk(vmid, |disk| {
            let conversation = json!([disk.session, disk.messages]).to_string();
            (conversation, json!([disk.source, disk.workspace]).to_string())
        });
        let Some((conversation, workspace)) = held else { return String::new() };
        let of = |directory: &&str| {
            let held = if directory.contains("/.") { &conversation } else { &workspace };
            format!("{} {directory}\n", hex::encode(Sha256::digest(held.as_bytes())))
        };
        directories.iter().map(of).collect()
    }

    /// `true`, `false`, `exit N` in a shell text, `sim-turns N`: whether agents took at least N turns on this disk, and `sim-in PATH`:
    /// whether it is run there.
    fn verify(&self, vmid: u32, workspace: &str, command: &[&str]) -> Ended {
        let code = match command {
            ["sim-in", path] => i32::from(*path != workspace),
            ["sim-turns", least] => {
                let turns = self.on_disk(vmid, |disk: &mut Disk| disk.turns).unwrap_or_default();
                i32::from(least.parse::<u32>().is_ok_and(|least| turns < least))
            }
            [.., "false"] => 1,
            [.., text] => {
                text.split("exit ").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).unwrap_or(0)
            }
            [] => 0,
        };
        Ended { code, out: format!("verified with code {code}\n"), ..Ended::default() }
    }

    /// `echo WORDS`, `cat` of the input, `whoami` and `hostname`; `sim-count N` writes 1 to N, one a second; anything else as a verify
    /// command.
    fn for_person(&self, vmid: u32, [id, user, workspace]: [&str; 3], command: &[&str], input: &str) -> Ended {
        let (began, mut ended) = (Instant::now(), Ended::default());
        let out = match command {
            ["sim-count", most] => {
                let most: u32 = most.parse().unwrap_or_default();
                ended.until = Some(began + Duration::from_secs(most.into()));
                let lines = (1..=most).map(|number| format!("{number}\n")).collect();
                self.keep(vmid, id, Streams { began, lines, every: Duration::from_secs(1) });
                return ended;
            }
            ["echo", words @ ..] => format!("{}\n", words.join(" ")),
            ["cat"] => input.to_owned(),
            ["whoami"] => format!("{user}\n"),
            ["hostname"] => self.on_disk(vmid, |disk| disk.hostname.clone()).flatten().unwrap_or_default() + "\n",
            _ => {
                let verified = self.verify(vmid, workspace, command);
                ended.code = verified.code;
                verified.out
            }
        };
        self.keep(vmid, id, Streams { began, lines: vec![out], every: Duration::ZERO });
        ended
    }

    fn keep(&self, vmid: u32, id: &str, streams: Streams) {
        self.memory().get_mut(&vmid).map(|memory| memory.commands.streams.insert(id.to_owned(), streams));
    }

    fn stop_agent(&self, vmid: u32) {
        let agent = self.memory().get_mut(&vmid).and_then(|memory| memory.commands.agent.take());
        if let Some(agent) = agent {
            agent.cancel();
        }
        self.store.change(|state| {
            let guest = state.guests.get(&vmid)?;
            let launch = guest.agent.as_ref()?.number;
            let disk = state.disk_of(vmid)?;
            disk.exit.get_or_insert(Exit { launch, code: TERMINATED });
            Some(())
        });
        // The wrapper outlives the agent and tells its end.
        self.play(vmid);
    }
}
