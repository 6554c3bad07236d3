//! The firewall's configuration: `/etc/pve/firewall/<vmid>.fw` of each VM, and what of `cluster.fw` says whether any of it is in force.
//!
//! Kept, copied by a clone, removed with the VM; no packet is looked at here. Guests of the real lab reach nothing but the gateway anyway.

use super::{
    answer::{Answer, Refusal},
    format,
    node::Node,
    parameters::Parameters,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

type Section = BTreeMap<String, String>;

/// What is configured for one VM, or for the datacenter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Firewall {
    options: Section,
    /// The first decides first.
    rules: Vec<Section>,
    ipsets: BTreeMap<String, Vec<Section>>,
}

/// Parameters that are no option and no part of a rule or an entry.
const NOT_KEPT: &[&str] = &["node", "vmid", "name", "pos", "delete", "digest", "moveto", "rename", "force"];
/// Shown as numbers.
const NUMBERS: &[&str] = &["enable", "dhcp", "ipfilter", "macfilter", "ndp", "radv", "ebtables", "ipversion", "nomatch"];

fn given(parameters: &Parameters) -> Section {
    let kept = parameters.values.iter().filter(|(name, _)| !NOT_KEPT.contains(&name.as_str()));
    kept.filter_map(|(name, values)| Some((name.clone(), values.last()?.clone()))).collect()
}

fn shown(section: &Section) -> Value {
    let value = |name: &str, text: &str| match text.parse::<i64>() {
        Ok(number) if NUMBERS.contains(&name) => number.into(),
        _ => Value::from(text),
    };
    section.iter().map(|(name, text)| (name.clone(), value(name, text))).collect::<serde_json::Map<_, _>>().into()
}

fn digest(of: &impl Serialize) -> String {
    hex::encode(&Sha256::digest(serde_json::to_vec(of).unwrap_or_default())[..20])
}

fn unchanged(of: &impl Serialize, parameters: &Parameters) -> Result<(), Refusal> {
    match parameters.get("digest") {
        Some(known) if known != digest(of) => Err(Refusal::die("detected modified configuration - file changed by other user? Try again.")),
        _ => Ok(()),
    }
}

/// Errors: what no rule of a VM may be. Source: PVE::Firewall `verify_rule`.
fn verify(rule: &Section) -> Result<(), Refusal> {
    let (action, kind) = (rule.get("action").map(String::as_str).unwrap_or_default(), rule.get("type").map(String::as_str));
    if kind != Some("group") && !matches!(action, "ACCEPT" | "DROP" | "REJECT") {
        return Err(Refusal::parameter("action", format!("unknown action '{action}'")));
    }
    if rule.contains_key("dport") && !rule.contains_key("proto") {
        return Err(Refusal::parameter("proto", "missing property"));
    }
    let is_card = |name: &str| name.strip_prefix("net").is_some_and(|number| number.parse::<u8>().is_ok());
    if rule.get("iface").is_some_and(|name| !is_card(name)) {
        return Err(Refusal::parameter("iface", "value does not match the regex pattern 'net\\d+'"));
    }
    Ok(())
}

/// One rule as it is shown.
fn row(pos: usize, rule: &Section, digest: &str) -> Value {
    let mut row = shown(rule);
    row["pos"] = pos.into();
    row["digest"] = digest.into();
    row
}

fn place(rules: &[Section], parameters: &Parameters) -> Result<usize, Refusal> {
    let pos: usize = parameters.number("pos").unwrap_or_default();
    if pos < rules.len() { Ok(pos) } else { Err(Refusal::die(format!("no rule at position {pos}"))) }
}

fn no_ipset(name: &str) -> Refusal {
    Refusal::die(format!("no such IPSet '{name}'"))
}

fn deleted(parameters: &Parameters) -> impl Iterator<Item = &str> {
    parameters.get("delete").into_iter().flat_map(format::list)
}

impl Node {
    /// Of a VM, or of the datacenter.
    fn firewall(&self, vmid: Option<u32>) -> Firewall {
        self.store.read(|state| match vmid {
            Some(vmid) => state.firewalls.get(&vmid).cloned().unwrap_or_default(),
            None => state.datacenter.clone(),
        })
    }

    fn change_firewall(&self, vmid: Option<u32>, change: impl FnOnce(&mut Firewall) -> Result<(), Refusal>) -> Answer {
        let changed = self.store.change(|state| match vmid {
            Some(vmid) => change(state.firewalls.entry(vmid).or_default()),
            None => change(&mut state.datacenter),
        });
        changed.map(|()| Value::Null.into())
    }

