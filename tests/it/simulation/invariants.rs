//! What must hold after each change of the node, whatever went wrong. Source: faults.md, I1–I8.

use autovibe::clock::Tenure;
use autovibe::lab::Lab;
use autovibe::proxmox::{self, Node, Vmid};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Someone else's VM, within the hub's own range of VMIDs.
pub(super) const FOREIGN: u32 = 1001;

pub(super) struct Invariants {
    lab: Arc<Lab>,
    /// Someone else's config and disk, as they were.
    foreign: (BTreeMap<String, String>, Option<serde_json::Value>),
    /// What each snapshot held when it was first seen.
    contents: Mutex<BTreeMap<String, serde_json::Value>>,
    broken: Mutex<Vec<String>>,
}

fn client(lab: &Lab) -> proxmox::Client {
    let at = lab.endpoint().clone();
    let credential = proxmox::Credential::token(at.token_id, at.secret);
    let config = proxmox::Config { endpoint: at.endpoint, fingerprint: None, credential };
    proxmox::Client::over(config, Some(lab.proxmox()), Tenure::unlimited()).unwrap()
}

fn foreign(lab: &Lab) -> (BTreeMap<String, String>, Option<serde_json::Value>) {
    (lab.configs().remove(&FOREIGN).unwrap_or_default(), lab.disk(&format!("tank/data/vm-{FOREIGN}-disk-0")))
}

impl Invariants {
    pub(super) async fn new(lab: Arc<Lab>) -> Self {
        let (client, node) = (client(&lab), Node(lab.endpoint().node.clone()));
        let values = [("name", "precious"), ("tags", "autovibe;theirs"), ("scsi0", "tank:4")];
        let values = values.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        client.create(&node, Vmid(FOREIGN), &values).await.unwrap();
        while lab.configs().get(&FOREIGN).is_none_or(|config| config.contains_key("lock")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let foreign = foreign(&lab);
        Self { lab, foreign, contents: Mutex::default(), broken: Mutex::default() }
    }

    /// Looks at the node after a change of it. What is broken is kept: the caller may be the hub's own task.
    pub(super) fn check(&self, after: &str) {
        let mut broken = Vec::new();
        let configs = self.lab.configs();
        // I1: no Machine has two VMs.
        let mut owners = BTreeMap::<String, Vec<u32>>::new();
        for (vmid, config) in configs.iter().filter(|(vmid, _)| **vmid != FOREIGN) {
            match uid(config) {
                Some(uid) => owners.entry(uid).or_default().push(*vmid),
                // The empty config that reserves a number for a task.
                None if config.get("lock").is_some_and(|lock| lock == "create") => {}
                None => broken.push(format!("I1: VM {vmid} bears no uid: {config:?}")),
            }
        }
        broken.extend(owners.iter().filter(|(_, vms)| vms.len() > 1).map(|(uid, vms)| format!("I1: Machine {uid} has the VMs {vms:?}")));
        // A VM with a card runs only behind its rules. A call that came twice makes one twice, which opens nothing more.
        for (vmid, config) in
            configs.iter().filter(|(vmid, config)| **vmid != FOREIGN && config.contains_key("net0") && self.lab.is_on(**vmid))
        {
            let firewall = self.lab.firewall(*vmid);
            let rules: Vec<&str> = firewall["rules"].as_array().into_iter().flatten().filter_map(|rule| rule["dest"].as_str()).collect();
            let sets = firewall["ipsets"]["ipfilter-net0"].as_array().map(Vec::len);
            let confined = config["net0"].contains("firewall=1")
                && firewall["options"]["policy_out"] == "REJECT"
                && firewall["options"]["enable"] == "1"
                && !rules.is_empty()
                && rules.iter().all(|dest| *dest == "10.0.2.100")
                && sets == Some(1);
            if !confined {
                broken.push(format!("VM {vmid} runs without its rules: {config:?} {firewall}"));
            }
        }
        // I2: what is someone else's is as it was.
        let foreign = foreign(&self.lab);
        if foreign != self.foreign {
            broken.push(format!("I2: someone else's VM was {:?} and is {foreign:?}", self.foreign));
        }
        // I3: a snapshot holds what it held.
        let mut contents = self.contents.lock().unwrap();
        for name in self.lab.datasets().into_iter().filter(|name| name.contains('@')) {
            let Some(now) = self.lab.disk(&name) else { continue };
            // Disks move with their snapshots: the snapshot's own name is unique.
            let short = name.split_once('@').unwrap().1.to_owned();
            if let Some(before) = contents.get(&short) {
                if *before != now {
                    broken.push(format!("I3: {name} held {before} and holds {now}"));
                }
            } else {
                contents.insert(short, now);
            }
        }
        let mut all = self.broken.lock().unwrap();
        all.extend(broken.into_iter().map(|what| format!("after {after}: {what}")));
    }

    /// What was found broken up to now.
    pub(super) fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }

    pub(super) fn assert(&self, what: &str) {
        self.check("all");
        let broken = self.broken();
        assert!(broken.is_empty(), "{what}:\n{}", broken.join("\n"));
    }
}

/// The Machine's uid that a VM is marked with.
fn uid(config: &BTreeMap<String, String>) -> Option<String> {
    let smbios = config.get("smbios1")?;
    smbios.split(',').find_map(|part| part.strip_prefix("uuid=")).map(str::to_lowercase)
}
