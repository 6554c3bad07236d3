//! What the token of a Hub must be allowed in Proxmox, what it lacks, and how that is given.
//!
//! Source: proxmox-zfs facts 1.3 and 1.4, for the calls and options that [`super::vm`] and [`super::guest`] use.

use super::{Connection, Driver, Error};
use crate::api::hub::Lack;
use crate::proxmox::Node;
use std::collections::BTreeSet;

const VM: &str = "VM.Allocate VM.Audit VM.Config.CPU VM.Config.Disk VM.Config.HWType VM.Config.Memory VM.Config.Network \
                  VM.Config.Options VM.PowerMgmt";
const GUEST: &str = "VM.GuestAgent.Audit VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted";
/// The same before Proxmox VE 9.
const GUEST_BEFORE_9: &str = "VM.Monitor";

/// Each path with the privileges that are needed on it, and the path on which they are best given.
fn needs(connection: &Connection, node: &Node, version: &str) -> Vec<(String, String, String)> {
    let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
    let clone = if matches!(connection.runner, crate::zfs::Runner::Nowhere) { "VM.Clone " } else { "" };
    let guest = if major.is_some_and(|major| major < 9) { GUEST_BEFORE_9 } else { GUEST };
    let storage = format!("/storage/{}", connection.storage);
    let bridge = format!("/sdn/zones/localnetwork/{}", connection.bridge);
    let mut needs = vec![
        (format!("/vms/{}", connection.vmids.from), format!("{clone}{VM} {guest}"), "/vms".into()),
        (storage.clone(), "Datastore.AllocateSpace Datastore.Audit".into(), storage),
        (bridge, "SDN.Use".into(), "/sdn/zones/localnetwork".into()),
        (format!("/nodes/{node}"), "Sys.Audit".into(), "/nodes".into()),
    ];
    if connection.firewall.is_some() {
        // To see whether any rule is in force.
        needs.push(("/".into(), "Sys.Audit".into(), "/".into()));
    }
    needs
}

impl Driver {
    /// What the token lacks; empty when it may do all that a Hub does. One call for each path.
    pub async fn lacking(&self, version: &str) -> Result<Vec<Lack>, Error> {
        let mut lacking = Vec::new();
        let others = self.nodes().filter(|node| *node != self.node());
        let others = others.map(|node| (format!("/nodes/{node}"), "Sys.Audit".to_owned(), "/nodes".to_owned()));
        for (path, needed, give) in needs(self.connection(), self.node(), version).into_iter().chain(others) {
            let has: BTreeSet<String> = self.proxmox.permissions(&path).await?;
            let needed: Vec<String> = needed.split(' ').map(str::to_owned).collect();
            let privileges: Vec<String> = needed.iter().filter(|needed| !has.contains(*needed)).cloned().collect();
            if !privileges.is_empty() && !lacking.iter().any(|known: &Lack| known.path == give) {
                lacking.push(Lack { path: give, privileges, needed });
            }
        }
        Ok(lacking)
    }
}

/// The commands that give a token, or a user, what it lacks, for root on a node.
pub fn commands(lacking: &[Lack], token_id: &str) -> Vec<String> {
    let user = token_id.split('!').next().unwrap_or_default();
    let of_path = |lack: &Lack| {
        let (path, role) = (&lack.path, format!("Autovibe-{}", lack.path.trim_matches('/').replace('/', "-")));
        let mut commands = vec![
            format!("pveum role add {role} --privs \"{}\"", lack.needed.join(" ")),
            format!("pveum acl modify {path} --users {user} --roles {role}"),
        ];
        if token_id != user {
            // Of a token with privileges of its own both must have them.
            commands.push(format!("pveum acl modify {path} --tokens '{token_id}' --roles {role}"));
        }
        commands
    };
    lacking.iter().flat_map(of_path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_given_where_it_holds_for_all_vms() {
        let all = ["VM.Allocate", "VM.Audit"].map(str::to_owned);
        let lack = Lack { path: "/vms".into(), privileges: vec!["VM.Allocate".into()], needed: all.into() };
        assert_eq!(
            commands(&[lack], "autovibe@pve!hub"),
            [
                "pveum role add Autovibe-vms --privs \"VM.Allocate VM.Audit\"",
                "pveum acl modify /vms --users autovibe@pve --roles Autovibe-vms",
                "pveum acl modify /vms --tokens 'autovibe@pve!hub' --roles Autovibe-vms",
            ]
        );
    }
}
