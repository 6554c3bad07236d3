//! The verbs that the hub runs in a guest, by their name: what they print and leave, as the real scripts do.

use super::{
    Guests,
    disk::{Disk, Exit},
    guest::Launch,
    prompt,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// What a killed agent's shell reports: 128 + SIGTERM.
const TERMINATED: i32 = 143;

/// A command that ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    code: i32,
    out: String,
    err: String,
}

/// Commands of one guest: those whose end nobody has read, and the agent.
#[derive(Debug, Default)]
pub(super) struct Commands {
    last_pid: u64,
    pub(super) ended: BTreeMap<u64, Ended>,
    pub(super) agent: Option<CancellationToken>,
}

impl Commands {
    pub(super) fn add(&mut self, ended: Ended) -> u64 {
        self.last_pid = self.last_pid.max(100) + 2;
        self.ended.insert(self.last_pid, ended);
        self.last_pid
    }
}

impl Ended {
    fn printed(out: String) -> Self {
        Self { out, ..Self::default() }
    }

    /// As guest-exec-status gives it.
    pub(super) fn report(self) -> Value {
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
                    disk.hostname = Some(arg(0));
                    disk.machine_id = Some(arg(1));
                });
                Ended::default()
            }
            "autovibe-source" => {
                self.on_disk(vmid, |disk| disk.source = Some(arg(1)));
                Ended::default()
            }
            "autovibe-launch" => self.launch(vmid, &arg(0), input),
            "autovibe-status" => Ended::printed(self.status(vmid)),
            "autovibe-verify" => self.verify(vmid, args.get(2..).unwrap_or_default()),
            "autovibe-flush" => Ended::printed("flushed=true\n".into()),
            "autovibe-stop" => {
                self.stop_agent(vmid);
                Ended::default()
            }
            "autovibe-bundle" => Ended::printed("none\n".into()),
            // Anything else that is run in a guest works and prints nothing.
            _ => Ended::default(),
        }
    }

    fn launch(&self, vmid: u32, number: &str, input: &str) -> Ended {
        let Ok(number) = number.parse() else {
            return Ended { code: 64, out: String::new(), err: format!("`{number}` is no launch number\n") };
        };
        let environment = prompt::exports(input);
        let new = self.store.change(|state| {
            let guest = state.guests.get_mut(&vmid)?;
            let disk = &mut state.pool.datasets.get_mut(&guest.disk)?.disk;
            // Told twice: it runs, or ran, already.
            if guest.agent.as_ref().is_some_and(|agent| agent.number == number) {
                return None;
            }
            disk.launch = number;
            disk.exit = None;
            guest.agent = Some(Launch { number, environment });
            Some(())
        });
        if new.is_some() {
            self.play(vmid);
        }
        Ended::default()
    }

    fn status(&self, vmid: u32) -> String {
        self.store.read(|state| {
            let Some(guest) = state.guests.get(&vmid) else { return "state=none\n".to_owned() };
            let exit = state.pool.datasets.get(&guest.disk).and_then(|dataset| dataset.disk.exit);
            match (&guest.agent, exit) {
                (Some(agent), Some(Exit { launch, code })) if agent.number == launch => format!("state=exited\nlaunch={launch}\nexit={code}\n"),
                (Some(agent), _) => format!("state=running\nlaunch={}\n", agent.number),
                // After a power cut: what the wrapper wrote is still on the disk.
                (None, Some(Exit { launch, code })) => format!("state=exited\nlaunch={launch}\nexit={code}\n"),
                (None, None) => "state=none\n".to_owned(),
            }
        })
    }

    /// `true`, `false`, `exit N` in a shell text, and `sim-turns N`: whether agents took at least N turns on this disk.
    fn verify(&self, vmid: u32, command: &[&str]) -> Ended {
        let code = match command {
            ["sim-turns", least] => {
                let turns = self.on_disk(vmid, |disk: &mut Disk| disk.turns).unwrap_or_default();
                i32::from(least.parse::<u32>().is_ok_and(|least| turns < least))
            }
            [.., "false"] => 1,
            [.., text] => text.split("exit ").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).unwrap_or(0),
            [] => 0,
        };
        Ended { code, out: format!("verified with code {code}\n"), err: String::new() }
    }

    fn stop_agent(&self, vmid: u32) {
        let agent = self.memory().get_mut(&vmid).and_then(|memory| memory.commands.agent.take());
        if let Some(agent) = agent {
            agent.cancel();
        }
        self.store.change(|state| {
            let guest = state.guests.get(&vmid)?;
            let launch = guest.agent.as_ref()?.number;
            let disk = &mut state.pool.datasets.get_mut(&guest.disk)?.disk;
            disk.exit.get_or_insert(Exit { launch, code: TERMINATED });
            Some(())
        });
    }
}