    pub(super) fn firewall_options(&self, vmid: Option<u32>) -> Answer {
        let options = self.firewall(vmid).options;
        let mut answer = shown(&options);
        answer["digest"] = digest(&options).into();
        Ok(answer.into())
    }

    pub(super) fn set_firewall_options(&self, vmid: Option<u32>, parameters: &Parameters) -> Answer {
        self.change_firewall(vmid, |firewall| {
            unchanged(&firewall.options, parameters)?;
            deleted(parameters).for_each(|key| drop(firewall.options.remove(key)));
            firewall.options.extend(given(parameters));
            Ok(())
        })
    }

    pub(super) fn firewall_rules(&self, vmid: u32) -> Answer {
        let rules = self.firewall(Some(vmid)).rules;
        let digest = digest(&rules);
        Ok(rules.iter().enumerate().map(|(pos, rule)| row(pos, rule, &digest)).collect::<Value>().into())
    }

    pub(super) fn firewall_rule(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let rules = self.firewall(Some(vmid)).rules;
        let pos = place(&rules, parameters)?;
        Ok(row(pos, &rules[pos], &digest(&rules)).into())
    }

    /// A new one comes first, and is off unless it says otherwise.
    pub(super) fn add_firewall_rule(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let mut rule = given(parameters);
        rule.entry("enable".into()).or_insert_with(|| "0".into());
        verify(&rule)?;
        self.change_firewall(Some(vmid), |firewall| {
            unchanged(&firewall.rules, parameters)?;
            let pos = parameters.number("pos").unwrap_or(0).min(firewall.rules.len());
            firewall.rules.insert(pos, rule);
            Ok(())
        })
    }

    pub(super) fn set_firewall_rule(&self, vmid: u32, parameters: &Parameters) -> Answer {
        self.change_firewall(Some(vmid), |firewall| {
            unchanged(&firewall.rules, parameters)?;
            let pos = place(&firewall.rules, parameters)?;
            let mut rule = firewall.rules[pos].clone();
            deleted(parameters).for_each(|key| drop(rule.remove(key)));
            rule.extend(given(parameters));
            verify(&rule)?;
            firewall.rules.remove(pos);
            let to = parameters.number("moveto").unwrap_or(pos).min(firewall.rules.len());
            firewall.rules.insert(to, rule);
            Ok(())
        })
    }

    pub(super) fn delete_firewall_rule(&self, vmid: u32, parameters: &Parameters) -> Answer {
        self.change_firewall(Some(vmid), |firewall| {
            unchanged(&firewall.rules, parameters)?;
            let pos = place(&firewall.rules, parameters)?;
            firewall.rules.remove(pos);
            Ok(())
        })
    }

    pub(super) fn ipsets(&self, vmid: u32) -> Answer {
        let sets = self.firewall(Some(vmid)).ipsets;
        Ok(sets.iter().map(|(name, entries)| json!({ "name": name, "digest": digest(entries) })).collect::<Value>().into())
    }

    pub(super) fn add_ipset(&self, vmid: u32, name: &str) -> Answer {
        self.change_firewall(Some(vmid), |firewall| {
            if firewall.ipsets.contains_key(name) {
                return Err(Refusal::parameter("name", format!("IPSet '{name}' already exists")));
            }
            firewall.ipsets.insert(name.to_owned(), Vec::new());
            Ok(())
        })
    }

    pub(super) fn ipset(&self, vmid: u32, name: &str) -> Answer {
        let firewall = self.firewall(Some(vmid));
        let entries = firewall.ipsets.get(name).ok_or_else(|| no_ipset(name))?;
        Ok(entries.iter().map(shown).collect::<Value>().into())
    }

    pub(super) fn add_to_ipset(&self, vmid: u32, name: &str, parameters: &Parameters) -> Answer {
        let entry = given(parameters);
        self.change_firewall(Some(vmid), |firewall| {
            let entries = firewall.ipsets.get_mut(name).ok_or_else(|| no_ipset(name))?;
            let cidr = entry.get("cidr").cloned().unwrap_or_default();
            if entries.iter().any(|known| known.get("cidr") == Some(&cidr)) {
                return Err(Refusal::parameter("cidr", format!("address '{cidr}' already exists")));
            }
            entries.insert(0, entry);
            Ok(())
        })
    }

    pub(super) fn delete_ipset(&self, vmid: u32, name: &str, parameters: &Parameters) -> Answer {
        self.change_firewall(Some(vmid), |firewall| {
            if !parameters.flag("force") && firewall.ipsets.get(name).is_some_and(|entries| !entries.is_empty()) {
                return Err(Refusal::die("IPSet is not empty"));
            }
            firewall.ipsets.remove(name);
            Ok(())
        })
    }
}
