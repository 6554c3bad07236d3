//! The calls about a VM's firewall, and whether the datacenter's is on: without that no rule is in force.

use super::{
    Client, Error, Node, Vmid,
    client::{rows, vm_path},
    http::{Parameters, segment},
    value,
};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;

/// One rule: keys as Proxmox names them.
pub type Rule = BTreeMap<String, String>;

fn parameters(values: &BTreeMap<String, String>) -> Parameters<'_> {
    values.iter().map(|(key, value)| (key.as_str(), value.clone())).collect()
}

impl Client {
    /// Whether the firewall is on for the datacenter. It takes `Sys.Audit` on `/`.
    pub async fn firewall_is_on(&self) -> Result<bool, Error> {
        let data = self.http.get("/cluster/firewall/options", &vec![]).await?;
        if data.is_object() {
            Ok(value::flag_of(&data, "enable"))
        } else {
            Err(Error::Unknown("the firewall's options are no object".into()))
        }
    }

    /// Sets these, and leaves the others.
    pub async fn set_firewall_options(&self, node: &Node, vmid: Vmid, values: &BTreeMap<String, String>) -> Result<(), Error> {
        self.http.change(Method::PUT, &vm_path(node, vmid, "/firewall/options"), &parameters(values)).await.map(drop)
    }

    /// All rules of a VM, in their order.
    pub async fn firewall_rules(&self, node: &Node, vmid: Vmid) -> Result<Vec<Rule>, Error> {
        let rows = rows(self.http.get(&vm_path(node, vmid, "/firewall/rules"), &vec![]).await?, "/firewall/rules")?;
        let rule = |row: &Value| Some(row.as_object()?.iter().filter_map(|(key, v)| Some((key.clone(), value::text(v)?))).collect());
        rows.iter().map(|row| rule(row).ok_or_else(|| Error::Unknown("a rule of a firewall is no object".into()))).collect()
    }

    /// Puts a rule before all others. Each call makes one more.
    pub async fn add_firewall_rule(&self, node: &Node, vmid: Vmid, rule: &Rule) -> Result<(), Error> {
        self.http.change(Method::POST, &vm_path(node, vmid, "/firewall/rules"), &parameters(rule)).await.map(drop)
    }

    pub async fn delete_firewall_rule(&self, node: &Node, vmid: Vmid, pos: usize) -> Result<(), Error> {
        self.http.change(Method::DELETE, &vm_path(node, vmid, &format!("/firewall/rules/{pos}")), &vec![]).await.map(drop)
    }

    /// Names of a VM's sets of addresses.
    pub async fn ipsets(&self, node: &Node, vmid: Vmid) -> Result<Vec<String>, Error> {
        let rows = rows(self.http.get(&vm_path(node, vmid, "/firewall/ipset"), &vec![]).await?, "/firewall/ipset")?;
        Ok(rows.iter().filter_map(|row| value::text_of(row, "name")).collect())
    }

    pub async fn create_ipset(&self, node: &Node, vmid: Vmid, name: &str) -> Result<(), Error> {
        self.http.change(Method::POST, &vm_path(node, vmid, "/firewall/ipset"), &vec![("name", name.to_owned())]).await.map(drop)
    }

    pub async fn add_to_ipset(&self, node: &Node, vmid: Vmid, name: &str, cidr: &str) -> Result<(), Error> {
        let path = vm_path(node, vmid, &format!("/firewall/ipset/{}", segment(name)));
        self.http.change(Method::POST, &path, &vec![("cidr", cidr.to_owned())]).await.map(drop)
    }

    /// With all that is in it.
    pub async fn delete_ipset(&self, node: &Node, vmid: Vmid, name: &str) -> Result<(), Error> {
        let path = vm_path(node, vmid, &format!("/firewall/ipset/{}", segment(name)));
        self.http.change(Method::DELETE, &path, &vec![("force", "1".to_owned())]).await.map(drop)
    }
}
