//! Rules in Proxmox' firewall by which a VM of ours reaches nothing but the gateway; made before it is first started.
//!
//! Every one bears our mark in its comment. On a VM that was not yet started all others came with its template, and are removed: they may
//! open what ours close. A VM that is someone else's is never touched: callers made it, or proved it ours. Source: PVE API
//! `/nodes/{node}/qemu/{vmid}/firewall/{options,rules,ipset}`; pve-firewall(8), "IP filter".

use super::{Driver, Error};
use crate::proxmox::{FirewallRule, Vmid};
use std::{collections::BTreeMap, net::IpAddr};

/// The mark of what is ours.
const MARK: &str = "autovibe: the hub's gateway";
/// Addresses that the first card may send from, by the name that Proxmox gives it.
const FILTER: &str = "ipfilter-net0";

/// What the rules are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firewall {
    /// Address and port of the gateway, as guests reach it.
    pub gateway: (IpAddr, u16),
    /// Networks that guests' own addresses are in; none: any.
    pub guests: Vec<String>,
}

impl Firewall {
    fn options(&self) -> BTreeMap<String, String> {
        // Clients wait for what is dropped, and go on at once when they are refused.
        let options = [
            ("enable", "1"),
            ("policy_in", "DROP"),
            ("policy_out", "REJECT"),
            ("dhcp", "1"),
            ("ndp", "1"),
            ("radv", "0"),
            ("macfilter", "1"),
            ("ipfilter", if self.guests.is_empty() { "0" } else { "1" }),
        ];
        options.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    fn rule(&self) -> FirewallRule {
        let (address, port) = self.gateway;
        let values = [
            ("type", "out".to_owned()),
            ("action", "ACCEPT".into()),
            ("enable", "1".into()),
            ("proto", "tcp".into()),
            ("dest", address.to_string()),
            ("dport", port.to_string()),
            ("comment", MARK.into()),
        ];
        values.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

impl Driver {
    /// Confines a VM that was not yet started, where the Hub manages the firewall; it has its card then. `is_new`: nothing can have made
    /// rules for it, which spares a look. Repeated, it finds its own.
    pub async fn confine(&self, vmid: Vmid, is_new: bool) -> Result<(), Error> {
        let Some(firewall) = self.connection().firewall.as_ref().filter(|_| !self.is_isolated()) else { return Ok(()) };
        let (proxmox, node) = (&self.proxmox, self.node());
        // First: whatever comes of the rest, it reaches nothing.
        proxmox.set_firewall_options(node, vmid, &firewall.options()).await?;
        let rule = firewall.rule();
        let mut is_there = false;
        if !is_new {
            let known = proxmox.firewall_rules(node, vmid).await?;
            // From the last on, so that the places of the others stay.
            for (pos, known) in known.iter().enumerate().rev() {
                let is_same = rule.iter().all(|(key, value)| known.get(key) == Some(value));
                if is_same && !is_there {
                    is_there = true;
                } else {
                    proxmox.delete_firewall_rule(node, vmid, pos).await?;
                }
            }
            if proxmox.ipsets(node, vmid).await?.iter().any(|name| name == FILTER) {
                proxmox.delete_ipset(node, vmid, FILTER).await?;
            }
        }
        if !firewall.guests.is_empty() {
            proxmox.create_ipset(node, vmid, FILTER).await?;
            for network in &firewall.guests {
                proxmox.add_to_ipset(node, vmid, FILTER, network).await?;
            }
        }
        if !is_there {
            proxmox.add_firewall_rule(node, vmid, &rule).await?;
        }
        Ok(())
    }
}
